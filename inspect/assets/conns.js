// The connections: sorted, searched and paged by the server.

import { el, card, setText } from "./dom.js";
import { names } from "./limit.js";
import { get, url } from "./live.js";
import { Table } from "./table.js";
import { bytes, count, rate, seconds } from "./units.js";

const columns = [
  { key: "local", name: "local", mono: true, node: (c) => el("a", { href: "#/conn?id=" + encodeURIComponent(c.id) }, c.local) },
  { key: "remote", name: "remote", mono: true, cell: (c) => c.remote },
  { key: "state", name: "state", cell: (c) => c.state + (c.orphan ? " (orphan)" : "") },
  { key: "limited_by", name: "limited by", sort: false, title: "what limited the connection since the last figures, about a second ago", cell: (c) => names[c.limited_by] ?? "–" },
  { key: "rate_in_bytes_per_s", name: "in/s", num: true, title: "bytes received per second", cell: (c) => rate(c.rate_in_bytes_per_s) },
  { key: "rate_out_bytes_per_s", name: "acked/s", num: true, title: "bytes that the peer acknowledges per second", cell: (c) => rate(c.rate_out_bytes_per_s) },
  { key: "bytes_in", name: "received", num: true, cell: (c) => bytes(c.bytes_in) },
  { key: "bytes_out", name: "acked", num: true, title: "bytes that the peer has acknowledged since the open", cell: (c) => bytes(c.bytes_out) },
  { key: "rtt_s", name: "RTT", num: true, title: "smoothed round-trip time", cell: (c) => seconds(c.rtt_s) },
  { key: "cwnd", name: "cwnd", num: true, title: "congestion window", cell: (c) => bytes(c.cwnd) },
  { key: "snd_wnd", name: "peer window", num: true, title: "receive window that the peer offers", cell: (c) => bytes(c.snd_wnd) },
  { key: "retrans", name: "retrans", num: true, title: "segments retransmitted", cell: (c) => count(c.retrans) },
  { key: "recv_q", name: "recv-q", num: true, title: "bytes that the application has not read", cell: (c) => bytes(c.recv_q) },
  { key: "send_q", name: "send-q", num: true, title: "bytes that the peer has not acknowledged", cell: (c) => bytes(c.send_q) },
];

export async function conns(app, parameters) {
  const view = {
    sort: parameters.get("sort") || "bytes_out", desc: parameters.get("desc") ?? "1", q: parameters.get("q") ?? "",
    limit: parameters.get("limit") || "50", offset: Number(parameters.get("offset")) || 0,
  };
  const query = () => ({ sort: view.sort, desc: view.desc, q: view.q, limit: view.limit, offset: view.offset });
  const first = await get("conns", query());
  const table = new Table({
    caption: "TCP connections", hideCaption: true, columns, rowKey: (c) => c.id,
    sort: { key: view.sort, desc: view.desc === "1" }, empty: "No connection matches.",
    onsort: (s) => ask({ sort: s.key, desc: s.desc ? "1" : "0", offset: 0 }),
  });
  const range = el("span", { id: "range" });
  const back = el("button", { type: "button", onclick: () => ask({ offset: Math.max(view.offset - Number(view.limit), 0) }) }, "Previous");
  const next = el("button", { type: "button", onclick: () => ask({ offset: view.offset + Number(view.limit) }) }, "Next");
  let typing = 0;
  const search = el("input", {
    type: "search", id: "q", value: view.q, autocomplete: "off", spellcheck: "false",
    oninput: () => {
      clearTimeout(typing);
      typing = setTimeout(() => ask({ q: search.value.trim(), offset: 0 }), 250);
    },
  });
  const size = el("select", { id: "limit", onchange: () => ask({ limit: size.value, offset: 0 }) },
    ["25", "50", "100", "500"].map((n) => el("option", { value: n, selected: n === view.limit }, n)));

  function show(page) {
    table.update(page.conns ?? []);
    const n = page.conns?.length ?? 0;
    setText(range, n ? `${count(view.offset + 1)} to ${count(view.offset + n)} of ${count(page.total)}` : `none of ${count(page.all ?? page.total)}`);
    back.disabled = view.offset === 0;
    next.disabled = view.offset + n >= page.total;
    // The connections of this page have ended meanwhile.
    if (n === 0 && view.offset > 0) ask({ offset: 0 });
  }

  // ask changes what is shown: the address of the view, and the stream.
  function ask(change) {
    Object.assign(view, change);
    app.replace("#/conns?" + new URLSearchParams(query()));
    app.json(url("conns", query()));
    stream.change(parametersOf());
  }

  const parametersOf = () => ({ topics: "conns", interval_ms: 1000, ...query() });
  const stream = app.stream("stream", parametersOf(), { conns: show });
  show(first);
  return {
    title: "Connections", json: url("conns", query()),
    node: card("TCP connections",
      el("form", { class: "tools", role: "search", onsubmit: (e) => e.preventDefault() },
        el("label", { for: "q" }, "Address, port or state"), search,
        el("label", { for: "limit" }, "Rows"), size),
      table.node,
      el("div", { class: "pager", role: "group", "aria-label": "Pages" }, back, range, next)),
  };
}
