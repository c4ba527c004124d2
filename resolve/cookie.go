package resolve

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	optionCookie  = 10 // RFC 7873 section 8
	optionPadding = 12 // RFC 7830 section 6

	rcodeBadCookie dnsmessage.RCode = 23 // RFC 7873 section 8

	clientCookieLen    = 8
	minServerCookieLen = 8
	maxServerCookieLen = 32
)

// A cookieJar keeps the DNS cookies of one server (RFC 7873). The zero value is ready for use.
type cookieJar struct {
	mu sync.Mutex
	// local is the address of the host from which the client cookie is sent. RFC 9018 section 3: a client
	// must not use one Client Cookie with different addresses of its own, because servers could then
	// recognize the client.
	local  netip.Addr
	client [clientCookieLen]byte
	server []byte // never modified; nil if the server has sent none
	valid  bool   // whether client is set
}

// known reports whether the server has sent a cookie.
func (j *cookieJar) known() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.server) > 0
}

// cookie returns the value of the COOKIE option of a query that is sent from local: the client cookie,
// and the server cookie if there is one. random supplies the first client cookie, and a new one after local
// has changed.
func (j *cookieJar) cookie(local netip.Addr, random func() uint64) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.valid || j.local != local {
		j.valid, j.local, j.server = true, local, nil
		binary.BigEndian.PutUint64(j.client[:], random())
	}
	return slices.Concat(j.client[:], j.server)
}

// learn stores server, the server cookie of a response. sent is the value of the COOKIE option of the query.
// learn ignores an empty server cookie.
func (j *cookieJar) learn(sent, server []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	// If the address of the host has changed since the query, the client cookie has changed too.
	if len(server) > 0 && j.valid && bytes.Equal(j.client[:], sent[:clientCookieLen]) {
		j.server = server
	}
}

// forget removes the server cookie, after the server has answered without one.
func (j *cookieJar) forget() {
	j.mu.Lock()
	j.server = nil
	j.mu.Unlock()
}

// localAddr returns the local address of a connection, or the zero Addr if it is not an IP address.
func localAddr(c net.Conn) netip.Addr {
	switch a := c.LocalAddr().(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// checkCookie checks the COOKIE option of a response. sent is the value of the COOKIE option of the query,
// or nil if the query had none. checkCookie returns false if the response is forged or malformed. server is
// the server cookie in the response, or nil.
func (rep *reply) checkCookie(sent []byte) (server []byte, ok bool) {
	if sent == nil || !rep.hasCookie {
		return nil, true
	}
	// RFC 7873 section 5.3: a client "MUST discard the response if it contains an illegal COOKIE option
	// length or an incorrect Client Cookie value."
	n := len(rep.cookie) - clientCookieLen
	if n != 0 && (n < minServerCookieLen || n > maxServerCookieLen) || !bytes.HasPrefix(rep.cookie, sent[:clientCookieLen]) {
		return nil, false
	}
	return rep.cookie[clientCookieLen:], true
}
