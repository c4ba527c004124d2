//go:build linux

package taptest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// A recorder is a TAP that records the IGMP and MLD messages about the test's groups. ours has the sent
// messages, which are usernet's. kernel has the received messages, which are the kernel's.
type recorder struct {
	*nic.TAP
	mu           sync.Mutex
	ours, kernel reports
	last         time.Time // of the last message of either side about any group
}

// reports are the messages of one side.
type reports struct {
	texts []string       // the different ones
	times map[string]int // how often each was sent since the last settle
}

func (r *recorder) Nonblocking() nic.Device { return r }

func (r *recorder) Send(batch []nic.Frame) (int, error) {
	r.record(&r.ours, batch)
	return r.TAP.Send(batch)
}

func (r *recorder) Attach(recv func(batch []nic.Frame)) {
	r.TAP.Attach(func(batch []nic.Frame) {
		r.record(&r.kernel, batch)
		recv(batch)
	})
}

// groups has the group that usernet joins and the group that the kernel joins. The key is true for IPv6.
var groups = map[bool][2]netip.Addr{
	false: {netip.MustParseAddr("239.1.2.4"), netip.MustParseAddr("239.1.2.5")},
	true:  {netip.MustParseAddr("ff35::1204"), netip.MustParseAddr("ff35::1205")},
}

// sameGroup replaces the byte in which the groups and their MACs differ by two dots.
var sameGroup = strings.NewReplacer("ef010204", "ef0102..", "ef010205", "ef0102..", "01005e010204", "01005e0102..", "01005e010205", "01005e0102..",
	"0000001204", "00000012..", "0000001205", "00000012..", "333300001204", "3333000012..", "333300001205", "3333000012..")

// record appends the reports and leaves of a batch to *to, as text with the fields that a router sees.
func (r *recorder) record(to *reports, batch []nic.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range batch {
		f := batch[i].AppendTo(nil)
		var text string
		var b []byte // the message, without its checksum, which depends on the group
		switch {
		case len(f) >= 46 && binary.BigEndian.Uint16(f[12:]) == 0x0800 && f[23] == 2 && f[14] == 0x46: // IGMP, after one IP option
			b = f[38 : 14+int(binary.BigEndian.Uint16(f[16:]))]
			clear(b[2:4])
			text = fmt.Sprintf("to %x %x, TOS %x, fragments %x, TTL %d, options %x: %x", f[:6], f[30:34], f[15], f[20:22], f[22], f[34:38], b)
		case len(f) >= 62 && binary.BigEndian.Uint16(f[12:]) == 0x86dd && f[20] == 0 && f[54] == 58: // ICMPv6, after hop-by-hop options
			b = f[62 : 54+int(binary.BigEndian.Uint16(f[18:]))]
			clear(b[2:4])
			text = fmt.Sprintf("to %x %x, hop limit %d, source fe80 %v, options %x: %x", f[:6], f[38:54], f[21], f[22] == 0xfe && f[23] == 0x80, f[54:62], b)
		default:
			continue
		}
		text = sameGroup.Replace(text)
		if b[0] == 0x11 || b[0] == 130 {
			continue // a query, which the test sends
		}
		r.last = time.Now()
		if !strings.Contains(text, "..") {
			continue
		}
		if !slices.Contains(to.texts, text) { // the number of repetitions is random
			to.texts = append(to.texts, text)
		}
		if to.times == nil {
			to.times = make(map[string]int)
		}
		to.times[text]++
	}
}

// settle waits until each side has repeated a message, and clears the record. Each side sends each report of
// a change twice, within a second.
func (r *recorder) settle(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.ours.times[text] >= 2 && r.kernel.times[text] >= 2
	}, patience, 5*time.Millisecond, "each repeats %s", text)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ours, r.kernel = reports{}, reports{}
}

