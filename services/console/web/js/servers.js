// The three views of readings: a row of charts for each server up to a dozen,
// a table for the others.

import { byId, el, rows, say, show, state } from "./dom.js";
import { age, clock, count, marks, metrics } from "./words.js";
import { Chart, span } from "./chart.js";
import { ahead } from "./model.js";

const charted = 12;
export const late = 15000; // ms without a reading: a server that has fallen silent
const overdue = 180000;    // ms without a digest: one a minute is usual

// silent reports whether a server has said nothing of late. One that was seen in
// the future tells of a clock that is wrong, not of now.
export const silent = (s, now) => now - s.seen > late || s.seen - now > ahead;

const captions = { cpu: "CPU", ram: "RAM", network: "Network" };

// values are what a kind's newest point says, in words.
const values = {
  cpu: (v) => [`${count(v[0])} %`],
  ram: (v) => [`${count(v[0])} %`],
  network: (v) => [`${count(v[0])} SYN/s`, `${count(v[1])} connections`],
};

class Server {
  constructor(name) {
    this.name = name;
    this.title = el("h3", { "data-name": name }, name);
    this.seen = el("span", { className: "seen" });
    this.link = el("span", { className: "link" });
    this.proof = el("span", { className: "proof" });
    this.metrics = {};
    const row = el("div", { className: "metrics" });
    for (const [kind, caption] of Object.entries(captions)) {
      // The network's two lines have two keys: the filled one and the thin one.
      const values = kind === "network" ? [el("span", { className: "key filled" }), el("span", { className: "key thin" })] : [el("span")];
      const value = el("span", { className: "value" }, ...values), note = el("span", { className: "note" });
      const plot = el("div", { className: "plot", "aria-hidden": "true" });
      row.append(el("figure", { className: `metric ${kind}` },
        el("figcaption", {}, el("span", { className: "label" }, caption), value, note), plot));
      const metric = { values, note, plot, hovered: null };
      metric.chart = new Chart(plot, kind, (at, v) => { metric.hovered = at === null || v.some((x) => x == null) ? null : [at, v]; });
      this.metrics[kind] = metric;
    }
    this.element = el("article", { className: "server" }, el("header", {}, this.title, this.seen, this.link, this.proof), row);
    this.drawn = 0;
    this.revision = -1;
  }

  // update writes the words at each call, and draws when there is something
  // new or the time axis has moved by a second.
  update(s, view) {
    const old = view.old || silent(s, view.now);
    state(this.element, old ? "old" : "live");
    say(this.seen, s.seen - view.now > ahead ? "last seen in the future: a clock was set back" : old ? `silent for ${age(view.now - s.seen)}` : s.syn_method === "estimate" ? "its SYN counts are estimates" : "");
    const link = linkOf(s.sensor);
    state(this.link, link.state);
    say(this.link, link.text);
    const proof = proofOf(s, view.now);
    state(this.proof, proof.state);
    say(this.proof, proof.text);
    for (const [kind, m] of Object.entries(this.metrics)) this.caption(kind, m, s.points[kind] ?? [], view);
    if (s.revision === this.revision && view.now - this.drawn < 1000 && this.view === view.key) return;
    this.revision = s.revision;
    this.drawn = view.now;
    this.view = view.key;
    for (const [kind, m] of Object.entries(this.metrics)) {
      m.chart.draw(s.points[kind] ?? [], view.now, { cut: view.cut, spans: view.spans(s.name, kind), thresholds: view.thresholds(s.name, kind) });
    }
  }

  caption(kind, m, points, view) {
    const last = points.at(-1);
    if (last === undefined || last[1] < view.cut) {
      m.values.forEach((e, i) => say(e, i === 0 ? "–" : ""));
      say(m.note, last === undefined ? "no reading yet" : "hidden");
      state(m.note, "wait");
      return;
    }
    if (m.hovered !== null) {
      values[kind](m.hovered[1]).forEach((text, i) => say(m.values[i], text));
      say(m.note, `at ${m.hovered[0]}`);
      return;
    }
    const mark = marks[last[2]] ?? marks[0];
    values[kind](last.slice(3)).forEach((text, i) => say(m.values[i], text));
    say(m.note, `${age(view.now - last[1])} ago · ${mark.shape} ${mark.word}`);
    state(m.note, mark.state);
  }

  remake() {
    for (const m of Object.values(this.metrics)) m.chart.remake();
    this.revision = -1;
  }

  remove() {
    for (const m of Object.values(this.metrics)) m.chart.remove();
    this.element.remove();
  }
}

// linkOf says where a server's sensor is connected, as brokers tell.
function linkOf(s) {
  switch (s?.state) {
    case "present": return { state: "good", text: `connected at ${s.brokers.join(", ")} since ${clock(s.since)}` };
    case "gone": return { state: "bad", text: `✕ its sensor is connected nowhere since ${clock(s.since)}: ${s.reason || "unseen"}` };
    default: return { state: "wait", text: "" };
  }
}

