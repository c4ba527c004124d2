//go:build linux

package taptest

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/tcp"
)

// The differential test compares the goodput of three transfers over the same impaired wire: from
// usernet's TCP to the kernel's, from the kernel's TCP to usernet's, and between two kernels. The wire
// has a rate, a delay and a loss in each direction, and carries frames of at most 1514 bytes one by one.
//
// The goodput of a single flow on a lossy wire depends on when the losses occur. Therefore the three
// transfers are compared seed by seed. With the same seed, the wire loses the same frames of each
// transfer, counted in each direction.
const (
	diffRate = 50e6 // bits per second
	sinkPort = "5001"
)

type diffCell struct {
	delay time.Duration  // round-trip time of the wire
	loss  float64        // fraction of the frames that is lost in each direction
	nft   bool           // the kernel's nftables drops the frames, without a seed, instead of nic.Impair
	burst float64        // mean number of consecutive lost frames; 0: losses are independent
	back  float64        // bits per second of the way back; 0: diffRate
	cc    tcp.Congestion // congestion control of all senders
	seeds int            // number of runs, each with its own seed
	while time.Duration  // duration of the measurement, from the first received byte
}

// A diffRun has the results of one cell with one seed. out, in and kernel are the goodputs in Mbit/s from
// usernet to the kernel, from the kernel to usernet, and between two kernels. outDropped and
// kernelDropped count the frames of the first and the third transfer that found the queue full.
type diffRun struct {
	out, in, kernel           float64
	outDropped, kernelDropped uint64
}

// diffHead is the text above the table.
const diffHead = `# Goodput beside the kernel's

The same bulk transfer over the same impaired wire, in each direction and between two kernels, made by

    USERNET_DIFFERENTIAL=$PWD/docs/differential.md go test -timeout 1h -parallel 3 -run GoodputIsThat ./internal/taptest

as root, in about 35 minutes, on %s: Mbit/s over %.0f Mbit/s, in the 8 s after the first byte (4 s with a loss and no
delay; 1 s where it is the start that is measured). The wire carries plain frames between TAPs; loss and half of the delay
are in each direction. Loss is made by nic.Impair, or by nftables of a bridge of the kernel's on the way (numgen random),
which the frames of all three pass as well; a "burst of 4" is the mean number of frames that are lost in a row
(Impairment.LossBurst). The queue holds a bandwidth-delay product, at least 150 kB; what it drops of our sender's frames
and of the kernel's is in the last columns. "0.5 back" is the rate of the way back, in Mbit/s: less than the
acknowledgements of every second segment need, so that both BBRs take their rate for the path's. The kernel is %s.

What a single flow gets on a wire that loses depends on when the losses fall: at 0.1 %% and 100 ms one kernel sending to
another got 4.5 of 100 Mbit/s with one seed and 32 with another. So the three are compared seed by seed: with the same seed
nic.Impair loses the same frames, the nth that goes the way of the data and the nth that goes back. A goodput is the
median of the seeds, a ratio the median of theirs, with the least and the greatest. nftables has no seed. On a busy
machine run it with nice -n -19: the wire is a process, and one that has to wait loses what no TCP can give back.

`

