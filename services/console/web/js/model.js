// What the page knows: the stream's events, put together. Everything in it is
// bounded as the console bounds it, so that a tab may stay open for weeks.

const maxPoints = 300; // of each kind of reading of each server
const maxRows = 200;   // of alerts, and of commands
const maxPublic = 100;
const unheard = 120000; // ms after which a monitor is silent: it signs a digest each minute once it has said anything
export const ahead = 30000; // ms by which clocks may disagree: a time beyond is no time

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
    this.beat = { online: false, since: 0, refusals: {}, notices: [], monitors: [], more_servers: 0, skipped: 0, crowded_alerts: 0, crowded_commands: 0, unsaid: 0, absent: [], more_absent: 0 };
    this.refused = Infinity;      // messages, in all
    this.refusedAt = -Infinity;   // when they were seen to grow
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
      this.servers.set(s.name, { ...s, points, revision: this.revision });
    }
    for (const r of u.readings ?? []) this.add(r, u.now);
    for (const m of u.marks ?? []) this.mark(m);
    for (const key of u.gone_alerts ?? []) this.alerts.delete(key);
    for (const key of u.gone_commands ?? []) this.commands.delete(key);
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
    const refused = Object.values(beat.refusals ?? {}).reduce((sum, n) => sum + n, 0);
    if (refused > this.refused) this.refusedAt = beat.now;
    this.refused = refused;
    this.beat = beat;
    this.unshown = beat.unshown;
    this.revision++;
  }

  // openIncidents are those whose end has not come, newest first.
  openIncidents() {
    return [...this.alerts.values()].filter((a) => !a.ended).reverse();
  }

  // unheard is for how long, in ms, nobody was heard who could end an open
  // incident, or 0: its monitor speaks and remembers it.
  unheard(a, now) {
    if (a.left) return Math.max(1, now - a.left);
    const heard = (this.beat.monitors ?? []).find((m) => m.name === a.monitor)?.heard ?? a.raised;
    const silence = now - heard;
    return silence > unheard || silence < -ahead ? Math.abs(silence) : 0;
  }

  // active are the commands that a controller says are in force at a time. A renewal has an end of its
  // own and stands for what it renews.
  active(now) {
    const latest = new Map();
    for (const c of this.commands.values()) {
      if (c.status?.state !== "active" || c.status.status !== "success" || c.status.until <= now) continue;
      const what = `${c.command}/${c.controller}/${c.server}`;
      if (!(latest.get(what)?.status.until > c.status.until)) latest.set(what, c);
    }
    return [...latest.values()].reverse();
  }
}

// The console says which row gives its place to a new one; the bound is for one
// that does not.
function put(map, row) {
  map.set(row.key, row);
  if (map.size > maxRows) map.delete(map.keys().next().value);
}
