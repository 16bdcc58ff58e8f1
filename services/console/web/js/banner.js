// The status of the site, worst first, in words.

import { byId, say, state } from "./dom.js";
import { age, clock, count, countdown, inWords, plural } from "./words.js";
import { late, silent } from "./servers.js";

const announceEvery = 5000;
const refusing = 60000;  // ms for which refused messages are news
const remember = 600000; // ms for which a contradicted digest stays in the banner

// judge returns what the banner says: state, shape, headline, detail, and what
// of it a screen reader is told, without what changes each second.
export function judge(model, stream, now) {
  const incidents = describe(model, now);
  const link = stream.state();
  if (stream.heard === null) return { state: "off", shape: "✕", headline: "Connecting to the console.", detail: "", spoken: "Connecting to the console" };
  const known = incidents.headline === "" ? "" : `Last known: ${incidents.headline}`;
  if (link === "off") {
    return { state: "off", shape: "✕", headline: `Disconnected from the console: what you see is ${age(stream.silence())} old`, detail: known, spoken: `Disconnected from the console. ${known}` };
  }
  if (!model.beat.online) {
    return { state: "off", shape: "✕", headline: `Disconnected from the broker since ${clock(model.beat.since)} UTC: what you see is old`, detail: known, spoken: `Disconnected from the broker. ${known}` };
  }
  const recent = (model.beat.notices ?? []).filter((n) => now - n.received < remember);
  const accused = recent.filter((n) => n.outcome !== "disowned" && n.outcome !== "incomplete").map((n) => n.sender);
  const doubt = accused.length === 0 ? "" : `Messages of ${some([...new Set(accused)])} disagree with their sender's signed digest: the sender or the broker lies.`;
  const warnings = cautions(model, now, recent);
  const aloud = warnings.map((w) => w.replace(/ \([^)]*\)/, "")); // without counts, which change all the time
  if (incidents.headline !== "") {
    const deserted = desertions(model, now);
    return { state: "bad", shape: "▲", headline: incidents.headline, detail: [...deserted.shown, incidents.detail, doubt, ...warnings].filter(Boolean).join(" "), spoken: [incidents.headline, ...deserted.spoken, incidents.acting, doubt, ...aloud].filter(Boolean).join(". ") };
  }
  if (doubt !== "") return { state: "bad", shape: "✕", headline: doubt, detail: warnings.join(" "), spoken: doubt };
  if (warnings.length > 0) return { state: "warn", shape: "!", headline: warnings[0], detail: [...warnings.slice(1), "No incident is open."].join(" "), spoken: aloud.join(" ") };
  if (model.servers.size === 0) return { state: "warn", shape: "○", headline: "No reading has come yet", detail: "The console is connected and waits for the sensors.", spoken: "No reading has come yet" };
  const well = `No incident open. ${plural(model.servers.size, "server")} reporting.`;
  return { state: "good", shape: "✓", headline: well, detail: incidents.detail, spoken: well };
}

// cautions are what may keep an incident from being seen.
function cautions(model, now, recent) {
  const said = [];
  const quiet = [...model.servers.values()].filter((s) => silent(s, now)).map((s) => s.name);
  if (quiet.length === model.servers.size && now - model.refusedAt < refusing) {
    said.push(`Messages are refused (${Object.entries(model.beat.refusals).map(([reason, n]) => `${reason.replaceAll("_", " ")} ${n}`).join(", ")}) and no reading comes: do the clocks agree?`);
  }
  const partial = [...new Set(recent.filter((n) => n.outcome === "incomplete").map((n) => n.sender))];
  if (partial.length > 0) said.push(`Messages of ${some(partial)} do not come whole, digest after digest: somebody may be withholding some.`);
  if (model.beat.crowded_alerts > 0) said.push(`${plural(model.beat.crowded_alerts, "open incident")} not shown: there are too many.`);
  const absent = (model.beat.absent ?? []).map((m) => m.machine.replace("/", " "));
  if (absent.length > 0) said.push(`${some(absent, model.beat.more_absent)} connected to no broker.`);
  if (quiet.length > 0) said.push(`${some(quiet)} silent for more than ${late / 1000} s.`);
  return said;
}

// desertions are the monitors that nobody hears while an incident of theirs is
// open, and those that have forgotten it. What is spoken does not change each
// second.
function desertions(model, now) {
  const shown = new Map(), spoken = new Map();
  for (const a of model.openIncidents()) {
    const unheard = model.unheard(a, now);
    if (unheard === 0 || (a.left && shown.has(a.monitor))) continue;
    shown.set(a.monitor, a.left ? `Monitor ${a.monitor} has started anew and no longer knows of an open incident.` : `Monitor ${a.monitor} last heard ${age(unheard)} ago: nothing may be judging.`);
    spoken.set(a.monitor, a.left ? `monitor ${a.monitor} has started anew` : `monitor ${a.monitor} is silent: nothing may be judging`);
  }
  return { shown: [...shown.values()], spoken: [...spoken.values()] };
}

