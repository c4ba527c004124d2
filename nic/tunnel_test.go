package nic

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// tunnelBuffers returns n buffers of the given length, and their sizes.
func tunnelBuffers(n, length int) (bufs [][]byte, sizes []int) {
	for range n {
		bufs = append(bufs, make([]byte, length))
	}
	return bufs, make([]int, n)
}

// ipSuperFrames returns super-frames of medium IP: TCP of both families and UDP.
func ipSuperFrames(t *testing.T, payload, size int) (all []Frame) {
	t.Helper()
	const psh, ack = 0x08, 0x10
	for _, spec := range []packetSpec{{tcp: true}, {tcp: true, v6: true}, {v6: true}} {
		spec.medium, spec.payload, spec.flags = IP, pattern(payload), psh|ack
		all = append(all, spec.super(t, size, true))
	}
	return all
}

func TestTunnelCutsSuperFrames(t *testing.T) {
	for _, f := range ipSuperFrames(t, 10_000, 1000) {
		// The oracle is the segmentation of the links without offloads.
		var want [][]byte
		require.True(t, IP.complete(&f, func(n int) []byte { return make([]byte, n) }, func(b []byte) { want = append(want, b) }))
		require.Len(t, want, 10)
		for _, batch := range []int{1, 3, 128} { // a Read may end within a super-frame
			tunnel := NewTunnel(TunnelConfig{})
			tunnel.Attach(func([]Frame) {})
			n, err := tunnel.Send([]Frame{f, f})
			require.NoError(t, err)
			require.Equal(t, 2, n)
			var got [][]byte
			const offset = 16
			bufs, sizes := tunnelBuffers(batch, 2000)
			for len(got) < 2*len(want) {
				n, err := tunnel.Read(bufs, sizes, offset)
				require.NoError(t, err)
				require.NotZero(t, n)
				for i := range n {
					got = append(got, append([]byte(nil), bufs[i][offset:offset+sizes[i]]...))
				}
			}
			require.Equal(t, append(want, want...), got)
			require.EqualValues(t, 2, tunnel.Stats().Sent)
			require.NoError(t, tunnel.Close())
		}
	}
}

func TestTunnelMergesWhatIsWritten(t *testing.T) {
	for _, f := range ipSuperFrames(t, 10_000, 1000) {
		if f.GSO == GSOUDP {
			continue // GRO is for TCP
		}
		var packets [][]byte
		IP.complete(&f, func(n int) []byte { return make([]byte, n, maxPacket) }, func(b []byte) { packets = append(packets, b) })
		for _, merge := range []bool{false, true} {
			tunnel := NewTunnel(TunnelConfig{})
			if merge {
				tunnel.MergeReceived()
			}
			var rec recorder
			tunnel.Attach(rec.recv)
			bufs := make([][]byte, len(packets))
			for i, p := range packets {
				bufs[i] = append(make([]byte, 16, maxPacket), p...)
			}
			n, err := tunnel.Write(bufs, 16)
			require.NoError(t, err)
			require.Equal(t, len(packets), n)
			if !merge {
				require.Equal(t, packets, rec.all())
				continue
			}
			require.Equal(t, 1, rec.count())
			require.Equal(t, f.GSO, rec.meta[0].GSO)
			require.EqualValues(t, 1000, rec.meta[0].GSOSize)
			require.EqualValues(t, 1, tunnel.Stats().Received)
		}
	}
}

// A buffer without spare capacity holds no second segment: the packets behind it must not be overwritten.
func TestTunnelMergesWithinTheCapacity(t *testing.T) {
	f := ipSuperFrames(t, 3000, 1000)[0]
	var packets [][]byte
	memory := make([]byte, 0, 1<<16) // of all packets, without gaps
	IP.complete(&f, func(n int) []byte {
		memory = memory[:len(memory)+n]
		return memory[len(memory)-n : len(memory) : len(memory)]
	}, func(b []byte) { packets = append(packets, b) })
	var want [][]byte
	for _, p := range packets {
		want = append(want, append([]byte(nil), p...))
	}
	tunnel := NewTunnel(TunnelConfig{})
	tunnel.MergeReceived()
	var rec recorder
	tunnel.Attach(rec.recv)
	_, err := tunnel.Write(packets, 0)
	require.NoError(t, err)
	require.Equal(t, want, rec.all())
}

func TestTunnelSendWaitsForRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunnel := NewTunnel(TunnelConfig{Queue: 2500})
		tunnel.Attach(func([]Frame) {})
		sent := 0
		go func() {
			for range 5 {
				if _, err := tunnel.Send(one(ipPacket(1000))); err != nil {
					return
				}
				sent++
			}
		}()
		synctest.Wait()
		require.Equal(t, 3, sent)
		bufs, sizes := tunnelBuffers(8, 1500)
		n, err := tunnel.Read(bufs, sizes, 0)
		require.NoError(t, err)
		require.Equal(t, 3, n)
		require.Equal(t, []int{1000, 1000, 1000}, sizes[:n])
		synctest.Wait()
		require.Equal(t, 5, sent)
		require.Zero(t, tunnel.Stats().SendDropped)
	})
}

