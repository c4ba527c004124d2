// What limits a transfer now, as ss -ti says with busy, rwnd_limited and sndbuf_limited: each pair of samples is
// given a cause, the times are added up, and the largest is said in a sentence.

import { bytes, rate, seconds, share } from "./units.js";

// lately is how many seconds of samples are judged, unless the caller says otherwise.
const lately = 8;

// A sample is {t, info}: t in seconds, info as api/conn gives it.

// limits returns {cause, sentence, shares}; shares maps each cause to its part of the time. It judges the last
// seconds of the samples.
export function limits(samples, recent = lately) {
  const last = samples[samples.length - 1];
  if (!last) return { cause: "none", sentence: "There are no figures yet.", shares: {} };
  const from = samples.findIndex((s) => s.t >= last.t - recent);
  const some = samples.slice(Math.max(from, 0));
  const view = summary(some);
  const shares = {};
  let all = 0;
  for (let i = 1; i < some.length; i++) {
    const dt = some[i].t - some[i - 1].t;
    const cause = view.sends ? sending(some[i], some[i - 1]) : receiving(some[i], some[i - 1]);
    shares[cause] = (shares[cause] ?? 0) + dt;
    all += dt;
  }
  if (all === 0) shares[view.sends ? sending(last, last) : receiving(last, last)] = all = 1;
  for (const cause of Object.keys(shares)) shares[cause] /= all;
  const cause = judge(shares, view);
  return { cause, sentence: sentences[cause](last.info, view), shares };
}

// summary adds up what happened between the first and the last sample.
function summary(some) {
  const first = some[0].info, last = some[some.length - 1].info;
  const rose = (key) => Math.max(last[key] - first[key], 0);
  const view = {
    time: some[some.length - 1].t - some[0].t,
    out: rose("bytes_acked"), in: rose("bytes_received"),
    sent: rose("bytes_sent"), again: rose("bytes_retrans"),
    timeout: some.some((s) => s.info.backoff > 0),
    queue: last.recv_q,
  };
  const pending = last.not_sent > 0 || last.unacked > 0;
  const holding = view.queue > 0 || last.out_of_order > 0;
  view.sends = view.out !== view.in ? view.out > view.in : pending || !holding;
  view.lossy = view.timeout || view.again > view.sent * 0.003;
  return view;
}

// sending says what keeps this end from sending between two samples.
function sending({ info }, before) {
  if (info.not_sent === 0) {
    if (info.unacked === 0) return "idle";
    return info.snd_buf > 0 && info.unacked >= 0.9 * info.snd_buf ? "sndbuf" : "writes";
  }
  if (info.snd_wnd < info.snd_mss && info.snd_wnd - info.unacked <= 0) return "peer_reads";
  if (info.recovery || info.lost > 0 || info.backoff > 0 || info.retrans > before.info.retrans) return "loss";
  if (info.snd_wnd - info.unacked < info.snd_mss) return "rwnd";
  if (info.in_flight + info.snd_mss > info.snd_cwnd) return "cwnd";
  return info.pacing_bytes_per_s > 0 ? "pacing" : "cwnd";
}

// receiving says what keeps data from arriving faster.
function receiving({ info, t: at }, before) {
  const queue = info.recv_q;
  if (queue > 0 && (info.rcv_wnd < info.rcv_mss || queue >= 0.5 * info.rcv_buf)) return "reads";
  if (info.out_of_order > 0) return "loss_in";
  const got = info.bytes_received - before.info.bytes_received;
  if (got === 0) return queue > 0 ? "reads" : "idle";
  // With timestamps the receiver knows the round trip, and what one carries shows whether it is a full window.
  const dt = at - before.t;
  if (info.timestamps && info.rcv_rtt_s > 0 && dt > 0 && got / dt * info.rcv_rtt_s >= 0.6 * info.rcv_wnd) return "own_window";
  return "peer";
}

