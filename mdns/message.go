package mdns

import "encoding/binary"

// Types and classes of records, and bits of their class field.
const (
	typeA    = 1
	typeNS   = 2
	typeCN   = 5
	typePTR  = 12
	typeTXT  = 16
	typeAAAA = 28
	typeSRV  = 33
	typeOPT  = 41
	typeNSEC = 47
	typeANY  = 255

	classIN  = 1
	classANY = 255
	// topBit is the unicast-response bit of a question (RFC 6762 section 5.4) and the cache-flush bit of a
	// record (section 10.2).
	topBit = 1 << 15
)

// Bits of the header.
const (
	flagResponse      = 1 << 15
	flagAuthoritative = 1 << 10
	flagTruncated     = 1 << 9
	opcodeAndRCode    = 0x780f
)

const (
	headerLen = 12
	// maxMessage is the length in bytes up to which a message is filled, so that it fits into an Ethernet frame.
	maxMessage = 1400
	// maxReceived is the length in bytes of the longest message that is parsed (RFC 6762 section 17).
	maxReceived = 9000
	// maxRecords is the maximum number of questions and records of a message. A message with more is malformed.
	maxRecords = 1024
)

type question struct {
	name    name
	typ     uint16
	unicast bool // whether a unicast response is wanted
}

// A record is a resource record of the class IN. Two records with equal names, types and data are the same
// record.
type record struct {
	name  name
	typ   uint16
	flush bool // the cache-flush bit: the sender's records of the name and type are the whole set
	ttl   uint32
	data  string // in wire form; names in it are not compressed
}

// same reports whether x and y are the same record. It ignores case in the names of the records, but not in names in
// the data.
func (x *record) same(y *record) bool {
	return x.typ == y.typ && x.data == y.data && x.name.fold() == y.name.fold()
}

// size returns an upper bound of the record's length in a message.
func (x *record) size() int { return len(x.name) + 10 + len(x.data) }

type message struct {
	id          uint16
	flags       uint16
	questions   []question
	answers     []record
	authorities []record
	additionals []record
}

// parse parses a message. It omits records whose class is not IN, and questions whose class is neither IN nor ANY.
func parse(b []byte) (*message, error) {
	if len(b) < headerLen || len(b) > maxReceived {
		return nil, ErrMalformed
	}
	m := &message{id: binary.BigEndian.Uint16(b), flags: binary.BigEndian.Uint16(b[2:])}
	var counts [4]int
	total := 0
	for i := range counts {
		counts[i] = int(binary.BigEndian.Uint16(b[4+2*i:]))
		total += counts[i]
	}
	if total > maxRecords {
		return nil, ErrMalformed
	}
	off := headerLen
	for range counts[0] {
		n, end, ok := readName(b, off)
		if !ok || end+4 > len(b) {
			return nil, ErrMalformed
		}
		class := binary.BigEndian.Uint16(b[end+2:])
		if c := class &^ topBit; c == classIN || c == classANY {
			m.questions = append(m.questions, question{n, binary.BigEndian.Uint16(b[end:]), class&topBit != 0})
		}
		off = end + 4
	}
	for i, section := range []*[]record{&m.answers, &m.authorities, &m.additionals} {
		for range counts[1+i] {
			r, class, end, ok := readRecord(b, off)
			if !ok {
				return nil, ErrMalformed
			}
			if class == classIN {
				*section = append(*section, r)
			}
			off = end
		}
	}
	return m, nil
}

// readRecord parses the record at off.
func readRecord(b []byte, off int) (r record, class uint16, end int, ok bool) {
	n, off, ok := readName(b, off)
	if !ok || off+10 > len(b) {
		return r, 0, 0, false
	}
	class = binary.BigEndian.Uint16(b[off+2:])
	r = record{name: n, typ: binary.BigEndian.Uint16(b[off:]), flush: class&topBit != 0, ttl: binary.BigEndian.Uint32(b[off+4:])}
	end = off + 10 + int(binary.BigEndian.Uint16(b[off+8:]))
	off += 10
	if end > len(b) {
		return r, 0, 0, false
	}
	// RFC 2181 8: a TTL with the most significant bit set is treated as zero.
	if r.ttl>>31 != 0 {
		r.ttl = 0
	}
	fixed := 0 // bytes of the data before the name in the data
	switch r.typ {
	case typeSRV:
		fixed = 6
	case typePTR, typeCN, typeNS, typeNSEC:
	default:
		r.data = string(b[off:end])
		bad := r.typ == typeA && len(r.data) != 4 || r.typ == typeAAAA && len(r.data) != 16
		return r, class &^ topBit, end, !bad
	}
	if off+fixed > end {
		return r, 0, 0, false
	}
	target, after, ok := readName(b, off+fixed)
	if !ok || after > end || r.typ != typeNSEC && after != end {
		return r, 0, 0, false
	}
	r.data = string(b[off:off+fixed]) + string(target) + string(b[after:end])
	return r, class &^ topBit, end, true
}

// A builder makes a message. It compresses the names of questions and records, and the name in the data of a PTR
// record.
type builder struct {
	b     []byte
	known map[name]int // offsets of names
}

func newBuilder(id, flags uint16) *builder {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 512), id)
	return &builder{b: append(binary.BigEndian.AppendUint16(b, flags), make([]byte, 8)...), known: make(map[name]int)}
}

// count adds one to the number of entries in a section.
func (w *builder) count(section int) {
	at := w.b[4+2*section:]
	binary.BigEndian.PutUint16(at, binary.BigEndian.Uint16(at)+1)
}

func (w *builder) name(n name) {
	for n[0] != 0 {
		if at, ok := w.known[n]; ok {
			w.b = binary.BigEndian.AppendUint16(w.b, 0xc000|uint16(at))
			return
		}
		if len(w.b) < 0x4000 {
			w.known[n] = len(w.b)
		}
		label := 1 + int(n[0])
		w.b = append(w.b, n[:label]...)
		n = n[label:]
	}
	w.b = append(w.b, 0)
}

func (w *builder) question(q question) {
	w.name(q.name)
	class := uint16(classIN)
	if q.unicast {
		class |= topBit
	}
	w.b = binary.BigEndian.AppendUint16(w.b, q.typ)
	w.b = binary.BigEndian.AppendUint16(w.b, class)
	w.count(0)
}

// record adds a record to a section: 1 answers, 2 authorities, 3 additionals.
func (w *builder) record(section int, r *record) {
	w.name(r.name)
	class := uint16(classIN)
	if r.flush {
		class |= topBit
	}
	w.b = binary.BigEndian.AppendUint16(w.b, r.typ)
	w.b = binary.BigEndian.AppendUint16(w.b, class)
	w.b = binary.BigEndian.AppendUint32(w.b, r.ttl)
	at := len(w.b)
	w.b = append(w.b, 0, 0)
	if r.typ == typePTR {
		w.name(name(r.data))
	} else {
		w.b = append(w.b, r.data...)
	}
	binary.BigEndian.PutUint16(w.b[at:], uint16(len(w.b)-at-2))
	w.count(section)
}
