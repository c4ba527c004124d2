// Listeners and sockets, addresses, groups, leases and names: lists that change seldom.

import { card } from "./dom.js";
import { get } from "./live.js";
import { Table } from "./table.js";
import { bytes, clock, count } from "./units.js";

const every = 2000; // milliseconds

export async function sockets(app) {
  const listeners = new Table({
    caption: "TCP listeners", hideCaption: true, rowKey: (r) => r.local + r.family, sort: { key: "local", desc: false },
    columns: [
      { key: "local", name: "local", mono: true, cell: (r) => r.local },
      { key: "family", name: "family", cell: (r) => r.family },
      { key: "queue", name: "waiting", num: true, title: "connections that wait for Accept", cell: (r) => count(r.queue), value: (r) => r.queue },
      { key: "backlog", name: "backlog", num: true, cell: (r) => count(r.backlog), value: (r) => r.backlog },
      { key: "half_open", name: "half-open", num: true, cell: (r) => count(r.half_open), value: (r) => r.half_open },
    ],
  });
  const open = new Table({
    caption: "UDP and raw sockets", hideCaption: true, rowKey: (r) => [r.protocol, r.family, r.local, r.remote].join(), sort: { key: "local", desc: false },
    columns: [
      { key: "local", name: "local", mono: true, cell: (r) => r.local },
      { key: "remote", name: "remote", mono: true, cell: (r) => r.remote || "any" },
      { key: "protocol", name: "protocol", cell: (r) => r.protocol + (r.raw ? " (raw)" : "") },
      { key: "recv_q", name: "recv-q", num: true, title: "bytes that the application has not read", cell: (r) => bytes(r.recv_q), value: (r) => r.recv_q },
      { key: "received", name: "received", num: true, cell: (r) => count(r.received), value: (r) => r.received },
      { key: "sent", name: "sent", num: true, cell: (r) => count(r.sent), value: (r) => r.sent },
      { key: "dropped", name: "dropped", num: true, cell: (r) => count(r.dropped), value: (r) => r.dropped },
    ],
  });
  const addresses = new Table({
    caption: "Addresses", hideCaption: true, rowKey: (r) => r.nic + r.prefix, sort: { key: "nic", desc: false },
    columns: [
      { key: "prefix", name: "address", mono: true, cell: (r) => r.prefix },
      { key: "nic", name: "interface", cell: (r) => r.nic },
      { key: "state", name: "state", cell: (r) => r.state },
      { key: "origin", name: "origin", cell: (r) => r.origin + (r.temporary ? ", temporary" : "") },
      { key: "valid", name: "valid until", narrow: false, cell: (r) => r.valid_until ? clock(r.valid_until) : "always" },
    ],
  });
  const leases = new Table({
    caption: "DHCP leases", hideCaption: true, rowKey: (r) => r.nic + r.protocol, empty: "No interface uses DHCP.",
    columns: [
      { key: "nic", name: "interface", cell: (r) => r.nic },
      { key: "protocol", name: "protocol", cell: (r) => r.protocol },
      { key: "state", name: "state", cell: (r) => r.refusal || r.state },
      { key: "addrs", name: "addresses", mono: true, cell: (r) => [...(r.addrs ?? []), ...(r.prefixes ?? [])].join(" ") },
      { key: "server", name: "server", mono: true, cell: (r) => r.server ?? "" },
      { key: "expires", name: "expires", cell: (r) => r.expires ? clock(r.expires) : "" },
    ],
  });
  const groups = new Table({
    caption: "Multicast groups", hideCaption: true, rowKey: (r) => r.nic + r.addr, sort: { key: "nic", desc: false },
    columns: [
      { key: "addr", name: "group", mono: true, cell: (r) => r.addr },
      { key: "nic", name: "interface", cell: (r) => r.nic },
    ],
  });
  const names = new Table({
    caption: "Names", hideCaption: true, rowKey: (r) => r.nic + r.what, empty: "No network has advertised a name server.",
    columns: [
      { key: "what", name: "name or server", mono: true, cell: (r) => r.what },
      { key: "nic", name: "interface", cell: (r) => r.nic },
      { key: "origin", name: "origin", cell: (r) => r.origin },
    ],
  });

  async function refresh() {
    const [l, s, a, d, g, n] = await Promise.all(["listeners", "sockets", "addresses", "leases", "groups", "names"].map((p) => get(p)));
    listeners.update(l.listeners ?? []);
    open.update(s.sockets ?? []);
    addresses.update(a.addresses ?? []);
    leases.update(d.leases ?? []);
    groups.update(g.groups ?? []);
    names.update([
      ...(n.servers ?? []).map((x) => ({ nic: x.nic, what: x.addr, origin: x.origin })),
      ...(n.mdns ?? []).map((x) => ({ nic: x.nic, what: x.name, origin: x.established ? "Multicast DNS" : "Multicast DNS, being probed" })),
    ]);
  }
  await refresh();
  app.every(every, refresh);
  return {
    title: "Sockets and addresses", json: "api/sockets",
    node: [
      card("TCP listeners", listeners.node), card("UDP and raw sockets", open.node), card("Addresses", addresses.node),
      card("DHCP leases", leases.node), card("Name servers and names", names.node), card("Multicast groups", groups.node),
    ],
  };
}
