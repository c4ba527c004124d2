package ppp

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"
)

// This file implements the authentication of both ends: PAP (RFC 1334) and CHAP with MD5 (RFC 1994).

const (
	papRequest = 1
	papAck     = 2
	papNak     = 3

	chapChallenge = 1
	chapResponse  = 2
	chapSuccess   = 3
	chapFailure   = 4

	maxAuthTries = 10
	challengeLen = 16
)

// An auth authenticates one end to the other. There is one for each direction.
type auth struct {
	proto    uint16 // protoPAP or protoCHAP; 0: not required
	done     bool
	deadline time.Time // of the next try; zero: none
	tries    int
	packet   packet // the last Authenticate-Request, Response or Challenge
	reply    packet // our last reply, sent again if the peer repeats its request or Response
	name     string // of the peer, once it has authenticated itself
}

// ok reports whether the authentication has succeeded or is not required.
func (a *auth) ok() bool { return a.proto == 0 || a.done }

// startAuth begins the authentication phase.
func (m *machine) startAuth(now time.Time) {
	m.local = auth{proto: m.lcp.peer.auth}
	m.remote = auth{proto: m.lcp.ours.auth}
	if m.local.proto == protoPAP {
		b := append([]byte{byte(len(m.cfg.User))}, m.cfg.User...)
		b = append(append(b, byte(len(m.cfg.Password))), m.cfg.Password...)
		m.local.packet = packet{papRequest, m.nextAuthID(), b}
		m.sendAuth(now, &m.local)
	}
	switch m.remote.proto {
	case protoCHAP:
		m.challenge(now)
	case protoPAP:
		m.remote.deadline = now.Add(restartTime)
	}
	m.authDone(now)
}

func (m *machine) nextAuthID() byte {
	m.authID++
	return m.authID
}

// sendAuth sends the packet of an authentication, and sets the timer.
func (m *machine) sendAuth(now time.Time, a *auth) {
	a.tries++
	a.deadline = now.Add(restartTime)
	m.send(a.proto, a.packet)
}

// challenge sends a Challenge with a new value.
//
// RFC 1994 2.3: "Each challenge value SHOULD be unique", and "unpredictable".
func (m *machine) challenge(now time.Time) {
	value := make([]byte, 1+challengeLen)
	value[0] = challengeLen
	m.cfg.Rand(value[1:])
	m.remote.packet = packet{chapChallenge, m.nextAuthID(), append(value, m.ownName()...)}
	m.sendAuth(now, &m.remote)
}

// ownName is the name in our Challenges.
func (m *machine) ownName() string {
	if m.cfg.User != "" {
		return m.cfg.User
	}
	return "usernet"
}

// tickAuth repeats packets that were not answered. It terminates the link after maxAuthTries.
func (m *machine) tickAuth(now time.Time) {
	for _, a := range []*auth{&m.local, &m.remote} {
		if a.deadline.IsZero() || now.Before(a.deadline) {
			continue
		}
		a.deadline = time.Time{}
		switch {
		case a.tries >= maxAuthTries && a == &m.local:
			m.terminate(now, errors.New("the peer does not answer our authentication"))
		case a.tries >= maxAuthTries:
			m.terminate(now, errors.New("the peer does not authenticate itself"))
		case a.proto == protoPAP && a == &m.remote:
			a.tries++
			a.deadline = now.Add(restartTime) // in PAP, the peer repeats its request
		default:
			m.sendAuth(now, a)
		}
	}
}

// receivePAP handles a packet of PAP.
func (m *machine) receivePAP(now time.Time, p packet) {
	switch {
	case p.code == papRequest && m.remote.proto == protoPAP:
		m.checkPAP(now, p)
	case (p.code == papAck || p.code == papNak) && m.local.proto == protoPAP && !m.local.done && p.id == m.local.packet.id:
		var text []byte
		if len(p.data) > 0 {
			text = p.data[1:min(len(p.data), 1+int(p.data[0]))]
		}
		m.localResult(now, p.code == papAck, text)
	}
}

// checkPAP checks the password of the peer.
func (m *machine) checkPAP(now time.Time, p packet) {
	if m.remote.done {
		// RFC 1334 2.2.1: a repeated request gets the same reply, since the first reply may have been lost.
		m.remote.reply.id = p.id
		m.send(protoPAP, m.remote.reply)
		return
	}
	b := p.data
	name, b, ok := cutField(b)
	password, _, ok2 := cutField(b)
	if !ok || !ok2 {
		return
	}
	want, known := m.cfg.Authenticate(string(name))
	good := subtle.ConstantTimeCompare([]byte(want), password) == 1 && known
	m.remote.reply = packet{papNak, p.id, []byte{0}}
	if good {
		m.remote.reply.code = papAck
	}
	m.send(protoPAP, m.remote.reply)
	m.remoteResult(now, good, clip(name))
}

