// Dropped packets by reason, with the rule and the last frames of each, decoded.

import { el, card, setText } from "./dom.js";
import { get } from "./live.js";
import { Table } from "./table.js";
import { bytes, clock, count } from "./units.js";

export async function drops(app) {
  const first = await get("drops");
  const base = new Map((first.reasons ?? []).map((r) => [r.reason, r.count]));
  const table = new Table({
    caption: "Dropped packets by reason", hideCaption: true, rowKey: (r) => r.reason, sort: { key: "count", desc: true },
    empty: "No packet has been dropped.",
    columns: [
      { key: "reason", name: "reason", cell: (r) => r.reason },
      { key: "count", name: "packets", num: true, cell: (r) => count(r.count), value: (r) => r.count },
      { key: "rose", name: "since opened", num: true, cell: (r) => count(r.rose), value: (r) => r.rose },
      { key: "rule", name: "rule", cell: (r) => r.rule || "–" },
    ],
  });
  const frames = new Frames();
  const lost = el("p", { class: "note" }, "The last frames of each reason are kept while this view is open.");

  function show(d) {
    const reasons = (d.reasons ?? []).filter((r) => r.count > 0);
    table.update(reasons.map((r) => ({ ...r, rose: Math.max(r.count - (base.get(r.reason) ?? 0), 0) })));
    frames.update(reasons.filter((r) => r.last?.length));
    if (d.lost) setText(lost, `${count(d.lost)} frames came too fast to be kept.`);
  }
  show(first);
  app.stream("stream", { topics: "drops", interval_ms: 1000 }, { drops: show });
  return {
    title: "Drops", json: "api/drops",
    node: [card("Reasons", table.node), card("Last frames", lost, frames.node)],
  };
}

// Frames lists the last frames of each reason. What is open stays open.
class Frames {
  constructor() {
    this.made = new Map();
    this.node = el("div", { id: "frames" });
  }

  update(reasons) {
    for (const r of reasons) {
      let list = this.made.get(r.reason);
      if (!list) {
        list = { node: el("ul", { class: "frames" }), items: new Map() };
        this.made.set(r.reason, list);
        this.node.append(el("section", { "aria-label": r.reason }, el("h3", null, r.reason), el("p", { class: "note" }, r.rule || "No rule of an RFC is known."), list.node));
      }
      this.list(list, r.last);
    }
  }

  list(list, frames) {
    const seen = new Set();
    for (const f of frames) {
      const key = f.time + f.dir + f.hex;
      seen.add(key);
      if (list.items.has(key)) continue;
      const item = el("li", null, el("details", null,
        el("summary", null, el("code", null, clock(f.time)), ` ${f.nic} ${f.dir}, ${bytes(f.len)}: ${f.summary}`),
        el("pre", { tabindex: "0", "aria-label": "Decoded" }, f.decoded), el("pre", { tabindex: "0", "aria-label": "Bytes" }, f.hex)));
      list.items.set(key, item);
      list.node.prepend(item);
    }
    for (const [key, item] of list.items) {
      if (seen.has(key) || item.contains(document.activeElement)) continue;
      item.remove();
      list.items.delete(key);
    }
  }
}
