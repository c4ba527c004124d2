// The way to the server. Streams are open only while the page is seen and not paused: the host is sampled for
// no one else.

// Milliseconds until a refused stream is tried again.
const firstWait = 2000, longestWait = 60000;

// get returns the JSON of a path below api/. Its error is the sentence that the server sent.
export async function get(path, parameters) {
  const response = await fetch(url(path, parameters), { headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(await reason(response));
  return response.json();
}

// post sends a request that changes something or that is costly. The header cannot be set by a form of another site.
export async function post(path, body, signal) {
  const response = await fetch(path, { method: "POST", body, signal, headers: { "X-Usernet-Inspect": "1" } });
  if (!response.ok) throw new Error(await reason(response));
  return response;
}

// url returns the relative URL of a path below api/. Parameters that are empty are left out.
export function url(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters ?? {})) {
    if (value !== "" && value !== null && value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  return "api/" + path + (text ? "?" + text : "");
}

// reason returns why a request failed.
export async function reason(response) {
  try {
    const body = await response.json();
    if (body.error) return body.error;
  } catch {
    // The answer was not of the inspector.
  }
  return `the server answered ${response.status} ${response.statusText}`.trim();
}

// Live opens and closes the streams of the current view.
export class Live {
  // status is told in words how the streams fare.
  constructor(status) {
    this.status = status;
    this.paused = false;
    this.streams = new Set();
    document.addEventListener("visibilitychange", () => this.apply());
  }

  // stream opens path and calls a handler with the JSON of each event: {overview: f}. It returns an object
  // with change, which replaces the parameters, and close. The state of an optional stream is not part of the
  // status; refused is called with the reason if the server refuses the stream, and opened each time that it begins.
  stream(path, parameters, handlers, { optional = false, refused, opened } = {}) {
    const s = new Stream(this, path, parameters, handlers, { optional, refused, opened });
    this.streams.add(s);
    s.apply();
    return s;
  }

  closeAll() {
    for (const s of this.streams) s.close();
  }

  pause(paused) {
    this.paused = paused;
    this.apply();
  }

  get wanted() {
    return !this.paused && document.visibilityState === "visible";
  }

  apply() {
    for (const s of this.streams) s.apply();
    this.tell();
  }

  tell() {
    if (this.paused) return this.status("paused");
    const states = [...this.streams].filter((s) => !s.optional).map((s) => s.state);
    if (states.includes("ended")) return this.status("a recording");
    if (states.includes("closed")) return this.status("the host is closed");
    if (states.includes("failed")) return this.status("connection lost, trying again");
    this.status(states.includes("opening") ? "connecting" : "live");
  }
}

class Stream {
  constructor(live, path, parameters, handlers, options) {
    Object.assign(this, { live, path, parameters, handlers, ...options, source: null, state: "opening", timer: 0, wait: firstWait });
  }

  apply() {
    if (!this.live.wanted) this.stop();
    else if (!this.source && !this.timer && !["closed", "ended"].includes(this.state)) this.open();
  }

  open() {
    const source = new EventSource(url(this.path, this.parameters));
    this.source = source;
    this.state = "opening";
    source.onopen = () => {
      if (source !== this.source) return;
      this.wait = firstWait;
      this.is("live");
      this.opened?.();
    };
    source.onerror = () => {
      if (source !== this.source) return;
      this.is("failed");
      // The browser tries again itself, unless the server refused.
      if (source.readyState === EventSource.CLOSED) this.retry();
    };
    for (const [name, handler] of Object.entries(this.handlers)) {
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        if (this.state !== "live") this.is("live");
        handler(JSON.parse(event.data));
      });
    }
    // The host is closed, or a recording is at its end.
    for (const [name, state] of [["closed", "closed"], ["end", "ended"]]) {
      source.addEventListener(name, () => {
        source.close();
        this.is(state);
      });
    }
  }

  // retry asks why the server refused, and opens the stream again after a time that doubles.
  async retry() {
    this.source = null;
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.apply();
    }, this.wait);
    this.wait = Math.min(2 * this.wait, longestWait);
    if (!this.refused) return;
    const controller = new AbortController();
    try {
      const response = await fetch(url(this.path, this.parameters), { signal: controller.signal });
      if (!response.ok) this.refused(await reason(response));
    } catch {
      // The server is away.
    }
    controller.abort();
  }

  is(state) {
    this.state = state;
    this.live.tell();
  }

  // change reopens the stream if the parameters differ.
  change(parameters) {
    if (JSON.stringify(parameters) === JSON.stringify(this.parameters)) return;
    this.parameters = parameters;
    this.state = "opening";
    this.stop();
    this.apply();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.source?.close();
    this.source = null;
  }

  close() {
    this.stop();
    this.live.streams.delete(this);
  }
}
