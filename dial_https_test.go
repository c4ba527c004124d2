package usernet

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet/resolve"
)

// serveRecords answers questions with the records of names. For each question about HTTPS records, serveRecords
// calls asked, and answers after the time that delay returns.
func serveRecords(pc net.PacketConn, records map[string][]dnsmessage.ResourceBody, delay func() time.Duration, asked func()) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RecursionDesired: true},
			Questions: m.Questions,
		}
		for _, body := range records[q.Name.String()] {
			var typ dnsmessage.Type
			switch body.(type) {
			case *dnsmessage.AResource:
				typ = dnsmessage.TypeA
			case *dnsmessage.HTTPSResource:
				typ = dnsmessage.TypeHTTPS
			}
			if typ == q.Type {
				reply.Answers = append(reply.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}, Body: body})
			}
		}
		out, err := reply.Pack()
		if err != nil {
			continue
		}
		if q.Type != dnsmessage.TypeHTTPS {
			pc.WriteTo(out, from)
			continue
		}
		asked()
		time.AfterFunc(delay(), func() { pc.WriteTo(out, from) })
	}
}

func httpsRecord(priority uint16, target string, params ...dnsmessage.SVCParam) dnsmessage.ResourceBody {
	return &dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{Priority: priority, Target: dnsmessage.MustNewName(target), Params: params}}
}

func TestADialUsesHTTPSRecordsOnlyByChoice(t *testing.T) {
	a := func(s string) dnsmessage.ResourceBody { return &dnsmessage.AResource{A: netip.MustParseAddr(s).As4()} }
	port := dnsmessage.SVCParam{Key: dnsmessage.SVCParamPort, Value: []byte{0x20, 0xfb}} // 8443
	alpn := func(id string) dnsmessage.SVCParam {
		return dnsmessage.SVCParam{Key: dnsmessage.SVCParamALPN, Value: append([]byte{byte(len(id))}, id...)}
	}
	// The priority 0 makes a record an alias (RFC 9460 2.4.2).
	records := map[string][]dnsmessage.ResourceBody{
		"alias.test.":  {a("127.0.0.9"), httpsRecord(0, "web.test.")},
		"bare.test.":   {a("127.0.0.9"), httpsRecord(0, "other.test.")},
		"web.test.":    {a("127.0.0.2"), httpsRecord(1, ".", port)},
		"dead.test.":   {a("127.0.0.2"), httpsRecord(1, "other.test.", port)},
		"hinted.test.": {a("127.0.0.2"), httpsRecord(1, "nowhere.test.", dnsmessage.SVCParam{Key: dnsmessage.SVCParamIPv4Hint, Value: []byte{127, 0, 0, 3}})},
		"quic.test.":   {a("127.0.0.2"), httpsRecord(1, "other.test.", alpn("h3"), dnsmessage.SVCParam{Key: dnsmessage.SVCParamNoDefaultALPN})},
		"http2.test.":  {a("127.0.0.2"), httpsRecord(1, "other.test.", alpn("h2"), dnsmessage.SVCParam{Key: dnsmessage.SVCParamNoDefaultALPN})},
		"six.test.":    {httpsRecord(0, "other.test.")},
		"other.test.":  {a("127.0.0.3")},
		"none.test.":   {a("127.0.0.2")},
	}
	for _, https := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			h, err := New(Config{DNS: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, Resolver: resolve.Config{HTTPS: https, Rand: func() uint64 { return 0 }}})
			require.NoError(t, err)
			defer h.Close()
			pc, err := h.ListenPacket("udp", "127.0.0.1:53")
			require.NoError(t, err)
			defer pc.Close()
			var mu sync.Mutex
			delay, asked := time.Duration(0), 0
			go serveRecords(pc, records, func() time.Duration { mu.Lock(); defer mu.Unlock(); return delay },
				func() { mu.Lock(); asked++; mu.Unlock() })
			for _, addr := range []string{"127.0.0.2:443", "127.0.0.2:8443", "127.0.0.3:443", "127.0.0.9:443", "127.0.0.2:80"} {
				ln, err := h.Listen("tcp", addr)
				require.NoError(t, err)
				defer ln.Close()
			}
			dial := func(address string) string {
				t.Helper()
				c, err := h.Dial("tcp", address)
				if err != nil {
					return err.Error()
				}
				defer c.Close()
				return c.RemoteAddr().String()
			}
			if !https {
				require.Equal(t, "127.0.0.2:443", dial("web.test:443"))
				require.Equal(t, "127.0.0.9:443", dial("bare.test:https"))
				require.Zero(t, asked, "by default a dial sends A and AAAA queries only, as net's does")
				return
			}
			require.Equal(t, "127.0.0.2:8443", dial("web.test:443"))
			require.Equal(t, "127.0.0.2:8443", dial("alias.test:https"))
			require.Equal(t, "127.0.0.3:443", dial("bare.test:443"))
			require.Equal(t, "127.0.0.2:443", dial("dead.test:443"), "port 8443 of the endpoint is closed")
			require.Equal(t, "127.0.0.3:443", dial("hinted.test:443"))
			require.Equal(t, "127.0.0.2:443", dial("quic.test:443"), "the endpoint has only QUIC")
			require.Equal(t, "127.0.0.3:443", dial("http2.test:443"))
			require.Equal(t, "127.0.0.3:443", dial("six.test:443"))
			require.Equal(t, "127.0.0.2:443", dial("none.test:443"))
			require.Contains(t, dial("nowhere.test:443"), "no such host")
			n := asked
			require.Equal(t, "127.0.0.2:80", dial("web.test:80"))
			require.Equal(t, "127.0.0.2:443", dial("127.0.0.2:443"))
			require.Equal(t, n, asked, "only port 443 has HTTPS records")

			mu.Lock()
			delay = time.Second
			mu.Unlock()
			// The new resolver has an empty cache.
			h.resolver = h.newResolver(&Config{DNS: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, Resolver: resolve.Config{Rand: func() uint64 { return 0 }}})
			start := time.Now()
			require.Equal(t, "127.0.0.9:443", dial("bare.test:443"))
			require.Equal(t, httpsDelay, time.Since(start), "the addresses are known, and the records are late")
		})
	}
}

