package ppp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/usernet/usernet/nic"
)

// Protocol numbers.
const (
	protoIPv4   = 0x0021
	protoIPv6   = 0x0057
	protoIPCP   = 0x8021
	protoIPV6CP = 0x8057
	protoLCP    = 0xc021
	protoPAP    = 0xc023
	protoCHAP   = 0xc223
)

const (
	minIPv6MTU  = 1280 // RFC 8200 5
	maxEchoes   = 4    // Echo-Requests without an answer until the link counts as lost
	minHoldoff  = time.Second
	maxHoldoff  = 30 * time.Second
	maxRejects  = 16  // Protocol-Rejects sent since the link came up
	maxOutgoing = 128 // control frames that wait to be sent; if so many wait, further frames are dropped
)

var (
	errNoAnswer = errors.New("the peer does not answer")
	errNoFamily = errors.New("the peer refuses all network protocols")
	errNoEcho   = errors.New("the peer no longer answers Echo-Requests")
)

// A controlFrame is a frame of a control protocol.
type controlFrame struct {
	proto uint16
	info  []byte
	fr    framing // on a line of octets: how the frame is encoded
	raw   []byte  // on PPPoE: the whole Ethernet frame
}

// A note is an event for the log.
type note struct {
	warn bool
	text string
	args []any
}

// A machine is one end of a PPP link: LCP, the authentication, IPCP and IPV6CP. It has no clock and does no
// I/O. Its caller passes received frames to receive, calls tick at the time that deadline returns, and sends the
// frames in the field out.
type machine struct {
	cfg  Config
	lcp  lcp
	ipv4 ipcp
	ipv6 ipv6cp

	local, remote auth // with local we authenticate ourselves; with remote the peer authenticates itself
	authID        byte

	network  bool // the network phase
	up4, up6 bool // the NCP is opened
	failed4  error
	failed6  error
	conf4    *nic.NetConfig // the last result of IPCP; nil if there is none, or if IPv4 cannot be used
	conf6    *nic.NetConfig // the same for IPV6CP and IPv6
	given    netip.Addr     // the address that the peer has assigned last
	id       uint64         // our interface identifier

	echoes   int // sent without an answer
	echoID   byte
	nextEcho time.Time
	noEcho   bool // the peer does not know Echo-Request
	rejects  int

	tx         framing // how sent frames are encoded
	rxACCM     uint32
	loopedBack bool
	mtu        int

	err     error // why the link is being terminated; nil if it is not
	last    error // the last err that was set
	refusal error // the probable reason of a termination by the peer
	fatal   error // why another try would fail too; nil if another try may succeed
	logged  string
	closing bool // close was called
	over    bool // the PPPoE session has ended; the line will begin a new session
	done    bool // the link has ended; err says why, unless close has ended it
	retry   time.Time
	holdoff time.Duration
	out     []controlFrame
	notes   []note
}

func newMachine(cfg Config) *machine {
	m := &machine{cfg: cfg, tx: defaultFraming, rxACCM: allEscaped, mtu: cfg.MTU, holdoff: minHoldoff, id: cfg.InterfaceID}
	if m.id == 0 {
		m.id = m.randomID(cfg.RemoteInterfaceID)
	}
	m.lcp.m, m.ipv4.m, m.ipv6.m = m, m, m
	m.lcp.automaton = automaton{layer: &m.lcp, proto: protoLCP, send: m.send}
	m.ipv4.automaton = automaton{layer: &m.ipv4, proto: protoIPCP, send: m.send}
	m.ipv6.automaton = automaton{layer: &m.ipv6, proto: protoIPV6CP, send: m.send}
	return m
}

func (m *machine) random32() uint32 {
	for {
		var b [4]byte
		m.cfg.Rand(b[:])
		if v := binary.BigEndian.Uint32(b[:]); v != 0 {
			return v
		}
	}
}

// randomID returns a random interface identifier. It is neither 0 nor one of the identifiers in the parameter not.
//
// RFC 5072 4.1 requires that the universal/local bit of a random number is zero.
func (m *machine) randomID(not ...uint64) uint64 {
	for {
		var b [8]byte
		m.cfg.Rand(b[:])
		if id := binary.BigEndian.Uint64(b[:]) &^ (2 << 56); id != 0 && !slices.Contains(not, id) {
			return id
		}
	}
}

