// Plots over time as SVG. Colours and dashes are in the style sheet, so a plot follows light and dark.

import { el, svg, set, setText } from "./dom.js";
import { clockOf, count, inUnit, scaleOf, seconds as inSeconds } from "./units.js";

const left = 62, right = 14, bottom = 38;

// lane is the height of a row of signs above a plot.
const lane = 12;

// Axes draws a frame with ticks, grid and the units of both axes.
export class Axes {
  constructor({ height, kind, name, label }) {
    Object.assign(this, { height, kind, name, width: 640, max: 0, top: 32, zero: null, blank: false });
    this.grid = svg("g", { class: "grid" });
    this.marks = svg("g", { class: "marks" });
    this.yName = svg("text", { class: "axis", x: 4, y: 12 });
    this.xName = svg("text", { class: "axis", "text-anchor": "end" });
    this.node = svg("svg", { class: "plot", role: "img", "aria-label": label }, this.grid, this.marks, this.yName, this.xName);
    new ResizeObserver((entries) => {
      const width = Math.round(entries[0].contentRect.width);
      if (width > 0 && width !== this.width) {
        this.width = width;
        this.onresize?.();
      }
    }).observe(this.node);
  }

  // scale sets the range of both axes: seconds from t0 to t1, and values from min to max.
  scale(t0, t1, min, max) {
    // The axis grows at once and shrinks late, so that it does not flicker.
    const span = max - min;
    if (this.max === 0 || span > this.max || span < this.max / 3) this.max = nice(Math.max(span, this.kind === "time" ? 1e-6 : 1));
    Object.assign(this, { t0, t1, min });
    set(this.node, "viewBox", `0 0 ${this.width} ${this.height}`);
    set(this.node, "height", this.height);
    this.unit = scaleOf(this.kind, this.min + this.max);
    setText(this.yName, this.unit.name ? `${this.name} (${this.unit.name})` : this.name);
    setText(this.xName, this.zero === null ? "time (s)" : `time (s), 0 is ${clockOf(this.zero)} UTC`);
    set(this.xName, "x", this.width - right);
    set(this.xName, "y", this.height - 6);
    this.ticks();
  }

  x(t) {
    return left + (t - this.t0) / (this.t1 - this.t0) * (this.width - left - right);
  }

  y(v) {
    return this.height - bottom - (v - this.min) / this.max * (this.height - this.top - bottom);
  }

  ticks() {
    const lines = [], texts = [];
    let dy = step(this.max / this.unit.factor, this.height - this.top < 170 ? 4 : 5) * this.unit.factor;
    if (this.kind === "count") dy = Math.max(dy, 1);
    for (let v = Math.ceil(this.min / dy - 1e-9) * dy; !this.blank && v <= this.min + this.max * 1.0001; v += dy) {
      lines.push(`M${left} ${px(this.y(v))}H${this.width - right}`);
      texts.push(["end", left - 6, this.y(v) + 4, tidy(v / this.unit.factor)]);
    }
    const dx = step(this.t1 - this.t0, Math.max(2, Math.floor(this.width / 90)));
    for (let t = Math.ceil(this.t0 / dx - 1e-9) * dx; t <= this.t1 + 1e-9; t += dx) {
      if (t < -1e-9) continue; // before the view was opened
      lines.push(`M${px(this.x(t))} ${this.top}V${this.height - bottom}`);
      texts.push(["middle", this.x(t), this.height - bottom + 15, tidy(t)]);
    }
    const line = this.grid.firstElementChild ?? this.grid.appendChild(svg("path", null));
    set(line, "d", lines.join(""));
    while (this.grid.childElementCount - 1 < texts.length) this.grid.append(svg("text"));
    while (this.grid.childElementCount - 1 > texts.length) this.grid.lastElementChild.remove();
    texts.forEach(([anchor, x, y, text], i) => {
      const e = this.grid.children[i + 1];
      set(e, "text-anchor", anchor);
      set(e, "x", px(x));
      set(e, "y", px(y));
      setText(e, text);
    });
  }

