package ppp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fuzzRand is a source of numbers that fuzzing can repeat.
func fuzzRand() func(p []byte) {
	n := byte(0)
	return func(p []byte) {
		for i := range p {
			n += 37
			p[i] = n
		}
	}
}

// FuzzNegotiation lets a hostile peer send any control packets at any time, against both roles. Each
// message is: a protocol, its length, its bytes. Nothing panics, what is kept is bounded, and the machine
// still closes in a bounded time.
func FuzzNegotiation(f *testing.F) {
	ack := func(m *machine) []byte { // what a good peer would send next
		return packet{configureAck, m.lcp.automaton.request.id, m.lcp.automaton.request.data}.append(nil)
	}
	for proto := range 8 {
		f.Add([]byte{byte(proto), 8, 1, 1, 0, 8, 3, 4, 0xc0, 0x23, byte(proto), 4, 5, 2, 0, 4}, byte(proto), true)
		f.Add([]byte{7, 0, byte(proto), 10, 1, 9, 0, 10, 1, 6, 0, 0, 0, 0}, byte(proto), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, options byte, server bool) {
		cfg := clientConfig()
		if server {
			cfg = serverConfig()
		}
		cfg.serial = options&1 != 0
		cfg.once = options&2 != 0
		cfg.NoIPv6 = options&4 != 0
		cfg.Rand = fuzzRand()
		if options&8 != 0 {
			cfg.User, cfg.Password = "joe", "secret"
		}
		if options&16 != 0 {
			cfg.Authenticate = func(string) (string, bool) { return "secret", true }
		}
		if options&32 != 0 {
			cfg.Methods = PAP
		}
		cfg, err := cfg.check(defaultMRU)
		require.NoError(t, err)
		m := newMachine(cfg)
		now := time.Unix(1000, 0)
		m.start(now)
		for len(b) >= 2 {
			proto := []uint16{protoLCP, protoPAP, protoCHAP, protoIPCP, protoIPV6CP, protoIPv4, 0x80fd, 0}[b[0]%8]
			n := min(int(b[1]), len(b)-2)
			message := b[2 : 2+n]
			if proto == 0 {
				proto, message = protoLCP, ack(m)
			}
			if b[1] >= 128 {
				now = now.Add(time.Duration(b[1]-128) * time.Second / 4)
				m.tick(now)
			}
			m.receive(now, proto, message)
			require.LessOrEqual(t, len(m.out), maxOutgoing)
			require.LessOrEqual(t, len(m.notes), 10)
			for _, out := range m.out {
				require.LessOrEqual(t, len(out.info), 600, "%04x", out.proto)
				_, ok := parsePacket(out.info)
				require.True(t, ok)
			}
			m.out, m.notes = nil, nil
			b = b[2+n:]
			if c := m.conf4; c != nil {
				require.True(t, isHost4(c.Addrs[0].Addr()), "%v", c.Addrs)
				require.NotEqual(t, netip.Addr{}, c.Addrs[0].Addr())
			}
		}
		m.close(now)
		for range 4 {
			now = now.Add(restartTime)
			m.tick(now)
		}
		require.True(t, m.done, "state %d", m.lcp.state)
		require.Zero(t, m.deadline())
	})
}
