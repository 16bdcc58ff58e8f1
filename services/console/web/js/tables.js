// The views of alerts, commands and public messages.

import { byId, el, rows, say, show, state } from "./dom.js";
import { age, clock, count, countdown, inWords, lasting, markOf, measured, plural, wanted } from "./words.js";

const cell = (text, attributes) => el("td", attributes, text);

function badge(kind, shape, text) {
  return el("td", {}, el("span", { className: "badge", state: kind }, el("span", { "aria-hidden": "true" }, `${shape} `), text));
}

function proof(verification) {
  const mark = markOf(verification);
  return el("td", { className: "proof", state: mark.state, title: mark.means }, `${mark.shape} ${mark.word}`);
}

export function alerts(model, view) {
  const all = [...model.alerts.values()].filter((a) => (a.ended || a.raised) >= view.cut).reverse();
  all.sort((a, b) => Number(Boolean(a.ended)) - Number(Boolean(b.ended)));
  empty("no-alerts", all, view, "No alert has come since the console started.");
  const standing = (a) => {
    if (a.ended) return ["past", "●", "ended"];
    const unheard = model.unheard(a, view.now);
    return unheard > 0 ? ["wait", "▲", `open, not heard of for ${age(unheard)}`] : ["bad", "▲", "open"];
  };
  const lasted = (a) => (a.raised === 0 ? "–" : lasting((a.ended || view.now) - a.raised));
  rows(byId("alerts"), all, (a) => a.key, (a) => `${a.raised}/${a.ended ?? 0}/${lasted(a)}/${standing(a)[2]}`, (a) => el("tr", { state: a.ended ? "past" : "open" },
    badge(...standing(a)),
    cell(a.raised ? clock(a.raised) : "–"), cell(a.alert, { className: "text" }), cell(a.server),
    cell(a.raised ? `${measured(a, a.value)} > ${count(a.threshold)}` : `threshold ${count(a.threshold)}`), cell(lasted(a)), proof(a.verification)));
  tally("count-alerts", model.openIncidents().length, "open");
}

// givenBy is who asked. A controller answers an id: where several used one, it
// does not say whom.
function givenBy(c) {
  if (!c.sender) return "not seen";
  const sender = c.sender.split("/").slice(1).join(" ");
  return c.shared ? `${sender}; others used its id, and whose was answered is not known` : sender;
}

// stateOf says how far a command has come. Sent never looks like done.
function stateOf(c, now, active) {
  const s = c.status;
  if (!s) return c.ends < now ? ["wait", "?", "no answer"] : ["wait", "→", "sent, no answer yet"];
  if (s.status !== "success") return ["bad", "✕", s.state === "refused" ? "refused" : "failed"];
  if (s.state === "active") return s.until <= now ? ["past", "●", "over"] : active.includes(c) ? ["act", "▶", "in force"] : ["past", "●", "renewed"];
  return ["past", "●", s.state];
}

export function commands(model, view) {
  const all = [...model.commands.values()].filter((c) => (c.status?.received ?? c.received) >= view.cut).reverse();
  const active = model.active(view.now);
  empty("no-commands", all, view, "No command has come since the console started.");
  const ends = (c) => (c.status?.state === "active" && c.status.until > view.now ? `in ${countdown(c.status.until - view.now)}` : c.status?.until ? clock(c.status.until) : c.ends ? clock(c.ends) : "–");
  rows(byId("commands"), all, (c) => c.key, (c) => `${stateOf(c, view.now, active)}/${ends(c)}/${c.verification}/${c.shared ?? false}/${c.status?.received}`, (c) => {
    const [kind, shape, text] = stateOf(c, view.now, active);
    const what = el("td", { className: "text" }, el("b", {}, inWords(c.command)));
    const more = wanted(c.parameters);
    if (more !== "") what.append(` (${more})`);
    if (c.status?.reason) what.append(el("span", { className: "reason" }, ` ${c.status.reason}`));
    return el("tr", {}, badge(kind, shape, text), cell(c.received ? clock(c.received) : "–"), what,
      cell(`${c.server === "*" ? "all servers" : c.server} of ${c.controller}`, { className: "loose" }), cell(ends(c)),
      cell(givenBy(c), { className: "loose" }), proof(c.status?.verification ?? c.verification));
  });
  tally("count-commands", active.length, "in force");
}

export function messages(model, view) {
  const all = model.public.filter((m) => m.received >= view.cut).reverse();
  empty("no-public", all, view, "No public message has come since the console started.");
  rows(byId("public"), all, (m) => String(m.n), () => "", (m) => el("tr", {},
    cell(clock(m.received)), cell(m.topic),
    el("td", { className: "text" }, el("div", { className: "foreign" }, m.bytes ? `${m.text} (${plural(m.bytes, "byte")} in all)` : m.text))));
  const unshown = byId("unshown");
  show(unshown, model.unshown > 0);
  say(unshown, `${plural(model.unshown, "more public message")} came too fast and ${model.unshown === 1 ? "is" : "are"} not shown.`);
}

function empty(id, list, view, words) {
  const e = byId(id);
  show(e, list.length === 0);
  say(e, view.cut > 0 ? "Nothing since the view was cleared." : words);
}

function tally(id, n, what) {
  const e = byId(id);
  say(e, n > 0 ? `${n} ${what}` : "");
  state(e, n > 0 ? "some" : "none");
}
