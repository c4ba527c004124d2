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
	// local is the address from which the server knows the client cookie. RFC 9018 section 3: a client
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
// and the server cookie if there is one. random makes a new client cookie.
func (j *cookieJar) cookie(local netip.Addr, random func() uint64) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.valid || j.local != local {
		j.valid, j.local, j.server = true, local, nil
		binary.BigEndian.PutUint64(j.client[:], random())
	}
	return slices.Concat(j.client[:], j.server)
}

// learn stores the server cookie of a response to a query with the COOKIE option sent. An empty server
// cookie is ignored.
func (j *cookieJar) learn(sent, server []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	// The client cookie has changed since the query if the address of the host has changed.
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

// checkCookie checks the COOKIE option of a response to a query with the COOKIE option sent. It returns
// false if the response is forged or malformed. server is the server cookie in the response, or nil. sent is
// nil if the query had no COOKIE option.
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
