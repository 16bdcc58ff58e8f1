// The page: four times a second at most, it shows what the model knows.

import { Banner, checks, chips } from "./banner.js";
import { Clearing, Requesting, selectTab } from "./controls.js";
import { byId } from "./dom.js";
import { Model } from "./model.js";
import { Servers, spansOf, thresholdsOf } from "./servers.js";
import { Stream } from "./stream.js";
import { alerts, commands, messages } from "./tables.js";

const every = 250;

const model = new Model();
const stream = new Stream(model);
const servers = new Servers();
const banner = new Banner();
const clearing = new Clearing(() => stream.now());
new Requesting(model);

selectTab();
addEventListener("hashchange", selectTab);

function draw() {
  stream.check();
  const now = stream.now();
  const old = stream.state() === "off" || !model.beat.online;
  if (document.body.dataset.old !== String(old)) document.body.dataset.old = String(old);
  chips(model, stream, now);
  banner.update(model, stream, now);
  if (document.hidden || stream.heard === null) return; // the title goes on
  const view = {
    now, old, cut: clearing.cut,
    key: `${byId("main").dataset.tab}/${clearing.cut}`,
    spans: (name, kind) => spansOf(model, now, clearing.cut, name, kind),
    thresholds: (name, kind) => thresholdsOf(model, name, kind),
  };
  servers.update(model, view);
  alerts(model, view);
  commands(model, view);
  messages(model, view);
  checks(model);
}

setInterval(draw, every);
draw();