// TestGoodputIsThatOfTheKernel measures two cells. With USERNET_DIFFERENTIAL=FILE it measures all cells,
// and writes the table to FILE. With USERNET_DIFFERENTIAL_CELLS=REGEXP it measures the cells whose first
// columns match: "^bbr" matches "bbr 40ms 0.0 % Impair, 0.5 back".
func TestGoodputIsThatOfTheKernel(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	cells := []diffCell{
		{delay: 20 * time.Millisecond, loss: 0.001, seeds: 1, while: time.Second},
		{loss: 0.01, nft: true, seeds: 1, while: 500 * time.Millisecond},
	}
	file := os.Getenv("USERNET_DIFFERENTIAL")
	if file != "" {
		cells = allDiffCells()
	}
	if only := os.Getenv("USERNET_DIFFERENTIAL_CELLS"); only != "" {
		match, err := regexp.Compile(only)
		require.NoError(t, err)
		cells = slices.DeleteFunc(allDiffCells(), func(c diffCell) bool { return !match.MatchString(c.String()) })
		require.NotEmpty(t, cells, "no cell matches %s", only)
	}
	var b strings.Builder
	fmt.Fprintf(&b, diffHead, time.Now().Format(time.DateOnly), diffRate/1e6, kernelRelease(t))
	fmt.Fprintf(&b, "| cc | delay | loss | path | seeds | ours to kernel | kernel to ours | kernel to kernel | out / kernel | in / kernel | dropped, ours | dropped, kernel |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	least := math.Inf(1)
	for _, c := range cells {
		var runs []diffRun
		for seed := range c.seeds {
			runs = append(runs, c.run(t, uint64(seed+1)))
		}
		row, worst := c.row(runs)
		b.WriteString(row)
		least = min(least, worst)
		t.Log(strings.TrimSpace(row))
	}
	fmt.Fprintf(&b, "\nThe least of the ratios is %.2f.\n", least)
	if file != "" {
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o666))
	}
}

func allDiffCells() (cells []diffCell) {
	for _, loss := range []float64{0, 0.001, 0.01, 0.03} {
		for _, delay := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond} {
			c := diffCell{delay: delay, loss: loss, seeds: 5, while: 8 * time.Second}
			switch {
			case loss > 0 && delay > 0:
				c.seeds = 9
			case loss > 0:
				c.seeds, c.while = 5, 4*time.Second
			}
			cells = append(cells, c)
		}
	}
	for _, loss := range []float64{0.001, 0.01, 0.03} {
		cells = append(cells, diffCell{loss: loss, nft: true, seeds: 5, while: 4 * time.Second})
	}
	for _, delay := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond} {
		cells = append(cells, diffCell{delay: delay, loss: 0.01, burst: 4, seeds: 9, while: 8 * time.Second})
	}
	for _, cc := range []tcp.Congestion{tcp.CUBIC, tcp.BBR} {
		cells = append(cells, diffCell{delay: 40 * time.Millisecond, cc: cc, back: 0.5e6, seeds: 5, while: 8 * time.Second})
	}
	// This cell measures slow start, and the frames with which it overflows the queue.
	return append(cells, diffCell{delay: 40 * time.Millisecond, seeds: 9, while: time.Second})
}

// run measures the three transfers of a cell with one seed. They run one after the other, except in a cell with
// both loss and delay. Such transfers leave the processors mostly idle, so they run in parallel.
func (c diffCell) run(t *testing.T, seed uint64) (r diffRun) {
	ok := t.Run(fmt.Sprintf("delay %v, loss %g, seed %d", c.delay, c.loss, seed), func(t *testing.T) {
		t.Run("ours to kernel", func(t *testing.T) { r.out, r.outDropped = c.oursToKernel(t, seed) })
		t.Run("kernel to ours", func(t *testing.T) { r.in = c.kernelToOurs(t, seed) })
		t.Run("kernel to kernel", func(t *testing.T) { r.kernel, r.kernelDropped = c.kernelToKernel(t, seed) })
	})
	require.True(t, ok)
	require.NotZero(t, r.out)
	require.NotZero(t, r.in)
	require.NotZero(t, r.kernel)
	return r
}

// parallel makes the test parallel if the cell's loss and delay leave the processors mostly idle.
func (c diffCell) parallel(t *testing.T) {
	if c.loss > 0 && c.delay > 0 {
		t.Parallel()
	}
}

// String returns the first columns of the cell's line.
func (c diffCell) String() string {
	return fmt.Sprintf("%v %v %.1f %% %s", c.cc, c.delay, c.loss*100, c.path())
}

// path describes the wire, for the path column of the table.
func (c diffCell) path() string {
	path := "Impair"
	if c.nft {
		path = "nft"
	}
	if c.burst > 0 {
		path += fmt.Sprintf(", bursts of %g", c.burst)
	}
	if c.back > 0 {
		path += fmt.Sprintf(", %g back", c.back/1e6)
	}
	if c.loss == 0 && c.while <= time.Second {
		path += ", start"
	}
	return path
}

