// What limits a transfer now, as ss -ti says with busy, rwnd_limited and sndbuf_limited: the server gives each pair of
// samples a cause, the times are added up here, and the largest is said in a sentence.

import { bytes, count, rate, seconds, share } from "./units.js";

// lately is how many seconds of samples are judged, unless the caller says otherwise.
const lately = 8;

// A sample is {t, info, limited}: t in seconds, info as api/conn gives it, and what the server says has limited the
// connection since the sample before.

// limits returns {cause, sentence, more, shares, time}: more has figures and what they mean, and shares maps each
// cause to its part of the time, which is the last seconds of the samples.
export function limits(samples, recent = lately) {
  const last = samples[samples.length - 1];
  const none = { cause: "none", sentence: sentences.none(), more: "", shares: {}, time: 0 };
  if (!last) return none;
  const from = samples.findIndex((s) => s.t >= last.t - recent);
  const some = samples.slice(Math.max(from, 0));
  const shares = {};
  let all = 0;
  for (let i = 1; i < some.length; i++) {
    const dt = some[i].t - some[i - 1].t, cause = some[i].limited;
    if (!cause) continue;
    shares[cause] = (shares[cause] ?? 0) + dt;
    all += dt;
  }
  if (all === 0) return none;
  for (const cause of Object.keys(shares)) shares[cause] /= all;
  const view = summary(some);
  const cause = judge(shares, view);
  return { cause, sentence: sentences[cause](last.info, view), more: more[cause]?.(last.info, view) ?? "", shares, time: view.time };
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
    rtt: mean(some, (i) => i.rtt_s), cwnd: mean(some, (i) => i.snd_cwnd), before: beforeLoss(some),
  };
  const pending = last.not_sent > 0 || last.unacked > 0;
  const holding = view.queue > 0 || last.out_of_order > 0;
  view.sends = view.out !== view.in ? view.out > view.in : pending || !holding;
  view.lossy = view.timeout || view.again > view.sent * 0.003;
  return view;
}

// mean returns the mean of a figure over the time of the samples.
function mean(some, of) {
  let sum = 0, time = 0;
  for (let i = 1; i < some.length; i++) {
    const dt = some[i].t - some[i - 1].t;
    sum += of(some[i].info) * dt;
    time += dt;
  }
  return time > 0 ? sum / time : of(some[0].info);
}

