package tcp

import (
	"bufio"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var updateGolden = flag.Bool("update", false, "write the golden tables anew")

// A bottleneck is the path in one direction: a queue of limited length with a fixed rate, followed by a
// delay. The way back has only a delay, unless back is set.
type bottleneck struct {
	rate    float64 // bits per second
	rtt     Time
	loss    float64 // fraction of the packets that arrive at the queue
	reorder float64 // fraction of the packets that leave the queue and are delayed further: see displace
	stamps  bool    // with reordering: the connection uses timestamps (see newNetsim)
	queue   int     // bytes
	burst   float64 // mean number of consecutive lost packets; if at most 1, losses are independent

	back      float64 // bits per second of the way back; 0: no limit
	backQueue int     // bytes
}

// bdp returns the bandwidth-delay product in bytes.
func (l *bottleneck) bdp() int { return int(l.rate / 8 * float64(l.rtt) / float64(Second)) }

// displace returns the maximum extra delay of a reordered packet: the time of 20 packets, as with
// parallel links whose queues differ, and at most a quarter of the RTT.
func (l *bottleneck) displace() Time {
	return min(l.rtt/4, Time(20*1514*8/l.rate*float64(Second)))
}

const (
	wireSize     = 1514         // bytes of a full frame
	wireOverhead = 14 + 20 + 20 // bytes of Ethernet, IP and TCP headers
	wireStamps   = 12           // bytes of the timestamps option
)

// A flow is a sender that always has data and a receiver that always reads.
type flow struct {
	snd, rcv  Conn
	delivered int64
	begun     int64 // delivered at the start of the measurement
}

// arrived returns the number of received bytes, including bytes beyond a hole. These bytes count when
// they arrive, and not when a retransmission that started before the measurement fills the hole.
func (f *flow) arrived() int64 {
	return f.delivered + int64(f.rcv.rcv.ooo.bytes)
}

type event struct {
	at      Time
	seq     uint32 // orders events at the same time
	passage int32  // index in netsim.passages
}

// A passage is a segment in flight.
type passage struct {
	flow int
	back bool // towards the sender
	seg  Segment
}

// A netsim runs flows over one bottleneck in virtual time.
type netsim struct {
	link     bottleneck
	flows    []*flow
	params   Params
	now      Time
	heap     []event
	passages []passage // the segments of the events; not in the heap, which moves its elements often
	spare    []int32   // unused indexes in passages
	n        uint32    // events so far
	rng      *rand.Rand
	free     Time // when the queue is empty again
	losing   bool // the last packet was lost

	freeBack Time // when the queue of the way back is empty again
	sent     int  // packets that arrived at the queue
	lost     int  // packets lost at random
	dropped  int  // packets that found the queue full

	data []byte // the payload of all segments

	queueSum Time  // sum of the delays in the queue during the measurement
	queueN   int64 // number of packets in queueSum
}

// newNetsim makes a netsim and opens its flows.
func newNetsim(link bottleneck, cc Congestion, flows int, seed uint64) *netsim {
	s := &netsim{link: link, now: 1, rng: rand.New(rand.NewPCG(seed, 7)), data: make([]byte, 64<<10)}
	s.params = DefaultParams()
	s.params.Congestion = cc
	// Timestamps matter with reordering, so the table then has cells with and without timestamps. A
	// retransmission that fills a hole advances TS.Recent, and RFC 7323 5.3 would discard delayed segments
	// that were sent before the retransmission (see Conn.overtaken). Timestamps also reveal spurious
	// retransmissions.
	s.params.NoTimestamps = link.reorder > 0 && !link.stamps
	// The table is about congestion control, so the buffers must not be the limit.
	s.params.RecvBufferMax, s.params.SendBufferMax = 512<<20, 512<<20
	var pool [40][][]byte
	s.params.Alloc = func(n int) []byte {
		c := int(math.Ceil(math.Log2(float64(n))))
		if k := len(pool[c]); k > 0 {
			b := pool[c][k-1]
			pool[c] = pool[c][:k-1]
			return b
		}
		return make([]byte, 1<<c)
	}
	s.params.Free = func(b []byte) {
		c := int(math.Log2(float64(cap(b))))
		pool[c] = append(pool[c], b)
	}
	for i := range flows {
		f := &flow{}
		s.flows = append(s.flows, f)
		f.snd.Open(s.now, Config{Params: &s.params, ISS: Seq(i * 1000), MSS: 1460, NoDelay: true})
	}
	return s
}

// push adds the arrival of a segment at the time at. If back is true, the segment is for the sender.
func (s *netsim) push(at Time, flow int, back bool, seg *Segment) {
	s.n++
	e := event{at: at, seq: s.n}
	if k := len(s.spare) - 1; k >= 0 {
		e.passage, s.spare = s.spare[k], s.spare[:k]
	} else {
		e.passage = int32(len(s.passages))
		s.passages = append(s.passages, passage{})
	}
	s.passages[e.passage] = passage{flow: flow, back: back, seg: *seg}
	h := append(s.heap, e)
	i := len(h) - 1
	for i > 0 && less(&h[i], &h[(i-1)/2]) {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
		i = (i - 1) / 2
	}
	s.heap = h
}

func less(a, b *event) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

// pop removes the first event.
func (s *netsim) pop() event {
	h := s.heap
	e := h[0]
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		m := i
		for _, k := range [2]int{2*i + 1, 2*i + 2} {
			if k < last && less(&h[k], &h[m]) {
				m = k
			}
		}
		if m == i {
			break
		}
		h[i], h[m] = h[m], h[i]
		i = m
	}
	s.heap = h
	return e
}

