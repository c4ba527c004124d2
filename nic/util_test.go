package nic

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"time"
)

// recorder keeps copies of the frames that a device receives.
type recorder struct {
	mu     sync.Mutex
	frames [][]byte
	meta   []Frame     // of each frame, the fields for offloads
	times  []time.Time // of each frame, when it was received
	batch  []int       // the number of frames in each batch
}

func (r *recorder) recv(batch []Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batch = append(r.batch, len(batch))
	for i := range batch {
		f := batch[i]
		r.frames = append(r.frames, f.AppendTo(nil))
		f.Head, f.Body = nil, nil
		r.meta = append(r.meta, f)
		r.times = append(r.times, time.Now())
	}
}

func (r *recorder) all() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]byte(nil), r.frames...)
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.frames)
}

var (
	macA = [6]byte{2, 0, 0, 0, 0, 0xa}
	macB = [6]byte{2, 0, 0, 0, 0, 0xb}
	macC = [6]byte{2, 0, 0, 0, 0, 0xc}
	bcst = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// ether returns an Ethernet frame of n bytes whose payload starts with tag.
func ether(dst, src [6]byte, tag uint32, n int) []byte {
	b := make([]byte, max(n, 18))
	copy(b, dst[:])
	copy(b[6:], src[:])
	b[12], b[13] = 0x88, 0xb5 // IEEE 802 local experimental
	binary.BigEndian.PutUint32(b[14:], tag)
	return b
}

func tagOf(frame []byte) uint32 { return binary.BigEndian.Uint32(frame[14:]) }

func tags(frames [][]byte) (tags []uint32) {
	for _, f := range frames {
		tags = append(tags, tagOf(f))
	}
	return tags
}

// one returns a batch of one frame without offloads.
func one(b []byte) []Frame { return []Frame{{Head: b}} }

// slowSum returns the ones' complement sum of RFC 1071, computed two bytes at a time.
func slowSum(parts ...[]byte) uint16 {
	b := bytes.Join(parts, nil)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	sum := 0
	for i := 0; i < len(b); i += 2 {
		sum += int(b[i])<<8 | int(b[i+1])
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// packetSpec describes a packet that build makes.
type packetSpec struct {
	medium   Medium
	vlan     bool
	v6       bool
	tcp      bool
	id       uint16
	seq      uint32
	flags    byte
	options  []byte // options of IPv4 or TCP, a multiple of 4 bytes
	ipOpts   []byte
	payload  []byte
	unsummed bool // leave the transport checksum to an offload
}

// build builds a packet field by field, and returns the offsets of its transport header and its
// payload.
func (p packetSpec) build(t testing.TB) (b []byte, transport, payload int) {
	t.Helper()
	be := binary.BigEndian
	src, dst := []byte{192, 0, 2, 2}, []byte{192, 0, 2, 1}
	if p.v6 {
		src = append([]byte{0x20, 1, 0xd, 0xb8}, make([]byte, 12)...)
		dst = append([]byte(nil), src...)
		src[15], dst[15] = 2, 1
	}
	var l4 []byte
	proto := byte(17)
	sumAt := 6
	if p.tcp {
		proto, sumAt = 6, 16
		l4 = make([]byte, 20)
		be.PutUint16(l4[0:], 40000)
		be.PutUint16(l4[2:], 80)
		be.PutUint32(l4[4:], p.seq)
		be.PutUint32(l4[8:], 7777)
		l4[12] = byte(20+len(p.options)) / 4 << 4
		l4[13] = p.flags
		be.PutUint16(l4[14:], 1000)
		l4 = append(l4, p.options...)
	} else {
		l4 = make([]byte, 8)
		be.PutUint16(l4[0:], 40000)
		be.PutUint16(l4[2:], 9999)
		be.PutUint16(l4[4:], uint16(8+len(p.payload)))
	}
	l4len := len(l4)
	l4 = append(l4, p.payload...)
	pseudo := append(append([]byte(nil), src...), dst...)
	pseudo = append(be.AppendUint32(pseudo, uint32(len(l4))), 0, proto)
	if p.unsummed {
		be.PutUint16(l4[sumAt:], slowSum(pseudo))
	} else {
		be.PutUint16(l4[sumAt:], ^slowSum(pseudo, l4))
	}

	// length returns what a length field says.
	length := func(n int) uint16 {
		if n > 0xffff {
			return 0
		}
		return uint16(n)
	}
	var l3 []byte
	if p.v6 {
		l3 = []byte{0x60, 0, 0, 0, 0, 0, proto, 64}
		be.PutUint16(l3[4:], length(len(l4)))
		l3 = append(append(l3, src...), dst...)
	} else {
		l3 = make([]byte, 12, 60)
		l3[0] = 0x45 + byte(len(p.ipOpts)/4)
		be.PutUint16(l3[2:], length(20+len(p.ipOpts)+len(l4)))
		be.PutUint16(l3[4:], p.id)
		l3[6] = 0x40
		l3[8], l3[9] = 64, proto
		l3 = append(append(append(l3, src...), dst...), p.ipOpts...)
		be.PutUint16(l3[10:], ^slowSum(l3))
	}
	if p.medium == Ethernet {
		b = append(append(b, macB[:]...), macA[:]...)
		if p.vlan {
			b = append(b, 0x81, 0, 0, 5)
		}
		if p.v6 {
			b = append(b, 0x86, 0xdd)
		} else {
			b = append(b, 8, 0)
		}
	}
	transport = len(b) + len(l3)
	return append(append(b, l3...), l4...), transport, transport + l4len
}

// super returns a super-frame of the packet, with size bytes of payload per segment. If split is true, the
// headers are in Head and the payload is in Body. Otherwise all bytes are in Head.
func (p packetSpec) super(t testing.TB, size int, split bool) Frame {
	t.Helper()
	p.unsummed = true
	b, transport, payload := p.build(t)
	f := Frame{
		Head: b, NeedsChecksum: true, ChecksumStart: uint16(transport), ChecksumOffset: 6,
		GSO: GSOUDP, GSOSize: uint16(size), HeaderLen: uint16(payload),
	}
	if p.tcp {
		f.ChecksumOffset = 16
		f.GSO = GSOTCP4
		if p.v6 {
			f.GSO = GSOTCP6
		}
	}
	if split {
		f.Head, f.Body = b[:payload:payload], b[payload:]
	}
	return f
}

// pattern returns n bytes. Adjacent bytes differ.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}
