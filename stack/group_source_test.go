package stack

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

var (
	group1           = netip.MustParseAddr("232.1.2.3")
	src1, src2, src3 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4")
)

const toV3 = " > 224.0.0.22"

// RFC 3376 5.1: each kind of state change is reported [Robustness Variable] times.
func TestSourceChangesAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		step := func(want string, err error) {
			t.Helper()
			require.NoError(t, err)
			synctest.Wait()
			require.Equal(t, []string{want + toV3}, r.texts(), "at once")
			require.Equal(t, []string{want + toV3}, r.after(time.Second), "and once more within a second")
			require.Empty(t, r.after(time.Minute))
		}
		// INCLUDE (A) to INCLUDE (B): ALLOW (B-A), BLOCK (A-B)
		step("v3 ALLOW 232.1.2.3,192.0.2.2", u.JoinSource(group1, src1, 2))
		step("v3 ALLOW 232.1.2.3,192.0.2.3", u.JoinSource(group1, src2, 2))
		step("v3 BLOCK 232.1.2.3,192.0.2.2", u.LeaveSource(group1, src1, 2))
		// INCLUDE (A) to EXCLUDE (B): TO_EX (B)
		v := openUDP(t, r.s, "0.0.0.0:6")
		step("v3 TO_EX 232.1.2.3", v.Join(group1, 2))
		// EXCLUDE (A) to EXCLUDE (B): ALLOW (A-B), BLOCK (B-A)
		step("v3 BLOCK 232.1.2.3,192.0.2.2", v.BlockSource(group1, src1, 2))
		require.NoError(t, v.BlockSource(group1, src2, 2))
		require.Empty(t, r.after(time.Minute), "another socket wants that source")
		step("v3 BLOCK 232.1.2.3,192.0.2.3", u.LeaveSource(group1, src2, 2))
		step("v3 ALLOW 232.1.2.3,192.0.2.2", v.UnblockSource(group1, src1, 2))
		require.NoError(t, u.JoinSource(group1, src1, 2))
		require.Empty(t, r.after(time.Minute), "the interface accepts this source already, for v")
		// EXCLUDE (A) to INCLUDE (B): TO_IN (B)
		step("v3 TO_IN 232.1.2.3,192.0.2.2", v.Leave(group1, 2))
		step("v3 BLOCK 232.1.2.3,192.0.2.2", u.Close())
		require.Zero(t, r.s.ifaceNamed("eth0").igmp.groups.len(), "the group is forgotten")
		require.Zero(t, r.s.ifaceNamed("eth0").group.joined.len())
	})
}

// RFC 3376 5.1, for a change while the report of an earlier change is still being repeated.
func TestSourceChangesThatOverlapAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u, v := openUDP(t, r.s, "0.0.0.0:5"), openUDP(t, r.s, "0.0.0.0:6")
		require.NoError(t, u.JoinSource(group1, src1, 2))
		require.NoError(t, u.JoinSource(group1, src2, 2))
		require.Equal(t, []string{
			"v3 ALLOW 232.1.2.3,192.0.2.2" + toV3,
			"v3 ALLOW 232.1.2.3,192.0.2.2,192.0.2.3" + toV3, // the new change, and the first again
			"v3 ALLOW 232.1.2.3,192.0.2.3" + toV3,
		}, r.after(time.Minute))
		require.NoError(t, u.JoinSource(group1, src3, 2))
		require.NoError(t, u.LeaveSource(group1, src1, 2))
		require.NoError(t, u.LeaveSource(group1, src3, 2))
		require.Equal(t, []string{
			"v3 ALLOW 232.1.2.3,192.0.2.4" + toV3,
			"v3 ALLOW 232.1.2.3,192.0.2.4 BLOCK 232.1.2.3,192.0.2.2" + toV3,
			"v3 BLOCK 232.1.2.3,192.0.2.2,192.0.2.4" + toV3,
			"v3 BLOCK 232.1.2.3,192.0.2.4" + toV3,
		}, r.after(time.Minute))

		// A change of mode is reported first, and includes later changes of sources: "the next
		// [Robustness Variable] State-Change Reports will include a Filter-Mode-Change record".
		require.NoError(t, v.Join(group1, 2))
		require.NoError(t, v.BlockSource(group1, src1, 2))
		require.Equal(t, []string{
			"v3 TO_EX 232.1.2.3" + toV3,
			"v3 TO_EX 232.1.2.3,192.0.2.2" + toV3,
			"v3 BLOCK 232.1.2.3,192.0.2.2" + toV3,
		}, r.after(time.Minute))
		require.NoError(t, v.Leave(group1, 2))
		require.NoError(t, u.Close())
		require.Equal(t, []string{
			"v3 TO_IN 232.1.2.3,192.0.2.3" + toV3,
			"v3 TO_IN 232.1.2.3" + toV3,
			"v3 BLOCK 232.1.2.3,192.0.2.3" + toV3,
		}, r.after(time.Minute))
		require.Empty(t, r.s.groups.due)
	})
}