// quiet waits until neither side has sent a message for some time.
func (r *recorder) quiet(t *testing.T) {
	t.Helper()
	began := time.Now()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		const pause = 2200 * time.Millisecond // a message is repeated within a second
		return time.Since(began) > pause && time.Since(r.last) > pause
	}, patience, 20*time.Millisecond)
}

// both waits until each side has sent n messages, returns them, and clears the record.
func (r *recorder) both(t *testing.T, n int) (ours, kernel []string) {
	t.Helper()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.ours.texts) >= n && len(r.kernel.texts) >= n
	}, patience, 5*time.Millisecond, "a report of each")
	r.mu.Lock()
	defer r.mu.Unlock()
	ours, kernel, r.ours.texts, r.kernel.texts = r.ours.texts, r.kernel.texts, nil, nil
	return ours, kernel
}

// query sends an IGMP query from the kernel's side. message is hexadecimal.
func query(t *testing.T, rc *ipv4.RawConn, ifi *net.Interface, dst, message string) {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(message, " ", ""))
	require.NoError(t, err)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	h := &ipv4.Header{
		Version: 4, Len: 24, TotalLen: 24 + len(b), TTL: 1, Protocol: 2,
		Src: net.ParseIP(kernelAddr), Dst: net.ParseIP(dst), Options: []byte{0x94, 4, 0, 0},
	}
	require.NoError(t, rc.WriteTo(h, b, &ipv4.ControlMessage{IfIndex: ifi.Index}))
}

