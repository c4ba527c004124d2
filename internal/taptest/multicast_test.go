//go:build linux

package taptest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
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
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// A recorder keeps the IGMP messages that pass a device: ours go out, and the kernel's
// come in.
type recorder struct {
	*nic.TAP
	mu           sync.Mutex
	ours, kernel []string
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

// record appends what a router sees of the reports and leaves of a batch, with the last
// byte of the group, which differs, as a dot.
func (r *recorder) record(to *[]string, batch []nic.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range batch {
		f := batch[i].AppendTo(nil)
		if len(f) < 46 || binary.BigEndian.Uint16(f[12:]) != 0x0800 || f[23] != 2 || f[14] != 0x46 {
			continue
		}
		b := f[38 : 14+int(binary.BigEndian.Uint16(f[16:]))]
		if b[0] == 0x11 {
			continue // a query: the test's own
		}
		clear(b[2:4]) // the checksum is of the group too
		text := fmt.Sprintf("to %x %x, TOS %x, fragments %x, TTL %d, options %x: %x",
			f[:6], f[30:34], f[15], f[20:22], f[22], f[34:38], b)
		text = strings.NewReplacer("ef010204", "ef0102..", "ef010205", "ef0102..", "01005e010204", "01005e0102..", "01005e010205", "01005e0102..").Replace(text)
		if !slices.Contains(*to, text) { // how often it is said is a matter of chance
			*to = append(*to, text)
		}
	}
}

// both waits until both have said something, and returns and forgets it.
func (r *recorder) both(t *testing.T, n int) (ours, kernel []string) {
	t.Helper()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.ours) >= n && len(r.kernel) >= n
	}, 20*time.Second, 5*time.Millisecond, "a report of each")
	r.mu.Lock()
	defer r.mu.Unlock()
	ours, kernel, r.ours, r.kernel = r.ours, r.kernel, nil, nil
	return ours, kernel
}

// query sends an IGMP query from the kernel's side.
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

// TestIGMPIsSpokenAsByTheKernel has a socket of ours and one of the kernel's be members
// of groups on one link, and be asked the same.
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
		return querier.SetMulticastLoopback(true) // the kernel is asked too
	}))
	defer theirSocket.Close()
	defer querier.Close()
	ourSocket, err := h.ListenUDP("udp4", &net.UDPAddr{Port: 5000})
	require.NoError(t, err)
	join := func() {
		require.NoError(t, ourSocket.JoinGroup(nil, ours))
		require.NoError(t, theirSocket.JoinGroup(ifi, &net.IPAddr{IP: theirs.AsSlice()}))
	}
	leave := func() {
		require.NoError(t, ourSocket.LeaveGroup(nil, ours))
		require.NoError(t, theirSocket.LeaveGroup(ifi, &net.IPAddr{IP: theirs.AsSlice()}))
	}
	same := func(what, want string) {
		t.Helper()
		o, k := rec.both(t, 1)
		require.Equal(t, k, o, "%s; expected is the kernel's", what)
		require.Len(t, o, 1, what)
		require.True(t, strings.HasSuffix(o[0], want), "%s: %s does not end in %s", what, o[0], want)
	}
	bothGroups := func(message string) {
		query(t, querier, ifi, ours.String(), strings.Replace(message, "GROUP", "ef010204", 1))
		query(t, querier, ifi, theirs.String(), strings.Replace(message, "GROUP", "ef010205", 1))
	}
	settle := func() { // the repetition comes within a second
		time.Sleep(1100 * time.Millisecond)
		rec.both(t, 0)
	}

	join()
	same("join", "220000000000000104000000ef0102..")
	settle()
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
	same("leave", "220000000000000103000000ef0102..")
	settle()
	before := h.Stats().IGMP.Received
	query(t, querier, ifi, "224.0.0.1", "11 01 0000 00000000")
	require.Eventually(t, func() bool { return h.Stats().IGMP.Received > before }, 10*time.Second, time.Millisecond, "the query came")
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

