// Package lab has what the programs of the guide share: virtual time, seeded hosts, and a view of the frames
// on a wire.
package lab

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/filter"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// Run parses the flags of the command line and runs f in virtual time: in a bubble of testing/synctest, where the
// clock starts at midnight UTC of 1 January 2000 and moves on only while all goroutines wait. So f takes the same
// time, to the nanosecond, on each machine. One goroutine runs at a time, so that those that have something to print
// at the same instant print in the same order.
//
// synctest belongs to tests, so Run presents f to package testing as the only test of the program. Run does not return.
func Run(f func()) {
	runtime.GOMAXPROCS(1)
	test := testing.InternalTest{Name: "guide", F: func(t *testing.T) {
		synctest.Test(t, func(*testing.T) {
			f()
			endRecording()
		})
		if !t.Failed() {
			os.Exit(0) // before package testing prints PASS
		}
	}}
	matchAll := func(pattern, name string) (bool, error) { return true, nil }
	testing.Main(matchAll, []testing.InternalTest{test}, nil, nil)
}

// Check ends the program if err is not nil.
func Check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Must returns v. It ends the program if err is not nil.
func Must[T any](v T, err error) T {
	Check(err)
	return v
}

// Wire returns a wire with two ends. It differs from nic.Pipe(nic.PipeConfig{}) in what a reader sees: each frame has
// its final size and checksum, as on a cable, and the link addresses end in 01 and 02.
func Wire() (a, b nic.Device) {
	ends := [2][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	left, right := nic.Pipe(nic.PipeConfig{GSO: -1, NoTxChecksum: true, MACs: ends})
	return left, right
}

// Slow gives both directions of a wire the same impairment. The seed determines which frames are lost.
func Slow(dev nic.Device, imp nic.Impairment, seed uint64) *nic.Impaired {
	return nic.Impair(dev, nic.ImpairConfig{In: imp, Out: imp, Seed: seed})
}

// Host makes a host with addresses such as "192.0.2.1/24" on dev. The seed determines its random numbers.
func Host(dev nic.Device, seed uint64, addrs ...string) *usernet.Host {
	return New(Config(dev, seed, addrs...))
}

// New makes a host. With the flag -record, Run records one of the hosts that New and Host make.
func New(cfg usernet.Config) *usernet.Host {
	h := Must(usernet.New(cfg))
	record(h)
	return h
}

// Config returns the configuration of such a host. It first waits for some microseconds, so that no timers of two hosts
// expire at the same instant: their order would differ from run to run.
func Config(dev nic.Device, seed uint64, addrs ...string) usernet.Config {
	time.Sleep(7 * time.Microsecond)
	cfg := usernet.Config{NIC: dev, Rand: Random(seed)}
	for _, a := range addrs {
		cfg.Addrs = append(cfg.Addrs, netip.MustParsePrefix(a))
	}
	return cfg
}

// Random returns a function for usernet.Config.Rand whose numbers are the same in each run.
func Random(seed uint64) func(p []byte) {
	var mu sync.Mutex
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	src := rand.NewChaCha8(key)
	return func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		src.Read(p)
	}
}

var (
	recordFile = flag.String("record", "", "record the first 100 seconds of a host of the program in this `file`, for usernet inspect")
	recordHost = flag.Int("host", 1, "the `number` of the host that -record records: 1 is the first that the program makes")

	recording *inspect.Recording
	hosts     int // that the program has made, if one is to be recorded
)

// record records a host if it is the one that the flags name, with 100 samples each second.
func record(h *usernet.Host) {
	if *recordFile == "" {
		return
	}
	if hosts++; hosts == *recordHost {
		recording = inspect.Record(h, Must(os.Create(*recordFile)), inspect.RecordConfig{MaxSamples: 10_000})
	}
}

// endRecording completes the file of record.
func endRecording() {
	switch {
	case recording != nil:
		Check(recording.Close())
	case *recordFile != "":
		log.Fatalf("-host %d: the program makes %d hosts", *recordHost, hosts)
	}
}

