package guide

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/mdns"
	"github.com/usernet/usernet/nic"
)

// serveNothing is a name server that knows no names. With an SOA record in the authorities it says that this may be kept
// for a minute: the smaller of the record's time to live and its minimum (RFC 2308 5).
func serveNothing(pc net.PacketConn, soa bool, queries *int) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil {
			continue
		}
		*queries++
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RCode: dnsmessage.RCodeNameError},
			Questions: m.Questions,
		}
		if soa {
			zone := dnsmessage.MustNewName("example.")
			reply.Authorities = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: zone, Class: dnsmessage.ClassINET, TTL: 3600},
				Body: &dnsmessage.SOAResource{NS: zone, MBox: zone, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400,
					MinTTL: 60},
			}}
		}
		out, err := reply.Pack()
		if err != nil {
			return
		}
		pc.WriteTo(out, from)
	}
}

// Without SOA each lookup asks twice, with the letters in mixed case and as they are. With SOA the second lookup sends
// nothing, until a minute has passed.
func TestSolution12_1Absence(t *testing.T) {
	for soa, want := range map[bool][]int{false: {2, 4, 6}, true: {2, 2, 4}} {
		solution(t, func(t *testing.T) {
			left, right := lab.Wire()
			cfg := lab.Config(left, 1, "192.0.2.1/24")
			cfg.DNS = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:53")}
			client, err := usernet.New(cfg)
			require.NoError(t, err)
			server := lab.Host(right, 2, "192.0.2.2/24")
			pc, err := server.ListenPacket("udp", ":53")
			require.NoError(t, err)
			closeLater(t, client, pc, server)
			queries := 0
			go serveNothing(pc, soa, &queries)
			var after []int
			for _, pause := range []time.Duration{0, time.Second, time.Minute} {
				time.Sleep(pause)
				_, err := client.LookupNetIP(t.Context(), "ip4", "nowhere.example")
				var notFound *net.DNSError
				require.ErrorAs(t, err, &notFound)
				require.True(t, notFound.IsNotFound)
				synctest.Wait()
				after = append(after, queries)
			}
			require.Equal(t, want, after, "SOA: %t", soa)
		})
	}
}

// The server publishes its service under a name for people. The client finds the name, asks for the host and the port, and
// sends a datagram there.
func TestSolution12_2Service(t *testing.T) {
	solution(t, func(t *testing.T) {
		left, right := lab.Wire()
		cfg := lab.Config(left, 1, "192.0.2.1/24")
		cfg.MDNS = &usernet.MDNSConfig{}
		client, err := usernet.New(cfg)
		require.NoError(t, err)
		cfg = lab.Config(right, 2, "192.0.2.2/24")
		cfg.MDNS = &usernet.MDNSConfig{HostName: "parrot"}
		server, err := usernet.New(cfg)
		require.NoError(t, err)
		pc, err := server.ListenPacket("udp", ":7")
		require.NoError(t, err)
		go echoUDP(pc)
		published, err := server.Publish(usernet.MDNSService{Instance: "A parrot", Type: "_echo._udp", Port: 7})
		require.NoError(t, err)
		closeLater(t, published, pc, client, server)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var found *usernet.MDNSInstance
		client.Browse(ctx, "_echo._udp", func(e mdns.Event) {
			if instance, err := client.LookupInstance(ctx, e.Record.Target); err == nil {
				found = instance
				cancel()
			}
		})
		require.NotNil(t, found)
		require.True(t, strings.HasPrefix(found.Name, "A parrot."), found.Name)
		require.Equal(t, "parrot.local.", found.Host)
		var addr netip.Addr
		for _, a := range found.Addrs {
			if a.Is4() {
				addr = a
			}
		}
		c, err := client.Dial("udp", netip.AddrPortFrom(addr, found.Port).String())
		require.NoError(t, err)
		_, err = c.Write([]byte("hello"))
		require.NoError(t, err)
		buf := make([]byte, 10)
		n, err := c.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
	})
}

// seconds converts a timestamp of NTP to seconds since 1900 (RFC 5905 6).
func seconds(stamp uint64) float64 { return float64(stamp>>32) + float64(stamp&0xffffffff)/(1<<32) }

// stamp converts a time to a timestamp.
func stamp(t time.Time) uint64 {
	d := t.Sub(time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC))
	return uint64(d/time.Second)<<32 | uint64(d%time.Second)<<32/uint64(time.Second)
}

// The formula assumes that both ways take equally long. Its error is half of their difference, so it is at most half of
// the round trip: the shorter the round trip, the smaller the error can be (RFC 5905 10).
func TestSolution12_3BestOfFive(t *testing.T) {
	solution(t, func(t *testing.T) {
		a, b := pair(t, nic.Impairment{Latency: 20 * time.Millisecond, Jitter: 15 * time.Millisecond}, 1, nil)
		pc, err := b.ListenPacket("udp", "192.0.2.2:123")
		require.NoError(t, err)
		closeLater(t, pc)
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				reply := make([]byte, 48)
				reply[0], reply[1] = 4<<3|4, 1 // version 4, a server; stratum 1
				copy(reply[24:], buf[40:48])   // the client's transmit timestamp
				// The receive and the transmit timestamp of a clock that is a second fast.
				binary.BigEndian.PutUint64(reply[32:], stamp(time.Now().Add(time.Second)))
				binary.BigEndian.PutUint64(reply[40:], stamp(time.Now().Add(time.Second)))
				pc.WriteTo(reply, from)
			}
		}()
		c, err := a.Dial("udp", "192.0.2.2:123")
		require.NoError(t, err)
		best, offset := time.Hour, 0.0
		for range 5 {
			request := make([]byte, 48)
			request[0] = 4<<3 | 3 // version 4, a client
			sent := time.Now()
			binary.BigEndian.PutUint64(request[40:], stamp(sent))
			_, err := c.Write(request)
			require.NoError(t, err)
			reply := make([]byte, 48)
			_, err = c.Read(reply)
			require.NoError(t, err)
			t1, t4 := seconds(stamp(sent)), seconds(stamp(time.Now()))
			t2, t3 := seconds(binary.BigEndian.Uint64(reply[32:])), seconds(binary.BigEndian.Uint64(reply[40:]))
			roundTrip := time.Since(sent)
			this := ((t2 - t1) + (t3 - t4)) / 2
			require.InDelta(t, 1, this, roundTrip.Seconds()/2)
			if roundTrip < best {
				best, offset = roundTrip, this
			}
			time.Sleep(10 * time.Second)
		}
		require.InDelta(t, 1, offset, best.Seconds()/2)
	})
}
