package stack

import (
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// A crowdDevice is the device of a server at 192.0.2.1. It simulates many TCP clients at 192.0.2.2, each
// with its own port. Segments from the server wait in segs until answer is called.
type crowdDevice struct {
	t    testing.TB
	recv func([]nic.Frame)

	mu   sync.Mutex
	segs []crowdSegment
	out  [wire.EthernetLen + wire.IPv4Len + wire.TCPLen + 8]byte
}

// A crowdSegment has the fields of a segment from the server that a client needs.
type crowdSegment struct {
	port     uint16 // port of the client
	seq, ack uint32
	n        int
	flags    wire.TCPFlags
}

func (d *crowdDevice) Link() nic.Link {
	return nic.Link{Name: "crowd", Medium: nic.Ethernet, MTU: 1500, MAC: macA, Up: true}
}
func (d *crowdDevice) Attach(recv func([]nic.Frame)) { d.recv = recv }
func (d *crowdDevice) Close() error                  { return nil }
func (d *crowdDevice) Nonblocking() nic.Device       { return d }

func (d *crowdDevice) Send(batch []nic.Frame) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range batch {
		_, packet, _ := wire.ParseEthernet(batch[i].AppendTo(nil))
		ip, payload, _ := wire.ParseIPv4(packet)
		if ip.Proto != wire.ProtoTCP {
			continue
		}
		h, text, _ := wire.ParseTCP(payload)
		d.segs = append(d.segs, crowdSegment{h.DstPort, h.Seq, h.Ack, len(text), h.Flags})
	}
	return len(batch), nil
}

// take removes and returns the segments that the server has sent.
func (d *crowdDevice) take() []crowdSegment {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.segs
	d.segs = nil
	return s
}

// send sends a segment from a client's port to port 80 of the server.
func (d *crowdDevice) send(port uint16, h wire.TCP) { d.sendText(port, h, nil) }

func (d *crowdDevice) sendText(port uint16, h wire.TCP, text []byte) {
	h.SrcPort, h.DstPort = port, 80
	src, dst, n := addr("192.0.2.2"), addr("192.0.2.1"), h.Len()+len(text)
	b := d.out[:wire.EthernetLen+wire.IPv4Len+n]
	(&wire.Ethernet{Dst: macA, Src: macB, Type: wire.EtherTypeIPv4}).Put(b)
	(&wire.IPv4{TTL: 64, Proto: wire.ProtoTCP, Src: src, Dst: dst}).Put(b[wire.EthernetLen:], n)
	h.Put(b[wire.EthernetLen+wire.IPv4Len:])
	copy(b[len(b)-len(text):], text)
	wire.SetTCPChecksum(src, dst, b[wire.EthernetLen+wire.IPv4Len:])
	d.recv([]nic.Frame{{Head: b}})
}

// answer acknowledges the segments from the server with the given window, but not their data if the
// window is 0. It returns the number of data bytes.
func (d *crowdDevice) answer(window uint16) (text int) {
	for _, s := range d.take() {
		if s.flags&wire.FlagRST != 0 {
			continue // a RST is not acknowledged
		}
		next := s.seq
		if s.flags&wire.FlagSYN != 0 {
			next++
		} else if window > 0 {
			next += uint32(s.n)
			text += s.n
		}
		d.send(s.port, wire.TCP{Seq: s.ack, Ack: next, Flags: wire.FlagACK, Window: window})
	}
	return text
}

// syn opens a connection from a client's port.
func (d *crowdDevice) syn(port uint16) {
	d.send(port, wire.TCP{Seq: 1000, Flags: wire.FlagSYN, Window: 1000, MSS: 1460})
}

// crowdHost returns a server that writes one MiB to each client of port 80 and closes the connection. It
// resets the connection if the client does not receive all data within three seconds.
func crowdHost(t testing.TB, cfg TCPConfig) (*Stack, *crowdDevice) {
	d := &crowdDevice{t: t}
	s := newHost(t, d, "192.0.2.1/24", func(c *Config) {
		c.TCP = cfg
		c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
	})
	l, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	page := make([]byte, 1<<20)
	go func() {
		for {
			c, err := l.Accept()
			if err == net.ErrClosed {
				return
			}
			go func() {
				c.SetWriteDeadline(time.Now().Add(3 * time.Second))
				c.Write(page)
				c.Close()
			}()
		}
	}()
	return s, d
}

// connects opens a connection whose client reads all data, and requires that the server sends data at
// once.
func (d *crowdDevice) connects(t testing.TB, port uint16) {
	t.Helper()
	d.answer(0)
	d.syn(port)
	got := 0
	for range 5 { // the SYN,ACK and the data
		got += d.answer(65535)
		synctest.Wait()
	}
	require.Positive(t, got, "the server sends no data to the new client")
	d.send(port, wire.TCP{Seq: 1001, Flags: wire.FlagRST})
}

func TestZeroWindowClientsDoNotBlockNewClients(t *testing.T) {
	// RFC 6429 4: the operating system may close connections whose windows are closed.
	n, memory := 50_000, int64(0)
	if !full(t) {
		n, memory = 2000, 40<<20 // without a limit, n connections would use all of this memory
	}
	synctest.Test(t, func(t *testing.T) {
		s, d := crowdHost(t, TCPConfig{Memory: memory})
		port := uint16(2000)
		for i := range n {
			d.syn(port)
			d.answer(0)
			port++
			if i%(n/100) == 0 { // the clients come over ten seconds
				time.Sleep(100 * time.Millisecond)
				d.answer(0)
				d.connects(t, uint16(1000+i/(n/100)))
			}
		}
		most := int64(0)
		for i := range 4000 { // longer than an orphan may live with a closed window
			time.Sleep(100 * time.Millisecond)
			d.answer(0)
			most = max(most, s.Stats().TCP.Memory)
			if i%100 == 0 {
				d.connects(t, uint16(1200+i/100))
			}
		}
		require.Less(t, most, s.tcp.memory)
		st := s.Stats().TCP
		t.Logf("%d reset, at most %d MiB", st.OrphansReset, most>>20)
		require.Zero(t, st.Memory)
		require.Zero(t, st.Orphans)
		require.Zero(t, dropped(s, dropTCPMemory))
		require.Empty(t, s.tcp.table.sockets())
	})
}

func TestOrphansAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := crowdHost(t, TCPConfig{Orphans: 10})
		for i := range uint16(30) {
			d.syn(2000 + i)
			d.answer(0)
			time.Sleep(100 * time.Millisecond)
			d.answer(0)
		}
		for range 60 {
			time.Sleep(100 * time.Millisecond)
			d.answer(0)
		}
		st := s.Stats().TCP
		require.Equal(t, 10, st.Orphans)
		require.EqualValues(t, 20, st.OrphansReset)
		for _, c := range s.tcp.table.sockets() {
			require.GreaterOrEqual(t, c.RemoteAddr().Port(), uint16(2020), "the oldest orphans were reset")
		}
		time.Sleep(time.Hour)
		require.Zero(t, s.Stats().TCP.Orphans)
		require.Zero(t, s.Stats().TCP.Memory)
	})
}

// The RST of an excess orphan is transmitted at once, not with the next segment.
func TestAnExcessOrphanIsResetAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := crowdHost(t, TCPConfig{Orphans: 1})
		d.syn(2000)
		d.answer(0)
		time.Sleep(137 * time.Millisecond) // so that no timer is due when the second connection is closed
		d.syn(2001)
		d.answer(0)
		time.Sleep(2900 * time.Millisecond)
		d.take()
		require.Zero(t, s.Stats().TCP.OrphansReset)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 1, s.Stats().TCP.OrphansReset)
		var reset []uint16
		for _, seg := range d.take() {
			if seg.flags&wire.FlagRST != 0 {
				reset = append(reset, seg.port)
			}
		}
		require.Equal(t, []uint16{2000}, reset)
	})
}

