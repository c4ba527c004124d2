package ppp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// This file is the discovery of a PPPoE server, the access concentrator (RFC 2516 5).

// cookieLen is the length in bytes of an AC-Cookie: a number of 8 bytes and a hash.
const cookieLen = 24

// pppoeServer is the discovery of a server. It has no clock and does no I/O. It keeps no state for a client without
// a session.
type pppoeServer struct {
	mac      [6]byte
	name     string   // AC-Name
	services []string // offered; if empty, only a request for any service is served
	payload  int      // the largest packet, at least 1492
	limit    int      // of sessions
	secret   []byte   // the key of the AC-Cookies
	offers   uint64   // PADOs sent

	sessions map[uint16]*pppoeSession
	lastID   uint16
}

// A pppoeSession is a session of a client.
type pppoeSession struct {
	id      uint16
	client  [6]byte
	service string
	mtu     int
	cookie  []byte // AC-Cookie of the PADR
	uniq    []byte // Host-Uniq of the PADR; empty if there was none
	pads    []byte // the answer to the PADR
}

// maxUniq is the maximum length in bytes of a Host-Uniq or a Relay-Session-Id. receive drops a packet with a longer
// one.
const maxUniq = 256

// receive handles a discovery packet and returns the frame to send, if any. If the packet begins a session, begun
// is that session. The caller then opens the session, or it deletes the session and sends a reply of its own. If the
// packet ends a session, ended is that session.
func (s *pppoeServer) receive(d *discovery) (reply []byte, begun, ended *pppoeSession) {
	if d.src[0]&1 != 0 || d.dst != s.mac && (d.code != codePADI || d.dst != broadcastMAC) {
		return nil, nil, nil
	}
	if d.code == codePADT {
		if x := s.sessions[d.session]; x != nil && x.client == d.src && d.dst == s.mac {
			delete(s.sessions, x.id)
			return nil, nil, x
		}
		return nil, nil, nil
	}
	service, ok := d.find(tagServiceName)
	if !ok || d.session != 0 {
		return nil, nil, nil
	}
	var repeat []tag
	for _, kind := range []uint16{tagHostUniq, tagRelaySessionID} {
		if v, ok := d.find(kind); ok {
			if len(v) > maxUniq {
				return nil, nil, nil
			}
			repeat = append(repeat, tag{kind, v})
		}
	}
	offered := slices.Contains(s.services, string(service)) || len(service) == 0
	switch d.code {
	case codePADI:
		// RFC 2516 5.2: a concentrator that cannot serve the request "MUST NOT respond with a PADO".
		if offered && len(s.sessions) < s.limit {
			return s.offer(d, repeat), nil, nil
		}
	case codePADR:
		cookie, _ := d.find(tagACCookie)
		if len(cookie) != cookieLen || !hmac.Equal(cookie, s.cookie(d.src, binary.BigEndian.Uint64(cookie))) {
			return nil, nil, nil // not an answer to a PADO of ours
		}
		if !offered {
			return s.answer(d, codePADS, 0, append([]tag{{tagServiceNameError, nil}}, repeat...)), nil, nil
		}
		reply, begun = s.confirm(d, cookie, string(service), repeat)
		return reply, begun, nil
	}
	return nil, nil, nil
}

// cookie returns the AC-Cookie of the nth offer, which goes to client. A client that sends the cookie back proves
// that it receives the frames for its address. The cookies of two offers differ, so PADRs with the same cookie answer
// the same offer.
func (s *pppoeServer) cookie(client [6]byte, n uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, n)
	h := hmac.New(sha256.New, s.secret)
	h.Write(client[:])
	h.Write(b)
	return h.Sum(b)[:cookieLen]
}

func (s *pppoeServer) answer(d *discovery, code byte, session uint16, tags []tag) []byte {
	a := discovery{dst: d.src, src: s.mac, code: code, session: session, tags: tags}
	return a.append(nil)
}

// offer returns a PADO.
//
// RFC 2516 5.2: "The PADO packet MUST contain one AC-Name TAG containing the Access Concentrator's name, a
// Service-Name TAG identical to the one in the PADI, and any number of other Service-Name TAGs".
func (s *pppoeServer) offer(d *discovery, repeat []tag) []byte {
	asked, _ := d.find(tagServiceName)
	tags := []tag{{tagACName, []byte(s.name)}, {tagServiceName, asked}}
	for _, name := range s.services {
		if name != string(asked) {
			tags = append(tags, tag{tagServiceName, []byte(name)})
		}
	}
	s.offers++
	tags = append(append(tags, tag{tagACCookie, s.cookie(d.src, s.offers)}), repeat...)
	return s.answer(d, codePADO, 0, s.withPayload(d, tags))
}

// withPayload appends the PPP-Max-Payload tag (RFC 4638 4) if the client has sent one and the agreed packet is
// larger than 1492 bytes.
func (s *pppoeServer) withPayload(d *discovery, tags []tag) []tag {
	if n := s.agreed(d); n > pppoeMTU {
		return append(tags, tag{tagMaxPayload, binary.BigEndian.AppendUint16(nil, uint16(n))})
	}
	return tags
}

// agreed returns the largest packet of the session that d asks for.
func (s *pppoeServer) agreed(d *discovery) int {
	if v, ok := d.find(tagMaxPayload); ok && len(v) == 2 {
		return max(pppoeMTU, min(s.payload, int(binary.BigEndian.Uint16(v))))
	}
	return pppoeMTU
}

// confirm handles a PADR. If a session of the client was begun by a PADR with the same cookie and Host-Uniq, the PADR
// is a repetition, and confirm returns the PADS of that session again.
func (s *pppoeServer) confirm(d *discovery, cookie []byte, service string, repeat []tag) (reply []byte, begun *pppoeSession) {
	uniq, _ := d.find(tagHostUniq)
	for _, x := range s.sessions {
		if x.client == d.src && bytes.Equal(x.cookie, cookie) && bytes.Equal(x.uniq, uniq) {
			return x.pads, nil
		}
	}
	id := s.freeID()
	if id == 0 {
		return s.systemError(d, "no session is free"), nil
	}
	x := &pppoeSession{
		id: id, client: d.src, service: service, mtu: s.agreed(d), cookie: bytes.Clone(cookie), uniq: bytes.Clone(uniq),
	}
	tags := append([]tag{{tagServiceName, []byte(service)}}, repeat...)
	x.pads = s.answer(d, codePADS, id, s.withPayload(d, tags))
	s.sessions[id] = x
	return x.pads, x
}

// systemError returns a PADS that refuses a session.
func (s *pppoeServer) systemError(d *discovery, text string) []byte {
	tags := []tag{{tagACSystemError, []byte(text)}}
	// RFC 2516 appendix A: a host that receives a Relay-Session-Id "MUST return the TAG unmodified". The relay sends
	// the PADS to the client by it.
	for _, kind := range []uint16{tagHostUniq, tagRelaySessionID} {
		if v, ok := d.find(kind); ok {
			tags = append(tags, tag{kind, v})
		}
	}
	return s.answer(d, codePADS, 0, tags)
}

// freeID returns an identifier for a new session, or 0 if there are already s.limit sessions.
func (s *pppoeServer) freeID() uint16 {
	if len(s.sessions) >= s.limit {
		return 0
	}
	for {
		if s.lastID++; s.lastID == reservedSession {
			s.lastID = 0
		}
		if s.lastID != 0 && s.sessions[s.lastID] == nil {
			return s.lastID
		}
	}
}