// judge chooses the cause that the sentence names.
function judge(shares, view) {
  const of = (...causes) => causes.reduce((sum, c) => sum + (shares[c] ?? 0), 0);
  if (of("peer_reads") >= 0.4) return "peer_reads";
  // Between two recoveries it is the congestion window that limits, but the losses keep it small.
  const congestion = of("loss", "cwnd", "pacing");
  if (view.lossy && congestion >= 0.4 && congestion >= of("rwnd")) return "loss";
  if (of("loss_in") >= 0.3) return "loss_in";
  let best = "idle", most = -1;
  for (const [cause, part] of Object.entries(shares)) {
    // A pause says less than what limits a transfer while there is one.
    const weight = cause === "idle" ? part * 0.5 : part;
    if (weight > most) [best, most] = [cause, weight];
  }
  if (best === "loss" && !view.lossy) return "cwnd";
  // Data that comes now and then is that of an application that has no more.
  if (best === "idle" && view.sends && view.out > 0) return "writes";
  if (best === "idle" && !view.sends && view.in > 0) return "peer";
  return best;
}

// speed says how much a window lets through in a round trip.
function speed(window, info) {
  if (!(info.rtt_s > 0)) return "";
  return ` At a round trip of ${seconds(info.rtt_s)} no more than ${rate(window / info.rtt_s)} fit through it.`;
}

const sentences = {
  idle: () => "Nothing limits this connection: it is idle. Neither application has data under way.",
  writes: (i) => `The application on this host limits the transfer: it does not write faster. All that it has written is sent${i.unacked > 0 ? `, and ${bytes(i.unacked)} wait for the acknowledgement of the peer` : " and acknowledged"}.`,
  sndbuf: (i) => `The send buffer limits the transfer: all of its ${bytes(i.snd_buf)} are in flight, and the application can write only what is acknowledged.` + speed(i.snd_buf, i),
  rwnd: (i) => `The receive window of the peer limits the transfer: the peer offers ${bytes(i.snd_wnd)}, all of it is in flight, and ${bytes(i.not_sent)} wait here.` + speed(i.snd_wnd, i),
  peer_reads: (i) => `The application at the other end does not read: the receive window of the peer is ${i.snd_wnd === 0 ? "closed" : "down to " + bytes(i.snd_wnd)}, and ${bytes(i.not_sent)} wait here to be sent.`,
  loss: (i, v) => `Loss limits the transfer: ${v.sent > 0 ? share(v.again / v.sent) : "a part"} of the bytes of the last ${seconds(v.time)} were sent again${v.timeout ? ", some only after a timeout" : ""}, and each loss makes the congestion window smaller: it is ${bytes(i.snd_cwnd)} now.` + speed(i.snd_cwnd, i),
  cwnd: (i) => `The congestion window limits the transfer: its ${bytes(i.snd_cwnd)} are in flight, without loss. ` + (i.snd_ssthresh === 0 || i.snd_cwnd < i.snd_ssthresh ? "TCP is still in slow start, and the window doubles each round trip." : "TCP makes it larger step by step, for as long as the path carries it.") + speed(i.snd_cwnd, i),
  pacing: (i) => `The pacer limits the transfer: it sends ${rate(i.pacing_bytes_per_s)}, which is what the path has carried.`,
  reads: (i, v) => `The application on this host does not read: ${bytes(v.queue)} have arrived and wait for it, and the receive window that this host offers is ${i.rcv_wnd === 0 ? "closed" : bytes(i.rcv_wnd)}.`,
  own_window: (i) => `The receive window of this host limits the transfer: it offers ${bytes(i.rcv_wnd)} of a buffer of ${bytes(i.rcv_buf)}, and the peer fills it in each round trip of ${seconds(i.rcv_rtt_s)}.`,
  loss_in: (i) => `Loss limits the transfer: segments of the peer are missing, and ${bytes(i.out_of_order)} that came after them wait for them to be sent again.`,
  peer: (i, v) => `The peer sends, ${v.time > 0 ? rate(v.in / v.time) + " on average, " : ""}and the application here reads it all. What limits the peer can be seen at its end.`,
  none: () => "There are no figures yet.",
};

// names are the causes in the list of shares.
export const names = {
  rwnd: "receive window of the peer", peer_reads: "peer's application does not read", cwnd: "congestion window",
  loss: "loss", pacing: "pacing", sndbuf: "send buffer", writes: "application does not write", idle: "idle",
  own_window: "receive window of this host", reads: "application here does not read", loss_in: "loss on the way here", peer: "the peer's pace",
};