// TestIGMPIsSpokenAsByTheKernel makes a usernet socket and a kernel socket members of groups on one
// link, sends the same queries to both hosts, and compares the messages of the hosts.
func TestIGMPIsSpokenAsByTheKernel(t *testing.T) {
	t.Parallel()
	need(t, "tshark")
	ns := newNamespace(t)
	rec := &recorder{TAP: ns.openTAP(t, true)}
	file := filepath.Join(t.TempDir(), "igmp.pcapng")
	capture, err := os.Create(file)
	require.NoError(t, err)
	defer capture.Close()
	h := newHost(t, nic.Capture(rec, capture, nic.CaptureConfig{}))
	ours, theirs := netip.MustParseAddr("239.1.2.4"), netip.MustParseAddr("239.1.2.5")
	var ifi *net.Interface
	var theirSocket *ipv4.PacketConn
	var querier *ipv4.RawConn
	require.NoError(t, ns.inside(func() error {
		var err error
		if ifi, err = net.InterfaceByName(tapName); err != nil {
			return err
		}
		c, err := net.ListenPacket("udp4", ":5000")
		if err != nil {
			return err
		}
		theirSocket = ipv4.NewPacketConn(c)
		q, err := net.ListenPacket("ip4:2", "0.0.0.0")
		if err != nil {
			return err
		}
		if querier, err = ipv4.NewRawConn(q); err != nil {
			return err
		}
		return querier.SetMulticastLoopback(true) // the kernel receives the query too
	}))
	defer theirSocket.Close()
	defer querier.Close()
	ourUDP, err := h.ListenUDP("udp4", &net.UDPAddr{Port: 5000})
	require.NoError(t, err)
	join := func() {
		require.NoError(t, ourUDP.JoinGroup(nil, ours))
		require.NoError(t, theirSocket.JoinGroup(ifi, &net.IPAddr{IP: theirs.AsSlice()}))
	}
	leave := func() {
		require.NoError(t, ourUDP.LeaveGroup(nil, ours))
		require.NoError(t, theirSocket.LeaveGroup(ifi, &net.IPAddr{IP: theirs.AsSlice()}))
	}
	// same compares the messages of both hosts, which must end in want: an IGMPv3 report (22) with one group record, whose
	// type is 01 IS_IN, 02 IS_EX, 03 TO_IN or 04 TO_EX (RFC 3376 4.2.12), or an IGMPv2 report (16) or leave (17).
	same := func(what, want string) (text string) {
		t.Helper()
		o, k := rec.both(t, 1)
		require.Equal(t, k, o, "%s; expected is the kernel's", what)
		require.Len(t, o, 1, what)
		require.True(t, strings.HasSuffix(o[0], want), "%s: %s does not end in %s", what, o[0], want)
		return o[0]
	}
	// bothGroups sends a query for the group of each host. GROUP in message stands for the group.
	bothGroups := func(message string) {
		query(t, querier, ifi, ours.String(), strings.Replace(message, "GROUP", "ef010204", 1))
		query(t, querier, ifi, theirs.String(), strings.Replace(message, "GROUP", "ef010205", 1))
	}

	join()
	rec.settle(t, same("join", "220000000000000104000000ef0102.."))
	query(t, querier, ifi, "224.0.0.1", "11 02 0000 00000000 02 7d 0000")
	same("general query", "220000000000000102000000ef0102..")
	bothGroups("11 02 0000 GROUP 02 7d 0000")
	same("group query", "220000000000000102000000ef0102..")
	bothGroups("11 02 0000 GROUP 02 7d 0001 c6336401")
	o, _ := rec.both(t, 1)
	require.Len(t, o, 1)
	require.True(t, strings.HasSuffix(o[0], "220000000000000101000001ef0102..c6336401"),
		"%s: RFC 3376 5.2 has IS_IN of the sources that are wanted, where Linux reports its whole state", o[0])
	leave()
	rec.settle(t, same("leave", "220000000000000103000000ef0102.."))
	before := h.Stats().IGMP.Received
	query(t, querier, ifi, "224.0.0.1", "11 01 0000 00000000")
	require.Eventually(t, func() bool { return h.Stats().IGMP.Received > before }, patience, time.Millisecond, "the query came")
	join()
	same("join in version 2", "16000000ef0102..")
	leave()
	same("leave in version 2", "17000000ef0102..")

	require.NoError(t, h.Close())
	require.NoError(t, capture.Close())
	out := ns.run(t, "tshark", "-r", file, "-n", "-Y", "igmp && ip.src == "+ourAddr, "-o", "ip.check_checksum:TRUE",
		"-T", "fields", "-e", "igmp.checksum.status", "-e", "ip.checksum.status", "-e", "igmp.type", "-e", "igmp.record_type", "-e", "_ws.malformed")
	lines := strings.Split(strings.ReplaceAll(strings.TrimSuffix(out, "\n"), "\t", " "), "\n")
	slices.Sort(lines)
	require.Equal(t, []string{
		"1 1 0x16  ", "1 1 0x17  ", "1 1 0x22 1 ", "1 1 0x22 2 ", "1 1 0x22 3 ", "1 1 0x22 4 ",
	}, slices.Compact(lines), "checksums are good, and tshark can read all of it")
}

// A change is an operation that changes the source filter of a socket. Some operations ignore the source.
type change func(ifi *net.Interface, group, source netip.Addr) error

// A groupSocket has the operations on groups of a UDP socket, usernet's or the kernel's.
type groupSocket struct {
	ifi                     *net.Interface
	join, leave             func(ifi *net.Interface, group netip.Addr) error
	joinSource, leaveSource change
	block, unblock          change
	listen                  func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (net.PacketConn, error)
}

