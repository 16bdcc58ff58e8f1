// The status of the site, worst first, in words.

import { byId, say, state } from "./dom.js";
import { age, clock, countdown, inWords, plural } from "./words.js";
import { late } from "./servers.js";

const announceEvery = 5000;
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
  const accused = (model.beat.notices ?? []).filter((n) => n.outcome !== "disowned" && now - n.received < remember).map((n) => n.sender);
  const doubt = accused.length === 0 ? "" : `Messages of ${some([...new Set(accused)])} disagree with their sender's signed digest: the sender or the broker lies.`;
  const silent = [...model.servers.values()].filter((s) => now - s.seen > late).map((s) => s.name);
  const quiet = silent.length === 0 ? "" : `${some(silent)} silent for more than ${late / 1000} s.`;
  if (incidents.headline !== "") {
    return { state: "bad", shape: "▲", headline: incidents.headline, detail: [incidents.detail, doubt, quiet].filter(Boolean).join(" "), spoken: [incidents.headline, incidents.acting, doubt, quiet].filter(Boolean).join(". ") };
  }
  if (doubt !== "") return { state: "bad", shape: "✕", headline: doubt, detail: quiet, spoken: doubt };
  if (quiet !== "") return { state: "warn", shape: "!", headline: quiet, detail: "No incident is open.", spoken: quiet };
  if (model.servers.size === 0) return { state: "warn", shape: "○", headline: "No reading has come yet", detail: "The console is connected and waits for the sensors.", spoken: "No reading has come yet" };
  const well = `No incident open. ${plural(model.servers.size, "server")} reporting.`;
  return { state: "good", shape: "✓", headline: well, detail: incidents.detail, spoken: well };
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
const some = (names) => (names.length <= 3 ? names.join(", ") : `${names.slice(0, 3).join(", ")} and ${names.length - 3} more`);

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
  for (const n of (b.notices ?? []).slice(-3)) said.push(`${clock(n.received)} digest of ${n.sender} ${n.outcome}, messages ${n.first} to ${n.last}.`);
  if (b.lost > 0) said.push(`${plural(b.lost, "message")} came faster than they could be checked.`);
  if (b.more_servers > 0) said.push(`${plural(b.more_servers, "reading")} of further servers not shown.`);
  if (b.skipped > 0) said.push(`${plural(b.skipped, "reading")} came too fast and ${b.skipped === 1 ? "is" : "are"} not shown.`);
  if (said.length === 0) said.push("No message has been refused.");
  say(byId("checks"), `${model.console ? `Console ${model.console}. ` : ""}${said.join(" ")}`);
}
