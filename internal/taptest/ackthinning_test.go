//go:build linux

package taptest

import (
	"bufio"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// A localCounter counts the received TCP frames that are no super-frames: those that are Local, and the others.
type localCounter struct {
	*nic.TAP
	local, others atomic.Int64
}

func (d *localCounter) Attach(recv func([]nic.Frame)) {
	d.TAP.Attach(func(batch []nic.Frame) {
		for i := range batch {
			f := &batch[i]
			b := f.AppendTo(nil)[wire.EthernetLen:]
			proto := b[9]
			if wire.Version(b) == 6 {
				proto = b[wire.IPv6NextOffset]
			}
			if f.GSO != nic.GSONone || wire.Proto(proto) != wire.ProtoTCP {
				continue
			}
			if f.Local {
				d.local.Add(1)
			} else {
				d.others.Add(1)
			}
		}
		recv(batch)
	})
}

// ACK thinning needs to know that a sender is on this machine: see tcp.Segment.Local. A plain TAP has no offloads, so its
// frames have complete checksums, as those of a wire do.
func TestSegmentsOfTheKernelAreLocal(t *testing.T) {
	need(t)
	for name, plain := range links {
		for _, e := range families {
			t.Run(name+"/"+e.name, func(t *testing.T) {
				ns, tap := newTAP(t, plain)
				dev := &localCounter{TAP: tap}
				addr := net.JoinHostPort(e.ours, "80")
				ln, err := newHostWith(t, dev, stack.TCPConfig{}).Listen("tcp", addr)
				require.NoError(t, err)
				defer ln.Close()
				var c net.Conn
				require.NoError(t, ns.inside(func() (err error) {
					c, err = net.Dial("tcp", addr)
					return err
				}))
				defer c.Close()
				s, err := ln.Accept()
				require.NoError(t, err)
				defer s.Close()
				_, err = c.Write([]byte("hello\n"))
				require.NoError(t, err)
				line, err := bufio.NewReader(s).ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "hello\n", line)
				right, wrong := &dev.local, &dev.others
				if plain {
					right, wrong = wrong, right
				}
				require.GreaterOrEqual(t, right.Load(), int64(3), "SYN, ACK and data")
				require.Zero(t, wrong.Load())
			})
		}
	}
}
