// The overview: the host, its interfaces with their rates, and the counters that rose.

import { el, card, Facts } from "./dom.js";
import { get } from "./live.js";
import { Table } from "./table.js";
import { Plot } from "./plot.js";
import { bytes, count, rate, seconds, time } from "./units.js";

const span = 60; // seconds of the plot

// flat lists the counters of nested objects by their path.
function flat(object, prefix = "", into = new Map()) {
  for (const [key, value] of Object.entries(object)) {
    if (typeof value === "number") into.set(prefix + key, value);
    else if (value && typeof value === "object") flat(value, prefix + key + ".", into);
  }
  return into;
}

export async function overview(app) {
  const first = await get("overview");
  const host = new Facts({ program: "program", version: "usernet", go: "Go", uptime: "up for", families: "families", recorded: "shown" }, { whole: true });
  const totals = new Facts({ conns: "TCP connections", listeners: "TCP listeners", sockets: "UDP and raw sockets", states: "by state" });
  const memory = new Facts({ tcp: "buffers of TCP", heap: "heap of the process" });
  const interfaces = interfaceTable();
  const traffic = new Plot({
    id: "traffic", title: "Traffic of all interfaces", kind: "rate", name: "rate", format: rate,
    series: [
      { name: "received", class: "s0", value: (s) => s.rx },
      { name: "sent", class: "s1", value: (s) => s.tx },
    ],
  });
  const counters = counterTable();
  const recorded = first.host.recorded;
  let base = null, start = null, before = null;
  const samples = [];

  function show(o) {
    const now = time(o.time);
    start ??= now;
    base ??= flat(o.stats);
    host.update({
      program: o.host.program || "–", version: o.host.version, go: o.host.go, uptime: seconds(Math.floor(o.host.uptime_s)),
      families: o.host.families.join(", "), recorded: o.host.recorded ? "a recording" : "the host as it is now",
    });
    const states = Object.entries(o.totals.by_state).filter(([, n]) => n > 0).map(([state, n]) => `${state} ${count(n)}`);
    totals.update({ conns: count(o.totals.conns), listeners: count(o.totals.listeners), sockets: count(o.totals.sockets), states: states.join(", ") || "none" });
    memory.update({ tcp: bytes(o.memory.tcp_buffers), heap: bytes(o.memory.heap_in_use) });
    const dt = before ? now - before.now : 0;
    const rows = o.interfaces.map((i) => {
      const old = before?.interfaces.get(i.name);
      const per = (key) => old && dt > 0 ? Math.max(i[key] - old[key], 0) / dt : null;
      return { ...i, rx: per("rx_bytes"), tx: per("tx_bytes") };
    });
    interfaces.update(rows);
    if (dt > 0) {
      const sum = (key) => rows.reduce((n, r) => n + (r.loopback ? 0 : r[key] ?? 0), 0);
      samples.push({ t: now - start, rx: sum("rx"), tx: sum("tx") });
      while (!recorded && samples[0].t < now - start - span) samples.shift();
    }
    if (recorded) traffic.draw(samples, [], 0, Math.max(now - start, 1e-3), start);
    else traffic.draw(samples, [], now - start - span, now - start, start);
    const values = flat(o.stats), risen = [];
    for (const [name, value] of values) {
      const rose = value - (base.get(name) ?? 0);
      if (rose > 0) risen.push({ name, value, rose, rate: dt > 0 ? (value - (before.values.get(name) ?? 0)) / dt : null });
    }
    counters.update(risen);
    before = { now, values, interfaces: new Map(o.interfaces.map((i) => [i.name, i])) };
  }

  if (!recorded) show(first); // a recording is streamed from its beginning
  app.stream("stream", { topics: "overview", interval_ms: 1000 }, { overview: show });
  return {
    title: "Overview", json: "api/overview",
    node: [
      el("div", { class: "cards" }, card("Host", host.node), card("TCP and sockets", totals.node), card("Memory", memory.node)),
      card("Interfaces", interfaces.node, traffic.node),
      card(recorded ? "Counters that rose in the recording" : "Counters that rose while this view was open", counters.node),
    ],
  };
}

function interfaceTable() {
  return new Table({
    caption: "Interfaces", hideCaption: true, rowKey: (r) => r.name,
    columns: [
      { key: "name", name: "name", cell: (r) => r.name },
      { key: "up", name: "state", cell: (r) => r.error || (r.up ? "up" : "down") },
      { key: "rx", name: "received/s", num: true, cell: (r) => rate(r.rx), value: (r) => r.rx ?? 0 },
      { key: "tx", name: "sent/s", num: true, cell: (r) => rate(r.tx), value: (r) => r.tx ?? 0 },
      { key: "rx_bytes", name: "received", num: true, narrow: false, cell: (r) => bytes(r.rx_bytes), value: (r) => r.rx_bytes },
      { key: "tx_bytes", name: "sent", num: true, narrow: false, cell: (r) => bytes(r.tx_bytes), value: (r) => r.tx_bytes },
      { key: "dropped", name: "dropped", num: true, title: "frames that the device dropped, in and out", cell: (r) => count(r.rx_dropped + r.tx_dropped), value: (r) => r.rx_dropped + r.tx_dropped },
      { key: "mtu", name: "MTU", num: true, narrow: false, cell: (r) => count(r.mtu), value: (r) => r.mtu },
      { key: "addrs", name: "addresses", mono: true, cell: (r) => (r.addrs ?? []).join(" ") || "none" },
    ],
  });
}

function counterTable() {
  return new Table({
    caption: "Counters", hideCaption: true, rowKey: (r) => r.name, sort: { key: "rose", desc: true },
    empty: "No counter has risen yet.",
    columns: [
      { key: "name", name: "counter", mono: true, cell: (r) => r.name },
      { key: "rose", name: "rose by", num: true, cell: (r) => count(r.rose), value: (r) => r.rose },
      { key: "rate", name: "per second", num: true, cell: (r) => r.rate === null ? "–" : count(r.rate), value: (r) => r.rate ?? 0 },
      { key: "value", name: "total", num: true, narrow: false, cell: (r) => count(r.value), value: (r) => r.value },
    ],
  });
}