// cutField splits b after its first field. The first octet of b is the length of the field. It reports false if the
// field does not fit in b.
func cutField(b []byte) (field, rest []byte, ok bool) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return nil, nil, false
	}
	return b[1 : 1+int(b[0])], b[1+int(b[0]):], true
}

// receiveCHAP handles a packet of CHAP.
func (m *machine) receiveCHAP(now time.Time, p packet) {
	switch p.code {
	case chapChallenge:
		if m.local.proto == protoCHAP {
			m.respond(now, p)
		}
	case chapResponse:
		if m.remote.proto == protoCHAP {
			m.checkResponse(now, p)
		}
	case chapSuccess, chapFailure:
		if m.local.proto == protoCHAP && m.local.packet.code == chapResponse && p.id == m.local.packet.id {
			m.localResult(now, p.code == chapSuccess, p.data)
		}
	}
}

// respond answers a Challenge. The peer may send one at any time.
func (m *machine) respond(now time.Time, p packet) {
	value, _, ok := cutField(p.data)
	if !ok || len(value) == 0 {
		return
	}
	// RFC 1994 2.3: a peer that sends our own challenge back wants us to compute the answer to it.
	if own, _, ok := cutField(m.remote.packet.data); ok && m.remote.proto == protoCHAP && subtle.ConstantTimeCompare(own, value) == 1 {
		m.terminate(now, errors.New("the peer sends our own challenge back"))
		return
	}
	sum := chapSum(p.id, m.cfg.Password, value)
	m.local.packet = packet{chapResponse, p.id, append(append([]byte{byte(len(sum))}, sum...), m.cfg.User...)}
	m.local.tries = 0
	m.sendAuth(now, &m.local)
}

// chapSum computes a response.
//
// RFC 1994 4.1: "The Response Value is the one-way hash calculated over a stream of octets consisting of the
// Identifier, followed by (concatenated with) the 'secret', followed by (concatenated with) the Challenge
// Value."
func chapSum(id byte, secret string, value []byte) []byte {
	h := md5.New()
	h.Write([]byte{id})
	h.Write([]byte(secret))
	h.Write(value)
	return h.Sum(nil)
}

// checkResponse checks the peer's Response.
func (m *machine) checkResponse(now time.Time, p packet) {
	if p.id != m.remote.packet.id {
		return
	}
	if m.remote.done {
		// RFC 1994 4.1: "any Response packets received having the current Challenge Identifier MUST return
		// the same reply Code previously returned for that specific Challenge".
		m.send(protoCHAP, m.remote.reply)
		return
	}
	sum, name, ok := cutField(p.data)
	if !ok {
		return
	}
	value, _, _ := cutField(m.remote.packet.data)
	secret, known := m.cfg.Authenticate(string(name))
	good := hmac.Equal(sum, chapSum(p.id, secret, value)) && known
	m.remote.reply = packet{code: chapFailure, id: p.id}
	if good {
		m.remote.reply.code = chapSuccess
	}
	m.send(protoCHAP, m.remote.reply)
	m.remoteResult(now, good, clip(name))
}

// localResult handles the peer's decision about us.
func (m *machine) localResult(now time.Time, good bool, text []byte) {
	m.local.deadline = time.Time{}
	if !good {
		err := errors.New("the peer rejects our user name or password")
		if len(text) > 0 {
			err = fmt.Errorf("%w: %q", err, clip(text))
		}
		m.fatal = err
		m.terminate(now, err)
		return
	}
	if !m.local.done {
		m.local.done = true
		m.authDone(now)
	}
}

// remoteResult handles our decision about the peer.
func (m *machine) remoteResult(now time.Time, good bool, name string) {
	m.remote.deadline = time.Time{}
	if !good {
		m.terminate(now, fmt.Errorf("the user name or password of the peer, %q, is wrong", name))
		return
	}
	m.remote.done, m.remote.name = true, name
	m.authDone(now)
}

// authDone begins the network phase if all authentications have succeeded.
func (m *machine) authDone(now time.Time) {
	if m.lcp.state == opened && m.local.ok() && m.remote.ok() && !m.network {
		m.startNetwork(now)
	}
}