// The HTTPS record names another endpoint, and the name server never answers about that endpoint. The dial has
// the addresses of the name itself, so it does not wait for the endpoint until the resolver gives up after ten
// seconds.
func TestADialDoesNotWaitLongForAnEndpoint(t *testing.T) {
	a := func(s string) dnsmessage.ResourceBody { return &dnsmessage.AResource{A: netip.MustParseAddr(s).As4()} }
	for _, alias := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			priority := uint16(1)
			if alias {
				priority = 0
			}
			h, err := New(Config{DNS: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, Resolver: resolve.Config{HTTPS: true}})
			require.NoError(t, err)
			defer h.Close()
			pc, err := h.ListenPacket("udp", "127.0.0.1:53")
			require.NoError(t, err)
			defer pc.Close()
			go serveRecords(silentAbout{pc, "other"}, map[string][]dnsmessage.ResourceBody{
				"web.test.": {a("127.0.0.2"), httpsRecord(priority, "other.test.")},
			}, func() time.Duration { return 0 }, func() {})
			ln, err := h.Listen("tcp", "127.0.0.2:443")
			require.NoError(t, err)
			defer ln.Close()
			start := time.Now()
			c, err := h.Dial("tcp", "web.test:443")
			require.NoError(t, err)
			defer c.Close()
			require.Equal(t, "127.0.0.2:443", c.RemoteAddr().String())
			require.LessOrEqual(t, time.Since(start), time.Second+httpsDelay)
		})
	}
}

// silentAbout drops queries about names whose first label begins with label.
type silentAbout struct {
	net.PacketConn
	label string
}

func (s silentAbout) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	for {
		n, from, err = s.PacketConn.ReadFrom(b)
		// The first label follows the header of 12 bytes and its own length.
		if err != nil || n < 13+len(s.label) || !strings.EqualFold(string(b[13:13+len(s.label)]), s.label) {
			return n, from, err
		}
	}
}