// row returns the cell's line of the table, with medians over the runs, and the smaller of its two ratios
// to the kernel's goodput.
func (c diffCell) row(runs []diffRun) (row string, worst float64) {
	column := func(f func(diffRun) float64) (median, least, most float64) {
		var all []float64
		for _, r := range runs {
			all = append(all, f(r))
		}
		slices.Sort(all)
		return all[len(all)/2], all[0], all[len(all)-1]
	}
	row = fmt.Sprintf("| %v | %v | %.1f %% | %s | %d |", c.cc, c.delay, c.loss*100, c.path(), len(runs))
	for _, f := range []func(diffRun) float64{
		func(r diffRun) float64 { return r.out },
		func(r diffRun) float64 { return r.in },
		func(r diffRun) float64 { return r.kernel },
	} {
		median, _, _ := column(f)
		row += fmt.Sprintf(" %.2f |", median)
	}
	worst = math.Inf(1)
	for _, f := range []func(diffRun) float64{
		func(r diffRun) float64 { return r.out / r.kernel },
		func(r diffRun) float64 { return r.in / r.kernel },
	} {
		median, least, most := column(f)
		row += fmt.Sprintf(" %.2f (%.2f-%.2f) |", median, least, most)
		worst = min(worst, median)
	}
	for _, f := range []func(diffRun) float64{
		func(r diffRun) float64 { return float64(r.outDropped) },
		func(r diffRun) float64 { return float64(r.kernelDropped) },
	} {
		median, _, _ := column(f)
		row += fmt.Sprintf(" %.0f |", median)
	}
	return row + "\n", worst
}

// bridge sends the frames that a receives on b, and the frames that b receives on a.
func bridge(a, b nic.Device) {
	a.Attach(func(batch []nic.Frame) { b.Send(batch) })
	b.Attach(func(batch []nic.Frame) { a.Send(batch) })
}

// join connects the device of the sender and the device of the receiver by the wire, and returns the wire.
func (c diffCell) join(t *testing.T, sender, receiver nic.Device, seed uint64) *nic.Impaired {
	bdp := int(diffRate / 8 * c.delay.Seconds())
	im := nic.Impairment{Latency: c.delay / 2, Rate: diffRate, Loss: c.loss, LossBurst: c.burst, Queue: max(bdp, 150_000)}
	if c.nft {
		im.Loss = 0
		near, far := lossyBridge(t, c.loss)
		bridge(sender, near)
		sender = far
	}
	back := im
	if c.back > 0 {
		back.Rate, back.Queue = int64(c.back), 10_000
	}
	wire := nic.Impair(receiver, nic.ImpairConfig{Out: im, In: back, Seed: seed})
	t.Cleanup(func() { wire.Close() })
	bridge(sender, wire)
	return wire
}

// host makes a usernet host with the cell's congestion control.
func (c diffCell) host(t *testing.T, dev nic.Device) *usernet.Host {
	p := tcp.DefaultParams()
	p.Congestion = c.cc
	return newHostWith(t, dev, stack.TCPConfig{Params: &p})
}

// lossyBridge returns two TAPs that are connected by a bridge of the kernel. nftables drops the fraction
// loss of the frames on the bridge, in each direction.
func lossyBridge(t *testing.T, loss float64) (a, b *nic.TAP) {
	ns := newNamespace(t)
	open := func(name string) (tap *nic.TAP) {
		require.NoError(t, ns.inside(func() (err error) {
			tap, err = nic.OpenTAP(nic.TAPConfig{Name: name, NoOffload: true})
			return err
		}))
		t.Cleanup(func() { tap.Close() })
		ns.run(t, "ip", "link", "set", name, "master", "br0", "up")
		return tap
	}
	ns.shell(t, `
		ip link add br0 type bridge forward_delay 0
		ip link set br0 up
		nft add table bridge loss
		nft add chain bridge loss forward '{ type filter hook forward priority 0; }'
		nft add rule bridge loss forward numgen random mod 1000 '<' `+fmt.Sprint(int(loss*1000+0.5))+` counter drop`)
	return open("tap1"), open("tap2")
}

