// One connection: what limits it, plots over time, the sequence-time diagram and all its figures.

import { el, card, Facts, setText } from "./dom.js";
import { Events, markNames } from "./events.js";
import { get, post, url } from "./live.js";
import { limits, names } from "./limit.js";
import { Plot, legendOfEvents } from "./plot.js";
import { SequencePlot } from "./sequence.js";
import { Table } from "./table.js";
import { bytes, count, rate, seconds, share, time } from "./units.js";

const span = 30; // seconds of the plots; those of a recording show all of it

// some returns a figure that the stack reports as 0 if it does not know it.
const some = (n) => n > 0 ? n : null;

// timers are the timers that the stack names as ss does.
const timers = { on: "retransmission", persist: "window probe", keepalive: "keep-alive", timewait: "end of the wait" };

function plots() {
  const of = (key) => (s) => s.info[key];
  return [
    new Plot({
      id: "cwnd", title: "Congestion window and flight", kind: "bytes", name: "size", format: bytes,
      series: [
        { name: "cwnd", class: "s0", value: of("snd_cwnd"), step: true },
        { name: "ssthresh", class: "s1", value: (s) => some(s.info.snd_ssthresh), none: "no loss yet", step: true },
        { name: "in flight", class: "s2", value: of("in_flight") },
      ],
    }),
    new Plot({
      id: "rtt", title: "Round-trip time", kind: "time", name: "time", format: seconds,
      series: [
        { name: "smoothed", class: "s0", value: (s) => some(s.info.rtt_s) },
        { name: "minimum", class: "s1", value: (s) => some(s.info.min_rtt_s), step: true },
      ],
    }),
    new Plot({
      id: "rate", title: "Rates", kind: "rate", name: "rate", format: rate,
      series: [
        { name: "acknowledged", class: "s0", value: (s) => s.out },
        { name: "received", class: "s1", value: (s) => s.in },
        { name: "pacing", class: "s2", value: (s) => some(s.info.pacing_bytes_per_s), none: "none", step: true },
        { name: "delivery", class: "s3", value: (s) => some(s.info.delivery_bytes_per_s), rare: true },
      ],
    }),
    new Plot({
      id: "windows", title: "Receive windows", kind: "bytes", name: "size", format: bytes,
      series: [
        { name: "peer's", class: "s0", value: of("snd_wnd"), step: true },
        { name: "own", class: "s1", value: of("rcv_wnd"), step: true },
      ],
    }),
    new Plot({
      id: "queues", title: "Bytes that wait", kind: "bytes", name: "size", format: bytes,
      series: [
        { name: "to be sent", class: "s0", value: of("not_sent") },
        { name: "to be read", class: "s1", value: of("recv_q") },
        { name: "to be read after a missing segment", class: "s2", value: of("out_of_order") },
      ],
    }),
    new Plot({
      id: "retrans", title: "Segments retransmitted since the open", kind: "count", name: "segments", format: count,
      series: [{ name: "retransmitted", class: "s1", value: of("retrans"), step: true }],
    }),
  ];
}

