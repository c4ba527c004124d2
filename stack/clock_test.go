package stack

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

func TestTheCoarseClockIsSlowByAtMostItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := twoHosts(t, nic.PipeConfig{})
		slow := func() time.Duration { return time.Duration(s.now() - s.coarse(false)) }
		for range 3 {
			require.Zero(t, slow(), "the coarse clock does not run")
			s.coarse(true)
			time.Sleep(coarseTime - 1)
			s.coarse(true) // does not extend the time for which the clock runs
			require.Equal(t, coarseTime-1, slow())
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			require.Zero(t, slow())
			time.Sleep(time.Hour)
		}
		s.coarse(true)
		require.NoError(t, s.Close())
		time.Sleep(time.Millisecond)
		s.coarse(true)
		time.Sleep(time.Millisecond)
		require.Zero(t, slow(), "the coarse clock ended with its stack")
	})
}

func TestManyDatagramsLetANeighbourGetStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		u := openUDP(t, a, "0.0.0.0:1")
		v := openUDP(t, b, "0.0.0.0:2")
		send := func() {
			for range 200 {
				_, err := u.WriteTo([]byte("x"), addrPort("192.0.2.2:2"), SendOptions{})
				require.NoError(t, err)
				_, _, _, _, err = v.ReadFrom(make([]byte, 1))
				require.NoError(t, err)
			}
		}
		send()
		asked := a.Stats().ARP.Sent
		require.NotZero(t, a.clock.read.Load(), "the coarse clock runs")
		time.Sleep(time.Duration(reachableTime) - time.Second)
		send()
		require.Equal(t, asked, a.Stats().ARP.Sent)
		time.Sleep(2 * time.Second)
		send()
		time.Sleep(time.Duration(delayFirstProbe) + time.Millisecond)
		send()
		require.Equal(t, asked+1, a.Stats().ARP.Sent, "the stale entry was probed")
	})
}

func TestCountersOfDatagramsStayWhenTheirSocketsClose(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openUDP(t, a, "0.0.0.0:1"), openUDP(t, b, "0.0.0.0:2")
	before := a.Stats().IP.Sent
	for range 10 {
		_, err := u.WriteTo([]byte("x"), addrPort("192.0.2.2:2"), SendOptions{})
		require.NoError(t, err)
	}
	check := func() {
		require.Equal(t, DatagramStats{Sent: 10}, a.Stats().UDP)
		require.Equal(t, before+10, a.Stats().IP.Sent)
		require.Equal(t, DatagramStats{Received: 10}, b.Stats().UDP)
		require.EqualValues(t, 10, b.Stats().IP.Delivered)
	}
	check()
	require.NoError(t, u.Close())
	require.NoError(t, v.Close())
	check()
	require.NoError(t, a.Close())
	check()
}
