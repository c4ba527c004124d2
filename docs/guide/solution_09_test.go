package guide

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// sendSix sends six segments over a wire with a round trip of 20 ms that loses those of the given numbers, from 1. It
// returns when the segments were sent, in milliseconds after the first one, and the time at which the receiver had all.
func sendSix(t *testing.T, noSACK bool, lost ...int) (sent []int, done time.Duration) {
	left, right := lab.Wire()
	slow := lab.Slow(left, nic.Impairment{Latency: 10 * time.Millisecond}, 1)
	payload := func(frame []byte) int {
		_, segment, _ := wire.ParseIPv4(frame[wire.EthernetLen:])
		_, payload, _ := wire.ParseTCP(segment)
		return len(payload)
	}
	n := 0
	lossy := lab.Drop(slow, func(frame []byte) bool {
		if payload(frame) == 0 {
			return false
		}
		n++
		for _, l := range lost {
			if l == n {
				return true
			}
		}
		return false
	})
	var first time.Duration
	a := lab.Host(lab.Frames(lossy, "tcp", func(at time.Duration, frame []byte) {
		if payload(frame) > 0 {
			if len(sent) == 0 {
				first = at
			}
			sent = append(sent, int((at-first)/time.Millisecond))
		}
	}), 1, "192.0.2.1/24")
	params := tcp.DefaultParams()
	params.NoSACK = noSACK
	cfg := lab.Config(right, 2, "192.0.2.2/24")
	cfg.TCP.Params = &params
	b, err := usernet.New(cfg)
	require.NoError(t, err)
	closeLater(t, a, b)

	client, server := connect(t, a, b)
	began := time.Now()
	_, err = client.Write(make([]byte, 6*1448)) // 1448 bytes fit in a segment with timestamps
	require.NoError(t, err)
	_, err = io.ReadFull(server, make([]byte, 6*1448))
	require.NoError(t, err)
	done = time.Since(began)
	synctest.Wait()
	return sent, done
}

// Five segments are acknowledged. Nothing shows that the sixth is lost, so the sender probes: it sends the segment again
// after two round trips and the 200 ms for which a receiver may delay the acknowledgement of a single segment (tail loss
// probe, RFC 8985 7.2).
func TestSolution09_1LastSegment(t *testing.T) {
	solution(t, func(t *testing.T) {
		sent, done := sendSix(t, false, 6)
		require.Len(t, sent, 7)
		require.InDelta(t, 250, sent[6], 15)
		require.InDelta(t, 260, done.Milliseconds(), 15)
	})
}

// With SACK both lost segments are sent again in the same round trip. Without SACK the acknowledgement of the first one
// shows that the fourth is missing too, one round trip later (NewReno, RFC 6582).
func TestSolution09_2WithoutSACK(t *testing.T) {
	solution(t, func(t *testing.T) {
		_, with := sendSix(t, false, 1, 4)
		_, without := sendSix(t, true, 1, 4)
		t.Logf("with SACK %v, without %v", with, without)
		require.GreaterOrEqual(t, without-with, 19*time.Millisecond)
	})
}
