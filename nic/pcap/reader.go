// Package pcap reads captures in the pcap and pcapng formats (draft-ietf-opsawg-pcap,
// draft-ietf-opsawg-pcapng) and writes pcapng. Wireshark and tcpdump read and write both.
package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"
)

// A LinkType says with which header a packet of a capture begins. The numbers are those of the registry of link types.
type LinkType uint16

const (
	LinkEthernet LinkType = 1   // an Ethernet header
	LinkRaw      LinkType = 101 // an IPv4 or IPv6 header
	LinkIPv4     LinkType = 228 // an IPv4 header
	LinkIPv6     LinkType = 229 // an IPv6 header
)

// The numbers that some systems have used for LinkRaw.
const (
	linkRawBSD     LinkType = 12
	linkRawOpenBSD LinkType = 14
)

// IsIP reports whether a packet begins with an IP header.
func (l LinkType) IsIP() bool { return l == LinkRaw || l == LinkIPv4 || l == LinkIPv6 }

func (l LinkType) String() string {
	switch l {
	case LinkEthernet:
		return "Ethernet"
	case LinkRaw:
		return "raw IP"
	case LinkIPv4:
		return "IPv4"
	case LinkIPv6:
		return "IPv6"
	}
	return fmt.Sprintf("link type %d", uint16(l))
}

// A Direction says whether a packet was received or sent by the machine that captured it.
type Direction uint8

const (
	Unknown  Direction = iota // the capture does not say
	Inbound                   // received
	Outbound                  // sent
)

// A Packet is a packet of a capture.
type Packet struct {
	Data      []byte    // the captured bytes, without an Ethernet check sequence
	Len       int       // length in bytes on the link; larger than len(Data) if the capture cut the packet
	Time      time.Time // when the packet was captured; zero if the capture does not say
	Link      LinkType
	Direction Direction
	// Interface is the name of the interface on which the packet was captured, at most 256 bytes. It is empty if the
	// capture does not say. Only pcapng has names.
	Interface string
	// Comment is text about the packet, such as the reason for which it was dropped. Only pcapng has comments. A
	// Reader joins several comments of a packet by newlines.
	Comment string
}

// The limits of what a Reader accepts, so that its memory is bounded. tcpdump has the same limit on the
// length of a packet.
const (
	maxPacket     = 256 << 10 // bytes of a packet
	maxBlock      = maxPacket + 64<<10
	maxInterfaces = 4096    // of a section
	maxName       = 256     // bytes of the name of an interface; a longer name is cut
	maxKeyLog     = 4 << 20 // bytes of all key logs
)

// A Reader reads the packets of a capture. It needs memory for one packet only.
type Reader struct {
	r     *bufio.Reader
	at    int64 // offset in the file of the next byte
	buf   []byte
	order binary.ByteOrder
	ng    bool
	ifcs  []iface // of the section; a pcap file has one
	keys  []byte  // the TLS key logs so far
	err   error   // the result of all further calls of Next
}

// An iface is an interface on which packets were captured.
type iface struct {
	name   string
	link   LinkType
	snap   int   // maximum number of captured bytes; 0 means no limit
	fcs    int   // bytes of the Ethernet check sequence at the end of each packet
	resol  uint8 // resolution of the timestamps, as in the option if_tsresol
	offset int64 // seconds to add to the timestamps
}

// Magic numbers at the start of a file.
const (
	magicMicro   = 0xa1b2c3d4
	magicNano    = 0xa1b23c4d
	magicSection = 0x0a0d0d0a // the same in both byte orders
)

// NewReader reads the beginning of a capture. It detects the format and the byte order.
func NewReader(r io.Reader) (*Reader, error) {
	p := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	b, err := p.r.Peek(4)
	if len(b) < 4 {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("pcap: read the beginning: %w", err)
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(b) {
		case magicSection:
			p.ng = true
		case magicMicro:
			p.order, p.ifcs = order, []iface{{resol: 6}}
		case magicNano:
			p.order, p.ifcs = order, []iface{{resol: 9}}
		default:
			continue
		}
		if p.ng {
			err = p.section()
		} else {
			err = p.header()
		}
		if err != nil {
			return nil, p.fail(err)
		}
		return p, nil
	}
	return nil, fmt.Errorf("pcap: the file is neither pcap nor pcapng: it begins with %x", b)
}

// Next returns the next packet. The bytes of the packet are valid until the next call. At the end of the
// capture the error is io.EOF. If the file ends within a packet or a block, the error wraps io.ErrUnexpectedEOF.
func (p *Reader) Next() (Packet, error) {
	if p.err != nil {
		return Packet{}, p.err
	}
	var pkt Packet
	var err error
	if p.ng {
		pkt, err = p.nextBlock()
	} else {
		pkt, err = p.nextRecord()
	}
	if err != nil {
		p.err = p.fail(err)
		return Packet{}, p.err
	}
	return pkt, nil
}

