package ppp

import (
	"bytes"
	"encoding/binary"
	"time"
)

// This file is the option negotiation automaton of RFC 1661 section 4, which LCP, IPCP and IPV6CP share.

// A state of the automaton, in the order of the table in RFC 1661 4.1.
type state uint8

const (
	initial state = iota
	starting
	closed
	stopped
	closing
	stopping
	reqSent
	ackRcvd
	ackSent
	opened
)

// An event of the automaton (RFC 1661 4.3).
type event uint8

const (
	evUp       event = iota // the lower layer is up
	evDown                  // the lower layer is down
	evOpen                  // the layer may open
	evClose                 // the layer has to close
	evTOPlus                // timeout, with the restart counter above zero
	evTOMinus               // timeout, with the restart counter expired
	evRCRPlus               // good Configure-Request
	evRCRMinus              // bad Configure-Request
	evRCA                   // Configure-Ack
	evRCN                   // Configure-Nak or Configure-Reject
	evRTR                   // Terminate-Request
	evRTA                   // Terminate-Ack
	evRUC                   // unknown code
	evRXJPlus               // Code-Reject or Protocol-Reject that is permitted
	evRXJMinus              // Code-Reject or Protocol-Reject that is fatal
	evRXR                   // Echo-Request, Echo-Reply or Discard-Request
	events
)

// An action of the automaton (RFC 1661 4.4).
type action uint8

const (
	tlu action = iota // this layer is up
	tld               // this layer is down
	tls               // this layer has started: it needs the lower layer
	tlf               // this layer has finished: it no longer needs the lower layer
	irc               // initialize the restart counter
	zrc               // zero the restart counter
	scr               // send a Configure-Request
	sca               // send a Configure-Ack
	scn               // send a Configure-Nak or Configure-Reject
	str               // send a Terminate-Request
	sta               // send a Terminate-Ack
	scj               // send a Code-Reject
	ser               // send an Echo-Reply
)

// A transition is an entry of the table: what to do, and the next state. If ok is false, the event cannot occur
// in the state.
type transition struct {
	next state
	do   []action
	ok   bool
}

func to(next state, do ...action) transition { return transition{next, do, true} }

// stay returns a row of transitions that keep the state. The event cannot occur in the states before Closed.
func stay(do ...action) (row [10]transition) {
	for s := closed; s <= opened; s++ {
		row[s] = to(s, do...)
	}
	return row
}

// transitions is the table of RFC 1661 4.1. The states are Initial, Starting, Closed, Stopped, Closing,
// Stopping, Req-Sent, Ack-Rcvd, Ack-Sent, Opened.
var transitions = [events][10]transition{
	evUp:   {initial: to(closed), starting: to(reqSent, irc, scr)},
	evDown: {closed: to(initial), stopped: to(starting, tls), closing: to(initial), stopping: to(starting), reqSent: to(starting), ackRcvd: to(starting), ackSent: to(starting), opened: to(starting, tld)},
	evOpen: {to(starting, tls), to(starting), to(reqSent, irc, scr), to(stopped), to(stopping), to(stopping), to(reqSent), to(ackRcvd), to(ackSent), to(opened)},
	evClose: {to(initial), to(initial, tlf), to(closed), to(closed), to(closing), to(closing),
		to(closing, irc, str), to(closing, irc, str), to(closing, irc, str), to(closing, tld, irc, str)},
	evTOPlus:  {closing: to(closing, str), stopping: to(stopping, str), reqSent: to(reqSent, scr), ackRcvd: to(reqSent, scr), ackSent: to(ackSent, scr)},
	evTOMinus: {closing: to(closed, tlf), stopping: to(stopped, tlf), reqSent: to(stopped, tlf), ackRcvd: to(stopped, tlf), ackSent: to(stopped, tlf)},
	evRCRPlus: {closed: to(closed, sta), stopped: to(ackSent, irc, scr, sca), closing: to(closing), stopping: to(stopping),
		reqSent: to(ackSent, sca), ackRcvd: to(opened, sca, tlu), ackSent: to(ackSent, sca), opened: to(ackSent, tld, scr, sca)},
	evRCRMinus: {closed: to(closed, sta), stopped: to(reqSent, irc, scr, scn), closing: to(closing), stopping: to(stopping),
		reqSent: to(reqSent, scn), ackRcvd: to(ackRcvd, scn), ackSent: to(reqSent, scn), opened: to(reqSent, tld, scr, scn)},
	evRCA: {closed: to(closed, sta), stopped: to(stopped, sta), closing: to(closing), stopping: to(stopping),
		reqSent: to(ackRcvd, irc), ackRcvd: to(reqSent, scr), ackSent: to(opened, irc, tlu), opened: to(reqSent, tld, scr)},
	evRCN: {closed: to(closed, sta), stopped: to(stopped, sta), closing: to(closing), stopping: to(stopping),
		reqSent: to(reqSent, irc, scr), ackRcvd: to(reqSent, scr), ackSent: to(ackSent, irc, scr), opened: to(reqSent, tld, scr)},
	evRTR: {closed: to(closed, sta), stopped: to(stopped, sta), closing: to(closing, sta), stopping: to(stopping, sta),
		reqSent: to(reqSent, sta), ackRcvd: to(reqSent, sta), ackSent: to(reqSent, sta), opened: to(stopping, tld, zrc, sta)},
	evRTA: {closed: to(closed), stopped: to(stopped), closing: to(closed, tlf), stopping: to(stopped, tlf),
		reqSent: to(reqSent), ackRcvd: to(reqSent), ackSent: to(ackSent), opened: to(reqSent, tld, scr)},
	evRUC: stay(scj),
	evRXJPlus: {closed: to(closed), stopped: to(stopped), closing: to(closing), stopping: to(stopping),
		reqSent: to(reqSent), ackRcvd: to(reqSent), ackSent: to(ackSent), opened: to(opened)},
	evRXJMinus: {closed: to(closed, tlf), stopped: to(stopped, tlf), closing: to(closed, tlf), stopping: to(stopped, tlf),
		reqSent: to(stopped, tlf), ackRcvd: to(stopped, tlf), ackSent: to(stopped, tlf), opened: to(stopping, tld, irc, str)},
	evRXR: {closed: to(closed), stopped: to(stopped), closing: to(closing), stopping: to(stopping),
		reqSent: to(reqSent), ackRcvd: to(ackRcvd), ackSent: to(ackSent), opened: to(opened, ser)},
}

