package main

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/usernet/usernet/internal/netns"
	"github.com/usernet/usernet/nic"
)

// lossyFlows is the number of flows on a lossy link with a round trip of at least manyFlowsRTT. The link has no rate, so
// the flows do not disturb each other. The goodput of a single flow depends on when it has its first few losses: with
// 1 % of loss, runs of Linux with 20 seeds gave 4.9 to 20 Mbit/s for a round trip of 20 ms.
const lossyFlows = 10

// manyFlowsRTT is the shortest round trip at which this machine is fast enough for lossyFlows.
const manyFlowsRTT = 20 * time.Millisecond

// lossCurves are the curves of goodput on lossy links: one for each round trip, at several proportions of loss.
func lossCurves() (list []*curve) {
	for _, rtt := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		flows, name := 1, "goodput"
		if rtt >= manyFlowsRTT {
			flows, name = lossyFlows, fmt.Sprintf("goodput of %d flows", lossyFlows)
		}
		c := &curve{
			Title: fmt.Sprintf("%s on a lossy link, round trip of %v", name, rtt), X: "loss", Unit: bits,
			Stacks: []stackName{kernel, gvisor, usern},
		}
		for _, loss := range []float64{0.001, 0.01, 0.03} {
			w := workload{Place: onPipe, Kind: flow, N: flows, Pin: free, Latency: rtt / 2, Loss: loss}
			c.add(fmt.Sprintf("%.1f %%", 100*loss), w, largeChunk)
		}
		list = append(list, c)
	}
	return list
}

// lossTime returns how long a run on a link with latency is measured: long enough for many losses. usual is that time
// without latency.
func lossTime(usual, latency time.Duration) time.Duration {
	return max(4*usual, 60*2*latency)
}

// warmUp returns how long a client runs before it measures. On a lossy link this is as long as the measurement: slow
// start ends with a window that is far above the mean, and that shows for tens of round trips.
func (t *task) warmUp() time.Duration {
	if t.Loss > 0 {
		return t.Time
	}
	return t.Time / 10
}

// A kernelLink is a link with latency and loss between the kernel's stacks in two namespaces. Each has a TAP device
// without offloads, and this process carries the frames from one device to the other.
type kernelLink struct {
	near, far *network
	wire      *nic.Impaired // around the device of the near side
}

// newKernelLink makes a link with a latency in each direction, which loses the proportion loss of the frames of the near
// side. The kernel of this machine need not have netem.
func newKernelLink(t *task) (*kernelLink, error) {
	var taps [2]nic.Device
	closeAll := func() {
		for _, d := range taps {
			if d != nil {
				d.Close()
			}
		}
	}
	for i, addr := range []string{nearAddr, farAddr} {
		err := netns.Namespace(t.Spaces[i]).Do(func() error {
			tap, err := nic.OpenTAP(nic.TAPConfig{Name: tapName, Addr: netip.MustParsePrefix(addr + prefixed), NoOffload: true})
			if err == nil {
				taps[i] = tap
			}
			return err
		})
		if err != nil {
			closeAll()
			return nil, err
		}
	}
	l := &kernelLink{wire: nic.Impair(taps[0], nic.ImpairConfig{
		In:   nic.Impairment{Latency: t.Latency, Loss: t.Loss},
		Out:  nic.Impairment{Latency: t.Latency},
		Seed: 1,
	})}
	taps[0] = l.wire
	l.wire.Attach(func(batch []nic.Frame) { taps[1].Send(batch) })
	taps[1].Attach(func(batch []nic.Frame) { l.wire.Send(batch) })
	l.near = inNamespace(kernelNetwork(t.Setup.CC), netns.Namespace(t.Spaces[0]))
	l.far = inNamespace(kernelNetwork(t.Setup.CC), netns.Namespace(t.Spaces[1]))
	l.far.close = closeAll
	return l, nil
}

// inNamespace returns a network whose sockets are in a namespace.
func inNamespace(n *network, ns netns.Namespace) *network {
	own := *n
	own.dial = func(network, address string) (c net.Conn, err error) {
		err = ns.Do(func() error { c, err = n.dial(network, address); return err })
		return c, err
	}
	own.listen = func(network, address string) (ln net.Listener, err error) {
		err = ns.Do(func() error { ln, err = n.listen(network, address); return err })
		return ln, err
	}
	own.listenPacket = func(network, address string) (pc net.PacketConn, err error) {
		err = ns.Do(func() error { pc, err = n.listenPacket(network, address); return err })
		return pc, err
	}
	return &own
}
