// The sequence-time diagram of one direction of a connection: segments, acknowledgements, window and SACK.

import { el, set, setText } from "./dom.js";
import { Axes, px, sample } from "./plot.js";
import { bytes, count } from "./units.js";

// keep is how many segments are held. windows are the seconds that can be shown.
const keep = 6000, windows = [0.2, 1, 5, 20];

// keepRecorded is how many segments of a recording are held.
const keepRecorded = 50000;

const marks = [
  ["seq-window", "end of the receiver's window", "M0 3H28"],
  ["seq-ack", "acknowledged up to", "M0 9H14V3H28"],
  ["seq-sack", "SACK: arrived beyond a hole", "M10 1V11M18 1V11"],
  ["seq-segment", "segment", "M14 1V11"],
  ["seq-again", "retransmission", "M10 2L18 10M10 10L18 2M14 0V12"],
];

// SequencePlot shows the segments of one direction against time.
export class SequencePlot {
  constructor(dir, recorded) {
    this.keep = recorded ? keepRecorded : keep;
    this.end = 0;
    this.clear();
    this.axes = new Axes({ height: 320, kind: "bytes", name: "bytes since the first segment seen", label: "Sequence numbers over time" });
    this.axes.onresize = () => this.draw();
    this.now = el("p", { class: "note" }, "No segment has been seen yet.");
    const choose = (value, text) => el("label", null,
      el("input", { type: "radio", name: "seq-dir", value, checked: dir === value, onchange: () => this.turn(value) }), text);
    this.dir = dir;
    this.window = recorded ? Infinity : 1;
    const span = (value) => el("label", null,
      el("input", { type: "radio", name: "seq-span", value, checked: value === this.window, onchange: () => this.span(value) }), value === Infinity ? "whole recording" : value + " s");
    this.node = el("figure", { class: "plot-box", "data-plot": "sequence" },
      el("figcaption", null,
        el("h3", null, "Sequence numbers over time"),
        el("fieldset", { class: "choice" }, el("legend", null, "Data that this host"), choose("out", " sends"), choose("in", " receives")),
        el("fieldset", { class: "choice" }, el("legend", null, "The last"), [...windows, ...(recorded ? [Infinity] : [])].map(span)),
        el("ul", { class: "legend" }, marks.map(([name, text, shape]) => el("li", null, sample(name, shape), text)))),
      this.axes.node, this.now);
    this.draw();
  }

  // refused says why there are no segments.
  refused(text) {
    this.why = text;
    this.draw();
  }

  // clear removes all segments: each stream of segments has sequence numbers that are relative to its first ones.
  clear() {
    this.items = [];
    this.high = { in: null, out: null };
    this.lost = 0;
  }

  // turn shows the other direction.
  turn(dir) {
    this.dir = dir;
    this.axes.max = 0;
    this.draw();
  }

  // span shows so many seconds.
  span(value) {
    this.window = value;
    this.axes.max = 0;
    this.draw();
  }

  // add takes an item of api/segments, with t on the time axis. Sequence numbers that wrap are continued.
  add(item) {
    this.lost += item.lost ?? 0;
    const other = item.dir === "in" ? "out" : "in";
    item.from = this.unwrap(item.dir, item.seq);
    item.to = item.from + item.len;
    if (/A|ACK/.test(item.flags)) item.acked = this.unwrap(other, item.ack);
    item.sacked = (item.sack ?? []).map(([a, b]) => [this.unwrap(other, a), this.unwrap(other, b)]);
    this.items.push(item);
    if (this.items.length > this.keep) this.items.splice(0, this.items.length - this.keep);
  }

  // unwrap extends a number of 32 bits to the one closest to the last of its direction.
  unwrap(dir, n) {
    const near = this.high[dir];
    const full = near === null ? n : near + ((n - near) | 0);
    if (near === null || full > near) this.high[dir] = full;
    return full;
  }

  // draw shows what there is until now, in seconds on the axis, whose 0 is the time zero in seconds since 1970. Without
  // arguments it draws again.
  draw(now = this.end, zero = this.axes.zero) {
    this.end = now;
    this.axes.zero = zero;
    const last = this.items[this.items.length - 1]?.t ?? 0, first = this.items[0]?.t ?? 0;
    const whole = this.window === Infinity;
    const t1 = whole ? Math.max(last, first + 1e-3) : Math.max(last, now), t0 = whole ? first : t1 - this.window;
    const seen = this.items.filter((s) => s.t >= t0);
    const [min, max] = this.range(seen);
    this.axes.blank = min >= max;
    this.axes.scale(t0, t1, min, Math.max(max, min + 1));
    const paths = this.axes.blank ? null : this.paths(seen);
    for (const [name] of marks) set(this.axes.path(name), "d", paths?.[name].join("") ?? "");
    this.say(seen);
  }

