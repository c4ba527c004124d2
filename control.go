package usernet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// ControlFlags select the control messages that a socket returns with received datagrams. FlagTTL to
// FlagInterface have the values of the flags of the same name in x/net/ipv4.
type ControlFlags uint

const (
	FlagTTL       ControlFlags = 1 << iota // the time to live
	FlagSrc                                // the source address to use for an answer
	FlagDst                                // the destination address
	FlagInterface                          // the index of the interface
	FlagTOS                                // the type of service; x/net/ipv4 does not have this flag
)

// packetInfoFlags are the flags whose values Linux puts into one message, IP_PKTINFO.
const packetInfoFlags = FlagSrc | FlagDst | FlagInterface

// Linux's numbers of levels, options and flags. usernet uses them on every operating system.
const (
	levelIP     = 0
	levelSocket = 1
	levelUDP    = 17

	optTOS        = 1
	optTTL        = 2
	optPacketInfo = 8

	packetInfoLen = 12 // int ipi_ifindex; struct in_addr ipi_spec_dst, ipi_addr

	msgTrunc  = 0x20 // MSG_TRUNC: the datagram did not fit into the buffer
	msgCTrunc = 0x08 // MSG_CTRUNC: the control messages did not fit into their buffer
)

// Out-of-band data is a sequence of control messages in the form of Linux's struct cmsghdr. A message
// is a header and data, padded to whole words. The header is the length of header and data (one
// word), the level (4 bytes) and the type (4 bytes). All numbers have the machine's byte order.
const (
	wordLen          = bits.UintSize / 8
	controlHeaderLen = wordLen + 8
)

func alignControl(n int) int { return (n + wordLen - 1) &^ (wordLen - 1) }

// A controlWriter writes messages as the kernel's put_cmsg does: it cuts off what does not fit.
type controlWriter struct {
	rest      []byte
	n         int // bytes written, with padding
	truncated bool
}

func (w *controlWriter) put(level, typ int, data []byte) {
	if len(w.rest) < controlHeaderLen {
		w.truncated = true
		return
	}
	n := controlHeaderLen + len(data)
	if n > len(w.rest) {
		n, w.truncated = len(w.rest), true
	}
	putWord(w.rest, n)
	binary.NativeEndian.PutUint32(w.rest[wordLen:], uint32(level))
	binary.NativeEndian.PutUint32(w.rest[wordLen+4:], uint32(typ))
	copy(w.rest[controlHeaderLen:n], data)
	space := min(alignControl(controlHeaderLen+len(data)), len(w.rest))
	w.rest = w.rest[space:]
	w.n += space
}

func putWord(b []byte, n int) {
	if wordLen == 8 {
		binary.NativeEndian.PutUint64(b, uint64(n))
		return
	}
	binary.NativeEndian.PutUint32(b, uint32(n))
}

func getWord(b []byte) uint64 {
	if wordLen == 8 {
		return binary.NativeEndian.Uint64(b)
	}
	return uint64(binary.NativeEndian.Uint32(b))
}

// putInfo writes an IP_PKTINFO.
func (w *controlWriter) putInfo(index int, specDst, dst netip.Addr) {
	var b [packetInfoLen]byte
	binary.NativeEndian.PutUint32(b[:], uint32(index))
	for i, a := range [2]netip.Addr{specDst, dst} {
		if a.Is4() {
			*(*[4]byte)(b[4+4*i:]) = a.As4()
		}
	}
	w.put(levelIP, optPacketInfo, b[:])
}

func (w *controlWriter) putInt(level, typ int, n uint8) {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(n))
	w.put(level, typ, b[:])
}

// nextControl parses the first message of oob. ok is false at the end of oob and on an error. The
// error is EINVAL if the length in the message is less than that of the header or more than len(oob).
func nextControl(oob []byte) (level, typ int, data, rest []byte, ok bool, err error) {
	if len(oob) < controlHeaderLen {
		return 0, 0, nil, nil, false, nil
	}
	n := getWord(oob)
	if n < controlHeaderLen || n > uint64(len(oob)) {
		return 0, 0, nil, nil, false, syscall.EINVAL
	}
	level = int(int32(binary.NativeEndian.Uint32(oob[wordLen:])))
	typ = int(int32(binary.NativeEndian.Uint32(oob[wordLen+4:])))
	return level, typ, oob[controlHeaderLen:n], oob[min(alignControl(int(n)), len(oob)):], true, nil
}

// sendControl sets the options in o from the control messages in oob. As on Linux, the error is
// EINVAL if a message of the destination's family is unknown or its value is out of range, and for
// every message of level SOL_SOCKET or SOL_UDP. Messages of other levels are ignored.
func sendControl(oob []byte, kind controlKind, o *stack.SendOptions) error {
	for {
		level, typ, data, rest, ok, err := nextControl(oob)
		if !ok {
			return err
		}
		oob = rest
		switch {
		case level == levelIP && kind != control6:
			err = sendOption(typ, data, o)
		case level == levelIPv6 && kind != control4:
			err = sendOption6(kind, typ, data, o)
		case level == levelSocket, level == levelUDP:
			err = syscall.EINVAL
		}
		if err != nil {
			return err
		}
	}
}