// RFC 3376 5.2: "If the interface state is INCLUDE (A) and the queried source list B", IS_IN (A*B); EXCLUDE (A): IS_IN (B-A).
func TestQueriesAreAnsweredWithTheSources(t *testing.T) {
	const general, ofGroup = "11 64 0000 00000000 02 7d 0000", "11 0a 0000 e8010203 02 7d 0000"
	const ofSources = "11 0a 0000 e8010203 02 7d 0002 c0000202 c0000203" // src1 and src2
	const ofOther = "11 0a 0000 e8010203 02 7d 0001 c0000204"            // src3
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		ask := func(query string, want ...string) {
			t.Helper()
			r.after(time.Minute)
			dst := group1.String()
			if query == general {
				dst = "224.0.0.1"
			}
			r.ask(dst, query)
			var texts []string
			for _, w := range want {
				texts = append(texts, w+toV3)
			}
			require.Equal(t, texts, r.after(time.Minute))
		}
		require.NoError(t, u.JoinSource(group1, src2, 2))
		ask(general, "v3 IS_IN 232.1.2.3,192.0.2.3")
		ask(ofGroup, "v3 IS_IN 232.1.2.3,192.0.2.3")
		ask(ofSources, "v3 IS_IN 232.1.2.3,192.0.2.3")
		ask(ofOther) // "If the resulting ... set of source addresses is empty, no response is sent"
		v := openUDP(t, r.s, "0.0.0.0:6")
		require.NoError(t, v.Join(group1, 2))
		require.NoError(t, v.BlockSource(group1, src1, 2))
		ask(general, "v3 IS_EX 232.1.2.3,192.0.2.2")
		ask(ofGroup, "v3 IS_EX 232.1.2.3,192.0.2.2")
		ask(ofSources, "v3 IS_IN 232.1.2.3,192.0.2.3")
		ask(ofOther, "v3 IS_IN 232.1.2.3,192.0.2.4")

		// A pending answer survives a change of another source.
		r.ask(group1.String(), "11 64 0000 e8010203 02 7d 0001 c0000204")
		require.NoError(t, v.BlockSource(group1, src2, 2)) // u wants src2, so the interface does not change
		require.NoError(t, u.LeaveSource(group1, src2, 2))
		require.Contains(t, r.after(time.Minute), "v3 IS_IN 232.1.2.3,192.0.2.4"+toV3)
		// A pending answer for a group is canceled when the group is left.
		r.ask(group1.String(), ofGroup)
		require.NoError(t, v.Leave(group1, 2))
		require.Equal(t, []string{"v3 TO_IN 232.1.2.3" + toV3, "v3 TO_IN 232.1.2.3" + toV3}, r.after(time.Minute))
		require.Empty(t, r.s.groups.due)
		// A report of a change of mode replaces the pending answer, because it contains the same sources.
		require.NoError(t, v.JoinSource(group1, src1, 2))
		r.after(time.Minute)
		r.ask(group1.String(), "11 ff 0000 e8010203 02 7d 0000")
		require.NoError(t, v.Join(addr("232.1.2.9"), 2))
		w := openUDP(t, r.s, "0.0.0.0:7")
		require.NoError(t, w.Join(group1, 2))
		require.NotContains(t, strings.Join(r.after(time.Hour), ";"), "IS_")
	})
}