// describe tells the open incidents and what is done about them.
function describe(model, now) {
  const open = model.openIncidents();
  const active = model.active(now);
  const acts = active.slice(0, 3).map((c) => `${inWords(c.command)} in force on ${c.server === "*" ? "all servers" : c.server}`);
  const ends = active.slice(0, 3).map((c, i) => `${acts[i]}, ends in ${countdown(c.status.until - now)}`);
  const detail = ends.length === 0 ? "" : `${capital(ends.join("; "))}.`;
  if (open.length === 0) return { headline: "", detail, acting: acts.join(", ") };
  const what = open.slice(0, 2).map((a) => `${a.alert} on ${a.server}`).join("; ");
  const more = open.length > 2 ? `; and ${open.length - 2} more` : "";
  return { headline: `${plural(open.length, "incident")} open: ${what}${more}`, detail: detail || "Nothing is in force against it.", acting: acts.join(", ") || "nothing in force" };
}

const capital = (s) => s.charAt(0).toUpperCase() + s.slice(1);
const some = (names, further = 0) => (names.length + further <= 3 ? names.join(", ") : `${names.slice(0, 3).join(", ")} and ${names.length + further - 3} more`);

export class Banner {
  constructor() {
    this.box = byId("banner");
    this.spoken = "";
    this.said = -Infinity;
    this.icon = "";
  }

  update(model, stream, now) {
    const j = judge(model, stream, now);
    state(this.box, j.state);
    say(this.box.querySelector(".shape"), j.shape);
    say(this.box.querySelector(".headline"), j.headline);
    say(this.box.querySelector(".detail"), j.detail);
    if (j.spoken !== this.spoken && performance.now() - this.said > announceEvery) {
      this.spoken = j.spoken;
      this.said = performance.now();
      say(byId("announce"), j.spoken);
    }
    const open = model.openIncidents().length;
    const off = j.state === "off";
    const title = `${open > 0 ? `(${open}) ` : ""}${off ? "disconnected · " : ""}${model.site ? `${model.site} · ` : ""}levee console`;
    if (document.title !== title) document.title = title;
    const icon = `/icons/${off ? "off" : open > 0 || j.state === "bad" ? "alert" : "ok"}.svg`;
    if (icon !== this.icon) byId("icon").setAttribute("href", icon);
    this.icon = icon;
  }
}

// chips are the freshness of the page and the link to the broker.
export function chips(model, stream, now) {
  const fresh = byId("fresh"), link = stream.state();
  state(fresh, link);
  say(fresh.querySelector(".shape"), { live: "●", late: "◐", off: "✕" }[link]);
  const silence = stream.silence();
  say(fresh.querySelector(".words"), link === "off" ? `disconnected${silence === Infinity ? "" : ` · ${age(silence)}`}` : `${link === "live" ? "live" : "delayed"} · ${age(silence)}`);
  const broker = byId("broker"), online = stream.heard !== null && link !== "off" && model.beat.online;
  state(broker, online ? "live" : "off");
  say(broker.querySelector(".shape"), online ? "●" : "✕");
  say(broker.querySelector(".words"), link === "off" ? "broker: not known" : online ? "broker connected" : "broker disconnected");
  say(byId("site"), model.site);
  say(byId("clock"), stream.heard === null ? "--:--:--" : clock(now));
}

// checks is the last line: what was refused, left out, or disagrees.
export function checks(model) {
  const b = model.beat, said = [];
  const refused = Object.entries(b.refusals ?? {});
  if (refused.length > 0) said.push(`Refused messages: ${refused.map(([reason, n]) => `${reason.replaceAll("_", " ")} ${n}`).join(", ")}.`);
  for (const n of (b.notices ?? []).slice(-3)) said.push(`${clock(n.received)} digest of ${n.sender} ${n.outcome}, messages ${n.first} to ${n.last}${n.count > 1 ? `, and ${count(n.count - 1)} before` : ""}.`);
  for (const m of (b.absent ?? []).slice(0, 5)) said.push(`${m.machine} connected nowhere since ${clock(m.since)}: ${m.reason || "unseen"}.`);
  if (b.lost > 0) said.push(`${plural(b.lost, "message")} came faster than they could be checked.`);
  if (b.more_servers > 0) said.push(`${plural(b.more_servers, "reading")} of further servers not shown.`);
  if (b.skipped > 0) said.push(`${plural(b.skipped, "reading")} came too fast and ${b.skipped === 1 ? "is" : "are"} not shown.`);
  if (b.crowded_alerts > 0) said.push(`${plural(b.crowded_alerts, "open incident")} gave up a place to newer ones.`);
  if (b.crowded_commands > 0) said.push(`${plural(b.crowded_commands, "command")} gave up a place to newer ones before the end was known.`);
  if (b.unsaid > 0) said.push(`${plural(b.unsaid, "event")} of the console could not be sent: see its log.`);
  if (said.length === 0) said.push("No message has been refused.");
  say(byId("checks"), `${model.console ? `Console ${model.console}. ` : ""}${said.join(" ")}`);
}
