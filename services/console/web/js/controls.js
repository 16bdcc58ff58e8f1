// The three buttons and the tabs.

import { byId, el, say, show } from "./dom.js";
import { clock } from "./words.js";

const tabs = ["overview", "cpu", "ram", "network", "alerts", "commands", "public"];

// selectTab shows the view that the address names.
export function selectTab() {
  const wanted = location.hash.slice(1);
  const tab = tabs.includes(wanted) ? wanted : "overview";
  byId("main").dataset.tab = tab;
  for (const a of document.querySelectorAll(".tabs a")) {
    if (a.getAttribute("href") === `#${tab}`) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
}

// Clearing hides what this tab has shown so far. Nothing is deleted anywhere:
// the records are evidence.
export class Clearing {
  constructor(now) {
    this.cut = 0;
    byId("clear").addEventListener("click", () => this.set(now()));
    byId("restore").addEventListener("click", () => { this.set(0); byId("clear").focus(); });
  }

  set(cut) {
    this.cut = cut;
    show(byId("cleared"), cut > 0);
    say(byId("cleared").firstElementChild, `What came before ${clock(cut)} UTC is hidden in this tab. Records are not touched.`);
  }
}

const requests = {
  limit: { command: "enable_rate_limiting", title: "Enable Rate Limiting", effect: "Asks that the load balancer limit what each client may send to one server, for 15 minutes." },
  scale: { command: "scale_up_servers", title: "Scale Up Servers", effect: "Asks that more servers stand behind one address, for 15 minutes." },
};

// Requesting shows the command line that asks for a command.
export class Requesting {
  constructor(model) {
    this.model = model;
    this.dialog = byId("request");
    this.select = byId("request-server");
    this.request = requests.limit;
    for (const [id, request] of Object.entries(requests)) byId(id).addEventListener("click", () => this.open(request));
    byId("request-close").addEventListener("click", () => this.dialog.close());
    this.select.addEventListener("change", () => this.write());
  }

  open(request) {
    this.request = request;
    say(byId("request-title"), request.title);
    say(byId("request-effect"), request.effect);
    const names = [...this.model.servers.keys()].sort();
    const troubled = this.model.openIncidents().map((a) => a.server).find((name) => names.includes(name));
    this.select.replaceChildren(...(names.length > 0 ? names : ["SERVER"]).map((name) => el("option", { value: name }, name)));
    if (troubled !== undefined) this.select.value = troubled;
    this.write();
    this.dialog.showModal();
  }

  // Names of sites and servers have no character that a shell would read
  // otherwise: the topic's grammar allows none.
  write() {
    say(byId("request-line"), `levee command request ${this.request.command} --site ${this.model.site || "SITE"} --server ${this.select.value} --ttl 15m --reason "..."`);
  }
}