// kernelSocket opens a kernel socket on port 5000.
func kernelSocket(t *testing.T, ns *namespace, e end) *groupSocket {
	t.Helper()
	var s groupSocket
	var c net.PacketConn
	require.NoError(t, ns.inside(func() (err error) {
		if s.ifi, err = net.InterfaceByName(tapName); err != nil {
			return err
		}
		c, err = net.ListenPacket(e.network("udp"), ":5000")
		return err
	}))
	t.Cleanup(func() { c.Close() })
	byGroup := func(f func(*net.Interface, net.Addr) error) func(*net.Interface, netip.Addr) error {
		return func(ifi *net.Interface, group netip.Addr) error { return f(ifi, &net.IPAddr{IP: group.AsSlice()}) }
	}
	bySource := func(f func(*net.Interface, net.Addr, net.Addr) error) change {
		return func(ifi *net.Interface, group, source netip.Addr) error {
			return f(ifi, &net.IPAddr{IP: group.AsSlice()}, &net.IPAddr{IP: source.AsSlice()})
		}
	}
	var p interface {
		JoinGroup(*net.Interface, net.Addr) error
		LeaveGroup(*net.Interface, net.Addr) error
		JoinSourceSpecificGroup(*net.Interface, net.Addr, net.Addr) error
		LeaveSourceSpecificGroup(*net.Interface, net.Addr, net.Addr) error
		ExcludeSourceSpecificGroup(*net.Interface, net.Addr, net.Addr) error
		IncludeSourceSpecificGroup(*net.Interface, net.Addr, net.Addr) error
	} = ipv4.NewPacketConn(c)
	if e.v6() {
		p = ipv6.NewPacketConn(c)
	}
	s.join, s.leave = byGroup(p.JoinGroup), byGroup(p.LeaveGroup)
	s.joinSource, s.leaveSource = bySource(p.JoinSourceSpecificGroup), bySource(p.LeaveSourceSpecificGroup)
	s.block, s.unblock = bySource(p.ExcludeSourceSpecificGroup), bySource(p.IncludeSourceSpecificGroup)
	s.listen = func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (c net.PacketConn, err error) {
		require.NoError(t, ns.inside(func() error {
			var u *net.UDPConn
			if u, err = net.ListenMulticastUDP(network, ifi, gaddr); err == nil {
				c = u
			}
			return nil
		}))
		return c, err
	}
	return &s
}

// ourSocket opens a usernet socket on port 5000.
func ourSocket(t *testing.T, h *usernet.Host, e end) *groupSocket {
	t.Helper()
	c, err := h.ListenUDP(e.network("udp"), &net.UDPAddr{Port: 5000})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &groupSocket{
		ifi:  &net.Interface{Index: 2},
		join: c.JoinGroup, leave: c.LeaveGroup, joinSource: c.JoinSourceGroup, leaveSource: c.LeaveSourceGroup,
		block: c.BlockSource, unblock: c.UnblockSource,
		listen: func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (net.PacketConn, error) {
			u, err := h.ListenMulticastUDP(network, ifi, gaddr)
			if err != nil {
				return nil, err
			}
			return u, nil
		},
	}
}