// send calls Next of a Conn of flow i, the sender or the receiver, and puts its segments on the path.
func (s *netsim) send(i int, fromSender bool) {
	f := s.flows[i]
	c := &f.snd
	if !fromSender {
		c = &f.rcv
	}
	var seg Segment
	for c.Next(s.now, &seg) {
		// The receiver does not look at the payload. Only its length matters, so all segments share s.data.
		n := seg.DataLen()
		seg.Payload, seg.Payload2 = s.data[:n], nil
		if !fromSender {
			s.sendBack(i, &seg, n+wireOverhead+wireStamps)
			continue
		}
		size := n + wireOverhead
		if seg.HasTS {
			size += wireStamps
		}
		s.sent++
		if s.loses() {
			s.lost++
			continue
		}
		wait := max(s.free-s.now, 0)
		if float64(wait)*s.link.rate/8/float64(Second) > float64(s.link.queue) {
			s.dropped++
			continue // the queue is full
		}
		s.queueSum += wait
		s.queueN++
		s.free = max(s.free, s.now) + Time(float64(size)*8/s.link.rate*float64(Second))
		at := s.free + s.link.rtt/2
		if s.rng.Float64() < s.link.reorder {
			at += Time(s.rng.Float64() * float64(s.link.displace()))
		}
		s.push(at, i, false, &seg)
	}
}

// sendBack puts a segment of the receiver on the way back.
func (s *netsim) sendBack(i int, seg *Segment, size int) {
	at := s.now
	if s.link.back > 0 {
		wait := max(s.freeBack-s.now, 0)
		if float64(wait)*s.link.back/8/float64(Second) > float64(s.link.backQueue) {
			return
		}
		s.freeBack = s.now + wait + Time(float64(size)*8/s.link.back*float64(Second))
		at = s.freeBack
	}
	s.push(at+s.link.rtt/2, i, true, seg)
}

// loses decides whether the next packet is lost, with the model of nic.Impairment.
func (s *netsim) loses() bool {
	loss, burst := s.link.loss, s.link.burst
	u := s.rng.Float64()
	switch {
	case burst <= 1:
		s.losing = u < loss
	case s.losing:
		s.losing = u >= 1/burst
	default:
		s.losing = u < loss/(1-loss)/burst
	}
	return s.losing
}

// work fills the send buffer of flow i and sends its segments.
func (s *netsim) work(i int) {
	f := s.flows[i]
	if f.snd.state.synchronized() {
		for f.snd.Write(s.now, s.data) > 0 {
		}
	}
	s.send(i, true)
}