  // path returns the element for a mark, which is made at first use.
  path(name) {
    this.paths ??= new Map();
    let p = this.paths.get(name);
    if (!p) {
      p = svg("path", { class: name });
      this.paths.set(name, p);
      this.marks.append(p);
    }
    return p;
  }
}

export function px(n) {
  return Math.round(n * 10) / 10;
}

function tidy(n) {
  return String(Number(n.toPrecision(6)));
}

// nice returns a round number that is at least n.
function nice(n) {
  const p = 10 ** Math.floor(Math.log10(n));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((m) => m * p >= n * 0.9999) * p;
}

// step returns a round distance of at most n ticks within a span.
function step(span, n) {
  const p = 10 ** Math.floor(Math.log10(span / n));
  return [1, 2, 5, 10].find((m) => m * p * n >= span * 0.9999) * p;
}

// sample returns a short line in the style of a series, for a legend.
export function sample(name, shape) {
  return svg("svg", { class: "swatch", viewBox: "0 0 28 12", width: 28, height: 12, "aria-hidden": "true" },
    svg("path", { class: name, d: shape ?? "M0 6H28" }));
}

// Plot draws series over time with the events of a connection.
//
// A series is {name, class, value, step, none, rare}: value returns the figure of a sample, or null if there is none;
// none is what the legend then says; one that is rare is in the legend only while it has figures.
export class Plot {
  constructor({ title, kind, name, series, format, id }) {
    Object.assign(this, { title, series, format, lanes: [] });
    this.axes = new Axes({ height: 220, kind, name, label: title });
    this.axes.path("event-line"); // below the curves
    this.counts = this.axes.node.appendChild(svg("g", { class: "event-counts" }));
    this.axes.onresize = () => this.last && this.draw(...this.last);
    this.now = series.map(() => el("span", { class: "now" }, "–"));
    this.entries = series.map((s, i) => el("li", null, sample("line " + s.class), s.name, " ", this.now[i]));
    this.node = el("figure", { class: "plot-box", "data-plot": id },
      el("figcaption", null, el("h3", null, title), el("ul", { class: "legend" }, this.entries)),
      this.axes.node);
    this.draw([], [], 0, 10);
  }

  // draw shows the samples and events between t0 and t1. Each has t, in seconds on the axis, whose 0 is the time zero in
  // seconds since 1970.
  draw(samples, events, t0, t1, zero = null) {
    this.last = [samples, events, t0, t1, zero];
    this.axes.zero = zero;
    const shown = events.filter((e) => e.t >= t0 && e.t <= t1);
    // A lane stays, so that the plot does not jump.
    this.lanes = Object.keys(eventShapes).filter((mark) => this.lanes.includes(mark) || shown.some((e) => e.mark === mark));
    this.axes.top = 20 + lane * Math.max(this.lanes.length, 1);
    const seen = samples.filter((s) => s.t >= t0 && s.t <= t1);
    let max = 0;
    for (const s of this.series) for (const p of seen) max = Math.max(max, s.value(p) ?? 0);
    this.axes.scale(t0, t1, 0, max);
    const words = [];
    this.series.forEach((s, i) => {
      set(this.axes.path("line " + s.class), "d", this.line(s, seen));
      const values = seen.map(s.value).filter((v) => v !== null && v !== undefined);
      const last = seen.length ? s.value(seen[seen.length - 1]) : null;
      setText(this.now[i], last === null || last === undefined ? (s.none ?? "–") : inUnit(last, this.axes.unit));
      this.entries[i].hidden = Boolean(s.rare) && !values.length;
      if (values.length) {
        const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
        words.push(`${s.name} ${this.format(values[values.length - 1])}, from ${this.format(low)} to ${this.format(high)}`);
      }
    });
    this.drawEvents(shown);
    const during = `${this.title}, in the last ${inSeconds(t1 - t0)}: `;
    set(this.axes.node, "aria-label", during + (words.join("; ") || "no figures yet") + ".");
  }