// KeyLog returns the TLS key log that the file has contained so far, in the format of crypto/tls.Config.KeyLogWriter
// (RFC 9850). A pcapng file has the keys of a connection before the packets of the connection. KeyLog leaves out what
// exceeds 4 MiB.
func (p *Reader) KeyLog() []byte { return p.keys }

// fail adds the current offset in the file to an error. It returns io.EOF unchanged.
func (p *Reader) fail(err error) error {
	if err == io.EOF {
		return err
	}
	return fmt.Errorf("pcap: at byte %d: %w", p.at, err)
}

// take reads n bytes. The bytes are valid until the next call. If the file ends before the first byte, the error is
// io.EOF. If the file ends after the first byte, the error is io.ErrUnexpectedEOF.
func (p *Reader) take(n int) ([]byte, error) {
	if cap(p.buf) < n {
		p.buf = make([]byte, n)
	}
	p.buf = p.buf[:n]
	k, err := io.ReadFull(p.r, p.buf)
	p.at += int64(k)
	return p.buf, err
}

// within turns an io.EOF within a header, a block or a packet into io.ErrUnexpectedEOF.
func within(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// header reads the header of a pcap file.
func (p *Reader) header() error {
	b, err := p.take(24)
	if err != nil {
		return within(err)
	}
	if major := p.order.Uint16(b[4:]); major != 2 {
		return fmt.Errorf("unknown version %d.%d", major, p.order.Uint16(b[6:]))
	}
	ifc := &p.ifcs[0]
	ifc.offset = int64(int32(p.order.Uint32(b[8:]))) // a correction in seconds, which all writers set to 0
	ifc.snap = int(min(p.order.Uint32(b[16:]), maxPacket))
	network := p.order.Uint32(b[20:])
	ifc.link = linkType(uint16(network))
	// "FCS len (4 bits)": its unit is 16 bits. It is valid if the F bit is set.
	if network>>26&1 != 0 {
		ifc.fcs = int(network>>28) * 2
	}
	return nil
}

// linkType returns the link type for a number in a file.
func linkType(n uint16) LinkType {
	if l := LinkType(n); l != linkRawBSD && l != linkRawOpenBSD {
		return l
	}
	return LinkRaw
}

// nextRecord returns the next packet of a pcap file.
func (p *Reader) nextRecord() (Packet, error) {
	b, err := p.take(16)
	if err != nil {
		return Packet{}, err
	}
	ifc := &p.ifcs[0]
	sec, frac := p.order.Uint32(b[0:]), p.order.Uint32(b[4:])
	size, length := p.order.Uint32(b[8:]), p.order.Uint32(b[12:])
	if size > maxPacket {
		return Packet{}, fmt.Errorf("a packet of %d bytes: the maximum is %d", size, maxPacket)
	}
	ns := int64(frac)
	if ifc.resol == 6 {
		ns *= 1000
	}
	if b, err = p.take(int(size)); err != nil {
		return Packet{}, within(err)
	}
	t := time.Unix(int64(sec)+ifc.offset, ns)
	return ifc.packet(b, length, t, ifc.fcs), nil
}

// packet makes a Packet of the captured bytes. length is the length on the link, as the file says.
func (ifc *iface) packet(b []byte, length uint32, t time.Time, fcs int) Packet {
	n := max(int(min(length, 1<<31-1)), len(b))
	if ifc.link == LinkEthernet && n == len(b) && n >= fcs {
		n -= fcs
		b = b[:n]
	}
	return Packet{Data: b[:len(b):len(b)], Len: n, Time: t, Link: ifc.link, Interface: ifc.name}
}

var errBlock = errors.New("a block is shorter than its fields")

// time returns the time of a timestamp.
func (ifc *iface) time(ts uint64) (time.Time, error) {
	var sec, ns uint64
	if n := uint(ifc.resol & 0x7f); ifc.resol&0x80 != 0 {
		// "if the Most Significant Bit is equal to one, the remaining bits indicate the resolution as a
		// negative power of 2".
		if n > 63 {
			return time.Time{}, fmt.Errorf("unknown resolution of timestamps: 2^-%d s", n)
		}
		sec = ts >> n
		hi, lo := bits.Mul64(ts&(1<<n-1), 1e9)
		ns = lo >> n
		if n > 0 {
			ns |= hi << (64 - n)
		}
	} else {
		if n > 19 {
			return time.Time{}, fmt.Errorf("unknown resolution of timestamps: 10^-%d s", n)
		}
		unit := uint64(1)
		for range n {
			unit *= 10
		}
		sec = ts / unit
		hi, lo := bits.Mul64(ts%unit, 1e9)
		ns, _ = bits.Div64(hi, lo, unit)
	}
	return time.Unix(int64(sec)+ifc.offset, int64(ns)), nil
}
