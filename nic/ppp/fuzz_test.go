package ppp

import (
	"bytes"
	"net/netip"
	"slices"
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

// FuzzNegotiation lets a hostile peer send any control packets at any time, against both roles. A message is a
// protocol, a length and the bytes. If bit 7 of the length is set, time passes before the message. The machine
// must not panic, its memory must be bounded, and it must still close in a bounded time.
func FuzzNegotiation(f *testing.F) {
	// answer is an answer to our last Configure-Request, or to the authentication that we require. kind is a
	// Configure-Ack, -Nak or -Reject; the values of a Configure-Nak are taken from data.
	answer := func(m *machine, kind byte, data []byte) (proto uint16, message []byte) {
		if r := &m.remote; m.lcp.state == opened && !r.ok() {
			if r.proto == protoPAP {
				return protoPAP, packet{papRequest, 1, []byte("\x03joe\x06secret")}.append(nil)
			}
			value, _, _ := cutField(r.packet.data)
			sum := chapSum(r.packet.id, "secret", value)
			return protoCHAP, packet{chapResponse, r.packet.id, append(append([]byte{16}, sum...), "joe"...)}.append(nil)
		}
		for _, a := range []*automaton{&m.lcp.automaton, &m.ipv4.automaton, &m.ipv6.automaton} {
			if a.state != reqSent && a.state != ackSent {
				continue
			}
			p := packet{configureAck, a.request.id, bytes.Clone(a.request.data)}
			switch options, _ := parseOptions(p.data); kind % 4 {
			case 1:
				p.code = configureReject
			case 2:
				p.code = configureNak
				for _, o := range options {
					data = data[copy(o.data, data):]
				}
			}
			return a.proto, p.append(nil)
		}
		return protoLCP, packet{code: echoReply, data: make([]byte, 4)}.append(nil)
	}
	// message returns a message of the fuzzer's input. proto is an index in the fuzz function's list of protocols, in which
	// 7 stands for answer.
	message := func(proto byte, p packet) []byte {
		b := p.append(nil)
		return append([]byte{proto, byte(len(b))}, b...)
	}
	for options := range 64 {
		// MRU 1500, a magic number, PFC, ACFC, and authentication by CHAP.
		list := []byte{1, 4, 5, 0xdc, 5, 6, 1, 2, 3, 4, 7, 2, 8, 2, 3, 5, 0xc2, 0x23, 5}
		if options&8 == 0 {
			list = list[:10] // we do not authenticate ourselves
		}
		all := message(0, packet{configureRequest, 1, list})
		// Each makes the peer answer our last request: see answer.
		ack, reject, nak := []byte{7, 0}, []byte{7, 1, 0}, []byte{7, 6, 192, 0, 2, 9, 1, 1}
		later := bytes.Repeat([]byte{5, 128}, 40) // time passes
		f.Add(slices.Concat(all, ack, ack, reject, ack, nak, ack, ack, []byte{5, 2, 0x45, 0, 6, 2, 1, 1}), byte(options), options%2 == 0)
		f.Add(slices.Concat(all, nak, ack, ack, nak, ack, reject, ack, later), byte(options), options%2 != 0)
		f.Add(slices.Concat(all, reject, ack, message(1, packet{papNak, 1, []byte("\x02no")}), reject, reject, later), byte(options), options%2 != 0)
	}
	// A good peer: LCP, IPCP and IPV6CP open. The packets after it come in the network phase.
	good := slices.Concat(message(0, packet{configureRequest, 1, nil}), []byte{7, 0},
		message(3, packet{configureRequest, 1, option{optAddress, []byte{192, 0, 2, 2}}.append(nil)}), []byte{7, 0},
		message(4, packet{configureRequest, 1, option{optInterfaceID, []byte{0, 0, 0, 0, 0, 0, 0, 9}}.append(nil)}), []byte{7, 0})
	for _, p := range []packet{{code: terminateRequest}, {codeReject, 1, []byte{echoRequest, 1, 0, 4}}, {protocolReject, 1, []byte{0x80, 0x57, 1}},
		{echoRequest, 1, make([]byte, 4)}, {configureRequest, 2, nil}, {99, 1, nil}} {
		f.Add(append(good[:len(good):len(good)], message(0, p)...), byte(0), true)
		f.Add(append(good[:len(good):len(good)], message(3, p)...), byte(1), true)
	}
	challenge := message(2, packet{chapChallenge, 1, append([]byte{4, 1, 2, 3, 4}, "isp"...)})
	f.Add(slices.Concat(message(0, packet{configureRequest, 1, option{optAuth, []byte{0xc2, 0x23, 5}}.append(nil)}), []byte{7, 0},
		challenge, message(2, packet{chapSuccess, 1, nil}), challenge), byte(8), true)
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
			n := min(int(b[1]&127), len(b)-2)
			message := b[2 : 2+n]
			if proto == 0 {
				proto, message = answer(m, b[1], message)
			}
			if b[1] >= 128 {
				now = now.Add(4 * time.Second)
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
