package stack

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// As with bind(2), if several calls ask for the same port at the same time, one succeeds.
func TestConcurrentBindsOfAPortSucceedOnce(t *testing.T) {
	const times = 2000
	a, b := twoHosts(t, nic.PipeConfig{})
	for _, at := range []string{"0.0.0.0:80", "0.0.0.0:81"} {
		l, err := b.ListenTCP(FamilyAny, addrPort(at), ListenOptions{})
		require.NoError(t, err)
		go func() {
			for err == nil {
				_, err = l.Accept()
			}
		}()
	}
	// dial and listen give functions that bind port 999. Such a function returns a function that frees the
	// port again, or nil if the port was in use.
	dial := func(to netip.AddrPort) func() func() {
		return func() func() {
			c, err := a.DialTCP(context.Background(), FamilyAny, addrPort("192.0.2.1:999"), to, TCPOptions{})
			if err != nil {
				return nil
			}
			return func() {
				c.SetLinger(0)
				c.Close()
			}
		}
	}
	listen := func() func() {
		l, err := a.ListenTCP(FamilyAny, addrPort("0.0.0.0:999"), ListenOptions{})
		if err != nil {
			return nil
		}
		return func() { l.Close() }
	}
	for name, binds := range map[string][2]func() func(){
		"dial and listen": {dial(addrPort("192.0.2.2:80")), listen},
		"dial and dial":   {dial(addrPort("192.0.2.2:80")), dial(addrPort("192.0.2.2:81"))},
	} {
		t.Run(name, func(t *testing.T) {
			both := 0
			for range times {
				var free [2]func()
				var wg sync.WaitGroup
				start := make(chan struct{})
				for i, bind := range binds {
					wg.Go(func() {
						<-start
						free[i] = bind()
					})
				}
				close(start)
				wg.Wait()
				if free[0] != nil && free[1] != nil {
					both++
				}
				for _, f := range free {
					if f != nil {
						f()
					}
				}
			}
			require.Zero(t, both)
		})
	}
}