func TestVersion2ReportsNoSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		r.ask("224.0.0.1", generalV2)
		require.NoError(t, u.JoinSource(group1, src1, 2))
		require.Equal(t, []string{"v2 report 232.1.2.3 > 232.1.2.3", "v2 report 232.1.2.3 > 232.1.2.3"}, r.after(time.Minute))
		require.NoError(t, u.JoinSource(group1, src2, 2))
		require.NoError(t, u.LeaveSource(group1, src1, 2))
		require.Empty(t, r.after(time.Minute), "version 2 knows no sources")
		require.NoError(t, u.LeaveSource(group1, src2, 2))
		require.Equal(t, []string{"leave 232.1.2.3 > 224.0.0.2"}, r.after(time.Minute))
	})
}

// RFC 3376 4.2.16: a record that does not fit in a report is split, unless its sources are excluded
// sources. Such a record is truncated.
func TestManySourcesTakeManyReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u, v := openUDP(t, r.s, "0.0.0.0:5"), openUDP(t, r.s, "0.0.0.0:6")
		for i := range 800 {
			require.NoError(t, u.JoinSource(group1, netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 2))
		}
		r.after(time.Minute)
		sources := func() (counts []int) {
			for _, text := range r.after(10 * time.Second) {
				counts = append(counts, strings.Count(text, ",198."))
			}
			return counts
		}
		r.ask("224.0.0.1", generalV3)
		require.Equal(t, []int{365, 365, 70}, sources(), "(1500 - 24 - 8 - 8) / 4 in a report")
		require.NoError(t, v.Join(group1, 2))
		require.NoError(t, u.Leave(group1, 2))
		r.after(time.Minute)
		for i := range 800 {
			require.NoError(t, v.BlockSource(group1, netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 2))
		}
		r.after(time.Minute)
		r.ask("224.0.0.1", generalV3)
		require.Equal(t, []int{365}, sources())
	})
}

func TestCloseBlocksTheJoinedSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.JoinSource(group1, src1, 2))
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		require.NoError(t, u.BlockSource(addr("224.1.2.3"), src1, 2))
		r.after(time.Minute)
		require.NoError(t, r.s.Close())
		require.Equal(t, []string{"v3 TO_IN 224.1.2.3 BLOCK 232.1.2.3,192.0.2.2" + toV3}, r.after(time.Minute))
	})
}

// A datagram from a source that no socket wants is counted. A socket does not receive datagrams from
// sources that it does not want.
func TestOnlyWantedSourcesAreReceived(t *testing.T) {
	s, p := hostAndPeer(t)
	one, two, third := openShared(t, s, "0.0.0.0:5"), openShared(t, s, "0.0.0.0:5"), openShared(t, s, "0.0.0.0:5")
	raw := openRawOf(t, s, uint16(wire.ProtoUDP))
	require.NoError(t, raw.JoinSource(addr("232.1.2.4"), src1, 2))
	send := func(src netip.Addr) (got [3]int) {
		d := udpDatagram(netip.AddrPortFrom(src, 9), netip.AddrPortFrom(group1, 5), []byte("x"))
		p.ip(wire.MulticastMAC(group1), wire.IPv4{Src: src, Dst: group1, Proto: wire.ProtoUDP, TTL: 1}, d)
		for i, u := range []*UDP{one, two, third} {
			got[i] = len(texts(u))
		}
		return got
	}
	heard := func() (n int) {
		raw.mu.Lock()
		defer raw.mu.Unlock()
		for d := (datagram{}); raw.queue.pop(&d); n++ {
		}
		return n
	}
	require.NoError(t, one.JoinSource(group1, src1, 2))
	require.Equal(t, [3]int{1, 1, 1}, send(src1), "sockets that have not joined the group hear what another has joined")
	require.Equal(t, [3]int{}, send(src2))
	require.Equal(t, 1, dropped(s, dropSourceFilter))
	require.NoError(t, two.JoinSource(group1, src2, 2))
	require.Equal(t, [3]int{1, 0, 1}, send(src1))
	require.Equal(t, [3]int{0, 1, 1}, send(src2))
	require.NoError(t, third.Join(group1, 2))
	require.NoError(t, third.BlockSource(group1, src1, 2))
	require.Equal(t, [3]int{1, 0, 0}, send(src1))
	require.Equal(t, [3]int{0, 1, 1}, send(src2))
	require.Equal(t, [3]int{0, 0, 1}, send(src3))
	require.Equal(t, 1, dropped(s, dropSourceFilter))
	require.Equal(t, 6, heard(), "a raw socket that has not joined the group receives all of it")
	require.NoError(t, raw.JoinSource(group1, src3, 2))
	send(src1)
	require.Equal(t, 0, heard(), "raw sockets have filters as well")
	send(src3)
	require.Equal(t, 1, heard())
}

