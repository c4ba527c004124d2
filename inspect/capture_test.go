package inspect

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack"
)

// startCapture starts a capture with the given form. end waits until the capture has ended, and returns its file.
func startCapture(h http.Handler, form string) (end func() (status int, file []byte)) {
	r := httptest.NewRequest("POST", "http://localhost/api/capture", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Usernet-Inspect", "1")
	r.RemoteAddr = "127.0.0.1:1"
	w := httptest.NewRecorder()
	done := make(chan bool)
	go func() {
		defer close(done)
		h.ServeHTTP(w, r)
	}()
	return func() (int, []byte) {
		<-done
		return w.Code, w.Body.Bytes()
	}
}

// readCapture returns the packets of a file, and its TLS key log.
func readCapture(t *testing.T, file []byte) (all []pcap.Packet, keys string) {
	t.Helper()
	r, err := pcap.NewReader(bytes.NewReader(file))
	require.NoError(t, err)
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, string(r.KeyLog())
		}
		require.NoError(t, err)
		p.Data = bytes.Clone(p.Data)
		all = append(all, p)
	}
}

// sendUDP sends a datagram to a port without a socket, which the receiver drops.
func sendUDP(t *testing.T, from *usernet.Host, text string) {
	t.Helper()
	c, err := from.Dial("udp", hosttest.AddrB+":9999")
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte(text))
	require.NoError(t, err)
}

func TestACaptureHasWhatTheFilterSelects(t *testing.T) {
	for _, keys := range []*KeyLog{nil, new(KeyLog)} {
		synctest.Test(t, func(t *testing.T) {
			a, b := hosttest.Pair(t)
			h := NewHandler(b, Config{KeyLog: keys})
			require.Equal(t, keys != nil, get[Overview](t, h, "api/overview").Host.HasSecrets)
			end := startCapture(h, "seconds=5&filter="+url.QueryEscape("udp port 9999 or tcp port 80"))
			synctest.Wait()
			connect(t, a, b, 1)
			if keys != nil {
				keys.Write([]byte("CLIENT_RANDOM 00 11\n"))
			}
			sendUDP(t, a, "hello")
			began := time.Now()
			status, file := end()
			require.Equal(t, 200, status)
			require.Equal(t, 5*time.Second, time.Since(began).Round(time.Second))
			all, log := readCapture(t, file)
			if keys != nil {
				require.Equal(t, "CLIENT_RANDOM 00 11\n", log)
			} else {
				require.Empty(t, log)
			}
			require.GreaterOrEqual(t, len(all), 4) // SYN, SYN,ACK, ACK and the datagram
			commented := 0
			for _, p := range all {
				require.Equal(t, pcap.LinkEthernet, p.Link)
				require.NotEqual(t, pcap.Unknown, p.Direction)
				if p.Comment != "" {
					commented++
					require.Contains(t, string(p.Data), "hello")
					require.Contains(t, p.Comment, "dropped: UDP port without a socket - RFC 1122 4.1.3.1")
				}
			}
			require.Equal(t, 1, commented)
			n := 0
			for _, p := range all {
				if bytes.Contains(p.Data, []byte("hello")) {
					n++
				}
			}
			require.Equal(t, 1, n, "the dropped frame is in the capture once, with its comment")
		})
	}
}

func TestACaptureIsBounded(t *testing.T) {
	for _, keys := range []*KeyLog{nil, new(KeyLog)} {
		synctest.Test(t, func(t *testing.T) {
			a, b := hosttest.Pair(t)
			h := NewHandler(b, Config{KeyLog: keys})
			began := time.Now()
			end := startCapture(h, "seconds=60&bytes=10000")
			synctest.Wait()
			for range 100 {
				sendUDP(t, a, strings.Repeat("x", 1000))
				time.Sleep(50 * time.Millisecond)
			}
			_, file := end()
			require.Less(t, time.Since(began), 10*time.Second, "it ends when it is full")
			require.LessOrEqual(t, len(file), 10000)
			require.Greater(t, len(file), 8000)
			readCapture(t, file)
			end = startCapture(h, "seconds=0.5&snap=60")
			synctest.Wait()
			sendUDP(t, a, strings.Repeat("x", 1000))
			_, file = end()
			all, _ := readCapture(t, file)
			for _, p := range all {
				require.LessOrEqual(t, len(p.Data), 60)
			}
			// The headers of Ethernet, IPv4 and UDP have 42 bytes.
			require.Equal(t, 1042, all[len(all)-2].Len, "the datagram, which is before the ICMP error about it")
		})
	}
}

func TestACaptureEndsWithTheHostAndTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		h := Handler(b)
		end := startCapture(h, "seconds=60")
		end2 := startCapture(h, "seconds=60")
		synctest.Wait()
		status, _ := startCapture(h, "")()
		require.Equal(t, 503, status, "at most two captures run at a time")
		sendUDP(t, a, "hello")
		began := time.Now()
		require.NoError(t, b.Close())
		_, file := end()
		end2()
		require.Less(t, time.Since(began), time.Second)
		all, _ := readCapture(t, file)
		require.NotEmpty(t, all, "it has the frames up to the end")
		status, _ = startCapture(h, "")()
		require.Equal(t, 503, status, "the host is closed")
	})
}

func TestTheFormOfACaptureIsChecked(t *testing.T) {
	h := Handler(hosttest.Loopback(t))
	for _, form := range []string{
		"seconds=0", "seconds=61", "seconds=NaN", "seconds=x", "seconds=-1", "bytes=0", "bytes=99999999999", "snap=-1", "snap=9999999",
		"filter=nonsense", "filter=tcp+port", "filter=" + strings.Repeat("a", 1001), "x=1", "seconds=1&seconds=2", "%", strings.Repeat("a", 20000),
	} {
		status, body := startCapture(h, form)()
		require.Equal(t, 400, status, form)
		require.Contains(t, string(body), `{"error":`)
	}
	_, body := startCapture(h, "filter=tcp+nonsense")()
	require.Contains(t, string(body), "nonsense", "the error says what is wrong")
	require.Contains(t, refused(t, h, 403, "POST", "api/capture"), "X-Usernet-Inspect")
	refused(t, h, 405, "GET", "api/capture")
}

// TestWiresharkDecryptsACapture captures an HTTPS request whose server has a KeyLog. tshark must find the request.
func TestWiresharkDecryptsACapture(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tshark is not installed")
		}
		t.Skip("tshark is not installed")
	}
	a, b := hosttest.Pair(t)
	keys := new(KeyLog)
	h := NewHandler(b, Config{KeyLog: keys})
	page := httptest.NewServer(h)
	defer page.Close()
	ln, err := b.Listen("tcp", ":443")
	require.NoError(t, err)
	client, server := hosttest.TLS(t, "http/1.1")
	server.KeyLogWriter = keys
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the answer") })}
	go srv.Serve(tls.NewListener(ln, server))
	defer srv.Close()

	// The answer begins when the capture does.
	req, err := http.NewRequest("POST", page.URL+"/api/capture", strings.NewReader("seconds=60&bytes=2000000&filter=tcp+port+443"))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Usernet-Inspect", "1")
	resp, err := page.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "application/x-pcapng", resp.Header.Get("Content-Type"))
	require.Regexp(t, `^attachment; filename="usernet-\d{8}-\d{6}\.pcapng"$`, resp.Header.Get("Content-Disposition"))
	web := &http.Client{Transport: &http.Transport{DialContext: a.DialContext, TLSClientConfig: client}}
	got, err := web.Get("https://" + hosttest.NameB + "/the-request")
	require.NoError(t, err)
	io.Copy(io.Discard, got.Body)
	got.Body.Close()
	web.CloseIdleConnections()
	require.NoError(t, b.Close()) // ends the capture
	file, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "capture.pcapng")
	require.NoError(t, os.WriteFile(name, file, 0o600))
	out, err := exec.Command(tshark, "-r", name, "-n", "-Y", "http.request", "-T", "fields", "-e", "http.request.uri").Output()
	require.NoError(t, err)
	require.Equal(t, "/the-request\n", string(out))
}

// TestWiresharkKnowsTheInterfacesOfACapture captures on a host with two links, one of which has no Ethernet header.
// tshark must find the name of the interface of each packet.
func TestWiresharkKnowsTheInterfacesOfACapture(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tshark is not installed")
		}
		t.Skip("tshark is not installed")
	}
	var file []byte
	synctest.Test(t, func(t *testing.T) {
		lan, farLAN := nic.Pipe(nic.PipeConfig{})
		wan, farWAN := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		h := hosttest.New(t, usernet.Config{NICs: []stack.NIC{
			{Name: "lan", Device: lan, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
			{Name: "wan", Device: wan, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}},
		}})
		near := hosttest.New(t, usernet.Config{NIC: farLAN, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}})
		far := hosttest.New(t, usernet.Config{NIC: farWAN, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}})
		end := startCapture(NewHandler(h, Config{}), "seconds=5&filter=udp")
		synctest.Wait()
		for i, x := range []struct {
			from *usernet.Host
			to   string
		}{{near, "192.0.2.1"}, {far, "198.51.100.1"}, {h, "127.0.0.1"}} {
			c, err := x.from.Dial("udp", x.to+":"+strconv.Itoa(9001+i))
			require.NoError(t, err)
			_, err = c.Write([]byte("hello"))
			require.NoError(t, err)
			c.Close()
		}
		var status int
		status, file = end()
		require.Equal(t, 200, status)
	})
	all, _ := readCapture(t, file)
	links := map[string]pcap.LinkType{}
	for _, p := range all {
		links[p.Interface] = p.Link
	}
	require.Equal(t, map[string]pcap.LinkType{"lan": pcap.LinkEthernet, "wan": pcap.LinkRaw, "lo": pcap.LinkRaw}, links)
	name := filepath.Join(t.TempDir(), "capture.pcapng")
	require.NoError(t, os.WriteFile(name, file, 0o600))
	out, err := exec.Command(tshark, "-r", name, "-n", "-T", "fields", "-e", "frame.interface_name", "-e", "frame.encap_type", "-e", "udp.dstport").Output()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"lan\t1\t9001", "wan\t7\t9002", "lo\t7\t9003"}, unique(strings.Split(strings.TrimSpace(string(out)), "\n")))
}

// unique returns the different lines.
func unique(lines []string) []string {
	slices.Sort(lines)
	return slices.Compact(lines)
}

func TestAKeyLogKeepsTheLastLines(t *testing.T) {
	var k KeyLog
	require.Empty(t, k.lines())
	line := strings.Repeat("k", 99)
	for i := range 3 * maxKeyLog / 100 {
		n, err := k.Write([]byte(line[:90] + string(rune('a'+i%26)) + line[91:] + "\n"))
		require.NoError(t, err)
		require.Equal(t, 100, n)
	}
	require.LessOrEqual(t, len(k.lines()), maxKeyLog)
	require.Greater(t, len(k.lines()), maxKeyLog/2)
	require.Zero(t, len(k.lines())%100, "lines are whole")
	k.Write(bytes.Repeat([]byte("x"), 2*maxKeyLog)) // a line without an end is none
	require.Empty(t, k.lines())
	require.LessOrEqual(t, len(k.b), maxKeyLog)
	k.Write([]byte("\nlast\n"))
	require.Contains(t, string(k.lines()), "last\n")
}

func TestTheLastDroppedFramesAreKeptWhileAClientLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		h := Handler(b)
		l := h.(*server).from.(*live)
		sendUDP(t, a, "before")
		d := get[Drops](t, h, "api/drops").Reasons[0]
		require.Equal(t, uint64(1), d.Count)
		require.Empty(t, d.Last)
		s := open(t, h, "api/stream?topics=drops")
		nextOf[Drops](s, "drops")
		for _, text := range []string{"a1", "b2", "c3", "d4", "e5", "f6", "g7", "h8", "i9"} {
			sendUDP(t, a, text)
		}
		d = nextOf[Drops](s, "drops").Reasons[0]
		require.Equal(t, "UDP port without a socket", d.Reason)
		require.Contains(t, d.Rule, "RFC 1122 4.1.3.1")
		require.Equal(t, uint64(10), d.Count)
		require.Len(t, d.Last, lastFrames)
		require.Contains(t, d.Last[0].Summary, "192.0.2.1")
		require.Contains(t, d.Last[0].Decoded, "UDP")
		require.Contains(t, d.Last[0].Hex, "6232", "b2: the first one has gone")
		require.Contains(t, d.Last[7].Hex, "6939")
		require.Equal(t, "in", d.Last[0].Dir)
		require.Equal(t, d.Last, get[Drops](t, h, "api/drops").Reasons[0].Last)
		s.end()
		synctest.Wait()
		require.Nil(t, l.dropped.watcher)
		require.Empty(t, get[Drops](t, h, "api/drops").Reasons[0].Last)
	})
}

func TestDroppedPacketsAreStreamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		s := open(t, Handler(b), "api/stream?topics=dropped")
		synctest.Wait()
		sendUDP(t, a, "hello")
		d := nextOf[Dropped](s, "dropped")
		for d.Reason != "UDP port without a socket" { // messages of MLD before it
			d = nextOf[Dropped](s, "dropped")
		}
		require.Contains(t, d.Decoded, "9999")
		// A flood is bounded, and the number of lost events is sent: of those that the host's Watcher or the stream's
		// queue had no room for.
		for lost := false; !lost; {
			for range 100 {
				sendUDP(t, a, "flood")
			}
			topic, data := s.next()
			lost = topic == "lost"
			if topic == "dropped" {
				require.NoError(t, json.Unmarshal([]byte(data), &d))
				lost = d.Lost > 0
			}
		}
	})
}

func FuzzCaptureForm(f *testing.F) {
	for _, s := range []string{"filter=tcp+port+80&seconds=1.5&bytes=1000&snap=96", "seconds=1e-9", "%zz", "a=b;c=d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", "http://localhost/api/capture", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		form, err := parseCapture(httptest.NewRecorder(), r)
		if err != nil {
			var bad *requestError
			require.ErrorAs(t, err, &bad)
			return
		}
		require.LessOrEqual(t, form.seconds, maxSeconds*time.Second)
		require.GreaterOrEqual(t, form.seconds, time.Duration(0))
		require.True(t, form.bytes >= 1 && form.bytes <= maxCaptureBytes && form.snap >= 0 && form.snap <= maxSnap)
	})
}

func FuzzSegments(f *testing.F) {
	f.Add([]byte("\x45\x00\x00\x28\x00\x00\x40\x00\x40\x06\x00\x00\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x50\x00\x51\x00\x00\x00\x01\x00\x00\x00\x02\x50\x10\x01\x00\x00\x00\x00\x00"), 40, false)
	f.Add([]byte("\x60\x00\x00\x00\x00\x14\x06\x40"), 60, false)
	f.Fuzz(func(t *testing.T, b []byte, more int, ethernet bool) {
		e := stack.WatchEvent{Data: b, Len: len(b) + more&0xffff, Ethernet: ethernet}
		if p, ok := parseSegment(&e); ok {
			require.True(t, p.length >= 0 && p.length <= e.Len)
		}
		droppedFrame(&e)
	})
}

// A deadlineWriter records the write deadlines that the handler sets.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
}

func (w *deadlineWriter) SetWriteDeadline(t time.Time) error {
	w.deadlines = append(w.deadlines, t)
	return nil
}

func TestACaptureLeavesNoDeadlineBehind(t *testing.T) {
	r := httptest.NewRequest("POST", "http://localhost/api/capture", strings.NewReader("seconds=0.01"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Usernet-Inspect", "1")
	r.RemoteAddr = "127.0.0.1:1"
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
	Handler(hosttest.Loopback(t)).ServeHTTP(w, r)
	require.Greater(t, len(w.deadlines), 3)
	for i, d := range w.deadlines[:len(w.deadlines)-1] {
		// A deadline before each write cuts off a client that reads nothing. It is removed after the write.
		require.Equal(t, i%2 == 1, d.IsZero(), i)
	}
	require.True(t, w.deadlines[len(w.deadlines)-1].IsZero())
}

func TestAFullCaptureEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t, func(cfg *usernet.Config) { cfg.NoIPv6 = true })
		end := startCapture(Handler(b), "seconds=60&bytes=1000")
		synctest.Wait()
		began := time.Now()
		sendUDP(t, a, strings.Repeat("x", 1000)) // no frame follows
		_, file := end()
		require.Less(t, time.Since(began), time.Second)
		readCapture(t, file)
	})
}

// A lockedRecorder is a ResponseRecorder whose body can be read while the handler writes.
type lockedRecorder struct {
	*httptest.ResponseRecorder
	mu sync.Mutex
}

func (w *lockedRecorder) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ResponseRecorder.Write(p)
}

// written returns a copy of the body so far.
func (w *lockedRecorder) written() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.Body.Bytes())
}

func TestACaptureWritesASteadyFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		r := httptest.NewRequest("POST", "http://localhost/api/capture", strings.NewReader("seconds=5"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("X-Usernet-Inspect", "1")
		r.RemoteAddr = "127.0.0.1:1"
		w := &lockedRecorder{ResponseRecorder: httptest.NewRecorder()}
		go Handler(b).ServeHTTP(w, r)
		synctest.Wait()
		for range 100 {
			sendUDP(t, a, "hello")
			time.Sleep(10 * time.Millisecond) // less than captureQuiet
		}
		synctest.Wait()
		all, _ := readCapture(t, w.written())
		require.Greater(t, len(all), 70)
		time.Sleep(5 * time.Second)
	})
}

func TestTheFramesThatACaptureHoldsAreBounded(t *testing.T) {
	w := httptest.NewRecorder()
	c := &capture{to: &clientWriter{w, http.NewResponseController(w)}, left: 32 << 20, flushed: time.Now().Add(time.Hour)}
	for range 100 {
		c.take(&stack.WatchEvent{Kind: stack.FrameReceived, Time: time.Now(), Data: make([]byte, 64<<10), Len: 64 << 10})
		held := 0
		for _, p := range c.held[:cap(c.held)] {
			held += len(p.Data)
		}
		require.LessOrEqual(t, held, captureHoldBytes)
	}
	c.finish()
	require.NoError(t, c.err)
	require.Zero(t, c.size)
	all, _ := readCapture(t, w.Body.Bytes())
	require.Len(t, all, 100)
}

func TestAKeyLogThatIsLargerThanTheCaptureLeavesRoom(t *testing.T) {
	keys := new(KeyLog)
	for i := range 1000 {
		fmt.Fprintf(keys, "CLIENT_RANDOM %08d %080d\n", i, i)
	}
	for _, n := range []int{1, 100} { // fewer frames than fit, and more
		synctest.Test(t, func(t *testing.T) {
			a, b := hosttest.Pair(t)
			end := startCapture(NewHandler(b, Config{KeyLog: keys}), "seconds=5&bytes=10000&filter=udp")
			synctest.Wait()
			for range n {
				sendUDP(t, a, strings.Repeat("x", 1000))
			}
			_, file := end()
			require.LessOrEqual(t, len(file), 10000)
			require.Greater(t, len(file), 8000)
			all, log := readCapture(t, file)
			require.NotEmpty(t, all)
			require.Contains(t, log, "\nCLIENT_RANDOM 00000999 ", "the last ones are there")
			require.True(t, strings.HasPrefix(log, "CLIENT_RANDOM 00000"), "lines are whole")
			require.NotContains(t, log, "CLIENT_RANDOM 00000000 ")
		})
	}
	require.Empty(t, lastLines([]byte("a\nb\n"), -5))
	require.Equal(t, "b\n", string(lastLines([]byte("a\nb\n"), 2)))
	require.Equal(t, "b\n", string(lastLines([]byte("a\nb\n"), 3)))
	require.Empty(t, lastLines([]byte("a\nb\n"), 1))
}

func TestACaptureLeavesItsOwnConnectionOut(t *testing.T) {
	t.Run("wire", func(t *testing.T) {
		a, b := hosttest.Pair(t)
		leavesItselfOut(t, a, b, hosttest.AddrB)
	})
	t.Run("loopback", func(t *testing.T) {
		h := hosttest.Loopback(t)
		leavesItselfOut(t, h, h, "127.0.0.1")
	})
}

// leavesItselfOut captures on host b over a connection from host a. No frame of that connection may be in the capture.
func leavesItselfOut(t *testing.T, a, b *usernet.Host, addr string) {
	ln, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	srv := &http.Server{Handler: NewHandler(b, Config{Token: "secret"})}
	go srv.Serve(ln)
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: a.DialContext}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequest("POST", "http://"+addr+"/api/capture", strings.NewReader("seconds=60&bytes=4000"))
	require.NoError(t, err)
	req.Header = http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"}, "X-Usernet-Inspect": {"1"}, "Authorization": {"Bearer secret"},
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	go func() {
		for range 100 { // until the capture is full
			c, err := a.Dial("udp", addr+":9999")
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	file, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	all, _ := readCapture(t, file)
	require.NotEmpty(t, all)
	for _, p := range all {
		s, ok := parseSegment(&stack.WatchEvent{Data: p.Data, Len: p.Len, Ethernet: p.Link == pcap.LinkEthernet})
		require.False(t, ok && s.local.Port() == 80 || ok && s.remote.Port() == 80, "a segment of the request's own connection")
	}
}
