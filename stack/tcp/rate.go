package tcp

// This file is the delivery-rate estimator of draft-ietf-ccwg-bbr-06 4.1 ("Delivery Rate
// Samples"). Only connections with BBR use it.

// A txRecord is the state of the estimator when a piece was sent (4.1.2.1, "per-packet
// variables": P.delivered, P.delivered_time, P.first_send_time, P.tx_in_flight, P.lost and
// P.is_app_limited).
type txRecord struct {
	delivered   uint64
	lost        uint64
	deliveredAt Time
	firstSent   Time
	inFlight    int
	appLimited  bool
}

// A rateSampler takes the samples. Its records are in a ring in the order of sending; sent.tx is
// the number of a piece's record. A piece whose record was overwritten gives no sample.
type rateSampler struct {
	ring []txRecord // a power of two long
	next uint32     // number of the next record

	lost        uint64 // C.lost: bytes marked lost since the Conn was opened
	deliveredAt Time   // C.delivered_time
	firstSent   Time   // C.first_send_time
	lastSent    Time   // when the newest delivered piece was sent
	lastEnd     Seq    // the end of that piece, to break ties
	appLimited  uint64 // C.app_limited: samples are application-limited until C.delivered exceeds this; 0: they are not

	latest int64 // the latest measured rate, in bytes/s
	rs     rateSample
}

// A rateSample is RS of the draft: the sample of one acknowledgement.
type rateSample struct {
	valid          bool // a piece was delivered, and its record has not been overwritten
	appLimited     bool
	priorDelivered uint64 // P.delivered of the newest piece
	priorLost      uint64
	inFlight       int    // RS.tx_in_flight
	delivered      uint64 // bytes delivered over the interval of the sample
	lost           uint64 // bytes lost over that interval
	newlyAcked     int
	rate           int64 // bytes/s; 0: none
	rtt            Time  // 0: none

	before      uint64 // C.delivered before this acknowledgement
	sendElapsed Time
	priorTime   Time
}

// minRecords is the minimum size of the ring.
const minRecords = 64

// sent adds the record of a piece that is being sent and returns the record's number. fresh tells
// whether nothing was in flight before. inFlight and pieces are the numbers of bytes and of pieces in
// flight, including this piece.
func (r *rateSampler) sent(now Time, delivered uint64, fresh bool, inFlight, pieces int) uint32 {
	if fresh {
		// 4.1.2.2: "If there are no packets in flight yet, then we can start the
		// delivery rate interval at the current time".
		r.firstSent, r.deliveredAt = now, now
	}
	if 2*pieces > len(r.ring) {
		r.grow(max(minRecords, 2*len(r.ring)))
	}
	n := r.next
	r.next++
	r.ring[n&uint32(len(r.ring)-1)] = txRecord{
		delivered: delivered, lost: r.lost, deliveredAt: r.deliveredAt, firstSent: r.firstSent,
		inFlight: inFlight, appLimited: r.appLimited != 0,
	}
	return n
}

// grow enlarges the ring to n records.
func (r *rateSampler) grow(n int) {
	ring := make([]txRecord, n)
	for i := range uint32(len(r.ring)) {
		k := r.next - 1 - i
		ring[k&uint32(n-1)] = r.ring[k&uint32(len(r.ring)-1)]
	}
	r.ring = ring
}

// record returns record number n, or nil if it was overwritten.
func (r *rateSampler) record(n uint32) *txRecord {
	if d := r.next - n; d == 0 || d > uint32(len(r.ring)) {
		return nil
	}
	return &r.ring[n&uint32(len(r.ring)-1)]
}

// begin starts the sample of an acknowledgement.
func (r *rateSampler) begin(delivered uint64) { r.rs = rateSample{before: delivered} }

// arrived updates the sample with a delivered piece. 4.1.2.3: "Update RS using the newest
// packet". early is set if the piece was retransmitted, but the acknowledgement is probably that of
// the original. The record then belongs to the retransmission, which is still in flight.
// arrived does not use such a record: the sample would end a round trip that has just begun and
// in which nothing was delivered.
func (r *rateSampler) arrived(now Time, s *sent, early bool) {
	r.deliveredAt = now
	p := r.record(s.tx)
	if p == nil || early {
		return
	}
	if r.rs.valid && !sentAfter(s.at, s.end, r.lastSent, r.lastEnd) {
		return
	}
	r.lastSent, r.lastEnd = s.at, s.end
	r.firstSent = s.at
	x := &r.rs
	x.valid = true
	x.priorDelivered, x.priorLost, x.priorTime = p.delivered, p.lost, p.deliveredAt
	x.sendElapsed = s.at - p.firstSent
	x.inFlight, x.appLimited = p.inFlight, p.appLimited
	x.rtt = 0
	if s.flags&segEverResent == 0 {
		x.rtt = max(now-s.at, 1)
	}
}

// found corrects the number of lost bytes: n bytes marked lost were delivered after all.
func (r *rateSampler) found(n int) { r.lost -= min(r.lost, uint64(n)) }

// lostSince returns the number of bytes lost since an earlier time. before is the value of r.lost at
// that time. The result is 0 if found has lowered r.lost below before.
func (r *rateSampler) lostSince(before uint64) uint64 { return max(r.lost, before) - before }

// finish completes the sample (4.1.2.3, GenerateRateSample).
func (r *rateSampler) finish(delivered uint64, minRTT Time) {
	x := &r.rs
	x.newlyAcked = int(delivered - x.before)
	if r.appLimited != 0 && delivered > r.appLimited {
		// "Clear app-limited field if bubble is ACKed and gone."
		r.appLimited = 0
	}
	if !x.valid {
		return
	}
	x.delivered = delivered - x.priorDelivered
	x.lost = r.lostSince(x.priorLost)
	// "Use the longer of the send_elapsed and ack_elapsed".
	interval := max(x.sendElapsed, r.deliveredAt-x.priorTime)
	// "Normally we expect interval >= MinRTT. Note that rate may still be
	// overestimated when a spuriously retransmitted packet was first (s)acked
	// because "interval" is under-estimated".
	if interval < max(minRTT, 1) {
		return
	}
	x.rate = int64(float64(x.delivered) * float64(Second) / float64(interval))
	r.latest = x.rate
}

// limited marks the samples of the data sent from now on as application-limited. 4.1.1.4:
// "C.app_limited = (C.delivered + C.inflight) ? : 1".
func (r *rateSampler) limited(delivered uint64, inFlight int) {
	r.appLimited = max(delivered+uint64(inFlight), 1)
}
