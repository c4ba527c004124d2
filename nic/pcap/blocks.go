package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Types of blocks (draft-ietf-opsawg-pcapng section 4).
const (
	blockSection   = 0x0a0d0d0a // Section Header Block
	blockInterface = 1          // Interface Description Block
	blockOld       = 2          // Packet Block, which is obsolete
	blockSimple    = 3          // Simple Packet Block
	blockPacket    = 6          // Enhanced Packet Block
	blockSecrets   = 10         // Decryption Secrets Block
)

const byteOrderMagic = 0x1a2b3c4d

// secretsTLS is the type of the secrets of a TLS key log.
const secretsTLS = 0x544c534b

// Codes of options.
const (
	optEnd       = 0
	optComment   = 1 // of any block
	optUserAppl  = 4 // of a section
	optIfName    = 2 // of an interface
	optIfMAC     = 6
	optIfTSResol = 9
	optIfFCSLen  = 13
	optIfTSOff   = 14
	optFlags     = 2 // of a packet
)

// section reads a Section Header Block.
func (p *Reader) section() error {
	b, err := p.take(12)
	if err != nil {
		return err
	}
	switch uint32(byteOrderMagic) {
	case binary.LittleEndian.Uint32(b[8:]):
		p.order = binary.LittleEndian
	case binary.BigEndian.Uint32(b[8:]):
		p.order = binary.BigEndian
	default:
		return fmt.Errorf("a section whose byte-order magic is %x", b[8:12])
	}
	size := p.order.Uint32(b[4:])
	if size < 28 || size%4 != 0 {
		return fmt.Errorf("a section header of %d bytes", size)
	}
	if b, err = p.take(4); err != nil {
		return within(err)
	}
	if major := p.order.Uint16(b); major != 1 {
		return fmt.Errorf("unknown version %d.%d", major, p.order.Uint16(b[2:]))
	}
	p.ifcs = p.ifcs[:0] // interfaces belong to one section
	return p.skip(int64(size)-16-4, size)
}

// skip skips the next n bytes, which are the rest of a block of size bytes. It then checks the length at the end of the
// block.
func (p *Reader) skip(n int64, size uint32) error {
	k, err := io.CopyN(io.Discard, p.r, n)
	p.at += k
	if err != nil {
		return within(err)
	}
	b, err := p.take(4)
	if err != nil {
		return within(err)
	}
	if end := p.order.Uint32(b); end != size {
		return fmt.Errorf("a block of %d bytes has the length %d at its end", size, end)
	}
	return nil
}

// nextBlock returns the next packet of a pcapng file.
func (p *Reader) nextBlock() (Packet, error) {
	for {
		b, err := p.r.Peek(8)
		if len(b) == 0 {
			return Packet{}, err
		}
		if len(b) < 8 {
			return Packet{}, within(err)
		}
		if binary.LittleEndian.Uint32(b) == blockSection {
			if err := p.section(); err != nil {
				return Packet{}, within(err)
			}
			continue
		}
		kind, size := p.order.Uint32(b), p.order.Uint32(b[4:])
		p.r.Discard(8)
		p.at += 8
		if size < 12 || size%4 != 0 {
			return Packet{}, fmt.Errorf("a block of %d bytes", size)
		}
		switch kind {
		case blockInterface, blockOld, blockSimple, blockPacket, blockSecrets:
		default:
			// "blocks that are not recognized must be skipped".
			if err := p.skip(int64(size)-12, size); err != nil {
				return Packet{}, err
			}
			continue
		}
		if kind == blockSecrets && size > maxKeyLog {
			if err := p.skip(int64(size)-12, size); err != nil {
				return Packet{}, err
			}
			continue
		}
		if size > maxBlock && kind != blockSecrets {
			return Packet{}, fmt.Errorf("a block of %d bytes: the maximum is %d", size, maxBlock)
		}
		body, err := p.take(int(size) - 8)
		if err != nil {
			return Packet{}, within(err)
		}
		body, end := body[:len(body)-4], p.order.Uint32(body[len(body)-4:])
		if end != size {
			return Packet{}, fmt.Errorf("a block of %d bytes has the length %d at its end", size, end)
		}
		switch kind {
		case blockInterface:
			if err := p.addInterface(body); err != nil {
				return Packet{}, err
			}
		case blockSecrets:
			if err := p.addSecrets(body); err != nil {
				return Packet{}, err
			}
		case blockSimple:
			return p.simplePacket(body)
		default:
			return p.packet(kind, body)
		}
	}
}

