//go:build linux

package taptest

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// A vdeConsole is the management console of a vde_switch.
type vdeConsole struct {
	net.Conn
	lines *bufio.Reader
}

// vdeResult matches the last line of an answer. The number 1000 means success.
var vdeResult = regexp.MustCompile(`^(?:vde\$ )?(1\d{3}) `)

// do runs a command, which must succeed.
func (c *vdeConsole) do(t *testing.T, command string) {
	t.Helper()
	_, err := fmt.Fprintln(c, command)
	require.NoError(t, err)
	for {
		line, err := c.lines.ReadString('\n')
		require.NoError(t, err, command)
		if m := vdeResult.FindStringSubmatch(line); m != nil {
			require.Equal(t, "1000", m[1], "%s: %s", command, line)
			return
		}
	}
}

// newVLANSwitch starts a vde_switch in the namespace. Its port 1 is a TAP without addresses.
func (ns *namespace) newVLANSwitch(t *testing.T) (dir string, console *vdeConsole) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "vde.ctl")
	manage := filepath.Join(t.TempDir(), "console")
	log := ns.background(t, "bash", "-c", fmt.Sprintf("sleep infinity | vde_switch -s %s -t %s -M %s", dir, tapName, manage))
	awaitFile(t, manage, log)
	var c net.Conn
	require.Eventually(t, func() bool { // the socket exists a moment before the switch listens
		var err error
		c, err = net.Dial("unix", manage)
		return err == nil
	}, patience, 10*time.Millisecond)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return dir, &vdeConsole{c, bufio.NewReader(c)}
}

// TestVLANsOfAVDESwitchMeetAtATrunk connects three hosts to a switch. The kernel is in VLAN 100 and a usernet host is
// in VLAN 200, both on ports without tags. A third host, on a port with tags, is in both VLANs and in the network
// without a VLAN.
func TestVLANsOfAVDESwitchMeetAtATrunk(t *testing.T) {
	t.Parallel()
	need(t, "vde_switch", "curl", "ping", "sha256sum")
	ns := newNamespace(t)
	dir, console := ns.newVLANSwitch(t)
	const kernelPort, trunkPort, hostPort = 1, 2, 3
	open := func(port int) nic.Device {
		dev, err := nic.OpenVDE(nic.VDEConfig{Path: dir, Port: port})
		require.NoError(t, err)
		t.Cleanup(func() { dev.Close() })
		return dev
	}
	prefixes := func(network, host int) []netip.Prefix {
		return []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/24", network, host)), netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", network, host)),
		}
	}
	trunkDev, hostDev := open(trunkPort), open(hostPort)
	for _, command := range []string{
		"vlan/create 100", "vlan/create 200",
		fmt.Sprintf("port/setvlan %d 100", kernelPort), fmt.Sprintf("port/setvlan %d 200", hostPort),
		fmt.Sprintf("vlan/addport 100 %d", trunkPort), fmt.Sprintf("vlan/addport 200 %d", trunkPort),
	} {
		console.do(t, command)
	}
	ns.shell(t, fmt.Sprintf(`
		ip addr add 10.0.1.1/24 dev %[1]s
		ip -6 addr add 2001:db8:1::1/64 dev %[1]s nodad
		ip link set %[1]s up`, tapName))
	trunk, err := usernet.New(usernet.Config{NICs: []usernet.NIC{
		{Name: "none", Device: trunkDev, Addrs: prefixes(0, 2)},
		{Name: "v100", Device: trunkDev, VLAN: 100, Addrs: prefixes(1, 2)},
		{Name: "v200", Device: trunkDev, VLAN: 200, Addrs: prefixes(2, 2)},
	}})
	require.NoError(t, err)
	t.Cleanup(func() { trunk.Close() })
	serveSite(t, trunk)
	// The host also has addresses of the kernel's network, which it must not reach through the switch.
	host, err := usernet.New(usernet.Config{NIC: hostDev, Addrs: append(prefixes(2, 3), prefixes(1, 3)...)})
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })

	// The kernel reaches the trunk in VLAN 100.
	const size = mib
	for _, addr := range []string{"10.0.1.2", "[2001:db8:1::2]"} {
		require.Contains(t, ns.shell(t, fmt.Sprintf("ping -c 3 -i 0.1 -W 60 %s", strings.Trim(addr, "[]"))), " 3 received")
		url := "http://" + addr
		require.Equal(t, contentSum(t, size)+"  -\n", ns.shell(t, fmt.Sprintf("curl -sS --fail -g '%s/content?n=%d' | sha256sum", url, size)))
		require.Equal(t, fmt.Sprintf("%d %s\n", size, contentSum(t, size)),
			ns.shell(t, fmt.Sprintf("%s %d | curl -sS --fail -g -T - '%s/sum'", self(t, "generate"), size, url)))
	}
	// The host reaches the trunk in VLAN 200.
	ln, err := trunk.Listen("tcp", ":8000")
	require.NoError(t, err)
	go http.Serve(ln, site())
	for _, addr := range []string{"10.0.2.2", "2001:db8:2::2"} {
		fetch(t, host, end{kernel: addr}, size)
	}
	// Nobody is in the network without a VLAN, and no frame of another VLAN arrived at the trunk.
	for _, st := range trunk.Stats().NICs {
		require.Equal(t, st.Name[0] == 'v', st.RxFrames > 0, st.Name)
	}
	require.Zero(t, trunk.Stats().Drops["frame of a VLAN without an interface"])

	// The kernel does not reach the host in VLAN 200 until the host's port is in VLAN 100.
	for _, addr := range []string{"10.0.1.3", "2001:db8:1::3"} {
		_, _, err := ns.try(t, "ping", "-c", "2", "-i", "0.2", "-W", "1", addr)
		require.Error(t, err, addr)
	}
	console.do(t, fmt.Sprintf("port/setvlan %d 100", hostPort))
	for _, addr := range []string{"10.0.1.3", "2001:db8:1::3"} {
		ns.shell(t, "until ping -c 1 -W 1 "+addr+"; do sleep 0.1; done")
	}
}
