package ppp

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A counterpart is a machine in the network phase, whose peer the test plays.
type counterpart struct {
	*machine
	t   *testing.T
	now time.Time
	id  byte
}

func newCounterpart(t *testing.T, cfg Config) *counterpart {
	t.Helper()
	cfg.Rand = fuzzRand()
	cfg, err := cfg.check(defaultMRU)
	require.NoError(t, err)
	c := &counterpart{machine: newMachine(cfg), t: t, now: time.Unix(1000, 0)}
	c.start(c.now)
	c.accept(&c.lcp.automaton)
	require.Equal(t, byte(configureAck), c.ask(protoLCP).code)
	require.True(t, c.network)
	return c
}

// accept acknowledges the machine's last Configure-Request of a layer.
func (c *counterpart) accept(a *automaton) {
	c.receive(c.now, a.proto, packet{configureAck, a.request.id, a.request.data}.append(nil))
}

// ask sends a Configure-Request, and returns the answer.
func (c *counterpart) ask(proto uint16, options ...option) packet {
	c.t.Helper()
	c.id++
	var data []byte
	for _, o := range options {
		data = o.append(data)
	}
	c.out = nil
	c.receive(c.now, proto, packet{configureRequest, c.id, data}.append(nil))
	for _, f := range c.out {
		if p, ok := parsePacket(f.info); ok && f.proto == proto && p.id == c.id && p.code >= configureAck && p.code <= configureReject {
			return p
		}
	}
	c.t.Fatal("the machine does not answer")
	return packet{}
}

// RFC 1661 5.3: "If that option is not listed, then that option MAY be appended to the list of Nak'd
// Configuration Options, in order to prompt the peer to include that option in its next Configure-Request
// packet."
func TestPeerThatOmitsItsAddressIsAskedForIt(t *testing.T) {
	address := option{optAddress, addrB.AsSlice()}
	for name, obeys := range map[string]bool{"obeys": true, "omits it again": false} {
		c := newCounterpart(t, Config{Local: addrA, Remote: addrB, NoIPv6: true})
		c.accept(&c.ipv4.automaton)
		nak := c.ask(protoIPCP)
		require.Equal(t, packet{configureNak, nak.id, address.append(nil)}, nak, name)
		var again []option
		if obeys {
			again = append(again, address)
		}
		require.Equal(t, byte(configureAck), c.ask(protoIPCP, again...).code, name)
		require.True(t, c.up4)
		require.Equal(t, []netip.Prefix{netip.PrefixFrom(addrB, 32)}, c.conf4.Routes, "the route to Config.Remote: %s", name)
	}
	// Without Config.Remote, a peer without an address is accepted at once.
	c := newCounterpart(t, Config{Local: addrA, NoIPv6: true})
	c.accept(&c.ipv4.automaton)
	require.Equal(t, byte(configureAck), c.ask(protoIPCP).code)
	require.Empty(t, c.conf4.Routes)
}

// The peer rejects the option with our address, and later asks for the option with a Configure-Nak. The machine
// then requests its address again.
func TestRejectedAddressIsRequestedWhenThePeerAsks(t *testing.T) {
	c := newCounterpart(t, Config{Local: addrA, IgnoreDNS: true, NoIPv6: true})
	address := option{optAddress, addrA.AsSlice()}.append(nil)
	c.receive(c.now, protoIPCP, packet{configureReject, c.ipv4.automaton.request.id, address}.append(nil))
	require.Empty(t, c.ipv4.automaton.request.data)
	c.receive(c.now, protoIPCP, packet{configureNak, c.ipv4.automaton.request.id, address}.append(nil))
	require.Equal(t, address, c.ipv4.automaton.request.data)
	require.NoError(t, c.failed4)
}

func TestPeerGetsTheConfiguredInterfaceID(t *testing.T) {
	identifier := func(id uint64) option {
		return option{optInterfaceID, binary.BigEndian.AppendUint64(nil, id)}
	}
	want := identifier(0x22)
	for name, ids := range map[string][]uint64{"another": {0x33}, "none": {0}, "ours": {0x11}, "omitted": nil} {
		c := newCounterpart(t, Config{NoIPv4: true, InterfaceID: 0x11, RemoteInterfaceID: 0x22})
		var options []option
		for _, id := range ids {
			options = append(options, identifier(id))
		}
		nak := c.ask(protoIPV6CP, options...)
		require.Equal(t, packet{configureNak, nak.id, want.append(nil)}, nak, name)
		require.Equal(t, byte(configureAck), c.ask(protoIPV6CP, want).code, name)
	}
	// A peer that cannot change its identifier has to go without the option.
	c := newCounterpart(t, Config{NoIPv4: true, InterfaceID: 0x11, RemoteInterfaceID: 0x22})
	c.accept(&c.ipv6.automaton)
	for range maxFailure {
		require.Equal(t, byte(configureNak), c.ask(protoIPV6CP, identifier(0x33)).code)
	}
	require.Equal(t, byte(configureReject), c.ask(protoIPV6CP, identifier(0x33)).code)
	require.Equal(t, byte(configureAck), c.ask(protoIPV6CP).code)
	require.True(t, c.up6)
}
