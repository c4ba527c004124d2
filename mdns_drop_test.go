package usernet

import (
	"bytes"
	"context"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// Every message that the host drops is counted by its reason.
func TestMulticastDNSCountsWhatItDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, far := nic.Pipe(nic.PipeConfig{})
		wan, beyond := nic.Pipe(nic.PipeConfig{})
		d := &mdnsRecorder{Device: lan}
		h, err := New(Config{NICs: []stack.NIC{
			{Name: "lan", Device: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addrA + "/24")}},
			{Name: "wan", Device: wan, Addrs: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}},
		}})
		require.NoError(t, err)
		defer h.Close()
		require.NoError(t, h.StartMDNS("lan", MDNSConfig{HostName: "alice"}))
		other := newHost(t, far, addrB)
		require.NoError(t, other.AddAddr("", netip.MustParsePrefix("198.51.100.2/24"), AddrOptions{}))
		stranger := newHost(t, beyond, "203.0.113.2")
		time.Sleep(10 * time.Second)
		drops := func() map[stack.DropReason]uint64 {
			all := h.Stats().Drops
			maps.DeleteFunc(all, func(reason stack.DropReason, _ uint64) bool { return !strings.Contains(string(reason), "mDNS") })
			return all
		}
		require.Empty(t, drops())

		send := func(from *Host, local, to string, msg []byte, times int) {
			t.Helper()
			pc, err := from.ListenPacket("udp4", local)
			require.NoError(t, err)
			defer pc.Close()
			addr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to + ":5353"))
			for range times {
				_, err = pc.WriteTo(msg, addr)
				require.NoError(t, err)
			}
			synctest.Wait()
			time.Sleep(time.Second)
		}
		w, err := h.Watch(stack.WatchConfig{Drops: true, Buffer: 8 << 20})
		require.NoError(t, err)
		defer w.Close()
		// watched returns the drops of mDNS that the watcher has got since the last call, by their reasons.
		watched := func() map[stack.DropReason][]stack.WatchEvent {
			all := map[stack.DropReason][]stack.WatchEvent{}
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				e, err := w.Next(ctx)
				cancel()
				if err != nil {
					return all
				}
				require.Zero(t, e.Lost)
				if strings.Contains(string(e.Reason), "mDNS") {
					all[e.Reason] = append(all[e.Reason], e)
				}
			}
		}
		const group = "224.0.0.251"
		query := []byte("\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05alice\x05local\x00\x00\x01\x00\x01")
		response := []byte("\x00\x00\x84\x00\x00\x00\x00\x00\x00\x00\x00\x00")
		// The opcode Update, which Multicast DNS does not have.
		update := []byte("\x00\x00\x28\x00\x00\x00\x00\x00\x00\x00\x00\x00")
		send(other, addrB+":5353", group, []byte("?"), 1)
		send(other, addrB+":5353", group, make([]byte, 9001), 1)
		send(other, addrB+":5353", group, update, 1)
		send(other, addrB+":4000", group, response, 1)
		send(other, "198.51.100.2:5353", addrA, query, 1)
		send(stranger, "203.0.113.2:5353", "203.0.113.1", query, 1)
		require.Equal(t, map[stack.DropReason]uint64{
			"malformed mDNS message": 2, "mDNS message with an opcode or a response code": 1, "mDNS response from another port": 1,
			"mDNS message from off the link": 1, "mDNS message on an interface without mDNS": 1,
		}, drops())
		seen := watched()
		for reason, n := range drops() {
			require.Len(t, seen[reason], int(n), reason)
			for _, e := range seen[reason] {
				require.NotEmpty(t, e.Data, reason)
				require.False(t, e.Outbound)
				require.Equal(t, uint16(5353), e.Local.Port())
			}
		}
		port := seen["mDNS response from another port"][0]
		require.Equal(t, netip.MustParseAddrPort(addrB+":4000"), port.Remote)
		require.Equal(t, netip.MustParseAddrPort(group+":5353"), port.Local)
		require.Equal(t, "lan", port.NIC)
		require.True(t, port.Ethernet)
		require.True(t, bytes.Contains(port.Data, response), "the frame, which may have padding")
		require.Equal(t, "wan", seen["mDNS message on an interface without mDNS"][0].NIC)

		// A device that blocks fills the outbox. The first answer makes the host resolve the querier's address.
		send(other, addrB+":4000", group, query, 1)
		release, blocking := d.hold()
		defer close(release)
		for range 6 {
			send(other, addrB+":4000", group, query, 200)
		}
		<-blocking
		// One answer blocks in Send, and the outbox is full.
		require.Equal(t, uint64(6*200-1-maxMDNSOutbox), drops()["mDNS send queue full"])
		full := watched()["mDNS send queue full"]
		require.Len(t, full, 6*200-1-maxMDNSOutbox)
		require.True(t, full[0].Outbound)
		require.Equal(t, "lan", full[0].NIC)
		require.Equal(t, netip.MustParseAddrPort(addrB+":4000"), full[0].Remote)
		require.Empty(t, full[0].Data)

		// Without the timer no goroutine takes messages from the inbox, so a flood fills it.
		l := h.mdns.Load().list()[0]
		l.mu.Lock()
		l.timer.Stop()
		l.timer = time.AfterFunc(0, func() {})
		l.mu.Unlock()
		send(other, addrB+":5353", group, response, 2*maxMDNSInbox)
		require.Equal(t, uint64(maxMDNSInbox), drops()["mDNS receive queue full"])
		require.Len(t, watched()["mDNS receive queue full"], maxMDNSInbox)
	})
}