func TestEndOfATunnelWakesBothSides(t *testing.T) {
	lost := errors.New("the peer is gone")
	for name, end := range map[string]func(*Tunnel){
		"close": func(d *Tunnel) { d.Close() },
		"fail":  func(d *Tunnel) { d.Fail(lost) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				want := map[string]error{"close": net.ErrClosed, "fail": lost}[name]
				reading, sending := NewTunnel(TunnelConfig{}), NewTunnel(TunnelConfig{Queue: 1})
				errs := make(chan error, 2)
				for _, d := range []*Tunnel{reading, sending} {
					down := 0
					d.NotifyDown(func(err error) {
						require.ErrorIs(t, err, lost)
						down++
					})
					d.Attach(func([]Frame) {})
					go func() {
						bufs, sizes := tunnelBuffers(1, 1500)
						_, err := d.Read(bufs, sizes, 0)
						if d == sending { // the queue has room once
							d.Send(one(ipPacket(100)))
							_, err = d.Send(one(ipPacket(100)))
						}
						errs <- err
					}()
					defer func() {
						require.Equal(t, name == "fail", down == 1)
						require.False(t, d.Link().Up)
						_, err := d.Write([][]byte{ipPacket(100)}, 0)
						require.ErrorIs(t, err, want)
						d.Fail(errors.New("again")) // changes nothing
						_, err = d.Send(one(ipPacket(100)))
						require.ErrorIs(t, err, want)
					}()
				}
				sending.Send(one(ipPacket(100)))
				synctest.Wait()
				end(reading)
				end(sending)
				require.ErrorIs(t, <-errs, want)
				require.ErrorIs(t, <-errs, want)
			})
		})
	}
}

func TestTunnelDropsWhatDoesNotFit(t *testing.T) {
	tunnel := NewTunnel(TunnelConfig{MTU: 1000})
	var rec recorder
	_, err := tunnel.Write([][]byte{ipPacket(100)}, 0) // before Attach
	require.NoError(t, err)
	require.EqualValues(t, 1, tunnel.Stats().RecvDropped)
	tunnel.Attach(rec.recv)
	_, err = tunnel.Write([][]byte{ipPacket(1000), {}, ipPacket(1001), ipPacket(999)}, 0)
	require.NoError(t, err)
	require.Equal(t, 2, rec.count())
	require.EqualValues(t, 3, tunnel.Stats().RecvDropped)
	_, err = tunnel.Write([][]byte{ipPacket(20)}, 21)
	require.ErrorIs(t, err, io.ErrShortBuffer)

	_, err = tunnel.Send([]Frame{{Head: ipPacket(1001)}, {Head: ipPacket(1000)}, {Head: ipPacket(100)}})
	require.NoError(t, err)
	require.EqualValues(t, 1, tunnel.Stats().SendDropped)
	bufs, sizes := tunnelBuffers(2, 500)
	n, err := tunnel.Read(bufs, sizes, 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, 100, sizes[0])
	require.EqualValues(t, 2, tunnel.Stats().SendDropped)
}

func TestTunnelReportsChangesOfTheLink(t *testing.T) {
	tunnel := NewTunnel(TunnelConfig{Name: "vpn", MTU: 1300, GSO: -1})
	changes := 0
	require.True(t, tunnel.NotifyLink(func() { changes++ }))
	require.Equal(t, Link{Name: "vpn", MTU: 1300, Medium: IP, TxChecksum: true, Up: true}, tunnel.Link())
	tunnel.SetLink(0, false)
	require.Equal(t, Link{Name: "vpn", MTU: 1300, Medium: IP, TxChecksum: true}, tunnel.Link())
	tunnel.SetLink(1280, true)
	require.Equal(t, 1280, tunnel.Link().MTU)
	require.True(t, tunnel.Link().Up)
	require.Equal(t, 2, changes)
}

// The program that carries the packets may use a tunnel while a host is being created on the tunnel. The race
// detector checks the functions that the host registers.
func TestTunnelIsUsedWhileAHostRegisters(t *testing.T) {
	for range 20 {
		tunnel := NewTunnel(TunnelConfig{})
		var done sync.WaitGroup
		for _, use := range []func(){
			func() { tunnel.SetLink(1300, true) },
			func() { tunnel.Write([][]byte{ipPacket(100)}, 0) },
			func() { tunnel.Fail(io.EOF) },
		} {
			done.Go(use)
		}
		tunnel.NotifyDown(func(error) {})
		tunnel.NotifyLink(func() {})
		tunnel.MergeReceived()
		tunnel.Attach(func([]Frame) {})
		done.Wait()
		require.NoError(t, tunnel.Close())
	}
}

// ipPacket returns n bytes that begin like an IPv4 packet. All other bytes are zero.
func ipPacket(n int) []byte {
	b := make([]byte, n)
	if n > 0 {
		b[0] = 0x45
	}
	return b
}