// run runs the simulation until a time.
func (s *netsim) run(until Time) {
	for i := range s.flows {
		s.work(i)
	}
	for s.now < until {
		next := until
		if len(s.heap) > 0 {
			next = min(next, s.heap[0].at)
		}
		for _, f := range s.flows {
			for _, c := range [2]*Conn{&f.snd, &f.rcv} {
				if c.p != nil {
					if d, ok := c.Deadline(); ok {
						next = min(next, d)
					}
				}
			}
		}
		s.now = max(s.now, next)
		for i, f := range s.flows {
			if d, ok := f.snd.Deadline(); ok && d <= s.now {
				f.snd.Tick(s.now)
				s.work(i)
			}
			if f.rcv.p != nil {
				if d, ok := f.rcv.Deadline(); ok && d <= s.now {
					f.rcv.Tick(s.now)
					s.send(i, false)
				}
			}
		}
		for len(s.heap) > 0 && s.heap[0].at <= s.now {
			i := s.pop().passage
			s.spare = append(s.spare, i)
			e := s.passages[i]
			f := s.flows[e.flow]
			if e.back {
				f.snd.Segment(s.now, &e.seg)
				s.work(e.flow)
				continue
			}
			if f.rcv.p == nil {
				f.rcv.Accept(s.now, Config{Params: &s.params, ISS: 5000, MSS: 1460, NoDelay: true}, &e.seg)
			} else {
				f.rcv.Segment(s.now, &e.seg)
			}
			n := f.rcv.rcv.buf.n
			f.delivered += int64(n)
			f.rcv.discard(s.now, n)
			s.send(e.flow, false)
		}
	}
}

// discard reads n bytes without copying them.
func (c *Conn) discard(now Time, n int) {
	c.rcv.buf.drop(n)
	c.tuneReceive(now)
	c.updateWindow()
}

// measure runs the simulation for the time warm, and then measures for the time while. It returns the
// goodput of each flow in bits per second, and the mean delay in the queue.
func (s *netsim) measure(warm, while Time) (goodput []float64, delay Time) {
	s.run(warm)
	for _, f := range s.flows {
		f.begun = f.arrived()
	}
	s.queueSum, s.queueN = 0, 0
	s.run(warm + while)
	for _, f := range s.flows {
		goodput = append(goodput, float64(f.arrived()-f.begun)*8*float64(Second)/float64(while))
	}
	return goodput, s.queueSum / Time(max(s.queueN, 1))
}

// A cell is a line of the table.
type cell struct {
	cc   Congestion
	link bottleneck
	bdps float64 // length of the queue, in bandwidth-delay products
}

func (c *cell) String() string {
	name := c.cc.String()
	if c.link.stamps {
		name += "+ts"
	}
	return fmt.Sprintf("%-10s %5.0f %4d %5.2f %3.0f %5.2f", name, c.link.rate/1e6, c.link.rtt/Millisecond,
		c.link.loss*100, c.link.reorder*100, c.bdps)
}

// goldenCells returns the cells of the table. First come the cells of the plot, in the order that
// plotGolden expects. The cells with reordering but without loss follow again, with timestamps.
func goldenCells() []cell {
	var cells []cell
	for _, cc := range []Congestion{CUBIC, NewReno, BBR} {
		for _, rate := range []float64{10e6, 100e6, 1000e6} {
			for _, rtt := range []Time{1, 20, 100, 300} {
				for _, loss := range []float64{0, 0.0001, 0.001, 0.01, 0.03} {
					for _, reorder := range []float64{0, 0.01, 0.05} {
						for _, bdps := range []float64{0.25, 1, 4} {
							l := bottleneck{rate: rate, rtt: rtt * Millisecond, loss: loss, reorder: reorder}
							l.queue = max(int(bdps*float64(l.bdp())), 4*1514)
							cells = append(cells, cell{cc, l, bdps})
						}
					}
				}
			}
		}
	}
	for _, c := range cells {
		if c.link.loss == 0 && c.link.reorder > 0 {
			c.link.stamps = true
			cells = append(cells, c)
		}
	}
	return cells
}

// times returns the lengths of the warm-up and of the measurement. The warm-up lasts until the losses of
// slow start are repaired. With a long queue, a round trip takes up to five times the path's. The
// measurement includes several epochs of congestion avoidance. At high rates it is short, because there
// are many packets.
func (c *cell) times() (warm, while Time) {
	if c.link.rate > 500e6 {
		return max(40*c.link.rtt, 500*Millisecond), max(30*c.link.rtt, Second)
	}
	return max(30*c.link.rtt, 2*Second), max(60*c.link.rtt, 4*Second)
}

// run measures a cell and returns its line.
func (c *cell) run() string {
	warm, while := c.times()
	s := newNetsim(c.link, c.cc, 1, 1)
	g, delay := s.measure(warm, while)
	bound := c.link.bound(c.cc, while)
	return fmt.Sprintf("%v %9.2f %9.2f %6.3f %9.2f", c, g[0]/1e6, bound/1e6, g[0]/bound, float64(delay)/1e6)
}

