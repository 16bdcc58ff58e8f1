// How the page says things: times, numbers, and what vouches for what.

// The marks of a reading, by their number in the stream. Each has a shape
// beside its word and colour.
export const marks = [
  { word: "unconfirmed", shape: "○", state: "wait", means: "its sender's signed digest has not come yet" },
  { word: "confirmed", shape: "✓", state: "good", means: "its sender's signed digest covers it, byte for byte" },
  { word: "incomplete", shape: "◐", state: "wait", means: "a digest came, but not all that it covers was seen here" },
  { word: "contradicted", shape: "✕", state: "bad", means: "its sender's signed digest says something else: alarm" },
  { word: "disowned", shape: "⊘", state: "warn", means: "its sender takes it back: after an outage it may have thought it undelivered, or it denies what it said" },
  { word: "verified", shape: "✓", state: "good", means: "signed by its sender, checked from the root" },
];

export const markOf = (word) => marks.find((m) => m.word === word) ?? marks[0];

const two = (n) => String(n).padStart(2, "0");

// clock is the time of day in UTC, of ms since the epoch.
export function clock(ms) {
  const d = new Date(ms);
  return Number.isNaN(d.getTime()) ? "--:--:--" : `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}`;
}

// age is a duration in ms, short.
export function age(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return `${Math.floor(s / 3600)} h`;
}

// countdown is what is left, as minutes:seconds.
export function countdown(ms) {
  const s = Math.max(0, Math.ceil(ms / 1000));
  return `${Math.floor(s / 60)}:${two(s % 60)}`;
}

// lasting is a duration in ms that has ended or goes on.
export function lasting(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  return s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
}

// count is a number with at most one decimal, grouped by thin spaces.
export function count(n) {
  const rounded = Math.abs(n) < 100 && !Number.isInteger(n) ? n.toFixed(1) : String(Math.round(n));
  return rounded.replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

const commands = new Map(Object.entries({
  enable_rate_limiting: "rate limiting",
  scale_up_servers: "scaling up",
  disable_rate_limiting: "end of rate limiting",
  scale_down_servers: "scaling down",
  hold_automation: "hold on automation",
}));

// inWords is a command as people say it.
export const inWords = (command) => commands.get(command) ?? command;

// wanted is what a command asks for.
export function wanted(p) {
  const said = [];
  if (p?.rate_per_second) said.push(`${count(p.rate_per_second)}/s each client, burst ${count(p.burst ?? 0)}`);
  if (p?.servers) said.push(plural(p.servers, "server"));
  return said.join("; ");
}

// metrics are the fields that alerts name, and the view that shows each.
export const metrics = new Map(Object.entries({
  cpu_usage: { view: "cpu", unit: "%" },
  ram_usage: { view: "ram", unit: "%" },
  syn_packet_count: { view: "network", unit: "SYN" },
  active_tcp_connections: { view: "network", unit: "connections" },
}));

// measured is a value of a metric, with what it was measured over.
export function measured(alert, value) {
  const unit = metrics.get(alert.metric)?.unit ?? "";
  const over = alert.window > 0 ? ` in ${count(alert.window)} s` : "";
  return unit === "%" ? `${count(value)} %` : `${count(value)} ${unit}${over}`;
}
