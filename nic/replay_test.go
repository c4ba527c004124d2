package nic

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic/pcap"
)

// testCapture returns a capture of Ethernet frames, which were captured a second apart, sent and received
// in turn.
func testCapture(t testing.TB, n int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := pcap.NewWriter(&buf, pcap.Interface{Link: pcap.LinkEthernet})
	require.NoError(t, err)
	for i := range n {
		b := ether(macB, macA, uint32(i), 60)
		dir := []pcap.Direction{pcap.Inbound, pcap.Outbound}[i%2]
		require.NoError(t, w.Write(pcap.Packet{Data: b, Len: 60, Time: time.Unix(1000+int64(i), 0), Link: pcap.LinkEthernet, Direction: dir}))
	}
	return buf.Bytes()
}

func TestAReplayKeepsTheTimesOfTheCapture(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  ReplayConfig
		gap  time.Duration
		want []uint32
	}{
		"recorded": {ReplayConfig{}, time.Second, []uint32{0, 1, 2, 3}},
		"slower":   {ReplayConfig{Speed: 0.5}, 2 * time.Second, []uint32{0, 1, 2, 3}},
		"faster":   {ReplayConfig{Speed: 1000}, time.Millisecond, []uint32{0, 1, 2, 3}},
		"at once":  {ReplayConfig{AtOnce: true}, 0, []uint32{0, 1, 2, 3}},
		"inbound":  {ReplayConfig{InboundOnly: true}, 2 * time.Second, []uint32{0, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, err := OpenReplay(bytes.NewReader(testCapture(t, 4)), c.cfg)
				require.NoError(t, err)
				require.True(t, d.Link().Up)
				require.Equal(t, Ethernet, d.Link().Medium)
				var r recorder
				down := make(chan error, 1)
				d.NotifyDown(func(err error) { down <- err })
				time.Sleep(time.Hour) // nothing happens before Attach
				start := time.Now()
				d.Attach(r.recv)
				n, err := d.Send([]Frame{{Head: ether(macB, macA, 1, 60)}})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				require.ErrorIs(t, <-down, io.EOF)
				require.Equal(t, c.want, tags(r.all()))
				for i, at := range r.times {
					require.Equal(t, time.Duration(i)*c.gap, at.Sub(start))
				}
				require.False(t, d.Link().Up)
				require.Equal(t, uint64(1), d.Stats().Sent)
				require.NoError(t, d.Close())
			})
		})
	}
}

func TestCloseEndsAReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &closer{Reader: bytes.NewReader(testCapture(t, 4))}
		d, err := OpenReplay(file, ReplayConfig{})
		require.NoError(t, err)
		d.NotifyDown(func(err error) { t.Errorf("reported down: %v", err) })
		var r recorder
		d.Attach(r.recv)
		synctest.Wait()
		require.NoError(t, d.Close())
		require.True(t, file.closed)
		synctest.Wait()
		require.Equal(t, 1, r.count())
	})
}

type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error {
	c.closed = true
	return nil
}

func TestAReplayDropsWhatIsNoFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		w, err := pcap.NewWriter(&buf, pcap.Interface{Link: pcap.LinkRaw})
		require.NoError(t, err)
		ip, _, _ := packetSpec{medium: IP, payload: pattern(30)}.build(t)
		for _, p := range []pcap.Packet{
			{Data: ip, Len: len(ip), Link: pcap.LinkRaw},
			{Data: ip[:20], Len: len(ip), Link: pcap.LinkRaw}, // cut
			{Data: ip, Len: len(ip), Link: pcap.LinkEthernet}, // of another interface
			{Data: nil, Len: 0, Link: pcap.LinkRaw},
			{Data: ip, Len: len(ip), Link: pcap.LinkIPv4, Time: time.Unix(5, 0)},
			{Data: ip, Len: len(ip), Link: pcap.LinkIPv4, Time: time.Unix(4, 0)}, // earlier than the one before
		} {
			require.NoError(t, w.Write(p))
		}
		d, err := OpenReplay(&buf, ReplayConfig{Name: "old", MTU: 1500})
		require.NoError(t, err)
		require.Equal(t, Link{Name: "old", MTU: 1500, Medium: IP, Up: true}, d.Link())
		var r recorder
		d.Attach(r.recv)
		time.Sleep(time.Minute)
		require.Equal(t, [][]byte{ip, ip, ip}, r.all())
		require.Equal(t, uint64(3), d.Stats().RecvDropped)
		require.EqualError(t, d.Err(), "nic: old: EOF")
	})
}