// Codes of the packets (RFC 1661 5). The codes from protocolReject on are LCP's own.
const (
	configureRequest = 1 + iota
	configureAck
	configureNak
	configureReject
	terminateRequest
	terminateAck
	codeReject
	protocolReject
	echoRequest
	echoReply
	discardRequest
)

// RFC 1661 4.6 recommends these values.
const (
	restartTime  = 3 * time.Second
	maxTerminate = 2
	maxConfigure = 10
	maxFailure   = 5

	// maxRefusals is the number of Configure-Naks and Configure-Rejects in a row after which a layer gives up.
	maxRefusals = 20
)

// A layer is a protocol that negotiates by an automaton.
type layer interface {
	// request appends the options of a Configure-Request.
	request(b []byte) []byte
	// begin is called before the options of a Configure-Request of the peer are judged.
	begin()
	// judge judges an option of the peer. It returns configureAck, configureNak with the data of a value
	// that would be accepted, or configureReject.
	judge(o option) (verdict byte, data []byte)
	// missing returns options that the peer should request and that are not in its last Configure-Request. It
	// returns each option only once, even if the peer still does not request the option.
	missing() []byte
	// refused is called for each option in a Configure-Nak or, if rejected is true, in a Configure-Reject. It
	// changes the options of the next request. An error means that the layer cannot go on.
	refused(rejected bool, o option) error
	up(now time.Time)       // the layer is opened
	down(now time.Time)     // the layer is no longer opened
	finished(now time.Time) // the layer no longer needs the lower layer
	failed(err error)       // the negotiation has failed; finished follows
	// extra handles a packet whose code the automaton does not handle. It reports false if the code is unknown. It
	// also receives each Code-Reject that rejects such a code.
	extra(now time.Time, p packet) bool
}

// A packet is a packet of a control protocol.
type packet struct {
	code, id byte
	data     []byte
}

// parsePacket parses a packet. Octets after its end are padding.
func parsePacket(b []byte) (p packet, ok bool) {
	if len(b) < 4 {
		return p, false
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < 4 || n > len(b) {
		return p, false
	}
	return packet{b[0], b[1], b[4:n]}, true
}

// append appends the packet in wire form.
func (p packet) append(b []byte) []byte {
	b = append(b, p.code, p.id)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(p.data)))
	return append(b, p.data...)
}

// An option is a configuration option.
type option struct {
	kind byte
	data []byte
}

func (o option) append(b []byte) []byte {
	return append(append(b, o.kind, byte(2+len(o.data))), o.data...)
}