// TestSourceFiltersAreReportedAsByTheKernel changes the source filters of a usernet socket and a
// kernel socket in the same way, and compares the reports.
func TestSourceFiltersAreReportedAsByTheKernel(t *testing.T) {
	t.Parallel()
	need(t)
	for _, e := range families {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ns, tap := newTAP(t, true)
			rec := &recorder{TAP: tap}
			ours, kernel := ourSocket(t, newHost(t, rec), e), kernelSocket(t, ns, e)
			rec.quiet(t) // the groups of the addresses are reported twice
			one, two := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
			head, group := "2200000000000001", "ef0102.."
			if e.v6() {
				one, two = netip.MustParseAddr("2001:db8::a1"), netip.MustParseAddr("2001:db8::a2")
				head, group = "8f00000000000001", "ff3500000000000000000000000012.."
			}
			hex1, hex2 := fmt.Sprintf("%x", one.AsSlice()), fmt.Sprintf("%x", two.AsSlice())
			all := func(f func(*net.Interface, netip.Addr) error) change {
				return func(ifi *net.Interface, group, _ netip.Addr) error { return f(ifi, group) }
			}
			for _, c := range []struct {
				what   string
				method func(s *groupSocket) change
				src    netip.Addr
				want   string // the group record; type 03 is TO_IN, 04 TO_EX, 05 ALLOW, and 06 BLOCK
			}{
				{"join a source", func(s *groupSocket) change { return s.joinSource }, one, "05000001" + group + hex1},
				{"join another", func(s *groupSocket) change { return s.joinSource }, two, "05000001" + group + hex2},
				{"leave the first", func(s *groupSocket) change { return s.leaveSource }, one, "06000001" + group + hex1},
				{"leave the last", func(s *groupSocket) change { return s.leaveSource }, two, "06000001" + group + hex2},
				{"join all", func(s *groupSocket) change { return all(s.join) }, one, "04000000" + group},
				{"block a source", func(s *groupSocket) change { return s.block }, one, "06000001" + group + hex1},
				{"block another", func(s *groupSocket) change { return s.block }, two, "06000001" + group + hex2},
				{"unblock the first", func(s *groupSocket) change { return s.unblock }, one, "05000001" + group + hex1},
				{"leave", func(s *groupSocket) change { return all(s.leave) }, one, "03000000" + group},
				{"join all again", func(s *groupSocket) change { return all(s.join) }, one, "04000000" + group},
			} {
				require.NoError(t, c.method(ours)(ours.ifi, groups[e.v6()][0], c.src), c.what)
				require.NoError(t, c.method(kernel)(kernel.ifi, groups[e.v6()][1], c.src), c.what)
				o, k := rec.both(t, 1)
				require.Equal(t, k, o, "%s; expected is the kernel's", c.what)
				require.Len(t, o, 1, c.what)
				require.True(t, strings.HasSuffix(o[0], ": "+head+c.want), "%s: %s does not end in %s", c.what, o[0], c.want)
				rec.settle(t, o[0])
			}
		})
	}
}

// errnoOf formats an error as its errno, or as its text.
func errnoOf(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// TestGroupsFailAsOnTheKernel makes the same calls on a kernel socket and a usernet socket and
// compares the errors.
func TestGroupsFailAsOnTheKernel(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t)
	for _, e := range families {
		require.Equal(t, useGroups(kernelSocket(t, ns, e), e), useGroups(ourSocket(t, h, e), e), "%s; expected is the kernel's", e.name)
	}
}