// A host receives its own datagrams if it wants itself as a source.
func TestAHostReceivesItselfAsAJoinedSource(t *testing.T) {
	s, _ := hostAndPeer(t)
	u := openUDP(t, s, "0.0.0.0:5")
	require.NoError(t, u.JoinSource(group1, src1, 2))
	say(t, u, "232.1.2.3:5", "x", SendOptions{NIC: 2})
	require.Empty(t, texts(u))
	require.NoError(t, u.JoinSource(group1, addr("192.0.2.1"), 2))
	say(t, u, "232.1.2.3:5", "x", SendOptions{NIC: 2})
	require.Len(t, texts(u), 1)
}

func TestSocketFiltersMakeTheInterfacesFilter(t *testing.T) {
	// RFC 3376 3.2's example: "s1 (i, m, EXCLUDE, {a, b, c, d}), s2: EXCLUDE, {b, c, d, e}; s3: INCLUDE, {d, e, f}".
	a, b, c := addr("192.0.2.11"), addr("192.0.2.12"), addr("192.0.2.13")
	d, e, f := addr("192.0.2.14"), addr("192.0.2.15"), addr("192.0.2.16")
	var g groupTable
	none := &sourceFilter{}
	g.change(group1, none, &sourceFilter{true, []netip.Addr{a, b, c, d}})
	g.change(group1, none, &sourceFilter{true, []netip.Addr{b, c, d, e}})
	_, got := g.change(group1, none, &sourceFilter{false, []netip.Addr{d, e, f}})
	require.Equal(t, sourceFilter{true, []netip.Addr{b, c}}, got)
}

// A slow reference computes the interface's filters (RFC 3376 3.2), and a router follows the tables of
// RFC 3376 6.4, but without timers. Joins, leaves and blocks come at random, and the router loses the
// first copy of each report. The router must still know the filters of the reference.
func TestARouterKnowsTheSourcesOfAHost(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			r := newRouter(t)
			rnd := rand.New(rand.NewPCG(seed, 1))
			known := map[string]sourceSet{}
			listen := func() {
				synctest.Wait()
				for _, text := range r.texts() {
					known = takeReport(known, text)
				}
			}
			var socks [3]*UDP
			for i := range socks {
				socks[i] = openUDP(t, r.s, "0.0.0.0:0")
			}
			filters := map[string]*sourceSet{} // the key is a socket and a group
			for range 150 {
				i := rnd.IntN(len(socks))
				group := netip.AddrFrom4([4]byte{232, 1, 1, byte(rnd.IntN(2) + 1)})
				source := netip.AddrFrom4([4]byte{198, 51, 100, byte(rnd.IntN(4) + 1)})
				randomFilter(t, rnd, socks[i], filters, fmt.Sprint(i, group.String()), group, source)
				synctest.Wait()
				r.heard() // the first copy is lost
				time.Sleep(10 * time.Second)
				listen()
				require.Equal(t, wantedSources(filters, len(socks)), known, "seed %d", seed)
			}
		})
	}
}

// A sourceSet is a source filter in a form that is independent of the stack's sourceFilter.
type sourceSet struct {
	exclude bool
	sources string // the last digit of each source, in ascending order
}

// randomFilter makes a random join, leave or block that is valid for the filter of u in the group, and
// updates filters[key].
func randomFilter(t *testing.T, rnd *rand.Rand, u *UDP, filters map[string]*sourceSet, key string, group, source netip.Addr) {
	f, digit := filters[key], source.String()[len("198.51.100."):]
	has := f != nil && strings.Contains(f.sources, digit)
	add := func(to string) string {
		digits := strings.Split(to+digit, "")
		slices.Sort(digits)
		return strings.Join(digits, "")
	}
	switch {
	case f == nil && rnd.IntN(2) == 0:
		require.NoError(t, u.Join(group, 2))
		filters[key] = &sourceSet{exclude: true}
	case f == nil:
		require.NoError(t, u.JoinSource(group, source, 2))
		filters[key] = &sourceSet{sources: digit}
	case rnd.IntN(6) == 0:
		require.NoError(t, u.Leave(group, 2))
		delete(filters, key)
	case f.exclude && has:
		require.NoError(t, u.UnblockSource(group, source, 2))
		f.sources = strings.ReplaceAll(f.sources, digit, "")
	case f.exclude && f.sources == "" && rnd.IntN(2) == 0:
		require.NoError(t, u.JoinSource(group, source, 2))
		*f = sourceSet{sources: digit}
	case f.exclude:
		require.NoError(t, u.BlockSource(group, source, 2))
		f.sources = add(f.sources)
	case has:
		require.NoError(t, u.LeaveSource(group, source, 2))
		if f.sources = strings.ReplaceAll(f.sources, digit, ""); f.sources == "" {
			delete(filters, key)
		}
	default:
		require.NoError(t, u.JoinSource(group, source, 2))
		f.sources = add(f.sources)
		require.Equal(t, syscall.EADDRNOTAVAIL, u.JoinSource(group, source, 2))
	}
}