// A golden has the results in a line of the table.
type golden struct{ goodput, bound, ratio, delay float64 }

func parseGolden(t *testing.T, line string) (g golden) {
	f := strings.Fields(line)
	require.Len(t, f, 10, line)
	for i, p := range []*float64{&g.goodput, &g.bound, &g.ratio, &g.delay} {
		_, err := fmt.Sscan(f[6+i], p)
		require.NoError(t, err, line)
	}
	return g
}

const goldenFile = "testdata/golden.txt"

const goldenPlot = "../../docs/golden.svg"

const goldenHead = `# Goodput of one flow in virtual time, made by: go test ./stack/tcp -run Golden -update
# Columns: congestion control (with reordering +ts: with timestamps, else without; without reordering always with),
# rate (Mbit/s), RTT (ms), loss (%), reordering (%), bottleneck buffer (BDP),
# goodput (Mbit/s), what theory gives this control on this path (Mbit/s; see bounds_test.go), goodput/theory,
# mean delay in the queue (ms). Measured after slow start: for 60 round-trip times and at least 4 s that begin
# after 30 and at least 2 s; at 1000 Mbit/s for 30 and at least 1 s, after 40 and at least 0.5 s.
`

// TestGoldenTable computes a sample of the committed table again and compares the lines. A change of
// congestion control or of loss recovery shows as a diff. USERNET_GOLDEN=all selects the whole table.
// USERNET_GOLDEN='bbr* 1000 * 0.00 0' selects cells by globs for the first columns.
func TestGoldenTable(t *testing.T) {
	cells := goldenCells()
	if *updateGolden {
		var b strings.Builder
		b.WriteString(goldenHead)
		for _, line := range runCells(cells) {
			b.WriteString(line)
			b.WriteByte('\n')
		}
		require.NoError(t, os.WriteFile(goldenFile, []byte(b.String()), 0o666))
		require.NoError(t, os.WriteFile(goldenPlot, []byte(plotGolden(cells, readGolden(t))), 0o666))
		return
	}
	want := readGolden(t)
	require.Len(t, want, len(cells))
	plot, err := os.ReadFile(goldenPlot)
	require.NoError(t, err)
	require.Equal(t, plotGolden(cells, want), string(plot))
	pattern := strings.Fields(os.Getenv("USERNET_GOLDEN"))
	if len(pattern) > 0 && pattern[0] != "all" {
		compareCells(t, cells, want, pattern)
		return
	}
	every := 19
	if racing {
		every = 5 * 19
	}
	for i := range cells {
		if len(pattern) == 0 && (cells[i].link.rate > 500e6 || i%every != 0) {
			continue // not in the sample; cells with a high rate take too long
		}
		require.Equal(t, want[i], cells[i].run())
	}
}

// compareCells runs the cells that pattern selects, and compares them with want, the lines of the table.
// The pattern has a glob for each of the first columns of a line.
func compareCells(t *testing.T, cells []cell, want, pattern []string) {
	var chosen []cell
	var old []string
next:
	for i := range cells {
		f := strings.Fields(want[i])
		for k, p := range pattern {
			if ok, err := path.Match(p, f[k]); !ok {
				require.NoError(t, err)
				continue next
			}
		}
		chosen, old = append(chosen, cells[i]), append(old, want[i])
	}
	for i, line := range runCells(chosen) {
		g := parseGolden(t, line)
		t.Logf("%s  %.3f of the line; the table has %.3f", line, g.goodput*1e6/chosen[i].link.line(), parseGolden(t, old[i]).ratio)
		assert.Equal(t, old[i], line)
	}
}

// runCells runs all cells and returns their lines. The cells are independent, so as many run concurrently as
// there are processors.
func runCells(cells []cell) []string {
	lines := make([]string, len(cells))
	var wg sync.WaitGroup
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(cells) {
					return
				}
				lines[i] = cells[i].run()
			}
		})
	}
	wg.Wait()
	return lines
}

// readGolden returns the lines of the committed table.
func readGolden(t *testing.T) []string {
	f, err := os.Open(goldenFile)
	require.NoError(t, err)
	defer f.Close()
	var lines []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if !strings.HasPrefix(sc.Text(), "#") {
			lines = append(lines, sc.Text())
		}
	}
	return lines
}