// useGroups makes many calls on a socket, also invalid ones, and returns their results as text.
func useGroups(s *groupSocket, e end) (lines []string) {
	step := func(what string, err error) { lines = append(lines, what+": "+errnoOf(err)) }
	group, one, two := netip.MustParseAddr("239.1.2.77"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	nodes := netip.MustParseAddr("224.0.0.1")
	if e.v6() {
		group, one, two = netip.MustParseAddr("ff35::77"), netip.MustParseAddr("2001:db8::a1"), netip.MustParseAddr("2001:db8::a2")
		nodes = netip.MustParseAddr("ff02::1")
	}
	nowhere := &net.Interface{Index: 9999, Name: "none"}
	step("leave a group that was not joined", s.leave(s.ifi, group))
	step("leave a source of it", s.leaveSource(s.ifi, group, one))
	step("block a source of it", s.block(s.ifi, group, one))
	step("join an address that is no group", s.join(s.ifi, one))
	step("join on a missing interface", s.join(nowhere, group))
	step("join a source on a missing interface", s.joinSource(nowhere, group, one))
	step("join a source of an address that is no group", s.joinSource(s.ifi, one, one))
	step("join a source", s.joinSource(s.ifi, group, one))
	step("again", s.joinSource(s.ifi, group, one))
	step("another", s.joinSource(s.ifi, group, two))
	step("join the group", s.join(s.ifi, group))
	step("block a source", s.block(s.ifi, group, one))
	step("leave a source", s.leaveSource(s.ifi, group, one))
	step("again", s.leaveSource(s.ifi, group, one))
	step("leave the last", s.leaveSource(s.ifi, group, two))
	step("leave the group", s.leave(s.ifi, group))
	step("join the group", s.join(s.ifi, group))
	step("again", s.join(s.ifi, group))
	step("unblock a source", s.unblock(s.ifi, group, one))
	step("block a source", s.block(s.ifi, group, one))
	step("again", s.block(s.ifi, group, one))
	step("join a source", s.joinSource(s.ifi, group, two))
	step("unblock it", s.unblock(s.ifi, group, one))
	step("leave the group", s.leave(s.ifi, group))
	step("again", s.leave(s.ifi, group))
	step("join the group of all nodes", s.join(s.ifi, nodes))
	step("leave it", s.leave(s.ifi, nodes))
	// Each has a port of its own: a process that another test is about to start holds the kernel's sockets for a moment.
	for i, x := range []struct{ network, group string }{
		{"udp6", "ff02::5678"}, {"udp", "ff02::5678"}, {"udp4", "ff02::5678"}, {"udp6", "224.1.2.3"}, {"udp6", "::1"},
		{"udp4", "224.1.2.3"}, {"udp", "224.1.2.3"}, {"udp4", "127.0.0.1"},
	} {
		l, err := s.listen(x.network, s.ifi, &net.UDPAddr{IP: net.ParseIP(x.group), Port: 5678 + i})
		step("ListenMulticastUDP "+x.network+" "+x.group, err)
		if err == nil {
			lines = append(lines, l.LocalAddr().Network()+" "+l.LocalAddr().String())
			l.Close()
		}
	}
	return lines
}

// TestGroupsReachTheKernelAndComeFromIt sends datagrams to groups in both directions and compares
// the receivers' control messages.
func TestGroupsReachTheKernelAndComeFromIt(t *testing.T) {
	onBothLinks(t, nil, func(t *testing.T, ns *namespace, h *usernet.Host, _ bool) {
		const group = "239.1.2.3"
		gaddr := &net.UDPAddr{IP: net.ParseIP(group), Port: 5000}
		var theirs *net.UDPConn
		var p *ipv4.PacketConn
		var ifi *net.Interface
		require.NoError(t, ns.inside(func() error {
			var err error
			if ifi, err = net.InterfaceByName(tapName); err != nil {
				return err
			}
			if theirs, err = net.ListenMulticastUDP("udp4", ifi, gaddr); err != nil {
				return err
			}
			p = ipv4.NewPacketConn(theirs)
			return p.SetControlMessage(ipv4.FlagTTL|ipv4.FlagDst, true)
		}))
		defer theirs.Close()
		raw, err := theirs.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		}))
		require.NoError(t, err)
		ours, err := h.ListenMulticastUDP("udp4", nil, gaddr)
		require.NoError(t, err)
		require.NoError(t, ours.SetControlMessage(usernet.FlagTTL|usernet.FlagDst|usernet.FlagTOS, true))
		patient := time.Now().Add(patience)
		theirs.SetReadDeadline(patient)
		ours.SetReadDeadline(patient)

		for _, c := range []struct {
			kernelTo, oursTo string
			ttl, groupTTL    int
			tos, size        int
		}{
			{group, group, 64, 1, 0, 100},
			{group, group, 64, 9, 0x2e << 2, 100},
			{group, group, 64, 9, 0, 4000},
			{ourAddr, kernelAddr, 33, 9, 0x10, 100},
			{"192.0.2.255", "192.0.2.255", 44, 9, 0x10, 100},
			{"255.255.255.255", "255.255.255.255", 64, 9, 0, 100},
		} {
			require.NoError(t, p.SetTTL(c.ttl))
			require.NoError(t, ours.SetTTL(c.ttl))
			require.NoError(t, p.SetMulticastTTL(c.groupTTL))
			require.NoError(t, ours.SetMulticastTTL(c.groupTTL))
			require.NoError(t, p.SetTOS(c.tos))
			require.NoError(t, ours.SetTOS(c.tos))
			payload := bytes.Repeat([]byte("x"), c.size)
			read := func(s interface {
				ReadMsgUDP(b, oob []byte) (int, int, int, *net.UDPAddr, error)
			}) (oob []byte, from *net.UDPAddr) {
				b, oob := make([]byte, 8000), make([]byte, 200)
				n, oobn, flags, from, err := s.ReadMsgUDP(b, oob)
				require.NoError(t, err)
				require.Equal(t, payload, b[:n])
				require.Zero(t, flags)
				return oob[:oobn], from
			}
			broadcast := strings.HasSuffix(c.oursTo, "255")
			_, err := ours.WriteTo(payload, &net.UDPAddr{IP: net.ParseIP(c.oursTo), Port: 5000})
			require.NoError(t, err)
			toKernel, from := read(theirs)
			require.Equal(t, ourAddr, from.IP.String())
			if broadcast {
				_, from = read(ours) // the socket receives its own datagram too
				require.Equal(t, ourAddr, from.IP.String())
			}
			if c.kernelTo == "255.255.255.255" {
				continue // in this namespace, the kernel has no route for this address
			}
			_, err = theirs.WriteTo(payload, &net.UDPAddr{IP: net.ParseIP(c.kernelTo), Port: 5000})
			require.NoError(t, err)
			toUs, from := read(ours)
			require.Equal(t, kernelAddr, from.IP.String())
			if broadcast {
				_, from = read(theirs)
				require.Equal(t, kernelAddr, from.IP.String(), "the kernel's comes back too")
			}

			// Only the indexes and addresses differ.
			var cm ipv4.ControlMessage
			require.NoError(t, cm.Parse(toUs))
			require.Equal(t, 2, cm.IfIndex)
			require.NoError(t, cm.Parse(toKernel))
			require.Equal(t, ifi.Index, cm.IfIndex)
			k, o := net.ParseIP(kernelAddr).To4(), net.ParseIP(ourAddr).To4()
			mirrored := bytes.ReplaceAll(toKernel, k, o)
			binary.NativeEndian.PutUint32(mirrored[16:], 2) // the interface index in IP_PKTINFO
			require.Equal(t, mirrored, toUs, "to %s; expected is the kernel's, mirrored", c.oursTo)
		}
	})
}