// proofOf says what a server's last digest settled.
function proofOf(s, now) {
  if (!s.outcome) return { state: "wait", text: "○ no digest yet: nothing vouches for its readings" };
  const ago = `${age(now - s.settled)} ago`;
  switch (s.outcome) {
    case "confirmed": return { state: now - s.settled < overdue ? "good" : "wait", text: `✓ confirmed by its digest ${ago}${s.unvouched ? `, but for ${count(s.unvouched)}` : ""}` };
    case "incomplete": return { state: "wait", text: `◐ digest ${ago}: ${count(s.missing)} of its messages not seen here` };
    case "contradicted": return { state: "bad", text: `✕ contradicted by its own digest ${ago}` };
    case "disowned": return { state: "warn", text: `⊘ ${count(s.unvouched)} of its messages taken back by its digest ${ago}` };
    default: return { state: "bad", text: `✕ its digest ${ago} contradicts itself` };
  }
}

export class Servers {
  constructor() {
    this.box = byId("servers");
    this.table = byId("more");
    this.servers = new Map();
    this.order = [];
    const remake = () => { for (const s of this.servers.values()) s.remake(); };
    for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)", "(prefers-contrast: more)"]) {
      matchMedia(query).addEventListener("change", remake);
    }
  }

  update(model, view) {
    const all = this.arrange(model);
    const top = all.slice(0, charted);
    for (const [name, server] of this.servers) {
      if (top.includes(name)) continue;
      server.remove();
      this.servers.delete(name);
    }
    top.forEach((name, i) => {
      let server = this.servers.get(name);
      if (server === undefined) {
        server = new Server(name);
        this.servers.set(name, server);
      }
      if (this.box.children[i] !== server.element) this.box.insertBefore(server.element, this.box.children[i] ?? null);
      server.update(model.servers.get(name), view);
    });
    this.list(all.slice(charted).map((name) => model.servers.get(name)), view);
    show(byId("waiting"), all.length === 0);
  }

  // arrange puts servers with an open incident first, then those that a digest
  // has ever vouched for: anybody on a captured broker can invent others. While
  // somebody points at a row, rows stay where they are.
  arrange(model) {
    const held = this.box.matches(":hover");
    const troubled = new Set(model.openIncidents().map((a) => a.server));
    const names = [...model.servers.keys()];
    const rank = (name) => (held && this.order.includes(name) ? this.order.indexOf(name) : troubled.has(name) ? -2 : held ? Infinity : model.servers.get(name).proven ? 0 : 1);
    names.sort((a, b) => {
      const x = rank(a), y = rank(b);
      return x === y ? (a < b ? -1 : 1) : x - y;
    });
    this.order = names;
    return names;
  }

  list(servers, view) {
    show(this.table, servers.length > 0);
    rows(this.table.tBodies[0], servers, (s) => s.name, (s) => `${s.revision}/${Math.floor(view.now / 1000)}`, (s) => {
      const last = (kind) => s.points[kind]?.at(-1);
      const value = (kind, i) => { const p = last(kind); return p === undefined ? "–" : count(p[3 + i]); };
      const mark = marks[last("network")?.[2] ?? last("cpu")?.[2] ?? 0];
      return el("tr", { state: silent(s, view.now) || view.old ? "old" : "live" },
        el("th", { scope: "row" }, s.name), el("td", {}, `${value("cpu", 0)} %`), el("td", {}, `${value("ram", 0)} %`),
        el("td", {}, `${value("network", 0)} /s`), el("td", {}, value("network", 1)), el("td", {}, `${age(view.now - s.seen)} ago`),
        el("td", {}, `${mark.shape} ${mark.word}`));
    });
  }
}

// spansOf returns what is shaded in a server's chart: its incidents, and below
// them when a command was in force.
export function spansOf(model, now, cut, name, kind) {
  const list = [];
  const add = (from, to, what, own) => { if (to > cut) list.push([Math.max(from, cut), to, what, own]); };
  for (const a of model.alerts.values()) {
    const end = a.ended || now;
    if (a.server === name && a.raised && end > now - span * 1000) add(a.raised, end, "incident", metrics.get(a.metric)?.view === kind);
  }
  for (const c of model.commands.values()) {
    const s = c.status;
    if ((c.server !== name && c.server !== "*") || s?.status !== "success" || !c.received) continue;
    if (s.state === "active") add(c.received, Math.min(s.until, now), "in force", true);
    else if (s.state === "lapsed" || s.state === "stopped") add(c.received, s.received, "in force", true);
  }
  return list;
}

// thresholdsOf returns the newest threshold known of what a chart draws: the
// server's own alerts count before those of others.
export function thresholdsOf(model, name, kind) {
  const found = {};
  for (const own of [false, true]) {
    for (const a of model.alerts.values()) {
      if (metrics.get(a.metric)?.view !== kind || (a.server === name) !== own) continue;
      if (a.metric === "active_tcp_connections") found.z = a.threshold;
      else found.y = a.window > 0 && a.metric === "syn_packet_count" ? a.threshold / a.window : a.threshold;
    }
  }
  return found;
}