// TestFlowsShareABottleneckFairly checks that Jain's index, (sum x)^2 / (n * sum x^2), is near 1 for
// flows with the same round-trip time.
func TestFlowsShareABottleneckFairly(t *testing.T) {
	for _, cc := range []Congestion{CUBIC, NewReno, BBR} {
		for _, flows := range []int{2, 4, 10} {
			if flows != 4 && !full(t) {
				continue
			}
			l := bottleneck{rate: 50e6, rtt: 20 * Millisecond}
			l.queue = l.bdp()
			s := newNetsim(l, cc, flows, 3)
			g, _ := s.measure(30*Second, 60*Second)
			var sum, squares float64
			for _, x := range g {
				sum += x
				squares += x * x
			}
			jain := sum * sum / (float64(flows) * squares)
			t.Logf("%v, %d flows: Jain's index %.3f, %.1f %% of the rate", cc, flows, jain, sum/l.rate*100)
			require.GreaterOrEqual(t, jain, 0.95, "%v, %d flows: %.0f", cc, flows, g)
			require.GreaterOrEqual(t, sum, 0.92*l.rate, "%v, %d flows", cc, flows)
		}
	}
}

// goldenColor returns the colour of a tile: from red for 0 to green for 1 and more.
func goldenColor(ratio float64) string {
	shown := min(ratio, 1)
	return fmt.Sprintf("hsl(%.0f,65%%,%.0f%%)", 130*shown, 62-18*shown)
}

// goldenLegend draws the scale of the colours.
func goldenLegend(b *strings.Builder, x, y int) {
	for i, text := range []string{"0 %", "20 %", "40 %", "60 %", "80 %", "100 % and more"} {
		fmt.Fprintf(b, "<rect x=\"%d\" y=\"%d\" width=\"17\" height=\"9\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
			x+60*i, y, goldenColor(float64(i)/5), x+60*i+21, y+8, text)
	}
}

// plotGolden draws the table. There is a panel for each rate and buffer, with a column for each loss
// and reordering, and a row for each round-trip time. The colour is goodput/bound.
func plotGolden(cells []cell, lines []string) string {
	const size, gap, left, top = 18, 34, 70, 70
	panelW, panelH := 15*size, 4*size
	var b strings.Builder
	width, height := left+3*(panelW+gap), top+9*(panelH+gap)+30
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"10\">\n", width, height)
	fmt.Fprintf(&b, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n")
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"18\" font-size=\"14\">Goodput of one flow, in percent of what theory gives its congestion control on that path</text>\n", left)
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"34\">Each loss has three columns: without reordering, and with 1 %% and 5 %% of the packets reordered. BDP: bandwidth-delay product.</text>\n", left)
	goldenLegend(&b, left, 42)
	for i := range cells {
		c := &cells[i]
		if c.link.stamps {
			break
		}
		// The index in goldenCells determines the position.
		k := i
		buffer := k % 3
		k /= 3
		reorder := k % 3
		k /= 3
		loss := k % 5
		k /= 5
		rtt := k % 4
		k /= 4
		rate := k % 3
		cc := k / 3
		x0 := left + rate*(panelW+gap)
		y0 := top + (cc*3+buffer)*(panelH+gap)
		if loss == 0 && reorder == 0 && rtt == 0 {
			fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\">%v, %.0f Mbit/s, buffer %.2f BDP</text>\n", x0, y0-6, c.cc, c.link.rate/1e6, c.bdps)
		}
		if loss == 0 && reorder == 0 && rate == 0 {
			fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" font-size=\"8\" text-anchor=\"end\">RTT %d ms</text>\n", x0-5, y0+rtt*size+size/2+3, c.link.rtt/Millisecond)
		}
		if rtt == 3 && reorder == 0 {
			fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" font-size=\"8\" text-anchor=\"middle\">loss %g %%</text>\n", x0+loss*3*size+3*size/2, y0+panelH+9, c.link.loss*100)
		}
		f := strings.Fields(lines[i])
		var ratio float64
		fmt.Sscan(f[8], &ratio)
		x, y := x0+(loss*3+reorder)*size, y0+rtt*size
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>", x, y, size-1, size-1, goldenColor(ratio))
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" font-size=\"7\" text-anchor=\"middle\" fill=\"#fff\">%.0f</text>\n", x+size/2, y+size/2+3, ratio*100)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