func TestOnlyAStalledOrphanIsResetForItsMemory(t *testing.T) {
	for _, tc := range []struct {
		age         tcp.Time
		bytes, left int // unacknowledged when the connection was closed, and now
		want        bool
	}{
		{0, 1000, 1000, false},
		{stallAfter - 1, 1000, 1000, false},
		{stallAfter, 1000, 1000, true},
		{stallAfter, 30_000, 29_999, true}, // half a byte per second
		{10 * tcp.Second, 30_000, 25_000, false},
		{10 * tcp.Second, 30_000, 26_000, true}, // the rest needs 65 s
		{3600 * tcp.Second, 32 << 20, 1 << 20, true},
		{3600 * tcp.Second, 32 << 20, 1 << 19, false},
		{1 << 62, 1 << 30, 1<<30 - 1, true},
	} {
		require.Equal(t, tc.want, stalled(tc.age, tc.bytes, tc.left), "%+v", tc)
	}
}

func TestMemoryPressureDiscardsOutOfOrderData(t *testing.T) {
	// RFC 2018 8: the receiver may discard data that it has not acknowledged. In this test each client
	// sends one byte at the far end of its window, which makes the server allocate a ring of 64 KiB.
	synctest.Test(t, func(t *testing.T) {
		d := &crowdDevice{t: t}
		s := newHost(t, d, "192.0.2.1/24", func(c *Config) {
			c.TCP.Memory = 4 << 20
			c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
		})
		_, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		most := int64(0)
		for i := range uint16(100) {
			d.syn(2000 + i)
			for _, a := range d.take() {
				d.send(a.port, wire.TCP{Seq: a.ack, Ack: a.seq + 1, Flags: wire.FlagACK, Window: 1000})
				d.sendText(a.port, wire.TCP{Seq: a.ack + 60_000, Ack: a.seq + 1, Flags: wire.FlagACK, Window: 1000}, []byte("x"))
			}
			most = max(most, s.Stats().TCP.Memory)
		}
		require.GreaterOrEqual(t, most, int64(3<<20))
		time.Sleep(2 * time.Second)
		require.Zero(t, s.Stats().TCP.Memory)
	})
}

// While the whole budget is in use, a SYN causes the loss of out-of-order data, even of data that has just
// arrived. A flood of SYNs does so only once a second, because that takes a pass over all connections.
func TestOutOfOrderDataYieldsToANewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const memory = 256 << 10
		d := &crowdDevice{t: t}
		s := newHost(t, d, "192.0.2.1/24", func(c *Config) {
			c.TCP.Memory = memory
			c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
		})
		_, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		port := uint16(2000)
		// open sends the SYN of one more client, and returns the answers. There is none if the server has no
		// memory.
		open := func() []crowdSegment {
			synctest.Wait() // until timers that are due now have sent their segments
			d.take()
			port++
			d.syn(port)
			return d.take()
		}
		// fill opens connections whose clients leave out the first byte, until the whole budget is in use.
		fill := func() {
			for s.Stats().TCP.Memory < memory {
				require.Less(t, port, uint16(3000))
				answers := open()
				require.Len(t, answers, 1)
				h := wire.TCP{Seq: answers[0].ack, Ack: answers[0].seq + 1, Flags: wire.FlagACK, Window: 1000}
				d.send(port, h)
				h.Seq++
				d.sendText(port, h, []byte("x"))
			}
		}
		fill()
		require.Len(t, open(), 1)
		require.Zero(t, s.Stats().TCP.Memory)

		fill()
		require.Empty(t, open(), "the second time in a second")
		require.Equal(t, 1, dropped(s, dropTCPMemory))
		time.Sleep(time.Second)
		require.GreaterOrEqual(t, s.Stats().TCP.Memory, int64(memory), "nothing else has freed it")
		require.Len(t, open(), 1)
		require.Zero(t, s.Stats().TCP.Memory)
	})
}