func TestABadCaptureEndsAReplay(t *testing.T) {
	b := testCapture(t, 3)
	synctest.Test(t, func(t *testing.T) {
		d, err := OpenReplay(bytes.NewReader(b[:len(b)-5]), ReplayConfig{AtOnce: true})
		require.NoError(t, err)
		var r recorder
		d.Attach(r.recv)
		synctest.Wait()
		require.Equal(t, 2, r.count())
		require.ErrorIs(t, d.Err(), io.ErrUnexpectedEOF)
	})
	for want, c := range map[string]struct {
		b   []byte
		cfg ReplayConfig
	}{
		"pcap: read the beginning: unexpected EOF": {nil, ReplayConfig{}},
		"bad speed -1: it is negative":             {b, ReplayConfig{Speed: -1}},
		"bad MTU 70000":                            {b, ReplayConfig{MTU: 70000}},
		// The header of a pcap file without packets.
		"the packets have link type 105, which is neither Ethernet nor IP": {
			append(append([]byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0}, make([]byte, 12)...), append([]byte{105, 0, 0, 0}, make([]byte, 16)...)...), ReplayConfig{}},
	} {
		_, err := OpenReplay(bytes.NewReader(c.b), c.cfg)
		require.ErrorContains(t, err, want)
	}
	// A capture without packets is not an error.
	synctest.Test(t, func(t *testing.T) {
		d, err := OpenReplay(bytes.NewReader(testCapture(t, 0)), ReplayConfig{})
		require.NoError(t, err)
		d.Attach(func([]Frame) {})
		synctest.Wait()
		require.ErrorIs(t, d.Err(), io.EOF)
	})
}

// What a Captured writes, a Replay plays: the same frames with the same gaps.
func TestACaptureCanBeReplayed(t *testing.T) {
	for _, medium := range []Medium{Ethernet, IP} {
		synctest.Test(t, func(t *testing.T) {
			var file bytes.Buffer
			near, far := Pipe(PipeConfig{Medium: medium})
			c := Capture(near, &file, CaptureConfig{})
			c.Attach(func([]Frame) {})
			far.Attach(func([]Frame) {})
			var want [][]byte
			for i := range 5 {
				spec := packetSpec{medium: medium, tcp: i%2 == 0, v6: i%3 == 0, payload: pattern(100 * i)}
				b, _, _ := spec.build(t)
				c.Send(one(b))
				want = append(want, b)
				time.Sleep(time.Duration(i) * 7 * time.Millisecond)
			}
			spec := packetSpec{medium: medium, tcp: true, payload: pattern(20000)}
			c.Send([]Frame{spec.super(t, 1000, true)})
			super, _, _ := spec.build(t)
			want = append(want, super)
			d, err := OpenReplay(&file, ReplayConfig{})
			require.NoError(t, err)
			require.Equal(t, medium, d.Link().Medium)
			var r recorder
			d.Attach(r.recv)
			start := time.Now()
			time.Sleep(time.Minute)
			require.Equal(t, want, r.all())
			require.Equal(t, 70*time.Millisecond, r.times[5].Sub(start), "pauses of 0, 7, 14, 21 and 28 ms")
			require.ErrorIs(t, d.Err(), io.EOF)
		})
	}
}

func FuzzReplay(f *testing.F) {
	f.Add(testCapture(f, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := OpenReplay(bytes.NewReader(b), ReplayConfig{AtOnce: true})
		if err != nil {
			return
		}
		down := make(chan error, 1)
		d.NotifyDown(func(err error) { down <- err })
		d.Attach(func(batch []Frame) {
			for i := range batch {
				require.True(t, d.current().carries(&batch[i]))
			}
		})
		if err := <-down; err == nil || errors.Is(err, io.ErrNoProgress) {
			t.Fatal(err)
		}
		d.Close()
	})
}