// send queues a packet.
func (m *machine) send(proto uint16, p packet) {
	if len(m.out) < maxOutgoing {
		m.out = append(m.out, controlFrame{proto: proto, info: p.append(nil), fr: m.tx})
	}
}

func (m *machine) log(warn bool, text string, args ...any) {
	m.notes = append(m.notes, note{warn, text, args})
}

// start begins the negotiation: the line is up.
func (m *machine) start(now time.Time) {
	m.err, m.refusal, m.retry, m.loopedBack, m.over = nil, nil, time.Time{}, false, false
	m.lcp.fire(now, evDown)
	m.lcp.reset()
	m.lcp.fire(now, evOpen)
	m.lcp.fire(now, evUp)
}

// close terminates the link. done is set when the peer has confirmed the termination, or at a timeout. If LCP is
// neither negotiating, nor opened, nor terminating, close sets done at once.
func (m *machine) close(now time.Time) {
	if m.closing {
		return
	}
	m.closing = true
	if s := m.lcp.state; m.done || s <= stopped {
		m.done = true
		return
	}
	m.lcp.fire(now, evClose)
}

// lost ends a link whose line has gone. Nothing can be sent any more.
func (m *machine) lost(now time.Time, err error) {
	if m.err == nil {
		m.err = err // for the log
	}
	m.lcp.fire(now, evDown)
	m.end(err)
}

// end ends the machine.
func (m *machine) end(err error) {
	if !m.done {
		m.done, m.err, m.last, m.retry = true, err, err, time.Time{}
	}
}

// fail notes why the link ends, unless a reason has been noted before.
func (m *machine) fail(err error) {
	if m.err == nil {
		m.err, m.last = err, err
	}
}

// terminate terminates the link because of err.
func (m *machine) terminate(now time.Time, err error) {
	m.fail(err)
	m.lcp.fire(now, evClose)
}

// receive handles a frame that is not a packet for the host: a frame of a control protocol, of a network protocol
// that is not opened, or of a protocol that is not supported.
func (m *machine) receive(now time.Time, proto uint16, info []byte) {
	if m.done {
		return
	}
	if proto == protoLCP {
		if p, ok := parsePacket(info); ok && p.code == terminateRequest && m.lcp.state >= reqSent && m.err == nil {
			m.fail(linkTerminated(p.data))
			if m.refusal != nil {
				m.err, m.last, m.fatal = m.refusal, m.refusal, m.refusal
			}
		}
		m.lcp.receive(now, info)
		if m.loopedBack {
			m.loopedBack = false
			m.terminate(now, errLoopedBack)
		}
		return
	}
	if m.lcp.state != opened {
		return // RFC 1661 3.4: "Any non-LCP packets received during this phase MUST be silently discarded."
	}
	switch p, ok := parsePacket(info); {
	case proto == protoPAP && (m.local.proto == proto || m.remote.proto == proto):
		if ok {
			m.receivePAP(now, p)
		}
	case proto == protoCHAP && (m.local.proto == proto || m.remote.proto == proto):
		if ok {
			m.receiveCHAP(now, p)
		}
	case !m.network:
		// RFC 1661 3.5: before the network phase, only authentication packets are permitted.
	case proto == protoIPCP && !m.cfg.NoIPv4:
		m.ipv4.receive(now, info)
	case proto == protoIPV6CP && !m.cfg.NoIPv6:
		m.ipv6.receive(now, info)
	case proto == protoIPv4 && !m.cfg.NoIPv4 || proto == protoIPv6 && !m.cfg.NoIPv6:
		// RFC 1661 3.6: packets of a network protocol that is not opened are discarded.
	default:
		m.rejectProtocol(proto, info)
	}
}

// rejectProtocol sends a Protocol-Reject.
func (m *machine) rejectProtocol(proto uint16, info []byte) {
	if m.rejects++; m.rejects > maxRejects {
		return
	}
	data := binary.BigEndian.AppendUint16(nil, proto)
	m.send(protoLCP, packet{protocolReject, m.lcp.nextID(), append(data, info[:min(len(info), maxRejected)]...)})
}