// TestSourceFiltersAreReportedAsByTheKernel has a socket of ours and one of the kernel's change their filters
// of a group alike.
func TestSourceFiltersAreReportedAsByTheKernel(t *testing.T) {
	t.Parallel()
	need(t)
	ns := newNamespace(t)
	rec := &recorder{TAP: ns.openTAP(t, true)}
	h := newHost(t, rec)
	ours, theirs := netip.MustParseAddr("239.1.2.4"), netip.MustParseAddr("239.1.2.5")
	var ifi *net.Interface
	var theirSocket *ipv4.PacketConn
	require.NoError(t, ns.inside(func() error {
		var err error
		if ifi, err = net.InterfaceByName(tapName); err != nil {
			return err
		}
		c, err := net.ListenPacket("udp4", ":5000")
		if err == nil {
			theirSocket = ipv4.NewPacketConn(c)
		}
		return err
	}))
	defer theirSocket.Close()
	ourSocket, err := h.ListenUDP("udp4", &net.UDPAddr{Port: 5000})
	require.NoError(t, err)
	ip := func(a netip.Addr) net.Addr { return &net.IPAddr{IP: a.AsSlice()} }
	one, two := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	group := "ef0102.."
	for _, c := range []struct {
		what string
		our  func(ifi *net.Interface, group, source netip.Addr) error
		xnet func(ifi *net.Interface, group, source net.Addr) error
		src  netip.Addr
		want string // record, sources
	}{
		{"join a source", ourSocket.JoinSourceGroup, theirSocket.JoinSourceSpecificGroup, one, "05000001" + group + "c6336401"},
		{"join another", ourSocket.JoinSourceGroup, theirSocket.JoinSourceSpecificGroup, two, "05000001" + group + "c6336402"},
		{"leave the first", ourSocket.LeaveSourceGroup, theirSocket.LeaveSourceSpecificGroup, one, "06000001" + group + "c6336401"},
		{"leave the last", ourSocket.LeaveSourceGroup, theirSocket.LeaveSourceSpecificGroup, two, "06000001" + group + "c6336402"},
		{"join all", func(_ *net.Interface, group, _ netip.Addr) error { return ourSocket.JoinGroup(nil, group) },
			func(ifi *net.Interface, group, _ net.Addr) error { return theirSocket.JoinGroup(ifi, group) }, one, "04000000" + group},
		{"block a source", ourSocket.BlockSource, theirSocket.ExcludeSourceSpecificGroup, one, "06000001" + group + "c6336401"},
		{"block another", ourSocket.BlockSource, theirSocket.ExcludeSourceSpecificGroup, two, "06000001" + group + "c6336402"},
		{"unblock the first", ourSocket.UnblockSource, theirSocket.IncludeSourceSpecificGroup, one, "05000001" + group + "c6336401"},
		{"leave", func(_ *net.Interface, group, _ netip.Addr) error { return ourSocket.LeaveGroup(nil, group) },
			func(ifi *net.Interface, group, _ net.Addr) error { return theirSocket.LeaveGroup(ifi, group) }, one, "03000000" + group},
		{"join all again", func(_ *net.Interface, group, _ netip.Addr) error { return ourSocket.JoinGroup(nil, group) },
			func(ifi *net.Interface, group, _ net.Addr) error { return theirSocket.JoinGroup(ifi, group) }, one, "04000000" + group},
	} {
		rec.both(t, 0)
		require.NoError(t, c.our(nil, ours, c.src), c.what)
		require.NoError(t, c.xnet(ifi, ip(theirs), ip(c.src)), c.what)
		o, k := rec.both(t, 1)
		require.Equal(t, k, o, "%s; expected is the kernel's", c.what)
		require.Len(t, o, 1, c.what)
		require.True(t, strings.HasSuffix(o[0], ": 2200000000000001"+c.want), "%s: %s does not end in %s", c.what, o[0], c.want)
		time.Sleep(1100 * time.Millisecond) // the repetition comes within a second
	}
}