var captureFile = flag.String("pcap", "", "record the frames of the program in this `file`, for Wireshark")

// Capture records the frames of dev in the file that the flag -pcap names. Without the flag it returns dev.
func Capture(dev nic.Device) nic.Device {
	if *captureFile == "" {
		return dev
	}
	return nic.Capture(dev, Must(os.Create(*captureFile)), nic.CaptureConfig{})
}

// Show prints the packets that pass dev, sent or received, with the time since the call of Show. The expression selects
// them in tcpdump's words, such as "tcp port 80"; an empty one selects all. Show omits the link addresses.
func Show(dev nic.Device, expression string) nic.Device {
	return Frames(dev, expression, func(at time.Duration, frame []byte) {
		line := []byte(wire.Describe(frame))
		if h, payload, _ := wire.ParseEthernet(frame); h.Type == wire.EtherTypeIPv4 || h.Type == wire.EtherTypeIPv6 {
			line = wire.AppendFrame(nil, payload, false)
		}
		fmt.Printf("%9.3f ms  %s\n", Milliseconds(at), line)
	})
}

// ShowFrames is like Show, but begins each line with the link addresses.
func ShowFrames(dev nic.Device, expression string) nic.Device {
	return Frames(dev, expression, func(at time.Duration, frame []byte) {
		fmt.Printf("%9.3f ms  %s\n", Milliseconds(at), wire.Describe(frame))
	})
}

// Milliseconds converts a duration for printing.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Frames calls f for each frame that passes dev and that the expression selects, with the time since the call of
// Frames. f must not keep the frame.
func Frames(dev nic.Device, expression string, f func(at time.Duration, frame []byte)) nic.Device {
	if expression != "" {
		selected, all := Must(filter.Parse(expression)), f
		f = func(at time.Duration, frame []byte) {
			if selected.Match(frame, true) {
				all(at, frame)
			}
		}
	}
	return nic.Capture(dev, &blocks{began: time.Now(), f: f}, nic.CaptureConfig{})
}

// Drop returns a device that loses those of its user's frames for which lose returns true. It calls lose for each frame
// in turn.
func Drop(dev nic.Device, lose func(frame []byte) bool) nic.Device {
	return &dropper{Device: dev, lose: lose}
}

// A dropper is a device that loses chosen frames. It is also an example of how to wrap a device: it has the methods of
// the device inside, and its own Send.
type dropper struct {
	nic.Device
	mu   sync.Mutex
	lose func(frame []byte) bool
}

// Send sends the frames that are not to be lost.
func (d *dropper) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		d.mu.Lock()
		lost := d.lose(batch[i].AppendTo(nil))
		d.mu.Unlock()
		if lost {
			continue
		}
		if n, err := d.Device.Send(batch[i : i+1]); n == 0 {
			return i, err
		}
	}
	return len(batch), nil
}

// Unwrap returns the device inside.
func (d *dropper) Unwrap() nic.Device { return d.Device }

// A blocks is the file of a capture that passes on the frames.
type blocks struct {
	began time.Time
	f     func(at time.Duration, frame []byte)
}

// Write receives one block of a pcapng file. A frame is in an Enhanced Packet Block (draft-ietf-opsawg-pcapng 4.3).
func (w *blocks) Write(b []byte) (int, error) {
	const enhancedPacket = 6
	le := binary.LittleEndian
	if len(b) < 28 || le.Uint32(b) != enhancedPacket {
		return len(b), nil
	}
	at := int64(le.Uint32(b[12:]))<<32 | int64(le.Uint32(b[16:]))
	size := le.Uint32(b[20:])
	if int(size) > len(b)-28 {
		return 0, io.ErrUnexpectedEOF
	}
	w.f(time.Unix(0, at).Sub(w.began), b[28:][:size])
	return len(b), nil
}
