//go:build linux

package taptest

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// TestAKernelAnswersInEachVLAN connects a host to user-mode Linux, whose kernel has 802.1Q. The one link carries three
// networks: one without a VLAN, and two VLANs. A mebibyte crosses in both directions in each network and family.
func TestAKernelAnswersInEachVLAN(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "modprobe", "curl", "sha256sum", "ping")
	wire, guestWire := socketPair(t, unix.SOCK_DGRAM)
	u := bootUML(t, umlConfig{modules: []string{"8021q"}, ether: []*os.File{guestWire}})
	var script strings.Builder
	script.WriteString("ip link set vec0 up\n")
	dev := nic.FromReadWriter(socketConn(t, wire), nic.Link{Name: "wire", MTU: 1500})
	var nics []usernet.NIC
	for n, vlan := range []int{0, 100, 200} {
		name := "vec0"
		if vlan != 0 {
			name = fmt.Sprintf("vec0.%d", vlan)
			fmt.Fprintf(&script, "ip link add link vec0 name %s type vlan id %d\nip link set %[1]s up\n", name, vlan)
		}
		fmt.Fprintf(&script, "ip addr add 10.0.%d.1/24 dev %s\nip -6 addr add 2001:db8:%[1]d::1/64 dev %[2]s nodad\n", n, name)
		nics = append(nics, usernet.NIC{Device: dev, VLAN: vlan, Addrs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.0.%d.2/24", n)), netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::2/64", n)),
		}})
	}
	u.run(t, script.String())
	h, err := usernet.New(usernet.Config{NICs: nics})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	// Frames may have arrived before New had made all three interfaces.
	lost := func() uint64 { return h.Stats().Drops["frame of a VLAN without an interface"] }
	before := lost()
	serveSite(t, h)
	const size = 1 << 20
	for n := range nics {
		for _, addr := range []string{fmt.Sprintf("10.0.%d.2", n), fmt.Sprintf("[2001:db8:%d::2]", n)} {
			require.Contains(t, u.run(t, fmt.Sprintf("ping -c 3 -i 0.2 -W 30 %s || true", strings.Trim(addr, "[]"))), " 3 received")
			out := u.run(t, fmt.Sprintf("curl -sS --fail -g 'http://%s/content?n=%d' | sha256sum", addr, size))
			require.Equal(t, contentSum(t, size), strings.Fields(out)[0], "what the guest got over %s", addr)
			out = u.run(t, fmt.Sprintf("curl -sS --fail -g 'http://%s/content?n=%d' | curl -sS --fail -g -T - 'http://%[1]s/sum'", addr, size))
			require.Equal(t, fmt.Sprintf("%d %s\n", size, contentSum(t, size)), out, "what the guest sent over %s", addr)
		}
	}
	require.Equal(t, before, lost())
}

// The command shows the frames of VLANs with their tags, with a filter and without one, whether they are received or
// sent by another program on the interface.
func TestDumpCommandShowsVLANTags(t *testing.T) {
	t.Parallel()
	need(t)
	exe := build(t)
	near, far := newVeth(t)
	frame := make([]byte, 60) // a broadcast ARP request in VLAN 100
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x81, 0, 0, 100, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1})
	for ns, name := range map[*namespace]string{near: "veth0", far: "veth1"} {
		for _, filter := range []string{"", "arp"} {
			var dev *nic.Packet
			require.NoError(t, ns.inside(func() (err error) {
				dev, err = nic.OpenPacket(nic.PacketConfig{Interface: name})
				return err
			}))
			dev.Attach(func([]nic.Frame) {})
			p := &program{t: t, cmd: near.command(t.Context(), exe, "dump", "-i", "veth0", "-c", "30", filter)} // more than the kernels send by themselves
			var out bytes.Buffer
			p.cmd.Stdout, p.cmd.Stderr = &out, &p.errs
			require.NoError(t, p.cmd.Start())
			done := make(chan error, 1)
			go func() { done <- p.cmd.Wait() }()
			end := time.Now().Add(patience)
			for running := true; running; {
				require.True(t, time.Now().Before(end), "dump does not see the frames")
				_, err := dev.Send([]nic.Frame{{Head: frame}})
				require.NoError(t, err)
				select {
				case err := <-done:
					require.NoError(t, err, "%s", p.errs.String())
					running = false
				case <-time.After(20 * time.Millisecond):
				}
			}
			require.Contains(t, out.String(), "02:00:00:00:00:09 > ff:ff:ff:ff:ff:ff vlan 100 ARP", "sent on %s, filter %q", name, filter)
			require.NoError(t, dev.Close())
		}
	}
}
