// One chart of one kind of reading of one server.

import uPlot from "/vendor/uPlot.esm.js";
import { clock, count } from "./words.js";

export const span = 300; // seconds shown

const shown = { 1: true, 5: true };    // marks that are settled and good
const contradicted = 3, disowned = 4;

// What each kind of chart draws. Network rates and connections differ by
// orders of magnitude, so each has an axis of its own.
const kinds = {
  cpu: { percent: true, lines: [{ scale: "y", unit: " %", colour: "--line-1", area: "--area-1" }] },
  ram: { percent: true, lines: [{ scale: "y", unit: " %", colour: "--line-1", area: "--area-1" }] },
  network: { percent: false, lines: [{ scale: "y", unit: " SYN/s", colour: "--line-1", area: "--area-1" }, { scale: "z", unit: " connections", colour: "--line-2", thin: true }] },
};

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Chart {
  constructor(box, kind, hover) {
    this.box = box;
    this.kind = kinds[kind];
    this.hover = hover;
    this.to = 0;
    this.marks = [];      // of the points that no digest vouches for: [time, scale, value, mark]
    this.spans = [];      // [from, to, "incident" or what is in force, of this metric]
    this.labels = [];     // where incidents of this metric begin, if there is room to say so
    this.thresholds = {}; // by scale
    this.plot = null;
    this.size = new ResizeObserver(() => this.resize());
    this.size.observe(box);
  }

  // remake draws with the colours of now.
  remake() {
    this.plot?.destroy();
    this.plot = null;
  }

  remove() {
    this.size.disconnect();
    this.remake();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (this.plot !== null && width > 0 && height > 0) this.plot.setSize({ width, height });
  }

  draw(points, to, view) {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (width === 0 || height === 0) return; // in a view that is not shown
    this.to = to / 1000;
    this.spans = view.spans;
    this.thresholds = view.thresholds;
    const data = this.columns(points, Math.max(to - span * 1000, view.cut));
    if (this.plot === null) this.plot = new uPlot(this.options(width, height), data, this.box);
    else this.plot.setData(data);
  }

  // columns are uPlot's: the times, then for each line what is settled and
  // what still waits, which share the points between them. A pause of more
  // than three usual intervals is a gap.
  columns(points, from) {
    const lines = this.kind.lines.length;
    const data = Array.from({ length: 1 + 2 * lines }, () => []);
    const push = (t, values) => {
      data[0].push(t);
      values.forEach((v, i) => data[i + 1].push(v));
    };
    const seen = points.filter((p) => p[1] >= from);
    const gap = 3 * usual(seen) + 500;
    this.marks = [];
    let before = null;
    for (const p of seen) {
      if (before !== null && p[1] - before[1] > gap) {
        push((before[1] + 1) / 1000, new Array(2 * lines).fill(null));
        before = null;
      }
      const good = shown[p[2]] === true;
      const values = [];
      for (let i = 0; i < lines; i++) {
        const v = p[3 + i];
        values.push(good ? v : null, good ? null : v);
        if (before !== null && good !== (shown[before[2]] === true)) {
          // The dotted line reaches to the point where the other ends or begins.
          if (good) values[2 * i + 1] = v;
          else data[2 + 2 * i][data[0].length - 1] = before[3 + i];
        }
        if (p[2] === contradicted || p[2] === disowned) this.marks.push([p[1] / 1000, this.kind.lines[i].scale, v, p[2]]);
      }
      push(p[1] / 1000, values);
      before = p;
    }
    return data;
  }

  options(width, height) {
    const axis = { stroke: colour("--quiet"), font: "11px system-ui, sans-serif", ticks: { show: false }, gap: 4 };
    const grid = { stroke: colour("--grid"), width: 1 };
    const top = (scale) => (u, low, high) => {
      // A threshold far above everything measured would make the line flat.
      const limit = this.thresholds[scale] ?? 0, most = Math.max(10, high ?? 0);
      return [0, Math.max(10, 1.15 * (high ?? 0), limit > 10 * most ? 0 : 1.25 * limit)];
    };
    const series = [{}];
    for (const line of this.kind.lines) {
      const common = { scale: line.scale, stroke: colour(line.colour), width: line.thin ? 1.25 : 2, spanGaps: false, points: { show: false } };
      if (line.area) common.fill = colour(line.area);
      series.push({ ...common }, { ...common, dash: [2, 3] });
    }
    const axes = [
      { ...axis, grid, size: 22, space: 50, incrs: [60, 120, 300], values: (u, splits) => splits.map((t) => clock(t * 1000).slice(0, 5)) },
      { ...axis, grid, scale: "y", size: 40, space: 24, values: (u, splits) => splits.map((v) => short(v)) },
    ];
    const scales = { x: { time: true, range: () => [this.to - span, this.to] }, y: { range: this.kind.percent ? [0, 100] : top("y") } };
    if (this.kind.lines.length > 1) {
      axes[1].stroke = colour("--line-1");
      axes.push({ ...axis, stroke: colour("--line-2"), grid: { show: false }, scale: "z", side: 1, size: 40, space: 24, values: (u, splits) => splits.map((v) => short(v)) });
      scales.z = { range: top("z") };
    }
    return {
      width, height, series, axes, scales,
      legend: { show: false },
      padding: [6, this.kind.lines.length > 1 ? 0 : 16, 0, 0],
      cursor: { sync: { key: "levee" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
      hooks: { drawClear: [(u) => this.drawSpans(u)], draw: [(u) => this.drawThresholds(u), (u) => this.drawMarks(u), (u) => this.drawLabels(u)], setCursor: [(u) => this.point(u)] },
    };
  }

  // point tells what is under the cursor.
  point(u) {
    const at = u.cursor.idx;
    if (at === null || at === undefined || u.data[0][at] === undefined) {
      this.hover(null);
      return;
    }
    this.hover(clock(u.data[0][at] * 1000), this.kind.lines.map((_, i) => u.data[1 + 2 * i][at] ?? u.data[2 + 2 * i][at]));
  }

  drawSpans(u) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    const low = this.to - span;
    this.labels = [];
    const x = (t) => bbox.left + ((Math.min(Math.max(t / 1000, low), this.to) - low) / span) * bbox.width;
    ctx.save();
    for (const [from, to, kind, own] of this.spans) {
      const left = x(from), width = Math.max(x(to) - left, ratio);
      if (to / 1000 < low) continue;
      if (kind === "incident") {
        ctx.fillStyle = colour(own ? "--shade-own" : "--shade");
        ctx.fillRect(left, bbox.top, width, bbox.height);
        if (own && width > 60 * ratio) this.labels.push(left);
        continue;
      }
      ctx.fillStyle = colour("--act");
      ctx.fillRect(left, bbox.top + bbox.height - 4 * ratio, width - ratio, 4 * ratio);
    }
    ctx.restore();
  }

  // drawLabels names incidents, above the lines and on a ground of their own.
  drawLabels(u) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio, text = "▲ incident";
    ctx.save();
    ctx.font = `600 ${10 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    let clear = -Infinity; // of the label before
    for (const left of [...this.labels].sort((a, b) => a - b)) {
      if (left < clear) continue;
      const width = ctx.measureText(text).width + 8 * ratio;
      ctx.fillStyle = colour("--panel");
      ctx.fillRect(left, bbox.top, width, 15 * ratio);
      ctx.fillStyle = colour("--bad");
      ctx.fillText(text, left + 4 * ratio, bbox.top + 3 * ratio);
      clear = left + width;
    }
    ctx.restore();
  }

  drawThresholds(u) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${10 * ratio}px system-ui, sans-serif`;
    for (const [scale, limit] of Object.entries(this.thresholds)) {
      const y = u.valToPos(limit, scale, true);
      if (y < bbox.top || y > bbox.top + bbox.height) continue;
      ctx.strokeStyle = colour("--bad");
      ctx.lineWidth = ratio;
      ctx.setLineDash(scale === "y" ? [6 * ratio, 4 * ratio] : [2 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillStyle = colour("--bad");
      const above = y - bbox.top > 14 * ratio;
      ctx.textBaseline = above ? "bottom" : "top";
      ctx.textAlign = scale === "y" ? "left" : "right";
      ctx.fillText(`threshold ${count(limit)}${this.kind.lines.find((l) => l.scale === scale)?.unit ?? ""}`, scale === "y" ? bbox.left + 4 * ratio : bbox.left + bbox.width - 4 * ratio, above ? y - 2 * ratio : y + 3 * ratio);
    }
    ctx.restore();
  }

  // drawMarks crosses out what a digest contradicts, and rings what one takes
  // back.
  drawMarks(u) {
    const { ctx } = u;
    const ratio = devicePixelRatio, r = 3.5 * ratio;
    ctx.save();
    ctx.lineWidth = 1.5 * ratio;
    for (const [t, scale, value, mark] of this.marks) {
      const cx = u.valToPos(t, "x", true), cy = u.valToPos(value, scale, true);
      ctx.strokeStyle = colour(mark === contradicted ? "--bad" : "--warn");
      ctx.beginPath();
      if (mark === contradicted) {
        ctx.moveTo(cx - r, cy - r);
        ctx.lineTo(cx + r, cy + r);
        ctx.moveTo(cx + r, cy - r);
        ctx.lineTo(cx - r, cy + r);
      } else {
        ctx.arc(cx, cy, r, 0, 2 * Math.PI);
      }
      ctx.stroke();
    }
    ctx.restore();
  }
}

// usual is the median pause between points, in ms.
function usual(points) {
  if (points.length < 3) return 5000;
  const pauses = points.slice(1).map((p, i) => p[1] - points[i][1]).sort((a, b) => a - b);
  return Math.max(1000, pauses[pauses.length >> 1]);
}

function short(v) {
  if (v >= 1e6) return `${+(v / 1e6).toFixed(1)}M`;
  if (v >= 1e4) return `${+(v / 1e3).toFixed(1)}k`;
  return String(+v.toFixed(1));
}
