package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet/internal/netns"
)

// Each workload in the list programs runs once in the harness's namespaces, on usernet.
func TestEveryProgramIsMeasured(t *testing.T) {
	netns.Need(t)
	o := options{runs: 1, noisy: true, time: 50 * time.Millisecond, budget: time.Minute, stacks: string(usern)}
	b, err := newBench(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for _, w := range programs {
		w.Size = min(w.Size, smallFile)
		w.N = min(w.N, 200)
		r := b.measure(&w)
		f := r.figures[usern]
		if len(f.samples) != 1 || f.rate() <= 0 || f.cpu() <= 0 || f.samples[0].Errors > 0 {
			t.Errorf("%s: %+v", w.ID, f)
		}
	}
}

// The kernel's figures of T17in and T17out come from three processes in two namespaces: the data crosses the link between
// the namespaces, and the loopback of the one with the proxy.
func TestKernelProxiesBetweenNamespaces(t *testing.T) {
	netns.Need(t)
	b := newProxyBench(t, kernel)
	far := b.lab.veth[1]
	for _, test := range []struct{ id, link string }{{"T17in", vethName + " in"}, {"T17out", vethName + " out"}} {
		first := moved(t, far)
		f, least := b.measureProxy(t, test.id)
		last := moved(t, far)
		for _, where := range []string{test.link, "lo in"} {
			if got := last[where] - first[where]; got < least {
				t.Errorf("%s: %v bytes on %s of %v: %+v", test.id, got, where, least, f)
			}
		}
	}
}

// A workload with a proxy uses IPv6 on the measured stack, and IPv4 on the loopback.
func TestProxiesRunOverIPv6(t *testing.T) {
	netns.Need(t)
	b := newProxyBench(t, usern6)
	for _, id := range []string{"T16in", "T16out", "T16req", "T17in", "T17out"} {
		first := moved(t, b.lab.tap)
		f, least := b.measureProxy(t, id)
		last := moved(t, b.lab.tap)
		for _, where := range []string{"IPv6", "lo in"} {
			if got := last[where] - first[where]; got < least {
				t.Errorf("%s: %v bytes on %s of %v: %+v", id, got, where, least, f)
			}
		}
	}
}

func newProxyBench(t *testing.T, s stackName) *bench {
	t.Helper()
	b, err := newBench(options{runs: 1, noisy: true, time: 50 * time.Millisecond, budget: time.Minute, stacks: string(s)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

// measureProxy measures a workload on the only stack of b. It returns the figure, and a number of bytes that the client
// and the server have exchanged at least.
func (b *bench) measureProxy(t *testing.T, id string) (f *figure, least float64) {
	t.Helper()
	i := slices.IndexFunc(programs, func(w workload) bool { return w.ID == id })
	w := programs[i]
	f = b.measure(&w).figures[b.stacks[0]]
	if len(f.samples) != 1 || f.failed > 0 || f.rate() <= 0 || f.cpu() <= 0 || f.samples[0].Errors > 0 {
		t.Fatalf("%s: %+v", id, f)
	}
	least = f.rate() * b.time.Seconds() // of operations, each of which has a byte at least
	if w.Kind.bulk() {
		least /= 8
	}
	return f, least
}

// moved returns the numbers of bytes that each interface of a namespace has received and sent, as "lo in" and "lo out",
// and those of IPv6 in both directions.
func moved(t *testing.T, ns namespace) map[string]float64 {
	t.Helper()
	counts := map[string]float64{}
	err := ns.Do(func() error {
		list, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(list)) {
			name, figures, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			f := strings.Fields(figures)
			name = strings.TrimSpace(name)
			counts[name+" in"], _ = strconv.ParseFloat(f[0], 64)
			counts[name+" out"], _ = strconv.ParseFloat(f[8], 64)
		}
		list, err = os.ReadFile("/proc/thread-self/net/snmp6")
		for line := range strings.Lines(string(list)) {
			if f := strings.Fields(line); f[0] == "Ip6InOctets" || f[0] == "Ip6OutOctets" {
				n, _ := strconv.ParseFloat(f[1], 64)
				counts["IPv6"] += n
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

func TestMemoryFileIsServedAsItIs(t *testing.T) {
	const size = 3_000_000
	f, err := newMemoryFile(size)
	if err != nil {
		t.Fatal(err)
	}
	defer f.fd.Close()
	srv := httptest.NewServer(f)
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	block := pattern()
	if want := bytes.Repeat(block, size/len(block)+1)[:size]; !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, and not those of the file", len(got))
	}
}

// A relay forwards the data of both directions. When one direction ends, the relay passes the end on and keeps the other
// open.
func TestRelayPassesOnTheEndOfEachDirection(t *testing.T) {
	t.Run("kernel", func(t *testing.T) {
		n := kernelNetwork("")
		relays(t, n, n, loopback, loopback, 0)
	})
	t.Run("usernet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far, err := usernetPipe(&task{})
			if err != nil {
				t.Fatal(err)
			}
			defer near.close()
			defer far.close()
			// In virtual time, a relay that would close its connections has closed them after a second.
			relays(t, near, far, nearAddr, farAddr, time.Second)
		})
	})
}

// relays checks a relay on far between a client and a server on near. The side that answers waits for a time before.
func relays(t *testing.T, near, far *network, nearHost, farHost string, wait time.Duration) {
	answer := func(c net.Conn) error { return answerAtEnd(c, wait) }
	for _, test := range []struct {
		name           string
		server, client func(c net.Conn) error
	}{
		{"the client ends first", answer, sendAndEnd},
		{"the server ends first", sendAndEnd, answer},
	} {
		server, err := near.listen("tcp4", nearHost+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		served := make(chan error, 1)
		go accept(server, func(c net.Conn) {
			c.SetDeadline(time.Now().Add(30 * time.Second))
			served <- test.server(c)
		})
		front, err := far.listen("tcp4", farHost+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer front.Close()
		go accept(front, func(c net.Conn) {
			relay(c, func() (net.Conn, error) { return far.dial("tcp4", server.Addr().String()) })
		})
		c, err := near.dial("tcp4", front.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if err := test.client(c); err != nil {
			t.Errorf("%s: the client: %v", test.name, err)
			continue // perhaps the relay has not reached the server
		}
		if err := <-served; err != nil {
			t.Errorf("%s: the server: %v", test.name, err)
		}
	}
}

const question, reply = "question", "reply"

// sendAndEnd sends question, ends its direction, and reads reply until the end of the other direction.
func sendAndEnd(c net.Conn) error {
	defer c.Close()
	if _, err := io.WriteString(c, question); err != nil {
		return err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	return readAll(c, reply)
}

// answerAtEnd reads question until the end of the direction, waits, and then sends reply.
func answerAtEnd(c net.Conn, wait time.Duration) error {
	defer c.Close()
	if err := readAll(c, question); err != nil {
		return err
	}
	time.Sleep(wait)
	_, err := io.WriteString(c, reply)
	return err
}

// readAll returns an error unless the bytes until the end of the stream are want.
func readAll(c net.Conn, want string) error {
	got, err := io.ReadAll(c)
	if err == nil && string(got) != want {
		err = fmt.Errorf("%q instead of %q", got, want)
	}
	return err
}

func TestWorkloadsInMemoryComeLast(t *testing.T) {
	list := every()
	if len(list) != len(workloads)+len(programs) {
		t.Fatalf("%d workloads", len(list))
	}
	memory := false
	for _, w := range list {
		if memory && w.Place != onPipe {
			t.Errorf("%s comes after workloads in memory", w.ID)
		}
		memory = w.Place == onPipe
	}
}

// On the kernel's sockets, each datagram of a batch arrives by itself.
func TestBatchesArriveAsDatagrams(t *testing.T) {
	const size = 1400
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	conn, err := net.Dial("udp4", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := datagramWriter(conn, size, true)(); err != nil || n != udpRun*size {
		t.Fatalf("%d bytes were sent, %v", n, err)
	}
	pc.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 64<<10)
	for i := range udpRun {
		if n, err := pc.Read(buf); err != nil || n != size {
			t.Fatalf("datagram %d has %d bytes, %v", i, n, err)
		}
	}
}

// The figure of UDP bulk is what the server has received, not what the client has sent.
func TestWhatArrivesCountsInUDPBulk(t *testing.T) {
	for _, batch := range []bool{false, true} {
		task := task{Stack: usern, Kind: udpBulk, N: 1, Size: 1400, Batch: batch, Addr: farAddr, Port: firstPort, Time: 50 * time.Millisecond}
		near, far, err := openPair(&task)
		if err != nil {
			t.Fatal(err)
		}
		// quiet is far with a server that receives nothing: it reads from a socket of the kernel, to which nothing is
		// sent, and nothing reads from the socket to which the client sends.
		quiet := *far
		quiet.listenPacket = func(network, address string) (net.PacketConn, error) {
			if _, err := far.listenPacket(network, address); err != nil {
				return nil, err
			}
			return net.ListenPacket("udp4", "127.0.0.1:0")
		}
		for _, test := range []struct {
			server *network
			want   bool
		}{{far, true}, {&quiet, false}} {
			if err := startServer(test.server, &task); err != nil {
				t.Fatal(err)
			}
			r, err := runClient(near, &task)
			if err != nil || (r.Count > 0) != test.want || (r.Total > 0) != test.want {
				t.Errorf("batch %v: %+v, %v", batch, r, err)
			}
			task.Port++
		}
		near.close()
		far.close()
	}
}
