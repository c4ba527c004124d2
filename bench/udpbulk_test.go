package main

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// The time of a run is the difference between two readings of the server's clock, however long the requests for
// them take.
func TestDatagramsAreTimedByTheServer(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() {
		for _, answer := range [][2]uint64{{1000, 5_000_000_000}, {9000, 7_000_000_000}} {
			if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
				return
			}
			far.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, answer[0]), answer[1]))
		}
	}()
	c := &client{t: &task{Kind: udpBulk, Time: time.Millisecond}, control: near}
	r, err := c.run(1, func(*counter) error {
		c.connected <- struct{}{}
		return nil
	})
	if err != nil || r.Count != 8000 || r.Time != 2*time.Second || r.Total != 9000 {
		t.Fatalf("%+v, %v", r, err)
	}
}