// protocolRejected handles a Protocol-Reject.
func (m *machine) protocolRejected(now time.Time, proto uint16) {
	switch proto {
	case protoIPCP, protoIPv4:
		m.refuse(protoIPCP, errors.New("the peer does not support the protocol"))
		m.ipv4.fire(now, evRXJMinus)
	case protoIPV6CP, protoIPv6:
		m.refuse(protoIPV6CP, errors.New("the peer does not support the protocol"))
		m.ipv6.fire(now, evRXJMinus)
	case protoPAP, protoCHAP:
		m.terminate(now, errNoAuth)
	case protoLCP:
		m.lcp.fire(now, evRXJMinus)
	}
}

// lcpUp begins the authentication phase.
func (m *machine) lcpUp(now time.Time) {
	m.mtu = min(m.cfg.MTU, m.lcp.peerMRU())
	m.err, m.retry = nil, time.Time{}
	m.echoes, m.noEcho, m.rejects = 0, false, 0
	m.nextEcho = time.Time{}
	if m.cfg.Echo > 0 {
		m.nextEcho = now.Add(m.cfg.Echo)
	}
	m.startAuth(now)
}

// lcpDown ends the network phase.
func (m *machine) lcpDown(now time.Time) {
	wasUp := m.up4 || m.up6
	m.network = false
	m.local.deadline, m.remote.deadline, m.nextEcho = time.Time{}, time.Time{}, time.Time{}
	m.ipv4.fire(now, evDown)
	m.ipv6.fire(now, evDown)
	if wasUp {
		err := m.err
		switch {
		case err != nil:
		case m.closing:
			err = errors.New("the device is being closed")
		default:
			err = errors.New("the peer negotiates the link again")
		}
		m.log(false, "PPP link down", "reason", err)
		m.logged = ""
		if err != nil {
			m.logged = err.Error()
		}
	}
}

// lcpFinished handles the end of LCP. If the link is being closed, if another try would fail too, or if cfg.once is
// set, the machine ends. Otherwise the line begins a new session if cfg.session is set, and the machine tries again
// after holdoff if not.
func (m *machine) lcpFinished(now time.Time) {
	if m.closing {
		m.done = true
		return
	}
	m.fail(errNoAnswer) // if there is no other reason
	if m.fatal != nil || m.cfg.once {
		m.end(m.err)
		return
	}
	m.tell()
	if m.cfg.session {
		m.over = true
		return
	}
	m.retry = now.Add(m.holdoff)
	m.holdoff = min(2*m.holdoff, maxHoldoff)
}

// tell logs m.err, unless it was the last reason that was logged.
func (m *machine) tell() {
	if text := m.err.Error(); text != m.logged {
		m.logged = text
		m.log(true, "PPP link not established", "reason", m.err)
	}
}

// startNetwork begins the network phase.
func (m *machine) startNetwork(now time.Time) {
	m.network, m.failed4, m.failed6 = true, nil, nil
	m.fatal, m.refusal = nil, nil
	if !m.cfg.NoIPv4 {
		m.ipv4.reset()
		m.ipv4.fire(now, evOpen)
		m.ipv4.fire(now, evUp)
	}
	if !m.cfg.NoIPv6 {
		if m.mtu < minIPv6MTU {
			m.refuse(protoIPV6CP, errors.New("the MTU is below 1280"))
			m.checkFamilies(now)
			return
		}
		m.ipv6.reset()
		m.ipv6.fire(now, evOpen)
		m.ipv6.fire(now, evUp)
	}
}

// ncpUp handles the opening of an NCP.
func (m *machine) ncpUp(now time.Time, proto uint16) {
	first := !m.up4 && !m.up6
	m.holdoff = minHoldoff
	if proto == protoIPCP {
		m.up4, m.failed4 = true, nil
		m.conf4 = m.config4()
	} else {
		m.up6, m.failed6 = true, nil
		m.conf6 = m.config6()
	}
	if first {
		m.logged = ""
		args := []any{"mtu", m.mtu}
		if m.remote.name != "" {
			args = append(args, "peer", m.remote.name)
		}
		m.log(false, "PPP link up", args...)
	}
}

