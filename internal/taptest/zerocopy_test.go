//go:build linux

package taptest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A zeroCopyCounter counts the frames whose payload a TAP has put into a ReceiveBuffer.
type zeroCopyCounter struct {
	*nic.TAP
	inBuffer atomic.Int64
}

func (d *zeroCopyCounter) Attach(recv func(batch []nic.Frame)) {
	d.TAP.Attach(func(batch []nic.Frame) {
		for i := range batch {
			if len(batch[i].Body) > 0 {
				d.inBuffer.Add(1)
			}
		}
		recv(batch)
	})
}

// sumOfReads reads to the end with a large buffer, in Reads that deadlines interrupt, and returns the SHA-256
// of the data. After each Read it overwrites the whole buffer.
func sumOfReads(c net.Conn, r *rand.Rand) (string, error) {
	sum := sha256.New()
	buf := make([]byte, 128<<10)
	for {
		c.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(1000)) * time.Microsecond))
		n, err := c.Read(buf)
		sum.Write(buf[:n])
		clear(buf)
		if err == io.EOF {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return "", err
		}
	}
}

func TestWhatTheKernelSendsIsPutIntoTheBuffersOfReaders(t *testing.T) {
	need(t)
	const streams, size = 3, 10_000_000
	ns := newNamespace(t)
	dev := &zeroCopyCounter{TAP: ns.openTAP(t, false)}
	ln, err := newHost(t, dev).Listen("tcp", ":80")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	var readers sync.WaitGroup
	want := contentSum(t, size)
	for i := range streams {
		readers.Go(func() {
			c, err := ln.Accept()
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			defer c.Close()
			sum, err := sumOfReads(c, rand.New(rand.NewPCG(1, uint64(i))))
			if err != nil || sum != want {
				t.Errorf("the SHA-256 of the received data is %s, %v", sum, err)
			}
		})
	}
	send := fmt.Sprintf("%s %s:80 %d </dev/null &\n", self(t, "send"), ourAddr, size)
	ns.shell(t, strings.Repeat(send, streams)+"wait")
	readers.Wait()
	require.Positive(t, dev.inBuffer.Load(), "frames")
}
