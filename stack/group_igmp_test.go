package stack

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A router is the peer on the link of the host s. It records the IGMP or MLD messages of the host, and when
// they arrived.
type router struct {
	*peer
	s     *Stack
	begin time.Time

	mu       sync.Mutex
	messages []groupMessage
}

// A groupMessage is a message as text. at is the time of its arrival since the router's begin.
type groupMessage struct {
	at   time.Duration
	text string
}

func newRouter(t *testing.T) *router {
	t.Helper()
	return newRouterOf(t, describeIGMP)
}

// newRouterOf makes a router that calls describe for each received frame and records the text that it
// returns, unless the text is empty.
func newRouterOf(t *testing.T, describe func(t *testing.T, f []byte) string, change ...func(*Config)) *router {
	t.Helper()
	da, db := nic.Pipe(nic.PipeConfig{NoTxChecksum: true, MACs: [2][6]byte{macA, macB}})
	r := &router{peer: &peer{t: t, dev: db}, begin: time.Now()}
	db.Attach(func(batch []nic.Frame) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := range batch {
			if text := describe(t, batch[i].AppendTo(nil)); text != "" {
				r.messages = append(r.messages, groupMessage{time.Since(r.begin), text})
			}
		}
	})
	r.s = newHost(t, da, "192.0.2.1/24", change...)
	return r
}

// describeIGMP returns an IGMP message as text, and "" for any other frame. It does not use package wire.
func describeIGMP(t *testing.T, f []byte) string {
	if f[12] != 8 || f[13] != 0 || f[23] != 2 { // not IPv4, or not IGMP
		return ""
	}
	require.Equal(t, byte(0x46), f[14], "a header with one option")
	require.Equal(t, byte(0xc0), f[15], "TOS")
	require.Equal(t, byte(1), f[22], "TTL")
	require.Equal(t, []byte{0x94, 4, 0, 0}, f[34:38], "router alert")
	total := int(binary.BigEndian.Uint16(f[16:]))
	b := f[38 : 14+total] // after the Ethernet header (14 bytes) and the IP header (24 bytes)
	require.Zero(t, ^wire.Fold(wire.Sum(b, 0)), "checksum")
	dst := netip.AddrFrom4([4]byte(f[30:34]))
	require.Equal(t, wire.MulticastMAC(dst), wire.MAC(f[:6]))
	group := netip.AddrFrom4([4]byte(b[4:8]))
	to := " > " + dst.String()
	switch b[0] {
	case 0x12:
		return "v1 report " + group.String() + to
	case 0x16:
		return "v2 report " + group.String() + to
	case 0x17:
		return "leave " + group.String() + to
	}
	require.Equal(t, byte(0x22), b[0]) // a version 3 report
	n := int(binary.BigEndian.Uint16(b[6:]))
	words := []string{"v3"}
	b = b[8:]
	for range n {
		k := int(binary.BigEndian.Uint16(b[2:]))
		word := []string{"", "IS_IN", "IS_EX", "TO_IN", "TO_EX", "ALLOW", "BLOCK"}[b[0]] + " " + netip.AddrFrom4([4]byte(b[4:8])).String()
		for i := range k {
			word += "," + netip.AddrFrom4([4]byte(b[8+4*i:])).String()
		}
		words = append(words, word)
		b = b[8+4*k:]
	}
	require.Empty(t, b, "what follows the records")
	return strings.Join(words, " ") + to
}

// heard returns the messages that arrived since the last call of heard or texts.
func (r *router) heard() []groupMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	messages := r.messages
	r.messages = nil
	return messages
}

// texts is heard without the times.
func (r *router) texts() []string {
	var texts []string
	for _, m := range r.heard() {
		texts = append(texts, m.text)
	}
	return texts
}

// after waits for d, and returns the messages that arrived in that time.
func (r *router) after(d time.Duration) []string {
	time.Sleep(d)
	synctest.Wait()
	return r.texts()
}