  line(s, samples) {
    let d = "", open = false;
    for (const p of samples) {
      const v = s.value(p);
      if (v === null || v === undefined) {
        open = false;
        continue;
      }
      const x = px(this.axes.x(p.t)), y = px(this.axes.y(v));
      d += open ? (s.step ? `H${x}V${y}` : `L${x} ${y}`) : `M${x} ${y}`;
      open = true;
    }
    return d;
  }

  // drawEvents draws signs above the plot, in a lane for each kind, and faint lines. Events of one kind that are close
  // together share a sign, with their number beside it.
  drawEvents(events) {
    const { axes } = this;
    const texts = [], at = new Set();
    const width = 26 / (axes.x(1) - axes.x(0)); // seconds; the bins are fixed in time, so that signs only move along
    for (const mark of Object.keys(eventShapes)) {
      const signs = [];
      let key;
      for (const e of events) {
        if (e.mark !== mark) continue;
        const bin = Math.floor(e.t / width), sign = signs[signs.length - 1], n = e.n ?? 1;
        if (sign && (bin === key || (e.t - sign.t) / width < 0.6)) {
          sign.t += (e.t - sign.t) / ++sign.events;
          sign.n += n;
        } else {
          signs.push({ t: e.t, events: 1, n });
        }
        key = bin;
      }
      const y = axes.top - 6 - lane * (this.lanes.length - 1 - this.lanes.indexOf(mark));
      let d = "";
      for (const sign of signs) {
        const x = px(axes.x(sign.t));
        d += eventShapes[mark](x, y);
        at.add(x);
        if (sign.n > 1) texts.push([x + 6, y + 3, count(sign.n)]);
      }
      set(axes.path("event event-" + mark), "d", d);
    }
    let lines = "", last = -Infinity;
    for (const x of [...at].sort((a, b) => a - b)) {
      if (x < last + 13) continue;
      last = x;
      lines += `M${x} ${axes.top}V${axes.height - bottom}`;
    }
    set(axes.path("event-line"), "d", lines);
    while (this.counts.childElementCount < texts.length) this.counts.append(svg("text"));
    while (this.counts.childElementCount > texts.length) this.counts.lastElementChild.remove();
    texts.forEach(([x, y, text], i) => {
      set(this.counts.children[i], "x", px(x));
      set(this.counts.children[i], "y", y);
      setText(this.counts.children[i], text);
    });
  }
}

// eventShapes are the signs above the plot, so that kinds differ by shape and not by colour alone.
export const eventShapes = {
  retransmission: (x, y) => `M${x - 4} ${y - 4}L${x + 4} ${y + 4}M${x - 4} ${y + 4}L${x + 4} ${y - 4}`, // a cross
  timeout: (x, y) => `M${x - 4} ${y + 4}L${x} ${y - 5}L${x + 4} ${y + 4}Z`, // a triangle
  recovery: (x, y) => `M${x - 4} ${y}L${x} ${y - 4.5}L${x + 4} ${y}L${x} ${y + 4.5}Z`, // a diamond
  window: (x, y) => `M${x - 4} ${y - 4}H${x + 4}V${y + 4}H${x - 4}Z`, // a square
  reduced: (x, y) => `M${x - 4} ${y - 3}L${x} ${y + 3}L${x + 4} ${y - 3}`, // an arrow down
  order: (x, y) => `M${x - 2.5} ${y - 4}V${y + 4}M${x + 2.5} ${y - 4}V${y + 4}`, // two bars
  state: (x, y) => `M${x} ${y - 4}V${y + 4}`,
};

// legendOfEvents returns the list of signs.
export function legendOfEvents(names) {
  return el("ul", { class: "legend", "aria-label": "Events" }, Object.entries(names).map(([mark, name]) =>
    el("li", null, sample("event event-" + mark, eventShapes[mark](14, 6)), name)));
}
