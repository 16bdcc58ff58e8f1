// The event stream, and how old what it brought is.

const quiet = 7000;   // a beat comes each 5 s: later is late
const dead = 20000;   // and this late is gone, whatever the socket says
const again = 3000;

export class Stream {
  constructor(model) {
    this.model = model;
    this.heard = null; // of the newest event: our two clocks, and the console's
    this.source = null;
    this.open();
  }

  open() {
    const source = new EventSource("/events");
    this.source = source;
    this.opened = performance.now();
    source.addEventListener("snapshot", (e) => this.take(e, (data) => this.model.snapshot(data)));
    source.addEventListener("update", (e) => this.take(e, (data) => this.model.update(data)));
    source.addEventListener("beat", (e) => this.take(e, (data) => this.model.live(data)));
    source.addEventListener("error", () => {
      // A browser gives up when it is refused, for example with 503.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.open(), again);
    });
  }

  // check gives up a connection that has died without saying so.
  check() {
    if (this.source.readyState === EventSource.OPEN && this.heard !== null && this.silence() > dead && performance.now() - this.opened > dead) {
      this.source.close();
      this.open();
    }
  }

  take(event, apply) {
    const data = JSON.parse(event.data);
    if (!Number.isFinite(data?.now)) return; // no event of ours: it shows nothing, and gives no life
    apply(data);
    this.heard = { steady: performance.now(), wall: Date.now(), server: data.now };
  }

  // silence is how long nothing has come, in ms. The steady clock stops while
  // the machine sleeps and the wall clock can be set back, so the worse counts.
  silence() {
    if (this.heard === null) return Infinity;
    return Math.max(performance.now() - this.heard.steady, Date.now() - this.heard.wall, 0);
  }

  // now is the console's time, as far as it was told: it goes on while nothing
  // comes, so that everything shown grows old.
  now() {
    return this.heard === null ? Date.now() : this.heard.server + this.silence();
  }

  // state is "live", "late" or "off".
  state() {
    const silence = this.silence();
    if (this.source.readyState !== EventSource.OPEN || silence > dead) return "off";
    return silence > quiet ? "late" : "live";
  }
}