// wantedSources returns the filter of the interface for each group. It decides for each source separately
// whether a socket wants it.
func wantedSources(filters map[string]*sourceSet, socks int) map[string]sourceSet {
	want := map[string]sourceSet{}
	for _, group := range []string{"232.1.1.1", "232.1.1.2"} {
		var all []sourceSet
		for i := range socks {
			if f := filters[fmt.Sprint(i, group)]; f != nil {
				all = append(all, *f)
			}
		}
		if len(all) == 0 {
			continue
		}
		w := sourceSet{exclude: slices.ContainsFunc(all, func(f sourceSet) bool { return f.exclude })}
		for _, digit := range strings.Split("1234", "") {
			wanted := slices.ContainsFunc(all, func(f sourceSet) bool { return f.exclude != strings.Contains(f.sources, digit) })
			if wanted != w.exclude {
				w.sources += digit
			}
		}
		want[group] = w
	}
	return want
}

// takeReport returns the filters that a router knows after it has received the report text. known are the
// filters that it knew before.
func takeReport(known map[string]sourceSet, text string) map[string]sourceSet {
	known = maps.Clone(known)
	words := strings.Fields(strings.TrimSuffix(text, toV3))[1:]
	for i := 0; i+1 < len(words); i += 2 {
		parts := strings.Split(words[i+1], ",")
		group, f := parts[0], known[parts[0]]
		listed := ""
		for _, source := range parts[1:] {
			listed += source[len("198.51.100."):]
		}
		set := map[rune]bool{}
		for _, digit := range f.sources {
			set[digit] = true
		}
		for _, digit := range listed {
			switch words[i] {
			case "ALLOW":
				set[digit] = !f.exclude
			case "BLOCK":
				set[digit] = f.exclude
			}
		}
		switch words[i] {
		case "TO_IN", "TO_EX":
			f = sourceSet{words[i] == "TO_EX", listed}
		default:
			f.sources = ""
			for _, digit := range "1234" {
				if set[digit] {
					f.sources += string(digit)
				}
			}
		}
		if known[group] = f; f == (sourceSet{}) {
			delete(known, group)
		}
	}
	return known
}

// An IGMP query to a group is accepted, although the socket's filter for the group does not accept the
// router as a source.
func TestAQueryForAFilteredGroupIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		u := openUDP(t, r.s, "0.0.0.0:5")
		require.NoError(t, u.JoinSource(group1, addr("198.51.100.7"), 2))
		r.after(time.Minute)
		r.ask("232.1.2.3", "11 0a 0000 e8010203 02 7d 0000")
		require.Equal(t, []string{"v3 IS_IN 232.1.2.3,198.51.100.7" + toV3}, r.after(time.Minute))
	})
}

// A group with a source filter does not add to the cost of other joins.
func TestABlockedSourceCostsOthersNothing(t *testing.T) {
	d, _ := nic.Pipe(nic.PipeConfig{})
	s := newHost(t, d, "192.0.2.1/24")
	u, v := openUDP(t, s, "0.0.0.0:5"), openUDP(t, s, "0.0.0.0:6")
	require.NoError(t, u.Join(group1, 2))
	require.NoError(t, v.JoinSource(group1, src1, 2))
	p := &packet{ifc: s.ifaceNamed("eth0"), src: src2, dst: group1}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		require.True(t, u.wantsGroup(p))
		require.False(t, v.wantsGroup(p))
	}))
}