// parseOptions parses a list of options. It reports false if b ends within an option, or if the length of an option is
// less than 2.
func parseOptions(b []byte) (list []option, ok bool) {
	for len(b) > 0 {
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return nil, false
		}
		list = append(list, option{b[0], b[2:b[1]]})
		b = b[b[1]:]
	}
	return list, true
}

// An automaton negotiates the options of a layer with the peer.
type automaton struct {
	layer layer
	proto uint16
	send  func(proto uint16, p packet)

	state    state
	deadline time.Time // of the restart timer; zero if it does not run
	restarts int       // the restart counter
	failures int       // Configure-Naks sent since the last Configure-Ack sent
	refusals int       // Configure-Naks and Configure-Rejects received since the last Configure-Ack received
	lastID   byte      // of the last packet that was sent with a new identifier
	request  packet    // the last Configure-Request
	answered bool      // the peer has answered request
	reply    packet    // the Configure-Ack, -Nak or -Reject to send
	echo     packet    // the Echo-Reply to send
	received packet    // the packet that caused the event; code 0 if none did
	raw      []byte    // the same packet in wire form
}

// fire handles an event: it enters the next state and performs the actions of the transition.
func (a *automaton) fire(now time.Time, e event) {
	t := transitions[e][a.state]
	if !t.ok {
		return // "-" in the table
	}
	a.state = t.next
	for _, do := range t.do {
		a.act(now, do)
		if a.state != t.next {
			return // an action has fired another event
		}
	}
	switch {
	case t.next < closing || t.next == opened:
		a.deadline = time.Time{}
	case a.deadline.IsZero():
		a.deadline = now.Add(restartTime)
	}
}

// act performs an action.
func (a *automaton) act(now time.Time, do action) {
	switch do {
	case tlu:
		a.refusals = 0
		a.layer.up(now)
	case tld:
		a.layer.down(now)
	case tls:
		// Nothing to do: the machine fires evUp without being asked.
	case tlf:
		a.layer.finished(now)
	case irc:
		a.restarts = maxConfigure
		if a.state == closing || a.state == stopping {
			a.restarts = maxTerminate
		}
	case zrc:
		a.restarts, a.deadline = 0, now.Add(restartTime)
	case scr:
		a.sendRequest(now)
	case sca, scn:
		a.send(a.proto, a.reply)
	case str:
		a.restarts--
		a.deadline = now.Add(restartTime)
		a.send(a.proto, packet{code: terminateRequest, id: a.nextID()})
	case sta:
		// Only a Terminate-Request has an identifier to repeat.
		id := a.received.id
		if a.received.code != terminateRequest {
			id = a.nextID()
		}
		a.send(a.proto, packet{code: terminateAck, id: id})
	case scj:
		a.send(a.proto, packet{code: codeReject, id: a.nextID(), data: a.raw[:min(len(a.raw), maxRejected)]})
	case ser:
		if a.received.code == echoRequest {
			a.send(a.proto, a.echo)
		}
	}
}

// maxRejected is the maximum number of octets of a rejected packet that a Code-Reject or Protocol-Reject repeats. A
// reject with so many octets fits every MRU that the machine accepts.
const maxRejected = 64

func (a *automaton) nextID() byte {
	a.lastID++
	return a.lastID
}

// sendRequest sends a Configure-Request.
//
// RFC 1661 5.1: "The Identifier field MUST be changed whenever the contents of the Options field changes,
// and whenever a valid reply has been received for a previous request. For retransmissions, the
// Identifier MAY remain unchanged."
func (a *automaton) sendRequest(now time.Time) {
	a.restarts--
	a.deadline = now.Add(restartTime)
	data := a.layer.request(nil)
	if a.request.code == 0 || a.answered || !bytes.Equal(data, a.request.data) {
		a.request = packet{configureRequest, a.nextID(), data}
		a.answered = false
	}
	a.send(a.proto, a.request)
}

// receive handles a packet of the peer.
func (a *automaton) receive(now time.Time, b []byte) {
	p, ok := parsePacket(b)
	if !ok || a.state <= starting {
		return
	}
	a.received, a.raw = p, b[:4+len(p.data)]
	defer func() { a.received, a.raw = packet{}, nil }()
	switch p.code {
	case configureRequest:
		a.receiveRequest(now, p)
	case configureAck, configureNak, configureReject:
		a.receiveReply(now, p)
	case terminateRequest:
		a.fire(now, evRTR)
	case terminateAck:
		a.fire(now, evRTA)
	case codeReject:
		// A peer that does not know these codes does not speak the protocol.
		if len(p.data) > 0 && p.data[0] >= configureRequest && p.data[0] <= codeReject {
			a.fire(now, evRXJMinus)
		} else {
			a.fire(now, evRXJPlus)
			if len(p.data) > 0 {
				a.layer.extra(now, p)
			}
		}
	default:
		if !a.layer.extra(now, p) {
			a.fire(now, evRUC)
		}
	}
}

