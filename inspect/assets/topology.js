// The topology: the host, its interfaces, their neighbours and the networks behind the routers.

import { el, svg, card, set, setText } from "./dom.js";
import { get } from "./live.js";
import { Table } from "./table.js";
import { count, seconds } from "./units.js";

const every = 2000; // milliseconds
const most = 24; // neighbours of an interface in the picture; the table has all

export async function topology(app) {
  const picture = new Picture();
  const neighbors = new Table({
    caption: "Neighbours", hideCaption: true, rowKey: (r) => r.nic + " " + r.addr, sort: { key: "addr", desc: false },
    columns: [
      { key: "addr", name: "address", mono: true, cell: (r) => r.addr },
      { key: "mac", name: "MAC address", mono: true, cell: (r) => r.mac || "not known" },
      { key: "nic", name: "interface", cell: (r) => r.nic },
      { key: "state", name: "state", cell: (r) => r.state + (r.router ? ", router" : "") },
      { key: "age_s", name: "confirmed", num: true, cell: (r) => r.age_s > 0 ? Math.floor(r.age_s) + " s ago" : "–", value: (r) => r.age_s },
    ],
  });
  const routes = new Table({
    caption: "Routes", hideCaption: true, rowKey: (r) => [r.dst, r.via, r.nic].join(), sort: { key: "dst", desc: false },
    columns: [
      { key: "dst", name: "destination", mono: true, cell: (r) => r.dst },
      { key: "via", name: "router", mono: true, cell: (r) => r.via || "on the link" },
      { key: "nic", name: "interface", cell: (r) => r.nic },
      { key: "src", name: "source", mono: true, cell: (r) => r.src || "chosen" },
    ],
  });

  async function refresh() {
    const [o, n, r] = await Promise.all([get("overview"), get("neighbors"), get("routes")]);
    neighbors.update(n.neighbors ?? []);
    routes.update(r.routes ?? []);
    picture.update(tree(o, n.neighbors ?? [], r.routes ?? []));
  }
  await refresh();
  app.every(every, refresh);
  return {
    title: "Topology", json: "api/routes",
    node: [card("Picture", picture.node), card("Neighbours", neighbors.node), card("Routes", routes.node)],
  };
}

// tree returns the host with its interfaces, below each its neighbours and networks, and below a router the
// networks that it leads to.
export function tree(overview, neighbors, routes) {
  const interfaces = overview.interfaces.map((i) => {
    const mine = routes.filter((r) => r.nic === i.name);
    const links = mine.filter((r) => !r.via).map((r) => ({ kind: "network", text: r.dst, sub: "on the link", children: [] }));
    const known = new Map();
    for (const n of neighbors.filter((x) => x.nic === i.name)) {
      known.set(n.addr, { kind: n.router ? "router" : "neighbor", text: n.addr, sub: n.mac ? `${n.mac}, ${n.state}` : n.state, children: [] });
    }
    for (const r of mine.filter((x) => x.via)) {
      const router = known.get(r.via) ?? { text: r.via, sub: "not yet resolved", children: [] };
      router.kind = "router";
      router.children.push({ kind: "network", text: everything(r.dst), sub: "by this router", children: [] });
      known.set(r.via, router);
    }
    const order = [...known.values()].sort((a, b) => (b.kind === "router") - (a.kind === "router"));
    const children = [...links, ...order.slice(0, most)];
    if (order.length > most) children.push({ kind: "more", text: `${count(order.length - most)} more`, sub: "in the table below", children: [] });
    return { kind: i.up ? "interface" : "interface down", text: i.name, sub: (i.addrs ?? []).join(" ") || "no address", children };
  });
  return { kind: "host", text: "this host", sub: `up for ${seconds(Math.floor(overview.host.uptime_s))}`, children: interfaces };
}

function everything(dst) {
  return dst === "0.0.0.0/0" || dst === "::/0" ? "everything else" : dst;
}

