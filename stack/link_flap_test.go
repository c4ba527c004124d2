package stack

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/leak"
	"github.com/usernet/usernet/internal/nictest"
	"github.com/usernet/usernet/nic"
)

// maxFlapBytes is how many bytes the heap may grow in a thousand flaps. It is not 0, because the size of a test
// process's heap always varies a little.
const maxFlapBytes = 100_000

// A device with an interface without a VLAN and two VLANs goes down and comes up a thousand times. Datagrams
// cross each interface in between, so that there are neighbours.
func TestVLANsFlapAThousandTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var devs []*nictest.Changeable
		a, b := trunks(t, nic.PipeConfig{}, func(dev nic.Device) nic.Device {
			d := nictest.NewChangeable(dev)
			devs = append(devs, d)
			return d
		})
		u := openUDP(t, a, "[::]:0")
		var sinks []*UDP
		for n := range 3 {
			sinks = append(sinks, openUDP(t, b, fmt.Sprintf("10.0.%d.2:700", n)), openUDP(t, b, fmt.Sprintf("[2001:db8:%d::2]:700", n)))
		}
		synctest.Wait()
		flap := func() {
			devs[0].Plug(false)
			for _, info := range a.Interfaces()[1:] {
				require.False(t, info.Up)
			}
			devs[0].Plug(true)
			time.Sleep(5 * time.Second) // addresses are probed again
			for _, sink := range sinks {
				_, err := u.WriteTo([]byte("x"), sink.LocalAddr(), SendOptions{})
				require.NoError(t, err)
				readUDP(t, sink)
			}
			time.Sleep(time.Minute) // timers run
		}
		goroutines, bytes := leak.Growth(1000, flap)
		require.LessOrEqual(t, goroutines, 0)
		require.Less(t, bytes, int64(maxFlapBytes))
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	})
}

// A VLAN is added to a running device and removed a thousand times.
func TestVLANComesAndGoesAThousandTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := trunks(t, nic.PipeConfig{}, func(dev nic.Device) nic.Device { return dev })
		dev := a.ifaceNamed("pipe-a.100").dev
		sink := openUDP(t, b, "10.0.1.2:700")
		u := openUDP(t, a, "0.0.0.0:0")
		goroutines, bytes := leak.Growth(1000, func() {
			require.NoError(t, a.RemoveNIC("pipe-a.100"))
			require.NoError(t, a.AddNIC(NIC{Device: dev, VLAN: 100, Addrs: []netip.Prefix{prefix("10.0.1.1/24"), prefix("2001:db8:1::1/64")}}))
			time.Sleep(5 * time.Second)
			_, err := u.WriteTo([]byte("x"), sink.LocalAddr(), SendOptions{})
			require.NoError(t, err)
			readUDP(t, sink)
			time.Sleep(time.Minute)
		})
		require.LessOrEqual(t, goroutines, 0)
		require.Less(t, bytes, int64(maxFlapBytes))
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	})
}