// TestGroupsReachTheKernelAndComeFromIt compares what either side is told of the same
// datagram, sent to it by the other.
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
		patient := time.Now().Add(10 * time.Second)
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
				_, from = read(ours) // its own comes back
				require.Equal(t, ourAddr, from.IP.String())
			}
			if c.kernelTo == "255.255.255.255" {
				continue // the kernel has no route for that in here
			}
			_, err = theirs.WriteTo(payload, &net.UDPAddr{IP: net.ParseIP(c.kernelTo), Port: 5000})
			require.NoError(t, err)
			toUs, from := read(ours)
			require.Equal(t, kernelAddr, from.IP.String())
			if broadcast {
				_, from = read(theirs)
				require.Equal(t, kernelAddr, from.IP.String(), "the kernel's comes back too")
			}

			// What differs is who has which index and address.
			var cm ipv4.ControlMessage
			require.NoError(t, cm.Parse(toUs))
			require.Equal(t, 2, cm.IfIndex)
			require.NoError(t, cm.Parse(toKernel))
			require.Equal(t, ifi.Index, cm.IfIndex)
			k, o := net.ParseIP(kernelAddr).To4(), net.ParseIP(ourAddr).To4()
			mirrored := bytes.ReplaceAll(toKernel, k, o)
			binary.NativeEndian.PutUint32(mirrored[16:], 2)
			require.Equal(t, mirrored, toUs, "to %s; expected is the kernel's, mirrored", c.oursTo)
		}
	})
}

// TestASwitchThatSnoopsPassesTheGroupsThatWeJoin puts our host and a sender on a bridge of
// the kernel's that passes a group only to ports that have reported it, and has no address.
func TestASwitchThatSnoopsPassesTheGroupsThatWeJoin(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"3", "2"} {
		t.Run("version "+version, func(t *testing.T) {
			need(t, "bridge")
			ns := newNamespace(t)
			tap := ns.openTAP(t, true)
			ns.shell(t, `
				ip link add br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_igmp_version `+version+` \
					mcast_query_response_interval 20 mcast_startup_query_interval 100 mcast_last_member_interval 20
				ip addr flush dev tap0
				ip link set tap0 master br0
				ip link add sender type veth peer name port
				ip link set port master br0
				ip link set dev port up
				ip link set dev sender up
				ip addr add 192.0.2.1/24 dev sender
				ip link set dev br0 up`)
			h := newHost(t, tap)
			gaddr := &net.UDPAddr{IP: net.ParseIP("239.1.2.3"), Port: 5000}
			ours, err := h.ListenMulticastUDP("udp4", nil, gaddr)
			require.NoError(t, err)
			// Once the bridge has heard a query, be it its own, it passes nothing unasked.
			has := func(port string) bool {
				return strings.Contains(ns.run(t, "bridge", "mdb", "show"), "port "+port+" grp 239.1.2.3")
			}
			require.Eventually(t, func() bool { return has(tapName) }, 20*time.Second, 20*time.Millisecond, "the bridge knows of us")
			require.False(t, has("port"))
			before := h.Stats().IGMP
			require.Eventually(t, func() bool {
				now := h.Stats().IGMP
				return now.Received > before.Received && now.Sent > before.Sent
			}, 20*time.Second, 20*time.Millisecond, "its queries, from 0.0.0.0, are answered")

			var theirs *net.UDPConn
			require.NoError(t, ns.inside(func() error {
				var err error
				theirs, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(kernelAddr)})
				return err
			}))
			defer theirs.Close()
			ns.run(t, "ip", "route", "add", "224.0.0.0/4", "dev", "sender")
			_, err = theirs.WriteTo([]byte("hello"), gaddr)
			require.NoError(t, err)
			ours.SetReadDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 100)
			n, from, err := ours.ReadFromUDP(b)
			require.NoError(t, err)
			require.Equal(t, "hello", string(b[:n]))
			require.Equal(t, kernelAddr, from.IP.String())

			require.NoError(t, ours.Close())
			require.Eventually(t, func() bool { return !has(tapName) }, 20*time.Second, 20*time.Millisecond, "it knows that we left")
		})
	}
}
