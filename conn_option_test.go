package usernet

import (
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAnApplicationSetsHowLongItsDataMayStayUnacknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, cut := newCuttablePair(t)
		c, s := connect(t, a, b, addrB)
		patient, _ := connect(t, a, b, addrB)
		for _, c := range []*TCPConn{c, patient, s} {
			require.NoError(t, c.SetKeepAlive(false))
		}
		// RFC 9293 3.8.3 MUST-21: "An application MUST be able to set the value for
		// R2 for a particular connection."
		require.NoError(t, c.SetUserTimeout(5*time.Second))
		cut()
		began := time.Now()
		for _, c := range []*TCPConn{c, patient} {
			_, err := c.Write([]byte("into the void"))
			require.NoError(t, err)
		}
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		first := time.Since(began)
		require.GreaterOrEqual(t, first, 5*time.Second)
		require.Less(t, first, 6*time.Second)
		_, err = patient.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		require.Greater(t, time.Since(began), 100*time.Second, "the timeout of c is not that of other connections")
	})
}

// SetTOS, SetTTL and SetUserTimeout, which package net does not have, check their arguments.
func TestOptionsBeyondNetsCheckTheirArguments(t *testing.T) {
	a, b := newPair(t)
	c, _ := connect(t, a, b, addrB)
	for _, err := range []error{c.SetTOS(-1), c.SetTOS(256), c.SetTTL(0), c.SetTTL(256), c.SetUserTimeout(-1)} {
		require.ErrorIs(t, err, syscall.EINVAL)
		require.IsType(t, &net.OpError{}, err)
		require.Equal(t, "set", err.(*net.OpError).Op)
	}
	for _, err := range []error{
		new(TCPConn).SetTOS(0), new(TCPConn).SetTTL(1), new(TCPConn).SetUserTimeout(0),
	} {
		require.Equal(t, syscall.EINVAL, err)
	}
	require.NoError(t, c.SetTOS(0xbb))
	require.NoError(t, c.SetTTL(9))
	tos, err := c.TOS()
	require.NoError(t, err)
	require.Equal(t, 0xb8, tos, "without the ECN bits")
	ttl, err := c.TTL()
	require.NoError(t, err)
	require.Equal(t, 9, ttl)
	c.Close()
	require.ErrorIs(t, c.SetTTL(1), net.ErrClosed)
	require.ErrorIs(t, c.SetUserTimeout(0), net.ErrClosed)
}