// ask sends an IGMP message with the Router Alert option.
func (r *router) ask(dst string, message string) {
	r.t.Helper()
	r.say(wire.IPv4{TTL: 1, Proto: wire.ProtoIGMP, Dst: addr(dst), Options: []byte{0x94, 4, 0, 0}}, message)
}

// say sends an IGMP message. message is hexadecimal, with the checksum as 0000.
func (r *router) say(h wire.IPv4, message string) {
	r.t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(message, " ", ""))
	require.NoError(r.t, err)
	sum := wire.Checksum(b)
	b[2], b[3] = byte(sum>>8), byte(sum)
	mac := macA
	if h.Dst.IsMulticast() {
		mac = wire.MulticastMAC(h.Dst)
	}
	r.ip(mac, h, b)
}

const (
	generalV1 = "11 00 0000 00000000"
	generalV2 = "11 64 0000 00000000"                     // answer within 10 s
	generalV3 = "11 64 0000 00000000 02 7d 0000"          // answer within 10 s, robustness 2, query interval 125 s
	groupV3   = "11 0a 0000 e0010203 02 7d 0000"          // for 224.1.2.3, answer within 1 s
	groupV2   = "11 0a 0000 e0010203"                     // for 224.1.2.3, answer within 1 s
	sourcesV3 = "11 0a 0000 e0010203 02 7d 0001 c6336401" // for the source 198.51.100.1 of 224.1.2.3
)

func TestTheFirstReportOfAGroupHasTheseBytes(t *testing.T) {
	s, p := hostAndPeer(t)
	u := openUDP(t, s, "0.0.0.0:5")
	p.take()
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	frames := p.take()
	require.Len(t, frames, 1)
	f := frames[0]
	clear(f[18:20]) // the identification and the header checksum
	clear(f[24:26])
	require.Equal(t, strings.ReplaceAll(""+
		"01005e000016 02000000000a 0800"+ // to the MAC of 224.0.0.22
		"46c00028 00004000 01020000 c0000201 e0000016 94040000"+
		"2200f7f9 00000001"+ // version 3, one record
		"04000000 e0010203"+ // TO_EX, no sources
		"000000000000", " ", ""), hex.EncodeToString(f), "with padding at the end")
}

func TestAJoinAndALeaveAreReportedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u, v := openUDP(t, r.s, "0.0.0.0:5"), openUDP(t, r.s, "0.0.0.0:6")
		group := addr("224.1.2.3")
		require.NoError(t, u.Join(group, 2))
		require.NoError(t, v.Join(group, 2))
		synctest.Wait()
		require.Equal(t, []string{"v3 TO_EX 224.1.2.3 > 224.0.0.22"}, r.texts(), "at once, for both sockets")
		require.Equal(t, []string{"v3 TO_EX 224.1.2.3 > 224.0.0.22"}, r.after(time.Second), "and once more within a second")
		require.Empty(t, r.after(time.Hour))
		require.NoError(t, u.Leave(group, 2))
		require.Empty(t, r.after(time.Hour), "the other socket is still a member")
		require.NoError(t, v.Close())
		synctest.Wait()
		require.Equal(t, []string{"v3 TO_IN 224.1.2.3 > 224.0.0.22"}, r.texts())
		require.Equal(t, []string{"v3 TO_IN 224.1.2.3 > 224.0.0.22"}, r.after(time.Second))
		require.Empty(t, r.after(time.Hour))
		require.Zero(t, r.s.ifaceNamed("eth0").igmp.groups.len(), "the group is forgotten")
	})
}

func TestAnUndoneChangeIsNoLongerReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		require.NoError(t, u.Leave(addr("224.1.2.3"), 2))
		require.Equal(t, []string{
			"v3 TO_EX 224.1.2.3 > 224.0.0.22", "v3 TO_IN 224.1.2.3 > 224.0.0.22", "v3 TO_IN 224.1.2.3 > 224.0.0.22",
		}, r.after(time.Minute))
	})
}

func TestAllHostsAndTheLoopbackAreNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.Join(addr("224.0.0.1"), 2))
		require.NoError(t, u.Join(addr("224.1.2.3"), 1))
		r.ask("224.0.0.1", generalV3)
		require.Empty(t, r.after(time.Minute))
	})
}

func TestAQueryIsAnsweredAtARandomTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		for _, g := range []string{"224.1.2.3", "239.0.0.1"} {
			require.NoError(t, u.Join(addr(g), 2))
		}
		r.after(time.Minute)
		delays := map[time.Duration]bool{}
		for range 20 {
			asked := time.Since(r.begin)
			r.ask("224.0.0.1", generalV3)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			messages := r.heard()
			require.Len(t, messages, 1)
			require.Equal(t, "v3 IS_EX 224.1.2.3 IS_EX 239.0.0.1 > 224.0.0.22", messages[0].text)
			delay := messages[0].at - asked
			require.Positive(t, delay)
			require.LessOrEqual(t, delay, 10*time.Second)
			delays[delay.Round(time.Second)] = true
		}
		require.Greater(t, len(delays), 5, "of twenty answers")
		r.ask("224.1.2.3", groupV3)
		require.Equal(t, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}, r.after(time.Second))
		r.ask("224.1.2.3", sourcesV3)
		require.Equal(t, []string{"v3 IS_IN 224.1.2.3,198.51.100.1 > 224.0.0.22"}, r.after(time.Second))
		r.ask("224.1.2.3", strings.Replace(groupV3, "e0010203", "e0010204", 1))
		r.ask("192.0.2.1", groupV3) // "any of the addresses ... assigned to the interface": RFC 3376 4.1.12
		require.Equal(t, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}, r.after(time.Minute), "but not of a group that is not joined")
	})
}

// RFC 3376 5.2, rules 1, 4 and 5.
func TestQueriesThatOverlapAreAnsweredTogether(t *testing.T) {
	const other = "11 0a 0000 e0010203 02 7d 0002 c6336401 c6336402"
	for _, c := range []struct {
		queries []string
		want    []string
	}{
		{[]string{generalV3, generalV3}, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}},
		// The answer to a general query is due within 0.1 s, and the answer to this group query within 3174 s.
		// Whichever of the two is due first, the host sends one report.
		{[]string{"11 01 0000 00000000 02 7d 0000", "11 ff 0000 e0010203 02 7d 0000"}, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}},
		{[]string{groupV3, groupV3}, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}},
		{[]string{groupV3, sourcesV3}, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}},
		{[]string{sourcesV3, groupV3}, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}},
		{[]string{sourcesV3, other}, []string{"v3 IS_IN 224.1.2.3,198.51.100.1,198.51.100.2 > 224.0.0.22"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRouter(t)
			u := openUDP(t, r.s, "0.0.0.0:5")
			require.NoError(t, u.Join(addr("224.1.2.3"), 2))
			r.after(time.Minute)
			for _, q := range c.queries {
				dst := "224.1.2.3"
				if strings.Contains(q, "00000000 ") {
					dst = "224.0.0.1"
				}
				r.ask(dst, q)
			}
			require.Equal(t, c.want, r.after(time.Hour), "%v", c.queries)
		})
	}
}

// The host remembers at most groupMaxSources (64) queried sources of a group. If there are more, in one
// query or in several, it reports the whole group.
func TestALongSourceListCountsAsTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		r.after(time.Minute)
		sources := func(n, from int) string {
			q := fmt.Sprintf("11 0a 0000 e0010203 02 7d %04x", n)
			for i := range n {
				q += fmt.Sprintf(" c633%04x", from+i)
			}
			return q
		}
		r.ask("224.1.2.3", sources(65, 0))
		require.Equal(t, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}, r.after(time.Minute))
		r.ask("224.1.2.3", sources(40, 0))
		r.ask("224.1.2.3", sources(40, 100))
		require.Equal(t, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}, r.after(time.Minute))
	})
}

func TestTheQuerierSetsTheNumberOfReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		r.ask("224.0.0.1", "11 0a 0000 00000000 05 7d 0000") // robustness 5
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		require.Len(t, r.after(time.Minute), 5)
		r.ask("224.0.0.1", "11 0a 0000 00000000 00 00 0000") // robustness 0: not given
		r.after(time.Minute)
		require.NoError(t, u.Leave(addr("224.1.2.3"), 2))
		require.Len(t, r.after(time.Minute), 2, "by default")
	})
}

func TestAVersion2QuerierGetsVersion2Reports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		group := addr("224.1.2.3")
		r.ask("224.0.0.1", generalV2)
		require.NoError(t, u.Join(group, 2))
		synctest.Wait()
		require.Equal(t, []string{"v2 report 224.1.2.3 > 224.1.2.3"}, r.texts())
		require.Equal(t, []string{"v2 report 224.1.2.3 > 224.1.2.3"}, r.after(10*time.Second), "repeated once")
		require.Empty(t, r.after(30*time.Second))
		r.ask("224.1.2.3", groupV2)
		require.Equal(t, []string{"v2 report 224.1.2.3 > 224.1.2.3"}, r.after(time.Second))
		r.ask("224.0.0.1", generalV3)
		require.Equal(t, []string{"v2 report 224.1.2.3 > 224.1.2.3"}, r.after(10*time.Second), "the older querier sets the version")
		require.NoError(t, u.Leave(group, 2))
		require.Equal(t, []string{"leave 224.1.2.3 > 224.0.0.2"}, r.after(time.Minute))
		require.NoError(t, u.Join(group, 2))
		r.after(time.Minute)

		// RFC 3376 8.12: the old querier times out 2 * 125 + 10 s after its last query.
		r.ask("224.0.0.1", generalV2)
		r.after(260*time.Second - 1)
		require.NoError(t, u.Leave(group, 2))
		require.NoError(t, u.Join(group, 2))
		synctest.Wait()
		require.Equal(t, []string{"leave 224.1.2.3 > 224.0.0.2", "v2 report 224.1.2.3 > 224.1.2.3"}, r.texts())
		time.Sleep(time.Nanosecond)
		r.ask("224.0.0.1", generalV3)
		require.Equal(t, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}, r.after(time.Minute))
	})
}

func TestVersion2SuppressesDuplicateReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		r.ask("224.0.0.1", generalV2)
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		require.NoError(t, u.Join(addr("224.1.2.4"), 2))
		r.after(time.Minute)
		r.ask("224.0.0.1", generalV2)
		r.ask("224.1.2.3", "16 00 0000 e0010203") // another member reports first
		require.Equal(t, []string{"v2 report 224.1.2.4 > 224.1.2.4"}, r.after(time.Minute))
		require.NoError(t, u.Leave(addr("224.1.2.3"), 2))
		require.Empty(t, r.after(time.Minute), "only the last member that reported sends a leave")
		require.NoError(t, u.Leave(addr("224.1.2.4"), 2))
		require.Equal(t, []string{"leave 224.1.2.4 > 224.0.0.2"}, r.after(time.Minute))
	})
}

// RFC 2236 3: a query shortens a running timer, but never extends it.
func TestAVersion2QueryShortensATimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		r.ask("224.0.0.1", generalV2)
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		r.after(time.Minute)
		r.ask("224.0.0.1", "11 ff 0000 00000000") // answer within 25.5 s
		r.ask("224.0.0.1", "11 01 0000 00000000") // answer within 0.1 s
		r.ask("224.0.0.1", "11 ff 0000 00000000")
		require.Len(t, r.after(time.Second/10), 1)
		require.Empty(t, r.after(time.Minute))
	})
}

func TestAVersion1QuerierGetsNoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		r.say(wire.IPv4{TTL: 1, Proto: wire.ProtoIGMP, Dst: addr("224.0.0.1")}, generalV1)
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		require.Equal(t, []string{"v1 report 224.1.2.3 > 224.1.2.3", "v1 report 224.1.2.3 > 224.1.2.3"}, r.after(10*time.Second))
		r.ask("224.0.0.1", generalV2)
		require.Equal(t, []string{"v1 report 224.1.2.3 > 224.1.2.3"}, r.after(10*time.Second))
		require.NoError(t, u.Leave(addr("224.1.2.3"), 2))
		require.Empty(t, r.after(time.Minute))
	})
}