// kernelRelease returns the kernel's version, such as "Linux 6.18".
func kernelRelease(t *testing.T) string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	release, _, _ := strings.Cut(strings.TrimSpace(string(b)), "-")
	return "Linux " + release
}

// plainNamespace makes a namespace with a TAP without offloads.
func plainNamespace(t *testing.T, addr string) (*namespace, *nic.TAP) {
	ns := newNamespace(t)
	var tap *nic.TAP
	require.NoError(t, ns.inside(func() (err error) {
		tap, err = nic.OpenTAP(nic.TAPConfig{Name: tapName, Addr: netip.MustParsePrefix(addr + "/24"), NoOffload: true})
		return err
	}))
	t.Cleanup(func() { tap.Close() })
	return ns, tap
}

// megabits returns the goodput of n bytes in the time d, in Mbit/s.
func megabits(n int64, d time.Duration) float64 { return float64(n) * 8 / d.Seconds() / 1e6 }

// oursToKernel measures the goodput from usernet to a kernel, and counts the frames that found the
// queue full.
func (c diffCell) oursToKernel(t *testing.T, seed uint64) (goodput float64, dropped uint64) {
	c.parallel(t)
	ns, tap := plainNamespace(t, kernelAddr)
	near, far := nic.Pipe(nic.PipeConfig{NoTxChecksum: true})
	h := c.host(t, near)
	wire := c.join(t, far, tap, seed)
	sink := ns.startDiff(t, "sink", net.JoinHostPort(kernelAddr, sinkPort), c.while.String())
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
	return megabits(n, c.while), wire.OutStats().QueueDropped
}

// kernelToOurs measures the goodput from a kernel to usernet.
func (c diffCell) kernelToOurs(t *testing.T, seed uint64) float64 {
	c.parallel(t)
	ns, tap := plainNamespace(t, kernelAddr)
	near, far := nic.Pipe(nic.PipeConfig{NoTxChecksum: true})
	h := c.host(t, near)
	c.join(t, tap, far, seed)
	ln, err := h.Listen("tcp", ":"+sinkPort)
	require.NoError(t, err)
	ns.startDiff(t, "source", net.JoinHostPort(ourAddr, sinkPort), c.cc.String())
	conn, err := ln.Accept()
	require.NoError(t, err)
	n, err := count(conn, c.while)
	require.NoError(t, err)
	return megabits(n, c.while)
}

// kernelToKernel measures the goodput between two kernels, and counts the frames that found the queue
// full.
func (c diffCell) kernelToKernel(t *testing.T, seed uint64) (goodput float64, dropped uint64) {
	c.parallel(t)
	ns1, tap1 := plainNamespace(t, kernelAddr)
	ns2, tap2 := plainNamespace(t, ourAddr)
	wire := c.join(t, tap2, tap1, seed)
	sink := ns1.startDiff(t, "sink", net.JoinHostPort(kernelAddr, sinkPort), c.while.String())
	ns2.startDiff(t, "source", net.JoinHostPort(kernelAddr, sinkPort), c.cc.String())
	return megabits(sink.number(), c.while), wire.OutStats().QueueDropped
}

// count reads for the time while, which begins with the first byte, and returns the number of bytes.
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

// sink is a helper that accepts a connection, reads for the time while, and prints the number of bytes.
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

// source is a helper that connects, and sends with the congestion control cc until the peer closes the
// connection. It sets a socket option, because root may set any available congestion control with it. The
// sysctl of a namespace accepts only the congestion controls that the machine allows every user.
func source(addr, cc string) error {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		ctlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, cc)
		})
		return errors.Join(err, ctlErr)
	}}
	var conn net.Conn
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // the peer may not listen yet
		if conn, err = d.Dial("tcp", addr); err == nil || time.Now().After(end) {
			break
		}
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

// startDiff starts sink or source in the namespace, and returns when the helper is ready.
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
