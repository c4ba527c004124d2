//go:build linux

package taptest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// The differential test sends for a while over the same impaired wire: from our
// TCP to the kernel's, from the kernel's to ours, and between two kernels. The
// wire has a rate, a delay and a loss in each direction, and carries frames of
// at most 1514 bytes one by one.
const (
	diffRate = 200e6 // bits per second
	diffTime = 8 * time.Second
	sinkPort = "5001"
)

type diffCell struct {
	delay time.Duration // round trip
	loss  float64       // of the frames, in each direction
}

func (c diffCell) impair(dev nic.Device) *nic.Impaired {
	bdp := int(diffRate / 8 * c.delay.Seconds())
	im := nic.Impairment{Latency: c.delay / 2, Rate: diffRate, Loss: c.loss, Queue: max(bdp, 150_000)}
	return nic.Impair(dev, nic.ImpairConfig{Out: im, In: im, Seed: 1})
}

// TestGoodputIsThatOfTheKernel compares one cell, or with USERNET_DIFFERENTIAL=FILE
// all of them, and writes them as a table to FILE.
func TestGoodputIsThatOfTheKernel(t *testing.T) {
	need(t)
	cells := []diffCell{{20 * time.Millisecond, 0.001}}
	while := 2 * time.Second
	file := os.Getenv("USERNET_DIFFERENTIAL")
	if file != "" {
		cells, while = nil, diffTime
		for _, loss := range []float64{0, 0.001, 0.01, 0.03} {
			for _, delay := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond} {
				cells = append(cells, diffCell{delay, loss})
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Mbit/s over %v Mbit/s; the kernel uses %s.\n\n", diffRate/1e6, kernelCC())
	fmt.Fprintf(&b, "| delay | loss | ours to kernel | kernel to ours | kernel to kernel | out / kernel | in / kernel |\n|---|---|---|---|---|---|---|\n")
	for _, c := range cells {
		out, in, kernel := c.oursToKernel(t, while), c.kernelToOurs(t, while), c.kernelToKernel(t, while)
		require.NotZero(t, out)
		require.NotZero(t, in)
		require.NotZero(t, kernel)
		fmt.Fprintf(&b, "| %v | %.1f %% | %.2f | %.2f | %.2f | %.2f | %.2f |\n", c.delay, c.loss*100, out, in, kernel, out/kernel, in/kernel)
	}
	if file != "" {
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o666))
	}
	t.Log("\n" + b.String())
}

// kernelCC is the kernel's congestion control: CUBIC, as ours, where it may be
// had in a namespace of its own.
func kernelCC() string {
	allowed, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if strings.Contains(string(allowed), "cubic") {
		return "cubic"
	}
	return "reno"
}

// plainNamespace has a TAP without offload.
func plainNamespace(t *testing.T, addr string) (*namespace, *nic.TAP) {
	ns := newNamespace(t)
	ns.run(t, "sysctl", "-q", "-w", "net.ipv4.tcp_congestion_control="+kernelCC())
	var tap *nic.TAP
	require.NoError(t, ns.inside(func() (err error) {
		tap, err = nic.OpenTAP(nic.TAPConfig{Name: tapName, Addr: netip.MustParsePrefix(addr + "/24"), NoOffload: true})
		return err
	}))
	t.Cleanup(func() { tap.Close() })
	return ns, tap
}

// megabits is the goodput in Mbit/s.
func megabits(n int64, d time.Duration) float64 { return float64(n) * 8 / d.Seconds() / 1e6 }

func (c diffCell) oursToKernel(t *testing.T, while time.Duration) float64 {
	ns, tap := plainNamespace(t, kernelAddr)
	h := newHost(t, c.impair(tap))
	defer h.Close()
	sink := ns.startDiff(t, "sink", net.JoinHostPort(kernelAddr, sinkPort), while.String())
	conn, err := h.Dial("tcp", net.JoinHostPort(kernelAddr, sinkPort))
	require.NoError(t, err)
	go func() {
		buf := make([]byte, 256<<10)
		for {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	}()
	n := sink.number()
	conn.Close()
	return megabits(n, while)
}

func (c diffCell) kernelToOurs(t *testing.T, while time.Duration) float64 {
	ns, tap := plainNamespace(t, kernelAddr)
	h := newHost(t, c.impair(tap))
	defer h.Close()
	ln, err := h.Listen("tcp", ":"+sinkPort)
	require.NoError(t, err)
	ns.startDiff(t, "source", net.JoinHostPort(ourAddr, sinkPort))
	conn, err := ln.Accept()
	require.NoError(t, err)
	n, err := count(conn, while)
	require.NoError(t, err)
	return megabits(n, while)
}

func (c diffCell) kernelToKernel(t *testing.T, while time.Duration) float64 {
	ns1, tap1 := plainNamespace(t, kernelAddr)
	ns2, tap2 := plainNamespace(t, ourAddr)
	wire := c.impair(tap1)
	wire.Attach(func(batch []nic.Frame) { tap2.Send(batch) })
	tap2.Attach(func(batch []nic.Frame) { wire.Send(batch) })
	defer wire.Close()
	sink := ns1.startDiff(t, "sink", net.JoinHostPort(kernelAddr, sinkPort), while.String())
	ns2.startDiff(t, "source", net.JoinHostPort(kernelAddr, sinkPort))
	return megabits(sink.number(), while)
}

// count reads for a while from the first byte on.
func count(conn net.Conn, while time.Duration) (n int64, err error) {
	buf := make([]byte, 256<<10)
	k, err := conn.Read(buf)
	if err != nil {
		return 0, err
	}
	n = int64(k)
	if err := conn.SetReadDeadline(time.Now().Add(while)); err != nil {
		return 0, err
	}
	for {
		k, err := conn.Read(buf)
		n += int64(k)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// sink takes a connection, counts for a while, and prints the number of bytes.
func sink(addr, while string) error {
	d, err := time.ParseDuration(while)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	n, err := count(conn, d)
	fmt.Println(n)
	return err
}

// source connects and sends until the peer has enough.
func source(addr string) error {
	var conn net.Conn
	var err error
	for range 50 { // the peer may not listen yet
		if conn, err = net.Dial("tcp", addr); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	buf := make([]byte, 256<<10)
	for {
		if _, err := conn.Write(buf); err != nil {
			return nil
		}
	}
}

// startDiff starts one of the helpers above, and returns when it is ready.
func (ns *namespace) startDiff(t *testing.T, name string, args ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	p, line := ns.start(t, append([]string{"env", helperVar + "=" + name, exe}, args...)...)
	require.Equal(t, "ready", line)
	t.Cleanup(func() { p.cmd.Wait() })
	return p
}

// number reads the number that a sink prints.
func (p *program) number() (n int64) {
	p.t.Helper()
	_, err := fmt.Fscanln(p.out, &n)
	require.NoError(p.t, err)
	return n
}