// config4 returns the configuration that IPCP has negotiated.
func (m *machine) config4() *nic.NetConfig {
	c := &nic.NetConfig{Addrs: []netip.Prefix{netip.PrefixFrom(m.ipv4.ours, 32)}}
	peer := m.ipv4.peer
	if !peer.IsValid() {
		peer = m.cfg.Remote // the peer has not named its address
	}
	if peer.IsValid() {
		c.Routes = append(c.Routes, netip.PrefixFrom(peer, 32))
	}
	if m.cfg.DefaultRoute {
		c.Routes = append(c.Routes, netip.PrefixFrom(zero4, 0))
	}
	for _, a := range m.ipv4.dns {
		if a.IsValid() && !a.IsUnspecified() && !slices.Contains(c.DNS, a) { // pppd may send the same address twice
			c.DNS = append(c.DNS, a)
		}
	}
	return c
}

// config6 returns the configuration that IPV6CP has negotiated.
func (m *machine) config6() *nic.NetConfig {
	c := &nic.NetConfig{Addrs: []netip.Prefix{netip.PrefixFrom(linkLocal(m.id), 64)}}
	if m.cfg.DefaultRoute {
		c.Routes = append(c.Routes, netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	return c
}

// ncpDown handles the end of an NCP. The configuration of the NCP stays until the NCP opens again or refuse
// removes the configuration. So connections survive a short loss of the link.
func (m *machine) ncpDown(_ time.Time, proto uint16) {
	if proto == protoIPCP {
		m.up4 = false
	} else {
		m.up6 = false
	}
}

// refuse notes that a family cannot be used.
func (m *machine) refuse(proto uint16, err error) {
	family, failed, conf := "IPv4", &m.failed4, &m.conf4
	if proto == protoIPV6CP {
		family, failed, conf = "IPv6", &m.failed6, &m.conf6
	}
	if *failed == nil {
		*failed = err
		*conf = nil
		m.log(true, "PPP network protocol not available", "family", family, "reason", err)
	}
}

// ncpFinished handles an NCP that has given up.
func (m *machine) ncpFinished(now time.Time, proto uint16) {
	if !m.network || m.lcp.state != opened {
		return
	}
	m.refuse(proto, errNoAnswer)
	m.checkFamilies(now)
}

// checkFamilies terminates the link if no family can be used.
func (m *machine) checkFamilies(now time.Time) {
	if (m.failed4 == nil && !m.cfg.NoIPv4) || (m.failed6 == nil && !m.cfg.NoIPv6) {
		return
	}
	err := errNoFamily
	for _, e := range []error{m.failed4, m.failed6} {
		if errors.Is(e, errNoAnswer) {
			err = errNoAnswer
		}
	}
	if err == errNoFamily {
		m.fatal = err
	}
	m.terminate(now, err)
}

// deadline returns the time of the next tick, or the zero time if there is none.
func (m *machine) deadline() time.Time {
	if m.done {
		return time.Time{}
	}
	var first time.Time
	for _, at := range []time.Time{m.lcp.deadline, m.ipv4.deadline, m.ipv6.deadline, m.local.deadline, m.remote.deadline, m.nextEcho, m.retry} {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// tick does what is due.
func (m *machine) tick(now time.Time) {
	if m.done {
		return
	}
	m.lcp.tick(now)
	m.ipv4.tick(now)
	m.ipv6.tick(now)
	m.tickAuth(now)
	if !m.nextEcho.IsZero() && !now.Before(m.nextEcho) {
		m.echo(now)
	}
	if !m.retry.IsZero() && !now.Before(m.retry) {
		m.retry = time.Time{}
		if s := m.lcp.state; s == closed || s == stopped { // otherwise the peer has begun again
			m.start(now)
		}
	}
}

// echo sends an Echo-Request. If the peer has answered none of the last maxEchoes Echo-Requests, echo gives the
// link up instead.
func (m *machine) echo(now time.Time) {
	m.nextEcho = now.Add(m.cfg.Echo)
	if m.noEcho {
		m.nextEcho = time.Time{}
		return
	}
	if m.echoes >= maxEchoes {
		m.fail(errNoEcho)
		m.lcp.fire(now, evDown)
		switch {
		case m.cfg.once:
			m.end(m.err)
		case m.cfg.session:
			m.over = true
		default:
			m.start(now)
		}
		return
	}
	m.echoes++
	m.echoID++
	m.send(protoLCP, packet{echoRequest, m.echoID, binary.BigEndian.AppendUint32(nil, m.lcp.ours.magic)})
}
