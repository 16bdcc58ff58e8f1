// What the page knows: the stream's events, put together. Everything in it is
// bounded as the console bounds it, so that a tab may stay open for weeks.

const maxPoints = 300; // of each kind of reading of each server
const maxRows = 200;   // of alerts, and of commands
const maxPublic = 100;

export class Model {
  constructor() {
    this.site = "";
    this.console = "";
    this.started = 0;
    this.servers = new Map();
    this.alerts = new Map();
    this.commands = new Map();
    this.public = [];
    this.unshown = 0;
    this.beat = { online: false, since: 0, refusals: {}, notices: [], more_servers: 0, skipped: 0 };
    this.revision = 0; // grows with every change
  }

  snapshot(s) {
    this.site = s.site;
    this.console = s.console;
    this.started = s.started;
    this.servers = new Map();
    this.alerts = new Map();
    this.commands = new Map();
    this.public = [];
    this.update(s);
  }

  update(u) {
    for (const name of u.gone ?? []) this.servers.delete(name);
    for (const s of u.servers ?? []) {
      const known = this.servers.get(s.name);
      const points = s.points ?? known?.points ?? {};
      this.servers.set(s.name, { ...s, seen: Math.max(s.seen, known?.seen ?? 0), points, revision: this.revision });
    }
    for (const r of u.readings ?? []) this.add(r, u.now);
    for (const m of u.marks ?? []) this.mark(m);
    for (const a of u.alerts ?? []) put(this.alerts, a);
    for (const c of u.commands ?? []) put(this.commands, c);
    if (u.public) this.public = this.public.concat(u.public).slice(-maxPublic);
    this.unshown = u.unshown;
    this.revision++;
  }

  add(r, now) {
    const s = this.servers.get(r.server);
    if (s === undefined) return;
    const points = (s.points[r.kind] ??= []);
    let at = points.length;
    while (at > 0 && points[at - 1][1] > r.point[1]) at--;
    points.splice(at, 0, r.point);
    if (points.length > maxPoints) points.shift();
    s.seen = now;
    s.revision = this.revision;
  }

  mark(m) {
    const s = this.servers.get(m.server);
    if (s === undefined) return;
    for (const points of Object.values(s.points)) {
      for (const p of points) if (p[0] >= m.from && p[0] <= m.to) p[2] = m.mark;
    }
    s.revision = this.revision;
  }

  live(beat) {
    this.beat = beat;
    this.unshown = beat.unshown;
    this.revision++;
  }

  // openIncidents are those whose end has not come, newest first.
  openIncidents() {
    return [...this.alerts.values()].filter((a) => !a.ended).reverse();
  }

  // active are the commands in force at a time. A renewal has an end of its
  // own and stands for what it renews.
  active(now) {
    const latest = new Map();
    for (const c of this.commands.values()) {
      if (c.status?.state !== "active" || c.status.until <= now) continue;
      const what = `${c.command}/${c.controller}/${c.server}`;
      if (!(latest.get(what)?.status.until > c.status.until)) latest.set(what, c);
    }
    return [...latest.values()].reverse();
  }
}

function put(map, row) {
  map.set(row.key, row);
  if (map.size > maxRows) map.delete(map.keys().next().value);
}