// TestGroupsOfIPv6ReachTheKernelAndComeFromIt sends to a link-local group in both directions.
func TestGroupsOfIPv6ReachTheKernelAndComeFromIt(t *testing.T) {
	t.Parallel()
	onBothLinks(t, nil, func(t *testing.T, ns *namespace, h *usernet.Host, _ bool) {
		gaddr := &net.UDPAddr{IP: net.ParseIP("ff02::5678"), Port: 5678}
		theirAddr := ns.kernelLinkLocal(t) // until it is usable, the kernel sends from its global address
		var theirs *net.UDPConn
		require.NoError(t, ns.inside(func() error {
			ifi, err := net.InterfaceByName(tapName)
			if err != nil {
				return err
			}
			theirs, err = net.ListenMulticastUDP("udp6", ifi, gaddr)
			return err
		}))
		defer theirs.Close()
		ours, err := h.ListenMulticastUDP("udp6", &net.Interface{Index: 2}, gaddr)
		require.NoError(t, err)
		b := make([]byte, 10000)
		for _, n := range []int{5, 3000} { // one packet, and several fragments
			data := []byte(strings.Repeat("x", n))
			_, err = ours.WriteTo(data, gaddr)
			require.NoError(t, err)
			require.NoError(t, theirs.SetReadDeadline(time.Now().Add(patience)))
			got, from, err := theirs.ReadFromUDP(b)
			require.NoError(t, err)
			require.Equal(t, n, got)
			require.Equal(t, linkLocal(t, h).String(), from.IP.String())
			_, err = theirs.WriteTo(data, &net.UDPAddr{IP: gaddr.IP, Port: 5678, Zone: tapName})
			require.NoError(t, err)
			require.NoError(t, ours.SetReadDeadline(time.Now().Add(patience)))
			got, from, err = ours.ReadFromUDP(b)
			require.NoError(t, err)
			require.Equal(t, n, got)
			require.Equal(t, theirAddr, from.IP.String())
			require.NotEmpty(t, from.Zone)
		}
	})
}