// Picture draws a tree: in columns if there is room, else as an indented list.
class Picture {
  constructor() {
    this.width = 0;
    this.links = svg("path", { class: "tree-links" });
    this.boxes = svg("g");
    this.svg = svg("svg", { class: "tree", role: "img", "aria-label": "Topology" }, this.links, this.boxes);
    this.node = el("div", { class: "tree-box" }, this.svg);
    new ResizeObserver((entries) => {
      const width = Math.floor(entries[0].contentRect.width);
      if (width === this.width) return;
      this.width = width;
      if (this.root) this.update(this.root);
    }).observe(this.node);
  }

  update(root) {
    this.root = root;
    if (!this.width) return;
    const wide = this.width >= 700;
    const nodes = [], rowHeight = 46, indent = 20;
    let rows = 0, depths = 0;
    const place = (n, depth, parent) => {
      const at = { n, depth, parent, row: 0 };
      nodes.push(at);
      depths = Math.max(depths, depth + 1);
      if (!wide || n.children.length === 0) at.row = rows++;
      const rowsOf = n.children.map((c) => place(c, depth + 1, at).row);
      if (wide && rowsOf.length) at.row = (rowsOf[0] + rowsOf[rowsOf.length - 1]) / 2;
      return at;
    };
    place(root, 0, null);
    const column = wide ? this.width / Math.max(depths, 3) : 0;
    for (const at of nodes) {
      at.x = wide ? at.depth * column : at.depth * indent;
      at.y = at.row * rowHeight + 2;
      at.w = wide ? column - 36 : this.width - at.x - 2;
    }
    this.draw(nodes, wide, rows * rowHeight);
  }

  draw(nodes, wide, height) {
    set(this.svg, "viewBox", `0 0 ${this.width} ${height}`);
    set(this.svg, "height", height);
    let d = "";
    for (const { parent: p, x, y } of nodes) {
      if (!p) continue;
      if (wide) d += `M${p.x + p.w} ${p.y + 19}C${p.x + p.w + 18} ${p.y + 19} ${x - 18} ${y + 19} ${x} ${y + 19}`;
      else d += `M${p.x + 8} ${p.y + 38}V${y + 19}H${x}`;
    }
    set(this.links, "d", d);
    while (this.boxes.childElementCount < nodes.length) {
      this.boxes.append(svg("g", null, svg("rect", { height: 38, rx: 5 }), svg("text", { class: "name" }), svg("text", { class: "sub" }), svg("title")));
    }
    while (this.boxes.childElementCount > nodes.length) this.boxes.lastElementChild.remove();
    nodes.forEach(({ n, x, y, w }, i) => {
      const g = this.boxes.children[i];
      const [rect, name, sub, title] = g.children;
      set(g, "class", "box " + n.kind);
      for (const [e, ex, ey] of [[rect, x, y], [name, x + 8, y + 16], [sub, x + 8, y + 31]]) {
        set(e, "x", ex);
        set(e, "y", ey);
      }
      set(rect, "width", w);
      setText(name, cut(n.text, w - 16, 7.9));
      setText(sub, cut(n.sub, w - 16, 6.9));
      setText(title, `${n.text}: ${n.sub}`);
    });
    set(this.svg, "aria-label", inWords(this.root));
  }
}

// cut shortens a text to a width in pixels, by the width of a character.
function cut(text, width, character) {
  const n = Math.max(Math.floor(width / character), 4);
  return text.length <= n ? text : text.slice(0, n - 1) + "…";
}

// inWords is the picture's text.
function inWords(root) {
  const parts = root.children.map((i) => {
    const routers = i.children.filter((c) => c.kind === "router").length;
    const others = i.children.filter((c) => c.kind === "neighbor").length;
    return `${i.text} with ${i.sub}, ${count(routers)} routers and ${count(others)} other neighbours`;
  });
  return `Topology: this host has ${count(parts.length)} interfaces: ${parts.join("; ")}. The tables below have the details.`;
}
