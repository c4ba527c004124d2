package tcp

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// testBlocks makes Blocks that are overwritten when their last use ends.
type testBlocks struct {
	t            *testing.T
	made, freed  int
	bytes, extra int // sizes of the Blocks that the test and the Conn have made
}

func (m *testBlocks) make(n int) (*Block, []byte) {
	b, mem := &Block{Uses: 1}, make([]byte, n)
	m.made++
	b.Done = func() {
		b.Uses--
		require.GreaterOrEqual(m.t, b.Uses, int32(0), "a use ends once")
		if b.Uses == 0 {
			m.freed++
			for i := range mem {
				mem[i] = 0xee
			}
		}
	}
	return b, mem
}

// blockSender gives the same bytes to two Conns: a copies them, and b sends them from where they are. a may be nil.
type blockSender struct {
	m    *testBlocks
	r    *rand.Rand
	a, b *Conn
	want []byte
	most int // the maximum size of a Block

	block  *Block // the Block that the test fills, and its unused memory
	free   []byte
	pinned []byte // the argument of Pin
	left   []byte // the part that Pin has not accepted
}

func (s *blockSender) fill(p []byte) {
	for i := range p {
		p[i] = byte(s.r.Uint32())
	}
}

// sent notes that b has accepted the first n bytes of p, and has a copy the same bytes.
func (s *blockSender) sent(now Time, p []byte, n int) {
	if s.a != nil {
		require.Equal(s.m.t, s.a.Write(now, p), n)
	}
	s.want = append(s.want, p[:n]...)
}

// step makes one call on each Conn.
func (s *blockSender) step(now Time) {
	switch k := s.r.IntN(5); {
	case k == 0 && len(s.left) > 0:
		n := s.b.Pin(now, s.left)
		s.sent(now, s.left, n)
		s.left = s.left[n:]
	case k == 1 || s.pinned != nil:
		s.b.Unpin()
		s.fill(s.pinned)
		s.pinned, s.left = nil, nil
	case k == 2:
		s.pinned = make([]byte, 1+s.r.IntN(20_000))
		s.fill(s.pinned)
		n := s.b.Pin(now, s.pinned)
		s.sent(now, s.pinned, n)
		s.left = s.pinned[n:]
	case k == 3:
		p := make([]byte, 1+s.r.IntN([]int{20, 3000}[s.r.IntN(2)]))
		s.fill(p)
		s.sent(now, p, s.b.Write(now, p))
	default:
		if len(s.free) == 0 || s.r.IntN(8) == 0 {
			s.drop()
			n := 1 + s.r.IntN(s.most)
			s.block, s.free = s.m.make(n)
			s.m.bytes += n
		}
		p := s.free[:1+s.r.IntN(len(s.free))]
		s.fill(p)
		n, used := s.b.WriteBlock(now, s.block, p)
		if used {
			s.block.Uses++
		}
		s.sent(now, p, n)
		s.free = s.free[n:]
	}
}

// drop ends the test's use of its Block.
func (s *blockSender) drop() {
	if s.block != nil {
		s.block.Done()
	}
	s.block, s.free = nil, nil
}

