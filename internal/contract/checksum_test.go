package contract

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
	"golang.org/x/net/ipv6"
)

// setChecksum sets the socket option IPV6_CHECKSUM and returns the errno. On a kernel socket it uses x/net.
func setChecksum(pc net.PacketConn, on bool, offset int) syscall.Errno {
	var err error
	if ours, ok := pc.(interface{ SetChecksum(bool, int) error }); ok {
		err = ours.SetChecksum(on, offset)
	} else {
		err = ipv6.NewPacketConn(pc).SetChecksum(on, offset)
	}
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		panic(err)
	}
	return errno
}

// rawChecksums sends packets with and without checksums, and observes which ones arrive. In the packets, ??
// stands where the sender has to put the checksum.
func rawChecksums(t *testing.T, w *world.World) []any {
	open := func() net.PacketConn {
		pc, err := w.ListenPacket("ip6:253", w.Server6)
		require.NoError(t, err)
		t.Cleanup(func() { pc.Close() })
		return pc
	}
	if pc, err := w.ListenPacket("ip6:253", w.Server6); err != nil {
		return []any{err}
	} else {
		pc.Close()
	}
	from, to := open(), open()
	seen := []any{setChecksum(to, true, 6)} // a receiver's offset does not matter
	send := func(data string) {
		n, err := from.WriteTo([]byte(data), to.LocalAddr())
		seen = append(seen, n, err)
	}
	// A packet that is sent while the option of from is off has no valid checksum, so to drops the packet. These
	// packets are "the first" and "the last".
	send("the first")
	seen = append(seen, setChecksum(from, true, 4))
	send("data??and more")
	send("odd!??")
	send("short?")
	send("short")
	send("")
	seen = append(seen, setChecksum(from, true, 0))
	send("??")
	send("?")
	seen = append(seen, setChecksum(from, false, 0))
	send("the last")
	seen = append(seen, setChecksum(from, true, 2))
	send("th??end")
	for {
		b := make([]byte, 100)
		require.NoError(t, to.SetReadDeadline(time.Now().Add(5*time.Second)))
		n, _, err := to.ReadFrom(b)
		if err != nil {
			return append(seen, err)
		}
		// The checksum depends on the addresses, so it is not observed. It is not zero. The length tells which
		// packet it is, and so the offset of the checksum.
		got := b[:n]
		at := 4
		switch {
		case n == 2:
			at = 0
		case n == 7:
			at = 2
		}
		seen = append(seen, got[at] != 0 || got[at+1] != 0)
		got[at], got[at+1] = '?', '?'
		if seen = append(seen, string(got)); n == 7 {
			return seen
		}
	}
}

// checksumOptions observes the errors of IPV6_CHECKSUM, and of packets that are too short for the checksum
// that a protocol has by default.
func checksumOptions(t *testing.T, w *world.World) (seen []any) {
	// 135 is the Mobility Header. The kernel sets its checksum by default.
	for _, network := range []string{"ip6:253", "ip6:ipv6-icmp", "ip6:135", "ip6:255", "ip4:253"} {
		address := w.Server6
		if network == "ip4:253" {
			address = w.Server
		}
		pc, err := w.ListenPacket(network, address)
		if err != nil {
			return append(seen, err)
		}
		if network == "ip6:135" {
			for n := range 8 {
				_, err := pc.WriteTo(make([]byte, n), pc.LocalAddr())
				seen = append(seen, err)
			}
		}
		for _, offset := range []int{0, 1, 2, 3, 60, 1001, 65534, -1, -2} {
			seen = append(seen, setChecksum(pc, true, offset))
		}
		seen = append(seen, setChecksum(pc, false, 3))
		pc.Close()
	}
	return seen
}