func TestAnOldQuerierCancelsVersion3Reports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.Join(addr("224.1.2.4"), 2))
		require.NoError(t, u.Leave(addr("224.1.2.4"), 2))
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		synctest.Wait()
		require.Len(t, r.texts(), 3)
		r.ask("224.0.0.1", generalV2)
		require.Equal(t, []string{"v2 report 224.1.2.3 > 224.1.2.3"}, r.after(time.Minute))
		require.Equal(t, 1, r.s.ifaceNamed("eth0").igmp.groups.len(), "the group that was left is forgotten")
	})
}

func TestInvalidIGMPMessagesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		r.after(time.Minute)
		plain := func(dst string) wire.IPv4 {
			return wire.IPv4{TTL: 1, Proto: wire.ProtoIGMP, Dst: addr(dst)}
		}
		for _, c := range []struct {
			why wire.Reason
			say func()
		}{
			// plain has no Router Alert option.
			{dropIGMP, func() { r.say(plain("224.0.0.1"), generalV3) }},
			{dropIGMP, func() { r.say(plain("224.0.0.1"), generalV2) }},
			// A general query is sent to 224.0.0.1 only.
			{dropIGMP, func() { r.ask("224.1.2.3", generalV3) }},
			{dropIGMP, func() { r.ask("224.1.2.3", generalV1) }},
			{dropIGMP, func() { r.ask("192.0.2.1", "22 00 0000 00000000") }}, // a version 3 report
			{dropIGMP, func() { r.ask("224.1.2.3", "16 00 0000 e0010203") }}, // version 3 ignores reports
			{dropIGMP, func() { r.ask("192.0.2.1", "7f 00 0000 e0010203") }}, // an unknown type
			// RFC 3376 7.1: a query has 8 bytes, or at least 12.
			{wire.BadIGMPLength, func() { r.ask("224.0.0.1", generalV2+"00") }},
			{wire.BadIGMPLength, func() { r.ask("224.0.0.1", generalV2+"020000") }},
			{wire.BadIGMPLength, func() { r.ask("224.1.2.3", sourcesV3[:len(sourcesV3)-2]) }},
			{wire.ShortIGMP, func() { r.ask("224.0.0.1", generalV2[:len(generalV2)-2]) }},
			{wire.BadIGMPChecksum, func() {
				r.ip(wire.MulticastMAC(allHosts()), wire.IPv4{Proto: wire.ProtoIGMP, Dst: allHosts(), Options: []byte{0x94, 4, 0, 0}}, []byte{0x11, 1, 1, 1, 0, 0, 0, 0})
			}},
		} {
			before := dropped(r.s, c.why)
			c.say()
			require.Equal(t, before+1, dropped(r.s, c.why))
		}
		require.Empty(t, r.after(time.Hour))
		require.EqualValues(t, 7, r.s.Stats().IGMP.Received, "well formed")
		require.EqualValues(t, 2, r.s.Stats().IGMP.Sent)
	})
}

// RFC 4541 2.1.1: a switch with IGMP snooping and without an address queries from 0.0.0.0.
func TestAQuerierWithoutAnAddressIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		r.after(time.Minute)
		h := wire.IPv4{TTL: 1, Proto: wire.ProtoIGMP, Src: netip.IPv4Unspecified(), Dst: addr("224.0.0.1"), Options: []byte{0x94, 4, 0, 0}}
		r.say(h, generalV3)
		require.Equal(t, []string{"v3 IS_EX 224.1.2.3 > 224.0.0.22"}, r.after(time.Minute))
		h.Dst = addr("192.0.2.1")
		r.say(h, groupV3)
		require.Equal(t, 1, dropped(r.s, dropNoSource), "but only to a group")
		require.Empty(t, r.after(time.Minute))
	})
}

func TestEachLinkUsesItsQueriersVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		d1, e1 := nic.Pipe(nic.PipeConfig{NoTxChecksum: true})
		other := &router{peer: &peer{t: t, dev: e1}, begin: time.Now()}
		e1.Attach(func(batch []nic.Frame) {
			other.mu.Lock()
			defer other.mu.Unlock()
			for i := range batch {
				if text := describeIGMP(t, batch[i].AppendTo(nil)); text != "" {
					other.messages = append(other.messages, groupMessage{time.Since(other.begin), text})
				}
			}
		})
		require.NoError(t, r.s.AddNIC(NIC{Name: "eth1", Device: d1, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}}))
		u := openUDP(t, r.s, "0.0.0.0:5")
		r.ask("224.0.0.1", generalV2)
		for _, index := range []int{2, 3} {
			require.NoError(t, u.Join(addr("224.1.2.3"), index))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"v2 report 224.1.2.3 > 224.1.2.3", "v2 report 224.1.2.3 > 224.1.2.3"}, r.texts())
		require.Equal(t, []string{"v3 TO_EX 224.1.2.3 > 224.0.0.22", "v3 TO_EX 224.1.2.3 > 224.0.0.22"}, other.texts())
		r.ask("224.0.0.1", generalV2)
		require.Len(t, r.after(time.Minute), 1)
		require.Empty(t, other.texts(), "there was no query on that link")
	})
}

func TestManyGroupsNeedSeveralReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		for i := range 400 {
			require.NoError(t, u.Join(netip.AddrFrom4([4]byte{239, 1, byte(i >> 8), byte(i)}), 2))
		}
		r.after(time.Minute)
		r.ask("224.0.0.1", generalV3)
		messages := r.after(10 * time.Second)
		var counts []int
		for _, m := range messages {
			counts = append(counts, strings.Count(m, "IS_EX"))
		}
		require.Equal(t, []int{183, 183, 34}, counts, "(1500 - 24 - 8) / 8")
	})
}

func testGroups(n int) (groups []netip.Addr) {
	for i := range n {
		groups = append(groups, netip.AddrFrom4([4]byte{239, 1, byte(i >> 8), byte(i)}))
	}
	return groups
}

// records counts the records of reports. An IGMPv3 report has a record for each group that is due at
// the same time. An IGMPv2 report has one.
func records(reports []string) (n int) {
	for _, m := range reports {
		n += max(strings.Count(m, "TO_"), 1)
	}
	return n
}

func TestASocketLeavesManyGroupsAtOnce(t *testing.T) {
	for _, version := range []string{"v3", "v2"} {
		synctest.Test(t, func(t *testing.T) {
			r := newRouter(t)
			if version == "v2" {
				r.ask("224.0.0.1", generalV2)
			}
			u := openUDP(t, r.s, "0.0.0.0:5")
			for _, group := range testGroups(4000) {
				require.NoError(t, u.Join(group, 2))
			}
			require.Equal(t, 4000, len(r.texts()), "each is reported at once")
			require.Equal(t, 4000, records(r.after(time.Minute)), "and once more")
			require.NoError(t, u.Close())
			messages := r.texts()
			if version == "v2" {
				require.Equal(t, 4000, len(messages))
				require.Equal(t, "leave 239.1.0.0 > 224.0.0.2", messages[0])
			} else {
				require.Equal(t, 22, len(messages), "4000 records, (1500 - 24 - 8) / 8 in a report")
				require.Equal(t, 4000, strings.Count(strings.Join(messages, ""), "TO_IN"))
				require.Equal(t, 4000, records(r.after(time.Minute)))
			}
			require.Empty(t, r.after(time.Hour))
			l := &r.s.ifaceNamed("eth0").igmp
			require.Zero(t, l.groups.len())
			require.Empty(t, r.s.groups.due)
			require.Zero(t, r.s.ifaceNamed("eth0").group.joined.len())
		})
	}
}

