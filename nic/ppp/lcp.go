package ppp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// This file is the Link Control Protocol (RFC 1661 5 and 6).

var (
	errNotConverging = errors.New("the negotiation does not converge")
	errLoopedBack    = errors.New("the line is looped back: what is sent comes back")
	errNoAuth        = errors.New("the peer refuses to authenticate itself")
)

// Options of LCP (RFC 1661 6, RFC 1662 7.1).
const (
	optMRU   = 1
	optACCM  = 2
	optAuth  = 3
	optMagic = 5
	optPFC   = 7
	optACFC  = 8
)

const (
	defaultMRU = 1500 // RFC 1661 6.1
	minMRU     = 128  // the smallest MRU that we accept from a peer, as in pppd
	chapMD5    = 5    // RFC 1994 3
	maxLoops   = 4    // consecutive requests with our magic number that mean that the line is looped back; below maxFailure
)

// A linkOptions is what one end requests by LCP.
type linkOptions struct {
	mru       int    // 0: not requested
	accm      uint32 // see hasACCM
	hasACCM   bool
	auth      uint16 // protoPAP, protoCHAP, or 0
	magic     uint32 // 0: not requested
	pfc, acfc bool
}

// lcp is the layer LCP.
type lcp struct {
	automaton
	m     *machine
	ours  linkOptions // in our Configure-Request
	peer  linkOptions // in the peer's last Configure-Request
	loops int         // requests of the peer with our magic number, in a row
}

// reset sets the options of the first Configure-Request, and forgets those of the peer.
func (l *lcp) reset() {
	l.failures, l.refusals = 0, 0
	cfg := &l.m.cfg
	l.ours, l.peer, l.loops = linkOptions{magic: l.m.random32()}, linkOptions{}, 0
	if cfg.MTU != defaultMRU {
		l.ours.mru = cfg.MTU
	}
	if cfg.serial {
		l.ours.hasACCM, l.ours.pfc, l.ours.acfc = true, true, true
	}
	switch {
	case cfg.Authenticate == nil:
	case cfg.Methods&CHAP != 0:
		l.ours.auth = protoCHAP
	default:
		l.ours.auth = protoPAP
	}
}

func (l *lcp) request(b []byte) []byte {
	o := &l.ours
	if o.mru != 0 {
		b = option{optMRU, binary.BigEndian.AppendUint16(nil, uint16(o.mru))}.append(b)
	}
	if o.hasACCM {
		b = option{optACCM, binary.BigEndian.AppendUint32(nil, o.accm)}.append(b)
	}
	if o.auth != 0 {
		b = option{optAuth, authData(o.auth)}.append(b)
	}
	if o.magic != 0 {
		b = option{optMagic, binary.BigEndian.AppendUint32(nil, o.magic)}.append(b)
	}
	if o.pfc {
		b = option{kind: optPFC}.append(b)
	}
	if o.acfc {
		b = option{kind: optACFC}.append(b)
	}
	return b
}

// authData returns the data of the Authentication-Protocol option.
func authData(proto uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, proto)
	if proto == protoCHAP {
		b = append(b, chapMD5)
	}
	return b
}

func (l *lcp) begin() { l.peer = linkOptions{} }

func (l *lcp) judge(o option) (verdict byte, data []byte) {
	switch {
	case o.kind == optMRU && len(o.data) == 2:
		l.peer.mru = int(binary.BigEndian.Uint16(o.data))
		if l.peer.mru < minMRU {
			return configureNak, binary.BigEndian.AppendUint16(nil, defaultMRU)
		}
	case o.kind == optACCM && len(o.data) == 4 && l.m.cfg.serial:
		l.peer.accm, l.peer.hasACCM = binary.BigEndian.Uint32(o.data), true
	case o.kind == optAuth && len(o.data) >= 2:
		return l.judgeAuth(o.data)
	case o.kind == optMagic && len(o.data) == 4:
		return l.judgeMagic(binary.BigEndian.Uint32(o.data))
	case o.kind == optPFC && len(o.data) == 0 && l.m.cfg.serial:
		l.peer.pfc = true
	case o.kind == optACFC && len(o.data) == 0 && l.m.cfg.serial:
		l.peer.acfc = true
	default:
		return configureReject, nil
	}
	return configureAck, nil
}

func (l *lcp) missing() []byte { return nil }

// judgeAuth judges how the peer wants us to authenticate ourselves.
func (l *lcp) judgeAuth(data []byte) (verdict byte, better []byte) {
	cfg := &l.m.cfg
	if cfg.User == "" {
		l.m.refusal = errors.New("the peer requires authentication, but Config.User is empty")
		return configureReject, nil
	}
	proto := binary.BigEndian.Uint16(data)
	switch {
	case proto == protoCHAP && len(data) == 3 && data[2] == chapMD5 && cfg.Methods&CHAP != 0,
		proto == protoPAP && len(data) == 2 && cfg.Methods&PAP != 0:
		l.peer.auth = proto
		return configureAck, nil
	case cfg.Methods&CHAP != 0:
		return configureNak, authData(protoCHAP)
	}
	return configureNak, authData(protoPAP)
}