export async function conn(app, parameters) {
  const id = parameters.get("id") ?? "";
  const [first, host] = await Promise.all([get("conn", { id }), get("overview")]);
  const facts = new Facts({ state: "state", congestion: "congestion control", opened: "opened by", mss: "segment size", options: "options", out: "acknowledged since the open", in: "received since the open", timer: "next timer" });
  const sentence = el("p", { id: "limit", class: "limit" });
  const more = el("p", { id: "limit-more", class: "limit-more" });
  const period = el("p", { id: "limit-period", class: "note" }, "This connection was limited by:");
  const parts = el("ul", { class: "shares", "aria-labelledby": "limit-period" });
  const all = plots();
  const sequence = new SequencePlot(first.conn.bytes_in > first.conn.bytes_out ? "in" : "out", host.host.recorded);
  const events = new Events(host.host.recorded);
  const details = new Table({
    caption: "All figures", hideCaption: true, rowKey: (r) => r.name,
    columns: [{ key: "name", name: "name", mono: true, cell: (r) => r.name }, { key: "value", name: "value", num: true, sort: false, cell: (r) => r.text }],
  });
  const samples = [];
  const recorded = host.host.recorded;
  let start = null, cause = "", drawn = false;

  function show(d) {
    const t = time(d.time);
    start ??= t;
    if (d.info) {
      const before = samples[samples.length - 1];
      const s = { t: t - start, info: d.info, limited: d.conn.limited_by, out: null, in: null };
      if (before && s.t <= before.t) return;
      if (before) {
        const dt = s.t - before.t;
        s.out = Math.max(d.info.bytes_acked - before.info.bytes_acked, 0) / dt;
        s.in = Math.max(d.info.bytes_received - before.info.bytes_received, 0) / dt;
      }
      samples.push(s);
      while (!recorded && samples[0].t < s.t - span - 1) samples.shift();
    }
    events.add(d, start);
    state(d);
    schedule();
  }

  function state({ conn: c, info: i, ended }) {
    facts.update({
      state: ended ? c.state + ", ended" : c.state + (c.orphan ? ", closed by the application" : ""),
      opened: c.passive ? "the peer" : "this host", in: bytes(c.bytes_in), out: bytes(c.bytes_out),
      timer: c.timer === "none" ? "none" : `${timers[c.timer] ?? c.timer}, in ${seconds(c.expires_s)}`,
    });
    if (i) {
      const options = [i.sack && "SACK", i.timestamps && "timestamps", i.wscale && "window scaling", i.ecn && "ECN"].filter(Boolean);
      facts.update({ congestion: i.congestion, mss: `${count(i.snd_mss)} B out, ${count(i.rcv_mss)} B in`, options: options.join(", ") || "none" });
    }
    if (ended && !recorded) {
      app.announce("The connection has ended.");
      app.status("the connection has ended");
    }
  }

  function schedule() {
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(() => {
      drawn = false;
      draw();
    });
  }

  function draw() {
    const last = samples[samples.length - 1];
    if (!last) return;
    // All plots end now.
    const t1 = recorded ? Math.max(last.t, 1e-3) : last.t, t0 = recorded ? 0 : t1 - span;
    for (const p of all) p.draw(samples, events.marks, t0, t1, start);
    sequence.draw(last.t, start);
    events.draw();
    details.update(Object.entries(last.info).map(([name, value]) => ({ name, text: figure(name, value) })));
    const l = limits(samples, recorded ? Infinity : undefined);
    setText(sentence, l.sentence);
    sentence.dataset.cause = l.cause;
    setText(more, l.more);
    setText(period, `Of the ${recorded ? "recorded" : "last"} ${l.time < 1 ? seconds(l.time) : l.time.toFixed(0) + " s"}, this connection was limited by:`);
    showShares(parts, l.shares);
    if (l.cause !== cause) {
      if (cause) app.announce(l.sentence);
      cause = l.cause;
    }
  }

  if (recorded) state(first);
  else show(first);
  draw();
  app.stream("stream", { topics: "conn", id, interval_ms: 100 }, { conn: show });
  const segment = (item) => {
    if (Array.isArray(item)) return item.forEach(segment);
    start ??= time(item.time);
    sequence.add({ ...item, t: time(item.time) - start });
    schedule();
  };
  if (host.host.can_capture || host.host.recorded) {
    app.stream("segments", { id }, { segments: segment }, { optional: true, refused: (text) => sequence.refused(text), opened: () => sequence.clear() });
  } else {
    sequence.refused("this inspector does not watch frames");
  }
  return {
    title: `${first.conn.local} to ${first.conn.remote}`, json: url("conn", { id }),
    node: [
      el("p", null, el("a", { href: "#/conns" }, "All connections")),
      card(recorded ? "What limited this transfer" : "What limits this transfer now", sentence, period, parts, more),
      card("The connection", facts.node, host.host.can_abort ? abortButton(app, id) : null),
      card("Over time", legendOfEvents(markNames), el("p", { class: "note" }, "Signs that would overlap are one, with the number of events, or of segments, beside it."),
        el("div", { class: "plots" }, all.map((p) => p.node))),
      card("Segments", sequence.node),
      card("Events", events.node),
      card("All figures", el("details", null, el("summary", null, "Show the table"), details.node)),
    ],
  };
}

// figure returns a figure of info with its unit.
function figure(name, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (name.endsWith("_bytes_per_s")) return rate(value);
  if (name.endsWith("_s")) return seconds(value);
  if (/segs|retrans$|backoff|count/.test(name)) return count(value);
  return bytes(value);
}

function showShares(list, shares) {
  const sorted = Object.entries(shares).filter(([, n]) => n >= 0.005).sort((a, b) => b[1] - a[1]).slice(0, 4);
  while (list.childElementCount < sorted.length) list.append(el("li", null, el("meter", { min: 0, max: 1 }), el("span")));
  while (list.childElementCount > sorted.length) list.lastElementChild.remove();
  sorted.forEach(([cause, n], k) => {
    const [meter, text] = list.children[k].children;
    meter.value = n;
    meter.setAttribute("aria-label", names[cause]);
    setText(text, `${names[cause]}: ${share(n)} of the time`);
  });
}

function abortButton(app, id) {
  const abort = async () => {
    if (!confirm("Reset this connection? Its applications get an error.")) return;
    try {
      await post(url("abort", { id }));
      app.announce("The connection was reset.");
    } catch (err) {
      app.fail(err);
    }
  };
  return el("button", { type: "button", onclick: abort }, "Reset the connection");
}
