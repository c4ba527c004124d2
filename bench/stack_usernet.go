package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// usernetOnTAP makes a TAP device and a host on it.
func usernetOnTAP(s setup, v6 bool) (*network, error) {
	near, far, length := addrs(v6)
	if err := kernelIPv6(v6); err != nil {
		return nil, err
	}
	tap, err := nic.OpenTAP(nic.TAPConfig{
		Name:      tapName,
		Addr:      netip.MustParsePrefix(near + length),
		NoOffload: s.Plain,
		GSO:       s.GSO,
	})
	if err != nil {
		return nil, err
	}
	h, err := usernetHost(tap, far+length, 0)
	if err != nil {
		tap.Close()
		return nil, err
	}
	return ofHost(h), nil
}

// usernetOnTUN makes a TUN device and a host on it.
func usernetOnTUN(s setup) (*network, error) {
	if err := kernelIPv6(false); err != nil {
		return nil, err
	}
	tun, err := nic.OpenTUN(nic.TUNConfig{Name: "tun0", Addr: netip.MustParsePrefix(nearAddr + prefixed), NoOffload: s.Plain, GSO: s.GSO})
	if err != nil {
		return nil, err
	}
	h, err := usernetHost(tun, farAddr+prefixed, 0)
	if err != nil {
		tun.Close()
		return nil, err
	}
	return ofHost(h), nil
}

// usernetOnBridge makes a TAP device that is a port of the bridge, and a host on it.
func usernetOnBridge(t *task) (*network, error) {
	name, addr := "tap-far", farAddr
	if t.Near {
		name, addr = "tap-near", nearAddr
	}
	tap, err := nic.OpenTAP(nic.TAPConfig{Name: name, NoOffload: t.Setup.Plain, GSO: t.Setup.GSO})
	if err != nil {
		return nil, err
	}
	var h *usernet.Host
	if err = ip("link", "set", name, "master", bridgeName, "up"); err == nil {
		h, err = usernetHost(tap, addr+prefixed, t.vlan())
	}
	if err != nil {
		tap.Close()
		return nil, err
	}
	return ofHost(h), nil
}

// vlan returns the VLAN of the hosts of a task, or 0 if their frames have no tags.
func (t *task) vlan() int {
	if t.Stack == usernVLAN {
		return vlanID
	}
	return 0
}

// usernetPipe makes two hosts on a wire in memory.
func usernetPipe(t *task) (near, far *network, err error) {
	addr1, addr2, length := addrs(t.V6)
	a, b := wire(t.Setup.GSO, t.Latency, t.Loss)
	h1, err := usernetHost(a, addr1+length, t.vlan())
	if err != nil {
		return nil, nil, err
	}
	h2, err := usernetHost(b, addr2+length, t.vlan())
	if err != nil {
		return nil, nil, err
	}
	return ofHost(h1), ofHost(h2), nil
}

// wire makes a wire with a latency in each direction. gso is the limit of super-frames; see nic.PipeConfig. The wire
// loses the proportion loss of the frames that a sends. Without a latency it loses none.
func wire(gso int, latency time.Duration, loss float64) (a, b nic.Device) {
	a, b = nic.Pipe(nic.PipeConfig{GSO: gso})
	if latency > 0 {
		a = nic.Impair(a, nic.ImpairConfig{
			Out:  nic.Impairment{Latency: latency, Loss: loss},
			In:   nic.Impairment{Latency: latency},
			Seed: 1,
		})
	}
	return a, b
}

// kernelIPv6 sets whether the kernel uses IPv6 on new devices in this process's namespace. It also
// turns off the kernel's Duplicate Address Detection, which takes a second, and its processing of
// router advertisements.
func kernelIPv6(on bool) error {
	disable := "1"
	if on {
		disable = "0"
	}
	for _, set := range [][2]string{{"accept_dad", "0"}, {"accept_ra", "0"}, {"disable_ipv6", disable}} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/default/"+set[0], []byte(set[1]), 0)
		if err != nil && (on || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// usernetHost makes a host with an address. If vlan is not 0, its frames have tags of that VLAN.
func usernetHost(dev nic.Device, prefix string, vlan int) (*usernet.Host, error) {
	// As on the kernel's side, there is no Duplicate Address Detection. With it, the host would send
	// solicitations without a link-layer address during the detection (RFC 4429 3.2), and Linux does
	// not answer these.
	return usernet.New(usernet.Config{NICs: []stack.NIC{{
		Device:       dev,
		VLAN:         vlan,
		Addrs:        []netip.Prefix{netip.MustParsePrefix(prefix)},
		DADTransmits: -1,
	}}})
}

func ofHost(h *usernet.Host) *network {
	return &network{
		dial:         h.Dial,
		listen:       h.Listen,
		listenPacket: h.ListenPacket,
		close:        func() { h.Close() },
	}
}

// usernetIdle makes two hosts for idle connections. The connections have no keep-alive, like gVisor's:
// a million probes every 15 s would distort the figures. The hosts free the memory of the handshakes
// within a second, so settle is longer.
func usernetIdle() (*idlePair, error) {
	a, b := wire(0, 0, 0)
	near, err := usernetHost(a, nearAddr+prefixed, 0)
	if err != nil {
		return nil, err
	}
	far, err := usernetHost(b, farAddr+prefixed, 0)
	if err != nil {
		return nil, err
	}
	p := &idlePair{near: ofHost(near), far: ofHost(far), settle: 3 * time.Second}
	p.near.dial = (&usernet.Dialer{Host: near, KeepAlive: -1}).Dial
	lc := usernet.ListenConfig{Host: far, KeepAlive: -1}
	p.far.listen = func(network, address string) (net.Listener, error) {
		return lc.Listen(context.Background(), network, address)
	}
	return p, nil
}

// pipeNetwork returns a network whose connections are those of net.Pipe, without the costs of a wire, a
// stack and TCP.
func pipeNetwork() *network {
	ln := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	return &network{
		dial: func(string, string) (net.Conn, error) {
			a, b := net.Pipe()
			select {
			case ln.conns <- b:
				return a, nil
			case <-ln.closed:
				return nil, net.ErrClosed
			}
		},
		listen: func(string, string) (net.Listener, error) { return ln, nil },
		close:  func() {},
	}
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }
