package inspect

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// transfer records the sender of a transfer over a wire with loss and returns the recording, the ID of the connection and
// the time of the beginning.
func transfer(t *testing.T, cfg RecordConfig) (file []byte, id string, began time.Time) {
	synctest.Test(t, func(t *testing.T) {
		a, b, impair := hosttest.ImpairedPair(t, 1)
		if cfg.Interval == 0 {
			cfg.Interval = 25 * time.Millisecond
		}
		impair(nic.Impairment{Latency: 20 * time.Millisecond, Loss: 0.02, Rate: 10_000_000})
		began = time.Now()
		var out bytes.Buffer
		rec := Record(a, &out, cfg)
		dialed, accepted := connect(t, a, b, 1)
		id = idOf(dialed[0])
		go func() {
			dialed[0].Write(make([]byte, 1<<20))
			dialed[0].CloseWrite()
		}()
		n, err := io.Copy(io.Discard, accepted[0])
		require.NoError(t, err)
		require.Equal(t, int64(1<<20), n)
		accepted[0].Close()
		for range 5 { // more drops than those of messages of MLD
			c, err := b.Dial("udp", hosttest.AddrA+":9999")
			require.NoError(t, err)
			_, err = c.Write([]byte("hello"))
			require.NoError(t, err)
			c.Close()
		}
		require.NoError(t, a.AddAddr(a.Interfaces()[1].Name, netip.MustParsePrefix("198.51.100.1/24"), usernet.AddrOptions{}))
		time.Sleep(70 * time.Second) // the end of TIME-WAIT
		if cfg.MaxSamples == 0 {
			require.NoError(t, rec.Close())
			require.ErrorIs(t, rec.Close(), net.ErrClosed)
		}
		file = out.Bytes()
	})
	return file, id, began
}

func TestARunInVirtualTimeIsOpenedAfterwards(t *testing.T) {
	file, id, began := transfer(t, RecordConfig{})
	h, err := Open(bytes.NewReader(file))
	require.NoError(t, err)
	o := get[Overview](t, h, "api/overview")
	require.True(t, o.Host.Recorded)
	require.False(t, o.Host.CanCapture)
	require.Equal(t, uint64(1), o.Stats.TCP.Events["ActiveOpens"])
	require.Equal(t, 2000, began.Year(), "virtual time")
	require.Equal(t, 2000, o.Time.Year())

	// The connection has ended, but the recording has it.
	all := get[Conns](t, h, "api/conns?q=time-wait")
	require.Zero(t, all.Total)
	all = get[Conns](t, h, "api/conns?sort=bytes_out&desc=1")
	require.Equal(t, 1, all.Total)
	require.Equal(t, id, all.Conns[0].ID)
	require.Equal(t, "CLOSED", all.Conns[0].State)
	require.Equal(t, uint64(1<<20), all.Conns[0].BytesOut, "the totals are those of its end")
	require.Positive(t, all.Conns[0].Retrans)

	s := open(t, h, "api/stream?topics=conn,events,overview&id="+url.QueryEscape(id))
	var samples []ConnDetail
	kinds := make(map[string]int)
	for len(samples) == 0 || !samples[len(samples)-1].Ended {
		d := nextOf[ConnDetail](s, "conn")
		samples = append(samples, d)
		for _, e := range d.Events {
			kinds[e.Kind]++
		}
	}
	require.Greater(t, len(samples), 50)
	require.Positive(t, kinds["retransmission"])
	require.Positive(t, kinds["recovery_begin"])
	for i := 1; i < len(samples); i++ {
		require.False(t, samples[i].Time.Before(samples[i-1].Time))
	}
	require.Less(t, samples[0].Time.Sub(began), 100*time.Millisecond)
	e := nextOf[ChangeEvent](s, "events")
	for e.Kind != "address added" || !strings.Contains(e.Text, "198.51.100.1/24") {
		e = nextOf[ChangeEvent](s, "events")
	}
	nextOf[struct{}](s, "end")

	s = open(t, h, "api/segments?id="+url.QueryEscape(id))
	var sent, retransmitted, acked int
	for {
		topic, data := s.next()
		if topic == "end" {
			break
		}
		require.Equal(t, "segments", topic)
		var x SegmentItem
		require.NoError(t, json.Unmarshal([]byte(data), &x))
		switch {
		case x.Dir == "in":
			acked = max(acked, int(x.Ack))
			require.True(t, x.Win > 65535 || strings.Contains(x.Flags, "SYN"), "windows are scaled")
		case x.Retransmission:
			retransmitted += x.Len
		default:
			sent += x.Len
		}
	}
	require.Equal(t, 1<<20, sent)
	require.Positive(t, retransmitted)
	require.Equal(t, 1<<20+2, acked, "with SYN and FIN")

	drops := get[Drops](t, h, "api/drops")
	require.Equal(t, "UDP port without a socket", drops.Reasons[0].Reason)
	require.Contains(t, drops.Reasons[0].Last[0].Decoded, "9999")

	d := get[All](t, h, "api/all")
	require.Equal(t, 1, d.Conns.Total)
	require.NotEmpty(t, d.Routes.Routes)
	header := func(r *http.Request) { r.Header.Set("X-Usernet-Inspect", "1") }
	require.Contains(t, refused(t, h, 404, "POST", "api/capture", header), "recording")
	refused(t, h, 404, "GET", "api/conn?id="+url.QueryEscape("192.0.2.9:1->192.0.2.8:1"))
	refused(t, h, 400, "GET", "api/conn")
	refused(t, h, 404, "GET", "api/nonsense")
	refused(t, h, 400, "GET", "api/stream")
}

func TestARecordingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hosttest.Loopback(t)
		for _, c := range []struct {
			cfg  RecordConfig
			most time.Duration
		}{
			{RecordConfig{MaxSamples: 10}, 90 * time.Millisecond},
			{RecordConfig{MaxBytes: 1}, 0},
		} {
			var out bytes.Buffer
			began := time.Now()
			rec := Record(h, &out, c.cfg)
			time.Sleep(time.Hour)
			synctest.Wait()
			x, err := readRecording(&out)
			require.NoError(t, err)
			require.Equal(t, c.most, x.end().Sub(began))
			require.Contains(t, string(x.topics["end"][0]), `"limit"`)
			require.NoError(t, rec.Close())
		}
	})
}

func TestARecordingLeavesOutWhatIsTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		var out bytes.Buffer
		rec := Record(b, &out, RecordConfig{MaxConns: 2})
		connect(t, a, b, 5)
		time.Sleep(time.Second)
		require.NoError(t, rec.Close())
		x, err := readRecording(&out)
		require.NoError(t, err)
		require.Len(t, x.conns, 2)
		require.Contains(t, string(x.topics["end"][0]), `"skipped_conns":3`)
	})
}

func TestAFloodOfDropsDoesNotHoldARecording(t *testing.T) {
	a, b := hosttest.Pair(t)
	var out bytes.Buffer
	rec := Record(b, &out, RecordConfig{})
	stop := make(chan bool)
	var flood sync.WaitGroup
	for range 4 {
		c, err := a.Dial("udp", hosttest.AddrB+":9999")
		require.NoError(t, err)
		defer c.Close()
		flood.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.Write([]byte("flood"))
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	done := make(chan error)
	go func() { done <- rec.Close() }()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		t.Error("Close hangs")
	}
	close(stop)
	flood.Wait()
	if t.Failed() {
		<-done
		return
	}
	h, err := Open(&out)
	require.NoError(t, err)
	for _, r := range get[Drops](t, h, "api/drops").Reasons {
		require.LessOrEqual(t, len(r.Last), lastFrames)
	}
}

func TestARecordingHasTheWindowsOfAPeerWithoutScaling(t *testing.T) {
	out := tuple{netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("192.0.2.2:81")}
	w := &recordedConn{connWatch: connWatch{tuple: out}}
	r := &Recording{host: hosttest.Loopback(t), gz: gzip.NewWriter(io.Discard), cfg: RecordConfig{MaxSegments: 10}, watches: map[tuple]*recordedConn{out: w}}
	add := func(outbound bool, h wire.TCP) {
		src, dst := out.local, out.remote
		if !outbound {
			src, dst = dst, src
		}
		h.SrcPort, h.DstPort = src.Port(), dst.Port()
		b := make([]byte, 20+h.Len())
		ip := wire.IPv4{TTL: 64, Proto: wire.ProtoTCP, Src: src.Addr(), Dst: dst.Addr()}
		ip.Put(b, h.Len())
		h.Put(b[20:])
		r.segment(&stack.WatchEvent{Data: b, Len: len(b), Outbound: outbound})
	}
	add(true, wire.TCP{Flags: wire.FlagSYN, HasWScale: true, WScale: 7})
	require.Equal(t, uint8(7), w.seg.out.shift)
	add(false, wire.TCP{Flags: wire.FlagSYN | wire.FlagACK, HasWScale: true, WScale: 5})
	require.Equal(t, [2]uint8{7, 5}, [2]uint8{w.seg.out.shift, w.seg.in.shift})
	add(false, wire.TCP{Flags: wire.FlagSYN | wire.FlagACK})
	require.Equal(t, [2]uint8{}, [2]uint8{w.seg.out.shift, w.seg.in.shift})
	require.Equal(t, 3, r.segments)
}

func TestARecordingEndsWithTheHostAndNeedsNoClose(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		h := hosttest.Loopback(t)
		Record(h, &out, RecordConfig{})
		time.Sleep(time.Second)
		require.NoError(t, h.Close())
		time.Sleep(time.Second)
		synctest.Wait()
		x, err := readRecording(bytes.NewReader(out.Bytes()))
		require.NoError(t, err)
		require.Contains(t, string(x.topics["end"][0]), `"host closed"`)
		Record(hosttest.Loopback(t), io.Discard, RecordConfig{}) // the bubble ends although it is not closed
	})
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

func TestAWriterThatFailsEndsTheRecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := Record(hosttest.Loopback(t), failingWriter{}, RecordConfig{})
		time.Sleep(time.Minute)
		require.ErrorContains(t, rec.Close(), "the disk is full")
	})
}

func TestACutRecordingIsShownAsFarAsItGoes(t *testing.T) {
	file, _, _ := transfer(t, RecordConfig{})
	whole, err := readRecording(bytes.NewReader(file))
	require.NoError(t, err)
	half, err := readRecording(bytes.NewReader(file[:len(file)/2]))
	require.NoError(t, err)
	require.NotEmpty(t, half.conns)
	require.True(t, half.end().Before(whole.end()))
}

// A client that asks for pages of the sockets of a recording gets pages.
func TestTheSocketsOfARecordingHavePages(t *testing.T) {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	fmt.Fprintln(gz, `{"format":"usernet inspect","version":1}`)
	fmt.Fprintln(gz, `{"topic":"overview","value":{}}`)
	fmt.Fprintln(gz, `{"topic":"sockets","value":{"total":3,"sockets":[{"local":"a"},{"local":"b"},{"local":"c"}]}}`)
	require.NoError(t, gz.Close())
	h, err := Open(&b)
	require.NoError(t, err)
	for query, want := range map[string][]Socket{
		"":                  {{Local: "a"}, {Local: "b"}, {Local: "c"}},
		"?limit=2":          {{Local: "a"}, {Local: "b"}},
		"?limit=2&offset=2": {{Local: "c"}},
		"?offset=3":         {},
	} {
		s := get[Sockets](t, h, "api/sockets"+query)
		require.Equal(t, 3, s.Total)
		require.Equal(t, want, s.Sockets, query)
	}
}

func TestWhatIsNoRecordingIsRefused(t *testing.T) {
	pack := func(s string) io.Reader {
		var b bytes.Buffer
		gz := gzip.NewWriter(&b)
		gz.Write([]byte(s))
		gz.Close()
		return &b
	}
	head := `{"format":"usernet inspect","version":1}` + "\n"
	for want, r := range map[string]io.Reader{
		"not a recording":            bytes.NewReader([]byte("hello")),
		"EOF":                        bytes.NewReader(nil),
		"not a recording of package": pack(`{"format":"x"}` + "\n"),
		"version 2":                  pack(`{"format":"usernet inspect","version":2}` + "\n"),
		"no samples":                 pack(head),
		"line 2":                     pack(head + "{\n{}\n"),
		"id has to be":               pack(head + `{"topic":"conn","value":{"conn":{"id":"x"}}}` + "\n"),
	} {
		_, err := Open(r)
		require.ErrorContains(t, err, want)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"topic":"overview","value":{"time":"2000-01-01T00:00:00Z"}}` + "\n" + `{"topic":"conn","value":{"conn":{"id":"192.0.2.1:1->192.0.2.2:2"},"info":{}}}`))
	f.Add([]byte(`{"topic":"end","value":null}`))
	f.Fuzz(func(t *testing.T, lines []byte) {
		var b bytes.Buffer
		gz := gzip.NewWriter(&b)
		gz.Write([]byte(`{"format":"usernet inspect","version":1}` + "\n"))
		gz.Write(lines)
		gz.Close()
		h, err := Open(&b)
		if err != nil {
			return
		}
		for _, path := range []string{"api/overview", "api/conns?sort=rtt_s", "api/drops"} {
			require.Equal(t, 200, ask(h, "GET", path).StatusCode)
		}
	})
}

// On a wire without latency, a connection begins and ends between two samples.
func TestARecordingHasConnectionsBetweenItsSamples(t *testing.T) {
	var out bytes.Buffer
	var served, refused string
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		rec := Record(a, &out, RecordConfig{})
		time.Sleep(35 * time.Millisecond)
		dialed, accepted := connect(t, a, b, 1)
		served = idOf(dialed[0])
		accepted[0].Write([]byte("hello"))
		accepted[0].Close()
		all, err := io.ReadAll(dialed[0])
		require.NoError(t, err)
		require.Equal(t, "hello", string(all))
		dialed[0].Close()
		_, err = a.Dial("tcp4", hosttest.AddrB+":9")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		time.Sleep(35 * time.Millisecond)
		require.NoError(t, rec.Close())
	})
	h, err := Open(&out)
	require.NoError(t, err)
	all := get[Conns](t, h, "api/conns")
	require.Equal(t, 2, all.Total)
	for _, c := range all.Conns {
		require.Equal(t, "CLOSED", c.State)
		s := open(t, h, "api/stream?topics=conn&id="+url.QueryEscape(c.ID))
		d := nextOf[ConnDetail](s, "conn")
		if c.ID == served {
			require.Equal(t, uint64(5), c.BytesIn)
			require.Empty(t, d.Events)
		} else {
			refused = c.Remote
			require.Equal(t, "connection refused", d.Events[0].Text)
		}
		require.True(t, nextOf[ConnDetail](s, "conn").Ended)
		nextOf[struct{}](s, "end")
	}
	require.Equal(t, hosttest.AddrB+":9", refused)
}
