package main

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// In virtual time, the wait of a dial ends exactly at the deadline.
func TestDialOfLnetoEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := newLnetoHost(nearAddr, lnetoMAC1, lnetoMAC2, func([]byte) {})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = h.dial(netip.MustParseAddrPort(farAddr + ":80"))
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != lnetoDial {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// A frame wakes its connection only if both headers are whole. The IP header may claim to be longer than the frame.
func TestLnetoHostChecksTheLengthsOfHeaders(t *testing.T) {
	h, err := newLnetoHost(nearAddr, lnetoMAC1, lnetoMAC2, func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	c := &lnetoConn{h: h, held: true, readable: make(waker, 1), writable: make(waker, 1)}
	h.conns[lnetoKey(0, 0)] = c
	const ethernet, minTCP = 14, 20
	frame := make([]byte, ethernet+60+minTCP)
	frame[12], frame[ethernet+9] = 8, unix.IPPROTO_TCP // the EtherType is 0x0800
	for words := range 16 {
		frame[ethernet] = 4<<4 | byte(words)
		for n := range len(frame) + 1 {
			h.arrive(frame[:n])
			woken := len(c.readable) == 1
			if want := words >= 5 && n >= ethernet+4*words+minTCP; woken != want {
				t.Errorf("a frame of %d bytes, IP header of %d words: woken %v", n, words, woken)
			}
			if woken {
				c.readable.wait()
			}
		}
	}
}