// A change does not copy all groups. The test measures allocated bytes, which would show such a copy
// and, unlike time, do not depend on the load of the machine.
func TestAChangeDoesNotCopyOtherGroups(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{MTU: 1500, Medium: nic.Ethernet}), "192.0.2.1/24")
	u := openUDP(t, s, "0.0.0.0:5")
	groups := testGroups(4001)
	for _, group := range groups[:4000] {
		require.NoError(t, u.Join(group, 2))
	}
	const times = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		require.NoError(t, u.Join(groups[4000], 2))
		require.NoError(t, u.Leave(groups[4000], 2))
	}
	runtime.ReadMemStats(&after)
	require.Less(t, (after.TotalAlloc-before.TotalAlloc)/times, uint64(16<<10), "bytes for a join and a leave")
}

func TestCloseLeavesAllGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u, raw := openUDP(t, r.s, "0.0.0.0:5"), openRaw(t, r.s)
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		require.NoError(t, raw.Join(addr("224.1.2.4"), 2))
		r.after(time.Minute)
		require.NoError(t, r.s.Close())
		require.Equal(t, []string{"v3 TO_IN 224.1.2.3 TO_IN 224.1.2.4 > 224.0.0.22"}, r.after(time.Minute))
	})
}

func TestRemoveNICLeavesItsGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		r.after(time.Minute)
		require.NoError(t, r.s.RemoveNIC("eth0"))
		require.Equal(t, []string{"v3 TO_IN 224.1.2.3 > 224.0.0.22"}, r.after(time.Minute))
		require.NoError(t, u.Leave(addr("224.1.2.3"), 2), "the membership is the socket's still")
		require.ErrorIs(t, u.Join(addr("224.1.2.3"), 2), syscall.ENODEV)
		require.Empty(t, r.after(time.Minute))
	})
}

// Join and leave groups at random. A router that accepts every report and ignores sources (RFC 3376
// 6.4) always knows the groups of the host, although the first copy of each report is lost.
func TestARouterKnowsTheGroupsOfAHost(t *testing.T) {
	for _, version := range []int{3, 2} {
		for seed := range uint64(5) {
			synctest.Test(t, func(t *testing.T) {
				r := newRouter(t)
				rnd := rand.New(rand.NewPCG(seed, 0))
				if version == 2 {
					r.ask("224.0.0.1", generalV2)
				}
				known := map[string]bool{}
				listen := func() {
					synctest.Wait()
					for _, text := range r.texts() {
						words := strings.Fields(text)
						switch words[0] {
						case "v2":
							known[words[2]] = true
						case "leave":
							delete(known, words[1])
						case "v3":
							for i := 1; words[i] != ">"; i += 2 {
								if known[words[i+1]] = words[i][3:] == "EX"; !known[words[i+1]] {
									delete(known, words[i+1])
								}
							}
						}
					}
				}
				var socks [3]*UDP
				members := map[string]int{}
				joined := map[string]bool{}
				for i := range socks {
					socks[i] = openUDP(t, r.s, "0.0.0.0:0")
				}
				for range 100 {
					i, group := rnd.IntN(len(socks)), fmt.Sprintf("239.1.1.%d", rnd.IntN(5)+1)
					key := fmt.Sprint(i, group)
					if joined[key] {
						require.NoError(t, socks[i].Leave(addr(group), 2))
						members[group]--
					} else {
						require.NoError(t, socks[i].Join(addr(group), 2))
						members[group]++
					}
					joined[key] = !joined[key]
					if version == 3 || members[group] == 1 && joined[key] { // a leave of version 2 is sent only once
						synctest.Wait()
						r.heard() // the first copy is lost
						time.Sleep(10 * time.Second)
					}
					listen()
					if version == 2 && rnd.IntN(10) == 0 {
						r.ask("224.0.0.1", generalV2) // also keeps the host in version 2
						time.Sleep(10 * time.Second)
						listen()
					}
					want := map[string]bool{}
					for group, n := range members {
						if n > 0 {
							want[group] = true
						}
					}
					require.Equal(t, want, known, "version %d, seed %d", version, seed)
				}
			})
		}
	}
}