// judgeMagic judges the magic number of the peer.
//
// RFC 1661 6.4: "A Magic-Number of zero is illegal and MUST always be Nak'd". "If the two Magic-Numbers
// are equal, then it is possible, but not certain, that the link is looped-back".
func (l *lcp) judgeMagic(magic uint32) (verdict byte, better []byte) {
	l.peer.magic = magic
	if magic != 0 && magic != l.ours.magic {
		l.loops = 0
		return configureAck, nil
	}
	if magic != 0 {
		if l.loops++; l.loops >= maxLoops {
			l.m.loopedBack = true // receive closes the link
		}
	}
	return configureNak, binary.BigEndian.AppendUint32(nil, l.m.random32())
}

func (l *lcp) refused(rejected bool, o option) error {
	switch o.kind {
	case optMRU:
		l.ours.mru = 0 // request nothing: the peer may then send 1500 bytes
		if !rejected && len(o.data) == 2 {
			if n := int(binary.BigEndian.Uint16(o.data)); n >= minMRU && n <= l.m.cfg.MTU {
				l.ours.mru = n
			}
		}
	case optACCM:
		if rejected {
			l.ours.hasACCM = false
		} else if len(o.data) == 4 {
			l.ours.accm |= binary.BigEndian.Uint32(o.data)
		}
	case optAuth:
		proto := uint16(0)
		if !rejected && len(o.data) >= 2 {
			proto = binary.BigEndian.Uint16(o.data)
		}
		if proto != protoPAP || l.m.cfg.Methods&PAP == 0 || l.ours.auth == 0 {
			return errNoAuth
		}
		l.ours.auth = protoPAP
	case optMagic:
		l.ours.magic = 0
		if !rejected {
			l.ours.magic = l.m.random32()
		}
	case optPFC:
		l.ours.pfc = false
	case optACFC:
		l.ours.acfc = false
	}
	return nil
}

func (l *lcp) up(now time.Time) {
	l.m.tx = framing{accm: allEscaped, noProto: l.peer.pfc, noAddr: l.peer.acfc}
	if l.peer.hasACCM {
		l.m.tx.accm = l.peer.accm
	}
	l.m.rxACCM = l.ours.accm
	if !l.ours.hasACCM {
		l.m.rxACCM = allEscaped
	}
	l.m.lcpUp(now)
}

func (l *lcp) down(now time.Time) {
	l.m.tx, l.m.rxACCM = defaultFraming, allEscaped
	l.m.lcpDown(now)
}

func (l *lcp) finished(now time.Time) { l.m.lcpFinished(now) }

func (l *lcp) failed(err error) { l.m.fail(err) }

// extra handles the packets that only LCP has.
func (l *lcp) extra(now time.Time, p packet) bool {
	switch p.code {
	case protocolReject:
		if l.state == opened && len(p.data) >= 2 {
			l.m.protocolRejected(now, binary.BigEndian.Uint16(p.data))
		}
	case codeReject:
		if p.data[0] == echoRequest {
			l.m.noEcho = true
		}
	case echoRequest:
		if len(p.data) < 4 {
			return true
		}
		// RFC 1661 5.8: "Until the Magic-Number Configuration Option has been successfully negotiated, the
		// Magic-Number MUST be transmitted as zero."
		if magic := binary.BigEndian.Uint32(p.data); magic != 0 && magic == l.ours.magic {
			l.m.loopedBack = true
		}
		l.echo = packet{echoReply, p.id, binary.BigEndian.AppendUint32(nil, l.ours.magic)}
		l.echo.data = append(l.echo.data, p.data[4:min(len(p.data), maxEcho)]...)
		l.fire(now, evRXR)
	case echoReply:
		if l.state == opened {
			l.m.echoes = 0
		}
		l.fire(now, evRXR)
	case discardRequest:
		l.fire(now, evRXR)
	default:
		return false
	}
	return true
}

// maxEcho is the maximum length of the data of an Echo-Reply: our magic number and a copy of the data of the
// Echo-Request. The reply fits the smallest MRU.
const maxEcho = minMRU - 4

// peerMRU returns the largest packet that the peer receives.
func (l *lcp) peerMRU() int {
	if l.peer.mru == 0 {
		return defaultMRU
	}
	return l.peer.mru
}

// linkTerminated returns the error for a Terminate-Request of the peer. text is the data of the request.
func linkTerminated(text []byte) error {
	if len(text) == 0 {
		return errors.New("the peer has terminated the link")
	}
	return fmt.Errorf("the peer has terminated the link: %q", clip(text))
}

// clip returns at most the first 100 bytes of a text that the peer has sent.
func clip(b []byte) string { return string(b[:min(len(b), 100)]) }