// addInterface reads the body of an Interface Description Block.
func (p *Reader) addInterface(b []byte) error {
	if len(b) < 8 {
		return errBlock
	}
	if len(p.ifcs) == maxInterfaces {
		return fmt.Errorf("more than %d interfaces in a section", maxInterfaces)
	}
	ifc := iface{
		link:  linkType(p.order.Uint16(b)),
		snap:  int(min(p.order.Uint32(b[4:]), maxPacket)),
		resol: 6, // "If this option is not present, a resolution of 10^-6 is assumed"
	}
	p.options(b[8:], func(code uint16, v []byte) {
		switch {
		case code == optIfName:
			ifc.name = cutText(string(v[:min(len(v), maxName+1)]), maxName)
		case code == optIfTSResol && len(v) == 1:
			ifc.resol = v[0]
		case code == optIfTSOff && len(v) == 8:
			ifc.offset = int64(p.order.Uint64(v))
		case code == optIfFCSLen && len(v) == 1 && (v[0] == 4 || v[0] == 32):
			ifc.fcs = 4 // the draft gives the length in bits, but its example is 4, which is in bytes
		}
	})
	if _, err := ifc.time(0); err != nil {
		return err
	}
	p.ifcs = append(p.ifcs, ifc)
	return nil
}

// addSecrets reads the body of a Decryption Secrets Block.
func (p *Reader) addSecrets(b []byte) error {
	if len(b) < 8 {
		return errBlock
	}
	kind, size := p.order.Uint32(b), p.order.Uint32(b[4:])
	if int64(size) > int64(len(b)-8) {
		return fmt.Errorf("secrets of %d bytes in a block of %d", size, len(b)+12)
	}
	if text := b[8 : 8+size]; kind == secretsTLS && len(p.keys)+len(text) <= maxKeyLog {
		p.keys = append(p.keys, text...)
	}
	return nil
}

// options calls f for each option in b. It stops at the first malformed option: options are not needed
// to read a packet.
func (p *Reader) options(b []byte, f func(code uint16, value []byte)) {
	for len(b) >= 4 {
		code, n := p.order.Uint16(b), int(p.order.Uint16(b[2:]))
		if code == optEnd || 4+n > len(b) {
			return
		}
		f(code, b[4:4+n])
		b = b[min(4+(n+3)&^3, len(b)):]
	}
}

// packet reads the body of an Enhanced Packet Block or a Packet Block.
func (p *Reader) packet(kind uint32, b []byte) (Packet, error) {
	if len(b) < 20 {
		return Packet{}, errBlock
	}
	index := p.order.Uint32(b)
	if kind == blockOld {
		index = uint32(p.order.Uint16(b)) // followed by 16 bits with the number of lost packets
	}
	if int64(index) >= int64(len(p.ifcs)) {
		return Packet{}, fmt.Errorf("a packet of interface %d of %d", index, len(p.ifcs))
	}
	ifc := &p.ifcs[index]
	t, err := ifc.time(uint64(p.order.Uint32(b[4:]))<<32 | uint64(p.order.Uint32(b[8:])))
	if err != nil {
		return Packet{}, err
	}
	size, length := p.order.Uint32(b[12:]), p.order.Uint32(b[16:])
	if int64(size) > int64(len(b)-20) || size > maxPacket {
		return Packet{}, fmt.Errorf("a packet of %d bytes in a block of %d", size, len(b)+12)
	}
	data, rest := b[20:20+size], b[min(20+int(size+3)&^3, len(b)):]
	fcs, dir := ifc.fcs, Unknown
	var comment []byte
	p.options(rest, func(code uint16, v []byte) {
		if code == optComment {
			if len(comment) > 0 {
				comment = append(comment, '\n')
			}
			comment = append(comment, v...)
		}
		if code == optFlags && len(v) == 4 {
			flags := p.order.Uint32(v)
			if d := Direction(flags & 3); d <= Outbound {
				dir = d
			}
			if n := int(flags >> 5 & 15); n > 0 {
				fcs = n // "Length of FCS in bytes"
			}
		}
	})
	pkt := ifc.packet(data, length, t, fcs)
	pkt.Direction, pkt.Comment = dir, string(comment)
	return pkt, nil
}

// simplePacket reads the body of a Simple Packet Block, which has no timestamp. Its packet belongs to
// the first interface.
func (p *Reader) simplePacket(b []byte) (Packet, error) {
	if len(b) < 4 {
		return Packet{}, errBlock
	}
	if len(p.ifcs) == 0 {
		return Packet{}, fmt.Errorf("a packet of interface 0 of 0")
	}
	ifc := &p.ifcs[0]
	length := p.order.Uint32(b)
	// "the SnapLen value [...] is used to determine the size of the Packet Data field".
	size := int(min(length, maxPacket))
	if ifc.snap > 0 {
		size = min(size, ifc.snap)
	}
	if size > len(b)-4 {
		return Packet{}, fmt.Errorf("a packet of %d bytes in a block of %d", length, len(b)+12)
	}
	return ifc.packet(b[4:4+size], length, time.Time{}, ifc.fcs), nil
}
