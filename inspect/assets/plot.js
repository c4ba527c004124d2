// Plots over time as SVG. Colours and dashes are in the style sheet, so a plot follows light and dark.

import { el, svg, set, setText } from "./dom.js";
import { scaleOf, seconds as inSeconds } from "./units.js";

const left = 62, right = 14, top = 32, bottom = 38;

// Axes draws a frame with ticks, grid and the units of both axes.
export class Axes {
  constructor({ height, kind, name, label }) {
    Object.assign(this, { height, kind, name, width: 640, max: 0 });
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
    setText(this.xName, "time (s)");
    set(this.xName, "x", this.width - right);
    set(this.xName, "y", this.height - 6);
    this.ticks();
  }

  x(t) {
    return left + (t - this.t0) / (this.t1 - this.t0) * (this.width - left - right);
  }

  y(v) {
    return this.height - bottom - (v - this.min) / this.max * (this.height - top - bottom);
  }

  ticks() {
    const lines = [], texts = [];
    const dy = step(this.max / this.unit.factor, this.height < 150 ? 3 : 5) * this.unit.factor;
    for (let v = Math.ceil(this.min / dy - 1e-9) * dy; v <= this.min + this.max * 1.0001; v += dy) {
      lines.push(`M${left} ${px(this.y(v))}H${this.width - right}`);
      texts.push(["end", left - 6, this.y(v) + 4, tidy(v / this.unit.factor)]);
    }
    const dx = step(this.t1 - this.t0, Math.max(2, Math.floor(this.width / 90)));
    for (let t = Math.ceil(this.t0 / dx - 1e-9) * dx; t <= this.t1 + 1e-9; t += dx) {
      lines.push(`M${px(this.x(t))} ${top}V${this.height - bottom}`);
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
// A series is {name, class, value, step}: value returns the figure of a sample, or null if there is none.
export class Plot {
  constructor({ title, kind, name, series, format, id }) {
    Object.assign(this, { title, series, format });
    this.axes = new Axes({ height: 200, kind, name, label: title });
    this.axes.onresize = () => this.last && this.draw(...this.last);
    this.now = series.map(() => el("span", { class: "now" }, "–"));
    this.node = el("figure", { class: "plot-box", "data-plot": id },
      el("figcaption", null,
        el("h3", null, title),
        el("ul", { class: "legend" }, series.map((s, i) => el("li", null, sample("line " + s.class), s.name, " ", this.now[i])))),
      this.axes.node);
    this.draw([], [], 0, 10);
  }

  // draw shows the samples and events between t0 and t1. Each has t, in seconds on the axis.
  draw(samples, events, t0, t1) {
    this.last = [samples, events, t0, t1];
    const seen = samples.filter((s) => s.t >= t0 && s.t <= t1);
    let max = 0;
    for (const s of this.series) for (const p of seen) max = Math.max(max, s.value(p) ?? 0);
    this.axes.scale(t0, t1, 0, max);
    const words = [];
    this.series.forEach((s, i) => {
      set(this.axes.path("line " + s.class), "d", this.line(s, seen));
      const values = seen.map(s.value).filter((v) => v !== null && v !== undefined);
      const last = seen.length ? s.value(seen[seen.length - 1]) : null;
      setText(this.now[i], last === null || last === undefined ? (s.none ?? "–") : this.format(last));
      if (values.length) {
        const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
        words.push(`${s.name} ${this.format(values[values.length - 1])}, from ${this.format(low)} to ${this.format(high)}`);
      }
    });
    const shown = events.filter((e) => e.t >= t0 && e.t <= t1);
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

  // drawEvents draws a sign for each event above the plot, and a faint line. Signs of one kind that would
  // overlap are drawn once.
  drawEvents(events) {
    const signs = new Map(), lastX = new Map();
    let lines = "";
    for (const e of events) {
      const x = px(this.axes.x(e.t)), mark = eventShapes[e.mark] ? e.mark : "other";
      if (x < (lastX.get(mark) ?? -Infinity) + 9) continue;
      lastX.set(mark, x);
      lines += `M${x} ${top}V${this.axes.height - bottom}`;
      signs.set(mark, (signs.get(mark) ?? "") + eventShapes[mark](x, top - 6));
    }
    set(this.axes.path("event-line"), "d", lines);
    for (const mark of Object.keys(eventShapes)) set(this.axes.path("event event-" + mark), "d", signs.get(mark) ?? "");
  }
}

// eventShapes are the signs above the plot, so that kinds differ by shape and not by colour alone.
export const eventShapes = {
  retransmission: (x, y) => `M${x - 4} ${y - 4}L${x + 4} ${y + 4}M${x - 4} ${y + 4}L${x + 4} ${y - 4}`, // a cross
  timeout: (x, y) => `M${x - 4} ${y + 4}L${x} ${y - 5}L${x + 4} ${y + 4}Z`, // a triangle
  recovery: (x, y) => `M${x - 4} ${y}L${x} ${y - 5}L${x + 4} ${y}L${x} ${y + 5}Z`, // a diamond
  window: (x, y) => `M${x - 4} ${y - 4}H${x + 4}V${y + 4}H${x - 4}Z`, // a square
  other: (x, y) => `M${x} ${y - 5}V${y + 5}`,
};

// legendOfEvents returns the list of signs.
export function legendOfEvents(names) {
  return el("ul", { class: "legend", "aria-label": "Events" }, Object.entries(names).map(([mark, name]) =>
    el("li", null, sample("event event-" + mark, eventShapes[mark](14, 6)), name)));
}