// TestASwitchThatSnoopsPassesTheGroupsThatWeJoin connects a host and a sender to a kernel bridge.
// The bridge has no address. It forwards datagrams to a group only to ports that have reported the group.
func TestASwitchThatSnoopsPassesTheGroupsThatWeJoin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		e              end
		option, groups string
	}{
		{families[0], "mcast_igmp_version 3", "239.1.2.3"}, {families[0], "mcast_igmp_version 2", "239.1.2.3"},
		{families[1], "mcast_mld_version 2", "ff15::1234 ff02::1:ff00:2"}, {families[1], "mcast_mld_version 1", "ff15::1234 ff02::1:ff00:2"},
	} {
		t.Run(c.option, func(t *testing.T) {
			t.Parallel()
			need(t, "bridge")
			ns := newNamespace(t)
			tap := ns.openTAP(t, true)
			ns.shell(t, `
				ip link add br0 type bridge mcast_snooping 1 mcast_querier 1 `+c.option+` \
					mcast_query_response_interval 20 mcast_startup_query_interval 100 mcast_query_interval 300 mcast_last_member_interval 20 \
					mcast_membership_interval 3000
				ip addr flush dev tap0
				ip link set tap0 master br0
				ip link add sender type veth peer name port
				ip link set port master br0
				ip link set dev port up
				ip link set dev sender up
				ip addr add 192.0.2.1/24 dev sender
				ip -6 addr add 2001:db8::1/64 dev sender nodad
				ip route add 224.0.0.0/4 dev sender
				ip -6 route add ff15::/16 dev sender table local
				ip link set dev br0 up`)
			h := newHost(t, tap)
			groups := strings.Fields(c.groups)
			gaddr := &net.UDPAddr{IP: net.ParseIP(groups[0]), Port: 5000}
			ours, err := h.ListenMulticastUDP(c.e.network("udp"), nil, gaddr)
			require.NoError(t, err)
			// After the bridge has seen a query, even one of its own, it forwards datagrams only to
			// ports that have reported the group.
			has := func(port, group string) bool {
				return strings.Contains(ns.run(t, "bridge", "mdb", "show"), "port "+port+" grp "+group+" ")
			}
			for _, group := range groups { // the joined group and the solicited-node group
				require.Eventually(t, func() bool { return has(tapName, group) }, patience, 20*time.Millisecond, "the bridge knows of us")
				require.False(t, has("port", group))
			}
			messages := func() stack.IGMPStats {
				if c.e.v6() {
					return h.Stats().MLD
				}
				return h.Stats().IGMP
			}
			before := messages()
			require.Eventually(t, func() bool {
				now := messages()
				return now.Received > before.Received && now.Sent > before.Sent
			}, patience, 20*time.Millisecond, "its queries, which are from 0.0.0.0 for IPv4, are answered")

			var theirs net.PacketConn
			require.NoError(t, ns.inside(func() (err error) {
				theirs, err = net.ListenPacket(c.e.network("udp"), c.e.at("0"))
				return err
			}))
			defer theirs.Close()
			_, err = theirs.WriteTo([]byte("hello"), gaddr)
			require.NoError(t, err)
			ours.SetReadDeadline(time.Now().Add(patience))
			b := make([]byte, 100)
			n, from, err := ours.ReadFromUDP(b)
			require.NoError(t, err)
			require.Equal(t, "hello", string(b[:n]))
			require.Equal(t, c.e.kernel, from.IP.String())

			require.NoError(t, ours.Close())
			require.Eventually(t, func() bool { return !has(tapName, groups[0]) }, patience, 20*time.Millisecond, "it knows that we left")
		})
	}
}
