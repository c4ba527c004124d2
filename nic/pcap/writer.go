package pcap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"
)

// An Interface describes where packets were captured.
type Interface struct {
	Name    string
	MAC     [6]byte // not written if it is zero
	Link    LinkType
	SnapLen int // maximum number of bytes that are captured of a packet; 0 means no limit
}

// appendSection appends the beginning of a pcapng file to b.
func appendSection(b []byte) []byte {
	le := binary.LittleEndian
	start := len(b)
	b = le.AppendUint32(b, blockSection)
	b = le.AppendUint32(b, 0) // length, set by endBlock
	b = le.AppendUint32(b, byteOrderMagic)
	b = le.AppendUint16(b, 1) // version 1.0
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, 1<<64-1) // length of the section: unknown
	b = appendOption(b, optUserAppl, []byte("usernet"))
	return endBlock(b, start)
}

// appendInterface appends the description of an interface, whose timestamps are nanoseconds.
func appendInterface(b []byte, ifc Interface) []byte {
	le := binary.LittleEndian
	start := len(b)
	b = le.AppendUint32(b, blockInterface)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint16(b, uint16(ifc.Link))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, uint32(ifc.SnapLen)) // "0 means no limit"
	if ifc.Name != "" {
		b = appendOption(b, optIfName, []byte(ifc.Name))
	}
	if ifc.MAC != ([6]byte{}) {
		b = appendOption(b, optIfMAC, ifc.MAC[:])
	}
	b = appendOption(b, optIfTSResol, []byte{9}) // nanoseconds
	return endBlock(b, start)
}

// packetHeader is the length in bytes of the part of a packet block before the packet.
const packetHeader = 28

// beginPacket appends the beginning of a packet block. The caller then appends the bytes of the packet
// and calls endPacket. index is the number of the interface in the section, and length the packet's length
// on the link.
func beginPacket(b []byte, index int, t time.Time, length int) []byte {
	le := binary.LittleEndian
	var ns uint64
	if !t.IsZero() {
		ns = uint64(t.UnixNano())
	}
	b = le.AppendUint32(b, blockPacket)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(index))
	b = le.AppendUint32(b, uint32(ns>>32))
	b = le.AppendUint32(b, uint32(ns))
	b = le.AppendUint32(b, 0) // captured length, set by endPacket
	return le.AppendUint32(b, uint32(length))
}

// endPacket ends the packet block whose packet begins at b[data].
func endPacket(b []byte, data int, dir Direction, comment string) []byte {
	le := binary.LittleEndian
	le.PutUint32(b[data-8:], uint32(len(b)-data))
	b = pad(b, data)
	if comment != "" {
		b = appendOption(b, optComment, []byte(cutText(comment, maxComment)))
	}
	if dir != Unknown {
		b = le.AppendUint16(b, optFlags)
		b = le.AppendUint16(b, 4)
		b = le.AppendUint32(b, uint32(dir))
	}
	return endBlock(b, data-packetHeader)
}

// maxComment is the most bytes of a comment that are written.
const maxComment = 32 << 10

// cutText returns the first n bytes of s, without a part of a character at the end.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// appendOption appends one option with its padding.
func appendOption(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	start := len(b)
	return pad(append(b, value...), start)
}

// pad appends zeros until the number of bytes from start on is a multiple of 4.
func pad(b []byte, start int) []byte {
	for (len(b)-start)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// endBlock appends the end of the options and of the block that begins at start. It writes the
// block's length at the block's beginning and end.
func endBlock(b []byte, start int) []byte {
	b = appendOption(b, optEnd, nil)
	n := uint32(len(b) - start + 4)
	binary.LittleEndian.PutUint32(b[start+4:], n)
	return binary.LittleEndian.AppendUint32(b, n)
}

// A Writer writes packets in the pcapng format. It passes each packet to the io.Writer with one call of Write.
type Writer struct {
	w     io.Writer
	name  string
	snap  int
	ifcs  []writtenInterface // in the order of the file
	block []byte
}

// A writtenInterface identifies an interface that has been written.
type writtenInterface struct {
	name string
	link LinkType
}

// NewWriter writes the beginning of a capture and describes the interface ifc. For packets of another interface or with
// another link type, Write adds an interface with the name of the packet's interface and the SnapLen of ifc. Packets
// whose Interface is empty are of the interface ifc.
func NewWriter(w io.Writer, ifc Interface) (*Writer, error) {
	p := &Writer{w: w, name: ifc.Name, snap: max(ifc.SnapLen, 0), ifcs: []writtenInterface{{ifc.Name, ifc.Link}}}
	ifc.SnapLen = p.snap
	return p, p.write(appendInterface(appendSection(nil), ifc))
}

// AddInterface describes another interface, so that the capture has it even without packets, and has its MAC. Its
// SnapLen is that of the first interface, whatever ifc says.
func (p *Writer) AddInterface(ifc Interface) error {
	ifc.SnapLen = p.snap
	p.ifcs = append(p.ifcs, writtenInterface{ifc.Name, ifc.Link})
	p.block = appendInterface(p.block[:0], ifc)
	return p.write(p.block)
}

// Write writes a packet, or as many of its bytes as SnapLen allows.
func (p *Writer) Write(pkt Packet) error {
	of := writtenInterface{pkt.Interface, pkt.Link}
	if of.name == "" {
		of.name = p.name
	}
	b := p.block[:0]
	index := slices.Index(p.ifcs, of)
	if index < 0 {
		index = len(p.ifcs)
		b = appendInterface(b, Interface{Name: of.name, Link: of.link, SnapLen: p.snap})
		p.ifcs = append(p.ifcs, of)
	}
	b = beginPacket(b, index, pkt.Time, max(pkt.Len, len(pkt.Data)))
	data := len(b)
	if p.snap > 0 && len(pkt.Data) > p.snap {
		pkt.Data = pkt.Data[:p.snap]
	}
	p.block = endPacket(append(b, pkt.Data...), data, pkt.Direction, pkt.Comment)
	return p.write(p.block)
}

// WriteKeyLog writes a part of a TLS key log, one or more whole lines, as crypto/tls passes it to
// Config.KeyLogWriter (RFC 9850). Wireshark then decrypts the connections whose keys it has, in the packets that are
// written afterwards: pcapng demands that the secrets "be written before packets that require them".
func (p *Writer) WriteKeyLog(lines []byte) error {
	for len(lines) > 0 {
		part := lines
		if len(part) > maxSecrets {
			n := bytes.LastIndexByte(part[:maxSecrets], '\n') + 1
			if n == 0 {
				return fmt.Errorf("pcap: a line of a TLS key log is longer than %d bytes", maxSecrets)
			}
			part = part[:n]
		}
		lines = lines[len(part):]
		le := binary.LittleEndian
		b := le.AppendUint32(p.block[:0], blockSecrets)
		b = le.AppendUint32(b, 0)
		b = le.AppendUint32(b, secretsTLS)
		b = le.AppendUint32(b, uint32(len(part)))
		p.block = endBlock(pad(append(b, part...), 16), 0)
		if err := p.write(p.block); err != nil {
			return err
		}
	}
	return nil
}

// maxSecrets is the most bytes of a key log in one block.
const maxSecrets = 64 << 10

func (p *Writer) write(b []byte) error {
	n, err := p.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("pcap: write: %w", err)
	}
	return nil
}
