package stack

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// streamByte returns byte i of the stream that seed selects.
func streamByte(seed byte, i int) byte { return byte(i*7+i>>8*13+i>>16*29) ^ seed }

// writeInterrupted writes up to total bytes of a stream, in Writes and WriteBlocks that deadlines interrupt. After each
// Write it overwrites its buffer. It returns the number of bytes that these calls say they have written.
func writeInterrupted(c *TCP, r *rand.Rand, seed byte, total int) (n int, err error) {
	buf := make([]byte, 300_000)
	for n < total {
		p := buf[:min(total-n, 1+r.IntN(len(buf)))]
		for i := range p {
			p[i] = streamByte(seed, n+i)
		}
		if r.IntN(3) == 0 {
			c.SetWriteDeadline(time.Now().Add(time.Duration(r.IntN(500)) * time.Microsecond))
		} else {
			c.SetWriteDeadline(time.Time{})
		}
		var k int
		if r.IntN(2) == 0 {
			k, err = c.Write(p)
		} else {
			b := c.NewBlock(4096 << r.IntN(5))
			p = p[:copy(b.Bytes(), p)]
			k, err = c.WriteBlock(b, b.Bytes()[:len(p)])
			b.Free()
		}
		for i := range p {
			p[i] = ^p[i]
		}
		n += k
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	return n, nil
}

// readVerified reads a stream to its end, sometimes slowly, and checks its bytes. It returns their number.
func readVerified(t *testing.T, d *TCP, r *rand.Rand, seed byte) (n int, err error) {
	buf := make([]byte, 200_000)
	for {
		k, err := d.Read(buf[:1+r.IntN(len(buf))])
		for i, b := range buf[:k] {
			if b != streamByte(seed, n+i) {
				t.Errorf("byte %d is not what was written", n+i)
				return n, io.ErrUnexpectedEOF
			}
		}
		n += k
		if err != nil {
			return n, err
		}
		if r.IntN(8) == 0 {
			time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
		}
	}
}

func TestWritersThatAreInterruptedReuseTheirBuffers(t *testing.T) {
	// The test runs in real time, so that senders, receivers and timers run concurrently under the race
	// detector.
	impaired := func(t *testing.T) (a, b *Stack) {
		return wiredPair(t, func(dev nic.Device) nic.Device {
			i := nic.Impairment{Latency: 100 * time.Microsecond, Loss: 0.005, Reorder: 0.01, ReorderGap: 200 * time.Microsecond, Duplicate: 0.01}
			return nic.Impair(dev, nic.ImpairConfig{Out: i, In: i, Seed: 3})
		})
	}
	for name, hosts := range map[string]func(t *testing.T) (a, b *Stack){
		"pipe":     func(t *testing.T) (a, b *Stack) { return twoHosts(t, nic.PipeConfig{}) },
		"impaired": impaired,
		"loopback": func(t *testing.T) (a, b *Stack) { a, _ = wiredPair(t, nil); return a, a },
	} {
		for _, end := range []string{"finish", "close", "abort", "host"} { // how the connections end
			t.Run(name+" "+end, func(t *testing.T) {
				t.Parallel()
				a, b := hosts(t)
				var pairs [4][2]*TCP
				for k := range pairs {
					pairs[k][0], pairs[k][1] = connectAny(t, a, b)
				}
				var written, read [len(pairs)][2]int // bytes of each connection and direction
				var all sync.WaitGroup
				for k, pair := range pairs {
					c, d := pair[0], pair[1]
					for dir, ends := range [2][2]*TCP{{c, d}, {d, c}} {
						seed := byte(1 + 2*k + dir)
						r := rand.New(rand.NewPCG(uint64(seed), uint64(len(end))))
						r2 := rand.New(rand.NewPCG(uint64(seed), 99))
						from, to := ends[0], ends[1]
						all.Go(func() {
							n, err := writeInterrupted(from, r, seed, 1_500_000)
							written[k][dir] = n
							if end == "finish" && err != nil {
								t.Errorf("write: %v", err)
							}
							from.CloseWrite()
						})
						all.Go(func() {
							n, err := readVerified(t, to, r2, seed)
							read[k][dir] = n
							if end == "finish" && (err != io.EOF || n != 1_500_000) {
								t.Errorf("read %d bytes, then %v", n, err)
							}
						})
					}
					if end != "finish" {
						all.Go(func() {
							time.Sleep(time.Duration(k) * time.Millisecond)
							switch end {
							case "close":
								c.Close()
							case "abort":
								c.SetLinger(0)
								c.Close()
							case "host":
								b.Close()
							}
							time.Sleep(20 * time.Millisecond)
							if err := d.Close(); err != nil {
								assert.ErrorIs(t, err, net.ErrClosed)
							}
							if end == "host" {
								// The host b is closed, and answers nothing any more. If its RST was lost, the Writes
								// and Reads of c would wait for a timeout, so the test resets c itself.
								c.SetLinger(0)
								c.Close()
							}
						})
					}
				}
				all.Wait()
				for k := range pairs {
					for dir := range read[k] {
						require.LessOrEqual(t, read[k][dir], written[k][dir], "the peer has read bytes that no Write has counted")
					}
				}
			})
		}
	}
}

// connectAny is connect that also connects a host to itself.
func connectAny(t *testing.T, a, b *Stack) (c, d *TCP) {
	l, err := b.ListenTCP(FamilyAny, netip.AddrPort{}, ListenOptions{})
	require.NoError(t, err)
	defer l.Close()
	to := hostAddr(b)
	c, err = a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(to, l.LocalAddr().Port()), TCPOptions{})
	require.NoError(t, err)
	d, err = l.Accept()
	require.NoError(t, err)
	return c, d
}
