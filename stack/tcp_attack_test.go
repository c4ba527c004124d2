package stack

import (
	"bytes"
	"context"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// A forger is an attacker on a wire. It sends TCP segments with any source address.
type forger struct {
	dev   nic.Device
	frame [wire.EthernetLen + 1500]byte
	dst   wire.MAC
}

// send sends a segment with a correct checksum from src to dst.
func (f *forger) send(src, dst netip.Addr, h wire.TCP, payload []byte) {
	n := h.Len()
	b := f.frame[:]
	(&wire.Ethernet{Dst: f.dst, Src: wire.MAC{2, 0, 0, 0, 0, 9}, Type: wire.EtherTypeIPv4}).Put(b)
	(&wire.IPv4{TTL: 64, Proto: wire.ProtoTCP, Src: src, Dst: dst}).Put(b[wire.EthernetLen:], n+len(payload))
	seg := b[wire.EthernetLen+wire.IPv4Len:][:n]
	h.Put(seg)
	seg = append(seg, payload...)
	wire.SetTCPChecksum(src, dst, seg)
	frame := b[:wire.EthernetLen+wire.IPv4Len+len(seg)]
	f.dev.Send([]nic.Frame{{Head: frame}})
}

// floodPair returns a server, a client and a forger, which are connected by a switch.
func floodPair(t testing.TB, change ...func(*Config)) (server, client *Stack, f *forger) {
	sw := nic.NewSwitch(nic.SwitchConfig{})
	mk := func(a netip.Addr) *Stack {
		cfg := Config{NICs: []NIC{{Device: sw.Port(), Addrs: []netip.Prefix{netip.PrefixFrom(a, 24)}}}}
		for _, f := range change {
			f(&cfg)
		}
		s, err := New(cfg)
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	server, client = mk(addrA), mk(addrB)
	port := sw.Port()
	port.Attach(func([]nic.Frame) {})
	return server, client, &forger{dev: port, dst: server.Interfaces()[1].MAC}
}

func TestASynFloodLeavesRoomForARealClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in virtual time, so that no half-open connection ends because the machine is slow
		server, client, f := floodPair(t)
		l, err := server.ListenTCP(FamilyAny, netip.MustParseAddrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		n := flood(t)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			f.send(netip.AddrFrom4([4]byte{192, 0, 2, byte(3 + i%250)}), addrA, wire.TCP{
				SrcPort: uint16(1024 + i/250), DstPort: 80, Seq: uint32(i) * 7919, Flags: wire.FlagSYN,
				Window: 1000, MSS: 1460, SACKPermitted: true, HasTS: true, TSVal: uint32(i), HasWScale: true, WScale: 7,
			}, nil)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		// The queue has at most 1024 half-open connections. Each is a Conn of about 2 KiB.
		require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(16<<20))
		st := server.Stats().TCP
		require.Greater(t, st.CookiesSent, uint64(n-5000))

		c, err := client.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addrA, 80), TCPOptions{})
		require.NoError(t, err)
		require.Zero(t, c.Info().Retrans, "the first SYN was answered")
		accepted := make(chan *TCP, 1)
		go func() {
			d, _ := l.Accept()
			accepted <- d
		}()
		_, err = c.Write([]byte("x")) // the ACK that carries the cookie is already on its way
		require.NoError(t, err)
		d := <-accepted
		_, err = d.Read(make([]byte, 1))
		require.NoError(t, err)
		exchange(t, c, d, 1<<20)
		info := d.Info()
		require.True(t, info.SACK && info.Timestamps && info.WScale, "the cookie preserved the options: %+v", info)
		require.EqualValues(t, 1, server.Stats().TCP.CookiesTaken)
	})
}

