// What has happened to a connection: the list, and the marks for the plots.

import { el, setText } from "./dom.js";
import { Table } from "./table.js";
import { bytes, clock, count, seconds, time } from "./units.js";

// keep is how many events are held, of which the list has the newest.
const keep = 200, listed = 50;

// kindMarks maps the kinds of events to the signs in the plots.
const kindMarks = {
  retransmission: "retransmission", timeout: "timeout", recovery_begin: "recovery", recovery_end: "recovery", cwnd_reduced: "reduced",
  window_closed: "window", window_opened: "window", full: "window", out_of_order: "order", reordering: "order", state: "state",
};

// markNames are the signs in words.
export const markNames = {
  retransmission: "retransmission", timeout: "retransmission timeout", recovery: "loss recovery begins or ends", reduced: "congestion window reduced",
  window: "a receive window closed or opened", order: "data out of order or reordering", state: "state changed",
};

const words = {
  retransmission: "retransmission", timeout: "retransmission timeout", recovery_begin: "loss recovery begins",
  recovery_end: "loss recovery ends", window_closed: "peer's window closed", window_opened: "peer's window opened",
  full: "this host's receive window closed", cwnd_reduced: "congestion window reduced", state: "state",
  out_of_order: "data arrived out of order", reordering: "reordering on the path",
};

// Events holds the events of one connection.
export class Events {
  constructor(recorded) {
    Object.assign(this, { recorded, marks: [], rows: [], total: 0, earlier: 0, shut: null, begun: false });
    this.table = new Table({
      caption: "Events, the newest first", hideCaption: true, low: true, rowKey: (r) => r.key,
      empty: recorded ? "Nothing happened in the recording." : "Nothing has happened since this view was opened.",
      columns: [
        { key: "time", name: "time (UTC)", mono: true, sort: false, cell: (r) => clock(r.time) },
        { key: "t", name: "at (s)", num: true, sort: false, title: "time as in the plots", cell: (r) => r.t.toFixed(2) },
        { key: "kind", name: "event", sort: false, cell: (r) => (words[r.kind] ?? r.kind) + (r.text ? " " + r.text : "") },
        { key: "n", name: "how much", sort: false, cell: (r) => r.detail ?? "" },
      ],
    });
    this.note = el("p", { class: "none", id: "events-note" });
    this.node = el("div", null, this.table.node, this.note);
  }

  // add takes a sample of api/conn. zero is the time that is 0 in the plots, in seconds since 1970.
  add(d, zero) {
    for (const e of d.events ?? []) {
      const t = time(e.time) - zero;
      const counted = e.kind === "retransmission" || e.kind === "timeout";
      this.marks.push({ t, mark: kindMarks[e.kind] ?? "state", n: counted ? Math.max(e.n ?? 1, 1) : 1 });
      let detail = e.n ? count(e.n) : "";
      if (e.kind === "retransmission") detail = e.n === 1 ? "1 segment" : `${count(e.n)} segments`;
      if (e.kind === "cwnd_reduced") detail = `by ${bytes(e.n)}` + (d.info ? `, to ${bytes(d.info.snd_cwnd)}` : "");
      this.row({ ...e, t, detail });
    }
    if (d.info) this.window(d, zero);
    if (!this.begun && d.info) {
      this.begun = true;
      if (!this.recorded) this.earlier = d.info.retrans;
    }
    if (!this.recorded) this.marks.splice(0, this.marks.length - 5 * keep);
    this.rows.splice(keep);
  }

  row(r) {
    this.rows.unshift({ ...r, key: ++this.total });
    return this.rows[0];
  }

  // window follows a window of the peer that is closed: since when, and what the window probes came to.
  window(d, zero) {
    const i = d.info, t = time(d.time) - zero;
    if (i.snd_wnd === 0 && !this.shut && !/SYN|CLOSED|LISTEN/.test(i.state)) {
      let row = this.rows.find((r) => r.kind === "window_closed" && r.time === d.time);
      // The event was before the first sample of this view.
      row ??= this.row({ time: d.time, kind: "window_closed", text: this.begun ? "" : "before this view was opened", t });
      this.shut = { row, t, before: !this.begun, base: null };
    }
    const { shut } = this;
    if (!shut) return;
    const now = { out: i.segs_out, in: i.segs_in, data: i.data_segs_in };
    // Once all data is acknowledged, what is sent are window probes, unless data of the peer is acknowledged too.
    if (i.unacked === 0) shut.base ??= now;
    const open = i.snd_wnd > 0;
    if (!open) shut.last = now;
    let text = `${shut.before ? "seen for" : "for"} ${seconds(Math.max(t - shut.t, 0))}${open ? "" : " until now"}`;
    const { base, last } = shut;
    if (base && last && last.data === base.data) {
      const sent = (last.out - base.out) >>> 0, answered = Math.min((last.in - base.in) >>> 0, sent);
      text += `, ${count(sent)} window probes sent, ${count(answered)} answered`;
    }
    shut.row.detail = text;
    if (open) this.shut = null;
  }

  draw() {
    this.table.update(this.rows.slice(0, listed));
    const parts = [];
    if (this.total > listed) parts.push(`These are the newest ${count(listed)} of ${count(this.total)} events ${this.recorded ? "of the recording" : "since this view was opened"}.`);
    if (this.earlier > 0) parts.push(`${count(this.earlier)} segments were retransmitted before this view was opened; those events are not listed.`);
    setText(this.note, parts.join(" "));
  }
}