func TestBlocksAreSentLikeWrittenBytes(t *testing.T) {
	// Conns a and b get the same bytes, which a copies and b sends from Blocks, from pinned bytes and from
	// copies that follow them. Without super-segments all their segments must be equal to the byte. With
	// super-segments b may cut them at the ends of Blocks, so only the stream must be equal.
	carried, joined3 := 0, 0
	for seed := range sampled(80) {
		gso := seed%2 == 1
		m := &testBlocks{t: t}
		r := rand.New(rand.NewPCG(seed, 15))
		p := DefaultParams()
		var pool poison
		p.Alloc, p.Free = pool.alloc, pool.free
		p.SendBuffer, p.SendBufferMax = 60_000, 60_000
		mss := []int{536, 1460, 9000}[seed%3]
		cfg := Config{Params: &p, ISS: 0xffff8000, MSS: mss, NoDelay: seed%4 > 0}
		if gso {
			cfg.GSO = 65_000
		}
		q := p
		q.NewBlock = func(n int) (*Block, []byte) {
			m.extra += n
			return m.make(n)
		}
		cfgB := cfg
		cfgB.Params = &q
		var a, b, peer Conn
		now := Time(1)
		a.Open(now, cfg)
		b.Open(now, cfgB)
		var s, s2 Segment
		require.True(t, a.Next(now, &s) && b.Next(now, &s2))
		peer.Accept(now, cfg, &s)
		sender := &blockSender{m: m, r: r, a: &a, b: &b, most: []int{100, 4096, 40_000}[r.IntN(3)]}
		if gso {
			sender.a = nil
		}
		var got []byte
		buf := make([]byte, 1<<16)
		lossy := func() bool { return r.IntN(20) > 0 }
		for range 1500 {
			now += Time(r.IntN(int(3 * Millisecond)))
			switch r.IntN(5) {
			case 0, 1, 2:
				sender.step(now)
			case 3:
				got = append(got, buf[:peer.Read(now, buf)]...)
			case 4:
				for _, c := range []*Conn{&a, &b, &peer} {
					if d, ok := c.Deadline(); ok && d <= now {
						c.Tick(now)
					}
				}
			}
			for b.Next(now, &s2) {
				if s2.Payload3 != nil {
					joined3++
				}
				in := joined(&s2)
				if !gso {
					require.True(t, a.Next(now, &s), "seed %d", seed)
					requireSame(t, &s, &s2, seed)
				}
				if lossy() {
					peer.Segment(now, &in)
				}
			}
			if !gso {
				require.False(t, a.Next(now, &s), "seed %d", seed)
				require.Equal(t, a.Events(), b.Events())
				require.Equal(t, a.Unacked(), b.Unacked())
			}
			for peer.Next(now, &s) {
				if lossy() {
					in := joined(&s)
					if !gso {
						a.Segment(now, &in)
						in = joined(&s)
					}
					b.Segment(now, &in)
				}
			}
		}
		require.True(t, bytes.HasPrefix(sender.want, got), "seed %d", seed)
		carried += len(got)
		sender.b.Unpin()
		sender.drop()
		b.Abort(now)
		require.Zero(t, b.Unacked())
		require.Equal(t, m.made, m.freed, "all Blocks are free at the end (seed %d)", seed)
	}
	require.Greater(t, uint64(carried), sampled(5_000_000), "the test must transfer data")
	require.NotZero(t, joined3)
}

// blockPair returns a connected pair whose first Conn may send 1 MiB at once.
func blockPair(t *testing.T, gso int) (c, peer *Conn, now Time) {
	p := DefaultParams()
	p.SendBuffer, p.SendBufferMax, p.RecvBuffer = 1<<20, 1<<20, 1<<20
	cfg := Config{Params: &p, MSS: 1448, GSO: gso, NoDelay: true}
	c, peer, now = new(Conn), new(Conn), Second
	c.Open(now, cfg)
	var s Segment
	require.True(t, c.Next(now, &s))
	peer.Accept(now, cfg, &s)
	pump(c, peer, now)
	require.Equal(t, Established, peer.State())
	c.SetSendLimit(1 << 20)
	return c, peer, now
}

// pump exchanges segments until both sides have no more to send.
func pump(a, b *Conn, now Time) {
	for more := true; more; {
		more = false
		for range 2 {
			var s Segment
			for a.Next(now, &s) {
				in := joined(&s)
				b.Segment(now, &in)
				more = true
			}
			a, b = b, a
		}
	}
}

func TestBlocksAreFreedByAcknowledgements(t *testing.T) {
	m := &testBlocks{t: t}
	c, peer, now := blockPair(t, 0)
	b, mem := m.make(8000)
	for off := 0; off < 8000; off += 1000 { // the parts of one Block are one use
		n, used := c.WriteBlock(now, b, mem[off:off+1000])
		require.Equal(t, 1000, n)
		require.Equal(t, off == 0, used)
		if used {
			b.Uses++
		}
	}
	b.Done()
	require.Equal(t, 8000, c.Unacked())
	require.Zero(t, m.freed)
	for range 20 {
		now += 50 * Millisecond
		for _, c := range []*Conn{c, peer} {
			if d, ok := c.Deadline(); ok && d <= now {
				c.Tick(now)
			}
		}
		pump(c, peer, now)
	}
	require.Zero(t, c.Unacked())
	require.Equal(t, 1, m.freed)
	require.Equal(t, 8000, peer.Readable())
}

// A frame can refer to one Block. Of each super-segment, all bytes but less than one segment are in one Block.
func TestASuperSegmentRefersToOneBlock(t *testing.T) {
	m := &testBlocks{t: t}
	c, _, now := blockPair(t, 64_000)
	c.cc.cwnd, c.snd.wnd = 1<<20, 1<<20
	for range 6 {
		b, mem := m.make(64 << 10)
		n, used := c.WriteBlock(now, b, mem)
		require.Equal(t, 64<<10, n)
		require.True(t, used)
		b.Uses++
	}
	var s Segment
	segs, bytes := 0, 0
	for c.Next(now, &s) {
		segs++
		bytes += s.DataLen()
		require.Less(t, len(s.Payload)+len(s.Payload2)+len(s.Payload3), 1448)
		require.NotNil(t, s.Block)
	}
	require.Equal(t, 6*64<<10, bytes)
	require.LessOrEqual(t, segs, 13)
}