func TestAForgedCookieOpensNothing(t *testing.T) {
	server, _, f := floodPair(t)
	l, err := server.ListenTCP(FamilyAny, netip.MustParseAddrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	l.overflowAt.Store(int64(server.now()))
	for i := range uint32(20_000) {
		f.send(addrB, addrA, wire.TCP{SrcPort: 5000, DstPort: 80, Seq: 77, Ack: i * 214013, Flags: wire.FlagACK, Window: 1000}, nil)
	}
	st := server.Stats().TCP
	require.EqualValues(t, 20_000, st.CookiesBad)
	require.Zero(t, st.CookiesTaken)
	require.Empty(t, server.tcp.table.sockets())
}

func TestBlindResetsAndDataDoNotBreakAConnection(t *testing.T) {
	for name, timestamps := range map[string]bool{"with timestamps": true, "without": false} {
		t.Run(name, func(t *testing.T) { testBlindAttack(t, timestamps) })
	}
}

func testBlindAttack(t *testing.T, timestamps bool) {
	server, client, f := floodPair(t, func(c *Config) {
		p := tcp.DefaultParams()
		p.NoTimestamps = !timestamps
		c.TCP.Params = &p
	})
	c, d := connect(t, client, server)
	talk := func(from, to *TCP) {
		sent, got := bytes.Repeat([]byte("real text "), 10), make([]byte, 100)
		_, err := from.Write(sent)
		require.NoError(t, err)
		for n := 0; n < len(got); {
			k, err := to.Read(got[n:])
			require.NoError(t, err)
			n += k
		}
		require.Equal(t, sent, got)
	}
	talk(c, d)
	talk(d, c)
	n := flood(t)
	// The attacker knows addresses and ports, and guesses the sequence numbers. Its RSTs never have
	// exactly the next sequence number, and its data never has an acceptable acknowledgement number.
	dState, cState := d.conn.Waiter(d.s.now()), c.conn.Waiter(c.s.now())
	nxt, acked, junk := uint32(dState.RcvNxt()), uint32(cState.RcvNxt()), bytes.Repeat([]byte("junk"), 350)
	guess := func(i int, seq uint32) {
		h := wire.TCP{
			SrcPort: c.LocalAddr().Port(), DstPort: d.LocalAddr().Port(),
			Seq: seq, Ack: uint32(i) * 7919, Window: 100, HasTS: i&8 != 0, TSVal: uint32(i) << 12,
		}
		if before := int32(acked - h.Ack); before >= 0 && before < 1<<26 {
			return
		}
		var text []byte
		switch i % 5 {
		case 0:
			h.Flags = wire.FlagRST
			if seq == nxt {
				return
			}
		case 1:
			h.Flags = wire.FlagSYN
		case 2:
			h.Flags, text = wire.FlagACK, junk
		case 3:
			h.Flags, text = 0, junk
		case 4:
			h.Flags = wire.FlagACK | wire.FlagFIN
		}
		f.send(addrB, addrA, h, text)
	}
	for i := range n / 2 {
		guess(i, uint32(i)*8588+12345) // in the whole sequence space
	}
	for i := range n / 2 {
		guess(i, nxt-2000+uint32(13*i)%70_001) // near the window, as if the attacker knew it roughly
	}
	talk(d, c)
	talk(c, d)
	exchange(t, d, c, 100_000)
	exchange(t, c, d, 100_000)
}

// Each connection whose application does not read holds at most its window, and all of them together hold
// no more than the memory budget. Other connections make progress.
func TestBuffersStayInTheMemoryBudget(t *testing.T) {
	x, y := nic.Pipe(nic.PipeConfig{})
	mk := func(dev nic.Device, a netip.Addr) *Stack {
		s, err := New(Config{
			NICs: []NIC{{Device: dev, Addrs: []netip.Prefix{netip.PrefixFrom(a, 24)}}},
			TCP:  TCPConfig{Memory: 4 << 20},
		})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	a, b := mk(x, addrA), mk(y, addrB)
	var readers []*TCP
	for range 60 {
		c, d := connect(t, a, b)
		_, err := c.Write(make([]byte, 1000)) // the budget must also hold when the connection writes again
		require.NoError(t, err)
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		for {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				break
			}
		}
		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		readers = append(readers, d)
		// The limit is above the budget, because a ring may double once more after the last check.
		require.LessOrEqual(t, a.Stats().TCP.Memory, int64(6<<20))
		require.LessOrEqual(t, b.Stats().TCP.Memory, int64(6<<20))
	}
	c, d := connect(t, a, b)
	exchange(t, c, d, 300_000)
	for _, d := range readers {
		require.NoError(t, d.SetReadDeadline(time.Now().Add(5*time.Second)))
		_, err := d.Read(make([]byte, 1000))
		require.NoError(t, err)
		d.Close()
	}
}