  // range returns the lowest and highest sequence number of the plot: those of the segments and acknowledgements, and
  // the window if it leaves a third of the height to them. Without data nothing is worth a scale.
  range(seen) {
    let min = Infinity, max = -Infinity, edge = -Infinity, data = false;
    for (const s of seen) {
      const [low, high] = this.extent(s);
      min = Math.min(min, low);
      max = Math.max(max, high);
      if (s.dir === this.dir) data ||= s.len > 0;
      else if (s.acked !== undefined) edge = Math.max(edge, s.acked + s.win);
    }
    this.above = edge - min > 3 * (max - min);
    return data ? [min, this.above ? max : Math.max(max, edge)] : [0, 0];
  }

  // extent returns the lowest and highest sequence number that an item shows.
  extent(s) {
    if (s.dir === this.dir) return s.len > 0 ? [s.from, s.to] : [Infinity, -Infinity];
    return s.acked === undefined ? [Infinity, -Infinity] : [s.acked, s.acked];
  }

  paths(seen) {
    const paths = Object.fromEntries(marks.map(([name]) => [name, []]));
    const { axes } = this;
    // A window that ends above the plot is drawn at its upper edge.
    const window = (s) => px(Math.max(axes.y(s.acked + s.win), axes.top));
    for (const s of seen) {
      const x = px(axes.x(s.t));
      if (s.dir === this.dir) {
        if (s.len === 0) continue;
        const low = px(axes.y(s.from)), high = px(Math.min(axes.y(s.to), axes.y(s.from) - 1.5)), middle = px((low + high) / 2);
        if (s.retransmission) {
          paths["seq-again"].push(`M${x} ${low}V${high}M${x - 3.5} ${middle - 3.5}l7 7m0 -7l-7 7`);
        } else {
          paths["seq-segment"].push(`M${x} ${low}V${high}`);
        }
      } else if (s.acked !== undefined) {
        const go = paths["seq-ack"].length ? "H" + x + "V" : "M" + x + " ";
        paths["seq-ack"].push(go + px(axes.y(s.acked)));
        paths["seq-window"].push(go + window(s));
        for (const [a, b] of s.sacked) paths["seq-sack"].push(`M${x} ${px(axes.y(a))}V${px(axes.y(b))}`);
      }
    }
    return paths;
  }

  // say is the diagram in words.
  say(seen) {
    const data = seen.filter((s) => s.dir === this.dir && s.len > 0);
    const again = data.filter((s) => s.retransmission).length;
    const acks = seen.filter((s) => s.dir !== this.dir && s.acked !== undefined);
    const last = acks[acks.length - 1];
    const during = this.window === Infinity ? "in the recording" : `in the last ${this.window} s`;
    const verb = this.dir === "out" ? "sent" : "received";
    let text;
    if (data.length) {
      text = `${count(data.length)} segments with ${bytes(data.reduce((n, s) => n + s.len, 0))} ${during}, ${count(again)} of them retransmissions; ` +
        `${count(acks.length)} acknowledgements, ${count(acks.filter((s) => s.sacked.length).length)} with SACK.`;
      if (last) text += ` Acknowledged: ${bytes(last.acked)} since the first segment that this view has seen. The window ends ${bytes(last.win)} beyond that${this.above ? ", above the plot, at whose upper edge it is drawn" : ""}.`;
    } else {
      text = `No data was ${verb} ${during}${seen.length ? `, only ${count(seen.length)} segments without data, in both directions` : ""}.`;
      if (last) text += ` The window of the receiver is ${last.win === 0 ? "closed" : bytes(last.win)}.`;
    }
    if (this.why && !seen.length) text = `Segments are not shown: ${this.why}.`;
    if (this.lost) text += ` ${count(this.lost)} segments came too fast to be shown.`;
    setText(this.now, text);
    set(this.axes.node, "aria-label", "Sequence numbers over time: " + text);
  }
}