// A flood of SYNs under memory pressure must not cost a walk over the orphans for each SYN.
func TestSYNsExamineEachOrphanOnceASecond(t *testing.T) {
	for _, n := range []int{1, 3, reclaimBatch + 36} {
		synctest.Test(t, func(t *testing.T) {
			s, d := crowdHost(t, TCPConfig{})
			for i := range uint16(n) {
				d.syn(2000 + i)
				d.answer(0)
			}
			synctest.Wait() // until the last SYN,ACK, which another goroutine may send
			d.answer(0)
			time.Sleep(4500 * time.Millisecond) // the server has closed the connections 1.5 s ago
			o := &s.tcp.orphans
			// order returns the clients of the orphans in the order of the list, and when each came to its place.
			order := func() (ports []uint16, at []tcp.Time) {
				o.mu.Lock()
				defer o.mu.Unlock()
				for i := o.slots[orphanData].next; i != orphanData; i = o.slots[i].next {
					ports = append(ports, o.slots[i].t.RemoteAddr().Port())
					at = append(at, o.slots[i].linkedAt)
				}
				return ports, at
			}
			before, _ := order()
			require.Len(t, before, n)
			pressure := s.tcp.memory / 4 * 3
			s.tcp.used.Add(pressure)
			defer s.tcp.used.Add(-pressure)
			for i := range uint16(10) {
				d.syn(5000 + i)
			}
			after, at := order()
			require.Equal(t, before, after, "none is stalled yet, and each was examined as often as the others")
			for _, at := range at {
				require.Equal(t, s.now(), at, "each was examined")
			}
			time.Sleep(time.Second)
			d.syn(6000)
			d.syn(6001)
			require.EqualValues(t, n, s.Stats().TCP.OrphansReset, "all are stalled")
		})
	}
}

// The segments of an orphan whose peer reads slowly take no lock that all connections share.
func TestAnOrphansSegmentsTakeNoSharedLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, nil)
		c, d := connect(t, a, b)
		require.NoError(t, c.SetWriteBuffer(600_000))
		require.NoError(t, d.SetReadBuffer(20_000))
		_, err := c.Write(make([]byte, 400_000))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, 1, a.tcp.orphans.stats())
		a.tcp.orphans.mu.Lock()
		elsewhere(func() {
			buf := make([]byte, 50_000)
			for range 3 { // leave some data, so that the orphan stays
				if _, err := io.ReadFull(d, buf); err != nil {
					t.Error(err)
				}
			}
		})
		a.tcp.orphans.mu.Unlock()
		rest, err := io.ReadAll(d)
		require.NoError(t, err)
		require.Len(t, rest, 250_000)
		require.NoError(t, d.Close())
		synctest.Wait()
		require.Zero(t, a.tcp.orphans.stats())
	})
}

// If there are too many orphans, an orphan of the longer list is reset. Therefore many orphans without
// data do not cause the reset of orphans with data, and vice versa.
func TestExcessOrphansAreThoseOfTheLongerList(t *testing.T) {
	for _, tc := range []struct{ data, fin, want int }{{2, 4, orphanFIN}, {4, 2, orphanData}, {0, 6, orphanFIN}, {6, 0, orphanData}} {
		o := orphans{limit: 5}
		for list, n := range [2]int{tc.data, tc.fin} {
			for range n {
				i := o.take()
				o.slots[i] = orphanSlot{t: new(TCP)}
				o.link(tcp.Time(i), i, uint8(list))
			}
		}
		got := o.excess()
		require.NotNil(t, got.t)
		require.EqualValues(t, tc.want, got.list, "%+v", tc)
		require.Equal(t, o.first(tc.want), got, "the oldest of them")
		o.limit++
		require.Nil(t, o.excess().t)
	}
}
