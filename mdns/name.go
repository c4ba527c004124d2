package mdns

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A name is a domain name in wire form: labels, each after a byte with its length, and a zero byte. Labels
// may contain any bytes, for example dots and spaces (RFC 6763 section 4.1.1).
type name string

const (
	maxName  = 255
	maxLabel = 63
	local    = "\x05local\x00"
)

var errBadName = errors.New("mdns: a name has at most 255 bytes, and its labels have 1 to 63 bytes")

// makeName returns the name that consists of labels and then parent. It reports false if a label is empty or too long,
// or if the name is too long.
func makeName(parent name, labels ...string) (name, bool) {
	n := parent
	for i := len(labels) - 1; i >= 0; i-- {
		if labels[i] == "" || len(labels[i]) > maxLabel {
			return "", false
		}
		n = name([]byte{byte(len(labels[i]))}) + name(labels[i]) + n
	}
	return n, len(n) <= maxName
}

// parseName parses a name in presentation form, with or without a final dot. A backslash escapes the next byte, for
// example a dot. A backslash and three decimal digits stand for the byte with that value.
func parseName(s string) (name, error) {
	var labels []string
	var label []byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if len(label) == 0 {
				return "", errBadName
			}
			labels, label = append(labels, string(label)), label[:0]
		case c != '\\':
			label = append(label, c)
		case i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]):
			v := int(s[i+1]-'0')*100 + int(s[i+2]-'0')*10 + int(s[i+3]-'0')
			if v > 255 {
				return "", errBadName
			}
			label = append(label, byte(v))
			i += 3
		case i+1 < len(s):
			i++
			label = append(label, s[i])
		default:
			return "", errBadName
		}
	}
	if len(label) > 0 {
		labels = append(labels, string(label))
	}
	n, ok := makeName("\x00", labels...)
	if !ok || len(labels) == 0 {
		return "", errBadName
	}
	return n, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// String returns the name in presentation form with a final dot. parseName converts this form back to the name, except
// for the root, which parseName rejects.
func (n name) String() string {
	var b strings.Builder
	for _, label := range n.labels() {
		for i := 0; i < len(label); {
			r, size := utf8.DecodeRuneInString(label[i:])
			switch c := label[i]; {
			case c == '.' || c == '\\':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c < ' ' || c == 0x7f || r == utf8.RuneError && size == 1 || 0x80 <= r && r < 0xa0:
				for _, c := range []byte(label[i : i+size]) {
					fmt.Fprintf(&b, "\\%03d", c)
				}
			default:
				b.WriteString(label[i : i+size])
			}
			i += size
		}
		b.WriteByte('.')
	}
	if b.Len() == 0 {
		return "."
	}
	return b.String()
}

// labels returns the labels without the root.
func (n name) labels() []string {
	var labels []string
	for len(n) > 0 && n[0] != 0 {
		l := 1 + int(n[0])
		labels = append(labels, string(n[1:l]))
		n = n[l:]
	}
	return labels
}

// fold returns the name with ASCII letters in lower case. RFC 6762 section 16: names are compared without
// regard to the case of ASCII letters. fold does not change the length bytes of labels, because they are below 'A'.
func (n name) fold() name {
	for i := range len(n) {
		if c := n[i]; 'A' <= c && c <= 'Z' {
			b := []byte(n)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return name(b)
		}
	}
	return n
}

// readName reads the name at off in a message. end is the offset after it.
func readName(msg []byte, off int) (n name, end int, ok bool) {
	var buf [maxName]byte
	length, jumps := 0, 0
	for {
		if off >= len(msg) {
			return "", 0, false
		}
		switch c := int(msg[off]); {
		case c == 0:
			if jumps == 0 {
				end = off + 1
			}
			if length+1 > maxName {
				return "", 0, false
			}
			buf[length] = 0
			return name(buf[:length+1]), end, true
		case c >= 0xc0:
			if off+1 >= len(msg) {
				return "", 0, false
			}
			if jumps == 0 {
				end = off + 2
			}
			target := (c&0x3f)<<8 | int(msg[off+1])
			// A pointer must point backwards. The limit on jumps bounds the work for a chain of pointers.
			if jumps++; target >= off || jumps > maxName/2 {
				return "", 0, false
			}
			off = target
		case c > maxLabel || off+1+c > len(msg) || length+1+c >= maxName:
			return "", 0, false
		default:
			length += copy(buf[length:], msg[off:off+1+c])
			off += 1 + c
		}
	}
}