func sendOption(typ int, data []byte, o *stack.SendOptions) error {
	value := -1 // valid for no option
	switch {
	case len(data) == 4:
		value = int(int32(binary.NativeEndian.Uint32(data)))
	case len(data) == 1 && typ == optTOS:
		value = int(data[0])
	}
	switch {
	case typ == optPacketInfo && len(data) == packetInfoLen:
		if index := int(int32(binary.NativeEndian.Uint32(data))); index != 0 {
			o.NIC = index
		}
		// An unspecified source lets the routes choose the source, even if the socket is bound.
		o.Src = netip.AddrFrom4([4]byte(data[4:8]))
		if o.Src.IsMulticast() || o.Src == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return syscall.EINVAL
		}
	case typ == optTTL && value >= 1 && value <= 255:
		o.TTL = uint8(value)
	case typ == optTOS && value >= 0 && value <= 255:
		o.TOS, o.SetTOS = uint8(value), true
	default:
		return syscall.EINVAL
	}
	return nil
}

// controlError adapts the error of a datagram that was sent with control messages. If the messages
// name a source address that the host does not have, the error is EINVAL to an IPv6 destination, and
// otherwise ENETUNREACH, as on Linux since 6.12.
func controlError(oob []byte, kind controlKind, err error) error {
	switch {
	case err != syscall.EADDRNOTAVAIL || len(oob) == 0:
		return err
	case kind == control6:
		return syscall.EINVAL
	}
	return syscall.ENETUNREACH
}

// AppendControl appends the control messages that represent i, for WriteMsgUDP and WriteMsgIP: the
// interface, the source, TTL and TOS. It omits fields that are zero, and a Local that is a multicast
// address or 255.255.255.255. It does not omit the broadcast address of a network, which it cannot
// recognize; as on Linux, sending from such an address fails. The messages are those of IPv6 if
// Local, or Remote if Local is omitted, is an IPv6 address.
func (i *PacketInfo) AppendControl(oob []byte) []byte {
	var b [128]byte
	w := controlWriter{rest: b[:]}
	if i.isSix() {
		i.append6(&w)
		return append(oob, b[:w.n]...)
	}
	if src := i.source(); src.IsValid() || i.Interface != 0 {
		w.putInfo(i.Interface, src, netip.Addr{})
	}
	if i.TTL != 0 {
		w.putInt(levelIP, optTTL, i.TTL)
	}
	if i.TOS != 0 {
		w.putInt(levelIP, optTOS, i.TOS)
	}
	return append(oob, b[:w.n]...)
}

// ParseControl sets the fields Local, Interface, TTL and TOS from the control messages that
// ReadMsgUDP or ReadMsgIP returned. Fields without a message keep their values. The error is EINVAL
// if oob is malformed.
func (i *PacketInfo) ParseControl(oob []byte) error {
	for {
		level, typ, data, rest, ok, err := nextControl(oob)
		if !ok {
			return err
		}
		oob = rest
		switch {
		case level == levelIPv6:
			i.parse6(typ, data)
		case level != levelIP: // ignored
		case typ == optPacketInfo && len(data) >= packetInfoLen:
			i.Interface = int(int32(binary.NativeEndian.Uint32(data)))
			i.Local = netip.AddrFrom4([4]byte(data[8:12]))
		case typ == optTTL && len(data) >= 4:
			i.TTL = uint8(binary.NativeEndian.Uint32(data))
		case typ == optTOS && len(data) >= 1:
			i.TOS = data[0]
		}
	}
}

// receivedControl writes the control messages of a received datagram to oob. n is the number of bytes
// that were read of a datagram of full bytes. receivedControl returns the length of the messages, and
// the flags that report truncation of the datagram or of the messages.
func (c *datagramConn) receivedControl(oob []byte, n, full int, from netip.Addr, meta *stack.Meta) (oobn, flags int) {
	if full > n {
		flags = msgTrunc
	}
	cf := ControlFlags(c.control.Load())
	if cf == 0 {
		return 0, flags
	}
	w := controlWriter{rest: oob}
	if c.family.six {
		c.receivedControl6(&w, cf, meta)
		if w.truncated {
			flags |= msgCTrunc
		}
		return w.n, flags
	}
	if cf&packetInfoFlags != 0 {
		// The first address of IP_PKTINFO, ipi_spec_dst, is the source to use for an answer.
		src := meta.Dst
		if !c.host.stack.IsLocal(src) {
			src = c.host.stack.SourceFor(from)
		}
		w.putInfo(meta.NIC, src, meta.Dst)
	}
	if cf&FlagTTL != 0 {
		w.putInt(levelIP, optTTL, meta.TTL)
	}
	if cf&FlagTOS != 0 {
		w.put(levelIP, optTOS, []byte{meta.TOS})
	}
	if w.truncated {
		flags |= msgCTrunc
	}
	return w.n, flags
}