// receiveRequest handles a Configure-Request.
func (a *automaton) receiveRequest(now time.Time, p packet) {
	options, ok := parseOptions(p.data)
	if !ok {
		return
	}
	if a.state == closed || a.state == closing || a.state == stopping {
		a.fire(now, evRCRPlus) // the options do not matter
		return
	}
	a.layer.begin()
	var naks, rejects []byte
	for _, o := range options {
		switch verdict, data := a.layer.judge(o); {
		case verdict == configureReject:
			rejects = o.append(rejects)
		case verdict == configureNak && a.failures >= maxFailure:
			// RFC 1661 4.6: "Any further Configure-Nak packets for peer requested options are converted
			// to Configure-Reject packets".
			rejects = o.append(rejects)
		case verdict == configureNak:
			naks = option{o.kind, data}.append(naks)
		}
	}
	// RFC 1661 5.3: if an option that is wanted "is not listed, then that option MAY be appended to the list of
	// Nak'd Configuration Options, in order to prompt the peer to include that option".
	if len(rejects) == 0 && a.failures < maxFailure {
		naks = append(naks, a.layer.missing()...)
	}
	switch {
	case len(rejects) > 0:
		a.reply = packet{configureReject, p.id, rejects}
		a.fire(now, evRCRMinus)
	case len(naks) > 0:
		a.failures++
		a.reply = packet{configureNak, p.id, naks}
		a.fire(now, evRCRMinus)
	default:
		a.failures = 0
		a.reply = packet{configureAck, p.id, bytes.Clone(p.data)}
		a.fire(now, evRCRPlus)
	}
}

// receiveReply handles the answer to a Configure-Request. In the states Closed and Stopped it sends a Terminate-Ack. In
// Closing and Stopping it drops the reply. In the other states it drops a reply that is not for the last request, and a
// second reply to the last request.
func (a *automaton) receiveReply(now time.Time, p packet) {
	if a.state == closed || a.state == stopped {
		a.fire(now, evRCA)
		return
	}
	if a.state < reqSent || p.id != a.request.id || a.answered {
		return
	}
	if p.code == configureAck {
		// RFC 1661 5.2: "the Configuration Options in a Configure-Ack MUST exactly match those of the last
		// transmitted Configure-Request. Invalid packets are silently discarded."
		if bytes.Equal(p.data, a.request.data) {
			a.answered, a.refusals = true, 0
			a.fire(now, evRCA)
		}
		return
	}
	options, ok := parseOptions(p.data)
	if !ok || p.code == configureReject && !isSubset(options, a.request.data) {
		return
	}
	a.answered = true
	a.refusals++
	var err error
	for _, o := range options {
		if e := a.layer.refused(p.code == configureReject, o); e != nil && err == nil {
			err = e
		}
	}
	if err == nil && a.refusals >= maxRefusals {
		err = errNotConverging
	}
	if err != nil {
		a.layer.failed(err)
		a.fire(now, evClose)
		return
	}
	a.fire(now, evRCN)
}

// isSubset reports whether the rejected options are some or all of the requested options, in the same order. It returns
// false if there are no rejected options.
//
// RFC 1661 5.4: "the Configuration Options in a Configure-Reject MUST be a proper subset of those in the
// last transmitted Configure-Request."
func isSubset(rejected []option, requested []byte) bool {
	all, _ := parseOptions(requested)
	for _, o := range rejected {
		for len(all) > 0 && (all[0].kind != o.kind || !bytes.Equal(all[0].data, o.data)) {
			all = all[1:]
		}
		if len(all) == 0 {
			return false
		}
		all = all[1:]
	}
	return len(rejected) > 0
}

// tick handles the restart timer.
func (a *automaton) tick(now time.Time) {
	if a.deadline.IsZero() || now.Before(a.deadline) {
		return
	}
	a.deadline = time.Time{}
	if a.restarts > 0 {
		a.fire(now, evTOPlus)
	} else {
		a.fire(now, evTOMinus)
	}
}