// beforeLoss returns the mean of the smoothed round trips in the samples before retransmissions; 0 if there are none.
function beforeLoss(some) {
  let sum = 0, n = 0;
  for (let i = 1; i < some.length; i++) {
    if (some[i].info.retrans === some[i - 1].info.retrans) continue;
    sum += some[i - 1].info.rtt_s;
    n++;
  }
  return n > 0 ? sum / n : 0;
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

// speed says how much a window lets through in a round trip. A sender that has more to send sends whole segments.
function speed(window, i, v, text) {
  if (!(v.rtt > 0 && i.snd_mss > 0)) return "";
  const segments = Math.floor(window / i.snd_mss);
  const flight = segments > 0 ? segments * i.snd_mss : window;
  const what = segments > 1 ? `${count(segments)} whole segments, ${bytes(flight)}` : segments === 1 ? `one whole segment, ${bytes(flight)}` : bytes(flight);
  let says = `${text} takes ${what}, in a round trip of ${seconds(v.rtt)} on average: that is about ${rate(flight / v.rtt)}.`;
  if (v.out > 0 && v.time > 0) says += ` The peer has acknowledged ${rate(v.out / v.time)} on average.`;
  return says;
}

// queue tells random loss from that of a full queue: before a loss, the round trip has grown by the time in the queue.
function queue(i, v) {
  const rtt = v.before || v.rtt, wait = rtt - i.min_rtt_s;
  if (!(rtt > 0 && i.min_rtt_s > 0)) return "";
  const figures = `before the losses it was ${seconds(rtt)}, and the minimum is ${seconds(i.min_rtt_s)}`;
  if (wait < 0.25 * i.min_rtt_s) return ` The round trip stays near its minimum (${figures}): the losses are random, or those of a short queue, rather than those of a long queue that is full.`;
  if (wait < 0.5 * i.min_rtt_s) return ` The round trip is ${seconds(wait)} above its minimum (${figures}), which does not tell random losses from those of a short queue.`;
  return ` The round trip rises to ${seconds(wait)} above its minimum (${figures}): segments wait in a queue on the path, and the losses are probably those of a full queue.`;
}

// flight says how much of a limit is in flight.
function flight(limit, i) {
  const rest = limit - i.unacked;
  if (rest <= 0) return "all of it is in flight";
  if (rest < i.snd_mss) return `${bytes(i.unacked)} of it are in flight, the rest is less than one segment of ${bytes(i.snd_mss)}`;
  return `${bytes(i.unacked)} of it are in flight at the moment`;
}

const sentences = {
  idle: () => "Nothing limits this connection: it is idle. Neither application has data under way.",
  writes: (i) => `The application on this host limits the transfer: it does not write faster. All that it has written is sent${i.unacked > 0 ? `, and ${bytes(i.unacked)} wait for the acknowledgement of the peer` : " and acknowledged"}.`,
  sndbuf: (i) => `The send buffer limits the transfer: of its ${bytes(i.snd_buf)}, ${bytes(i.unacked)} are in flight, and the application can write only what is acknowledged.`,
  rwnd: (i) => `The receive window of the peer limits the transfer: the peer offers ${bytes(i.snd_wnd)}, ${flight(i.snd_wnd, i)}, and ${bytes(i.not_sent)} wait here.`,
  peer_reads: (i) => `The application at the other end does not read: the receive window of the peer is ${i.snd_wnd === 0 ? "closed" : "down to " + bytes(i.snd_wnd)}, and ${bytes(i.not_sent)} wait here to be sent.`,
  loss: (i, v) => `Loss limits the transfer: ${v.sent > 0 ? share(v.again / v.sent) : "a part"} of the bytes of the last ${seconds(v.time)} were sent again${v.timeout ? ", some only after a timeout" : ""}, and each loss makes the congestion window smaller: it is ${bytes(i.snd_cwnd)} now.`,
  cwnd: (i) => `The congestion window limits the transfer: it is ${bytes(i.snd_cwnd)}, ${flight(i.snd_cwnd, i)}, without loss. ` + (i.snd_ssthresh === 0 || i.snd_cwnd < i.snd_ssthresh ? "TCP is still in slow start, and the window doubles each round trip." : "TCP makes it larger step by step, for as long as the path carries it."),
  pacing: (i) => `The pacer limits the transfer: it sends ${rate(i.pacing_bytes_per_s)}, which is what the path has carried.`,
  reads: (i, v) => `The application on this host does not read: ${bytes(v.queue)} have arrived and wait for it, and the receive window that this host offers is ${i.rcv_wnd === 0 ? "closed" : bytes(i.rcv_wnd)}.`,
  own_window: (i) => `The receive window of this host limits the transfer: it offers ${bytes(i.rcv_wnd)} of a buffer of ${bytes(i.rcv_buf)}, and the peer fills it in each round trip of ${seconds(i.rcv_rtt_s)}.`,
  loss_in: (i) => `Loss limits the transfer: segments of the peer are missing, and ${bytes(i.out_of_order)} that came after them wait for them to be sent again.`,
  peer: (i, v) => `The peer sends, ${v.time > 0 ? rate(v.in / v.time) + " on average, " : ""}and the application here reads it all. What limits the peer can be seen at its end.`,
  none: () => "There are no figures yet.",
};

// more are the sentences beside some causes.
const more = {
  sndbuf: (i, v) => speed(i.snd_buf, i, v, "The buffer"),
  rwnd: (i, v) => speed(i.snd_wnd, i, v, "The window"),
  loss: (i, v) => speed(v.cwnd, i, v, "The congestion window, as it was on average,") + queue(i, v),
  cwnd: (i, v) => speed(v.cwnd, i, v, "The congestion window, as it was on average,"),
};

// names are the causes in words that follow "limited by".
export const names = {
  rwnd: "peer's receive window", peer_reads: "peer's application (reads)", cwnd: "congestion window", loss: "loss", pacing: "pacing",
  sndbuf: "send buffer", writes: "application here (writes)", idle: "nothing (idle)", own_window: "own receive window",
  reads: "application here (reads)", loss_in: "loss on the way here", peer: "peer's pace",
};
