package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// The UDP ports of DHCPv4 (RFC 2131 4.1).
const (
	ServerPort4 = 67
	ClientPort4 = 68
)

// Values of Message4.Op.
const (
	BootRequest = 1 // from a client
	BootReply   = 2 // from a server
)

// FlagBroadcast in Message4.Flags asks for replies by broadcast (RFC 2131 4.1).
const FlagBroadcast = 0x8000

const (
	fixedLen4 = 236 // length of the part before the options
	snameAt   = 44
	fileAt    = 108
	cookieLen = 4
	minLen4   = 300 // RFC 1542 2.1: "the minimal BOOTP header of 300 octets"
	maxCHAddr = 16
)

// MinMessageSize4 is the length in bytes of a message that each client has to accept. RFC 2131 2
// requires 576 bytes including the headers of IP and UDP.
const MinMessageSize4 = 576 - 28

// cookie precedes the options (RFC 2131 3).
var cookie = [cookieLen]byte{99, 130, 83, 99}

// The errors of ParseMessage4 match ErrMalformed.
var ErrMalformed = errors.New("malformed message")

// A Message4 is a DHCPv4 message (RFC 2131 2). An invalid address stands for 0.0.0.0.
type Message4 struct {
	Op     uint8 // BootRequest or BootReply
	HType  uint8 // type of the link address; 1: Ethernet
	Hops   uint8
	XID    uint32
	Secs   uint16     // seconds since the client began to acquire or renew its address
	Flags  uint16     // see FlagBroadcast
	CIAddr netip.Addr // the client's current address; set only if it can answer ARP requests for it
	YIAddr netip.Addr // the address that the server offers or assigns to the client
	SIAddr netip.Addr // address of the next server to boot from
	GIAddr netip.Addr // address of the relay agent
	CHAddr []byte     // the client's link address, at most 16 bytes
	SName  string     // at most 63 bytes; empty if the field has options
	File   string     // at most 127 bytes; empty if the field has options
	// Options are in the order in which they were received, with each code once.
	Options Options4
}

// An Option4 is an option with its complete value.
type Option4 struct {
	Code OptionCode4
	Data []byte
}

// Options4 are options, with each code at most once.
type Options4 []Option4

// Get returns the value of an option. ok reports whether the option is present.
func (o Options4) Get(code OptionCode4) (data []byte, ok bool) {
	for i := range o {
		if o[i].Code == code {
			return o[i].Data, true
		}
	}
	return nil, false
}

// Set sets the value of an option. It does not copy data.
func (o *Options4) Set(code OptionCode4, data []byte) {
	for i := range *o {
		if (*o)[i].Code == code {
			(*o)[i].Data = data
			return
		}
	}
	*o = append(*o, Option4{code, data})
}

// add appends data to the value of an option.
//
// RFC 2131 4.1: "The client concatenates the values of multiple instances of the same option into a
// single parameter list for configuration." RFC 3396 5 requires the same of all receivers of long
// options.
func (o *Options4) add(code OptionCode4, data []byte) {
	for i := range *o {
		if (*o)[i].Code == code {
			(*o)[i].Data = append((*o)[i].Data, data...)
			return
		}
	}
	*o = append(*o, Option4{code, slices.Clone(data)})
}

// ParseMessage4 parses a message. It keeps no reference to b. The result takes at most len(b) bytes
// plus a fixed size for each option. The error matches ErrMalformed.
func ParseMessage4(b []byte) (*Message4, error) {
	if len(b) < fixedLen4+cookieLen {
		return nil, malformed("%d bytes, shorter than the minimum of %d", len(b), fixedLen4+cookieLen)
	}
	if [cookieLen]byte(b[fixedLen4:]) != cookie {
		return nil, malformed("no DHCP magic cookie")
	}
	chaddr := int(b[2])
	if chaddr > maxCHAddr {
		return nil, malformed("a link address of %d bytes", chaddr)
	}
	m := &Message4{
		Op: b[0], HType: b[1], Hops: b[3],
		XID:    binary.BigEndian.Uint32(b[4:]),
		Secs:   binary.BigEndian.Uint16(b[8:]),
		Flags:  binary.BigEndian.Uint16(b[10:]),
		CIAddr: addrAt(b[12:]), YIAddr: addrAt(b[16:]), SIAddr: addrAt(b[20:]), GIAddr: addrAt(b[24:]),
		CHAddr: slices.Clone(b[28 : 28+chaddr]),
	}
	overload, err := m.parseOptions(b[fixedLen4+cookieLen:])
	if err != nil {
		return nil, err
	}
	// RFC 2131 4.1: "The options in the 'options' field MUST be interpreted first, so that any 'option overload'
	// options may be interpreted. The 'file' field MUST be interpreted next [...], followed by the 'sname' field."
	file, sname := b[fileAt:fixedLen4], b[snameAt:fileAt]
	if overload&overloadFile == 0 {
		m.File = text(file[:len(file)-1]) // the last byte is to be zero
	} else if _, err := m.parseOptions(file); err != nil {
		return nil, err
	}
	if overload&overloadSName == 0 {
		m.SName = text(sname[:len(sname)-1])
	} else if _, err := m.parseOptions(sname); err != nil {
		return nil, err
	}
	return m, nil
}

// The bits of the Option Overload option (RFC 2132 9.3).
const (
	overloadFile  = 1
	overloadSName = 2
)

// parseOptions adds the options in b, a field of the message, to m. It returns the value of the Option
// Overload option, or 0 if there is none. The field need not have the End option.
func (m *Message4) parseOptions(b []byte) (overload byte, err error) {
	for len(b) > 0 {
		code := OptionCode4(b[0])
		if code == optPad {
			b = b[1:]
			continue
		}
		if code == optEnd {
			break
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return 0, malformed("option %d is cut off", code)
		}
		data := b[2 : 2+int(b[1])]
		b = b[2+len(data):]
		if code != optOverload {
			m.Options.add(code, data)
		} else if len(data) == 1 {
			overload |= data[0]
		}
	}
	return overload, nil
}

// text returns the bytes before the first zero byte.
func text(b []byte) string {
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("dhcp: %w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// addrAt returns the address at the beginning of b. It is invalid for 0.0.0.0.
func addrAt(b []byte) netip.Addr {
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// putAddr writes an IPv4 address to b. It leaves b unchanged if the address is invalid or not IPv4.
func putAddr(b []byte, a netip.Addr) {
	if a = a.Unmap(); a.Is4() {
		four := a.As4()
		copy(b, four[:])
	}
}

// Append appends the message to b. The message takes at most size bytes; 0 means no limit. If an
// option does not fit in the options field, Append puts it into the file or sname field, provided
// that File or SName is empty (RFC 2131 4.1). It splits options of more than 255 bytes (RFC 3396). It
// pads the message to 300 bytes, as BOOTP requires. The error names the option that does not fit or
// the field that cannot be encoded.
func (m *Message4) Append(b []byte, size int) ([]byte, error) {
	if len(m.CHAddr) > maxCHAddr || len(m.SName) > fileAt-snameAt-1 || len(m.File) > fixedLen4-fileAt-1 {
		return b, fmt.Errorf("dhcp: CHAddr, SName or File is too long")
	}
	at := len(b)
	b = append(b, make([]byte, fixedLen4)...)
	b = append(b, cookie[:]...)
	h := b[at : at+fixedLen4] // valid until the next append to b, which may move it
	h[0], h[1], h[2], h[3] = m.Op, m.HType, byte(len(m.CHAddr)), m.Hops
	binary.BigEndian.PutUint32(h[4:], m.XID)
	binary.BigEndian.PutUint16(h[8:], m.Secs)
	binary.BigEndian.PutUint16(h[10:], m.Flags)
	putAddr(h[12:], m.CIAddr)
	putAddr(h[16:], m.YIAddr)
	putAddr(h[20:], m.SIAddr)
	putAddr(h[24:], m.GIAddr)
	copy(h[28:], m.CHAddr)
	copy(h[snameAt:], m.SName)
	copy(h[fileAt:], m.File)

	fields := m.fields(size)
	for _, o := range m.Options {
		if o.Code == optPad || o.Code == optEnd || o.Code == optOverload {
			return b[:at], fmt.Errorf("dhcp: option %d cannot be set", o.Code)
		}
		if !fields.put(o) {
			return b[:at], fmt.Errorf("dhcp: option %d of %d bytes does not fit in a message of %d bytes", o.Code, len(o.Data), size)
		}
	}
	// RFC 2131 4.1: "The options in the 'sname' and 'file' fields [...] MUST be terminated by an 'end'
	// option". m.fields has reserved a byte for it in each field.
	if n := copy(h[fileAt:], fields[1].b); n > 0 {
		h[fileAt+n] = byte(optEnd)
	}
	if n := copy(h[snameAt:], fields[2].b); n > 0 {
		h[snameAt+n] = byte(optEnd)
	}
	if o := fields.overload(); o != 0 {
		b = append(b, byte(optOverload), 1, o)
	}
	b = append(append(b, fields[0].b...), byte(optEnd))
	if size != 0 && len(b)-at > size {
		return b[:at], fmt.Errorf("dhcp: the message needs %d bytes, more than %d", len(b)-at, size)
	}
	for len(b)-at < minLen4 && (size == 0 || len(b)-at < size) {
		b = append(b, 0)
	}
	return b, nil
}

// A field4 is a field of a message that can hold options.
type field4 struct {
	b    []byte // the options in the field
	room int    // bytes left for further options
}

// fields4 are the fields that can hold options, in the order in which they are read: options, file,
// sname.
type fields4 [3]field4

// fields returns the fields for options in a message of at most size bytes; 0 means no limit.
func (m *Message4) fields(size int) (f fields4) {
	if size == 0 {
		f[0].room = int(^uint(0) >> 1)
		return f
	}
	f[0].room = max(0, size-fixedLen4-cookieLen-3-1) // reserve 3 bytes for Option Overload and 1 for End
	if m.File == "" {
		f[1].room = fixedLen4 - fileAt - 1
	}
	if m.SName == "" {
		f[2].room = fileAt - snameAt - 1
	}
	return f
}

// put puts an option into the first field in which it fits. An option of more than 255 bytes may
// span several fields. put reports whether the option fits.
func (f *fields4) put(o Option4) bool {
	const maxData = 255
	if len(o.Data) <= maxData {
		for i := range f {
			if len(o.Data)+2 <= f[i].room {
				f[i].put(o.Code, o.Data)
				return true
			}
		}
		return false
	}
	data := o.Data
	for i := range f {
		for len(data) > 0 && f[i].room > 2 {
			n := min(len(data), maxData, f[i].room-2)
			f[i].put(o.Code, data[:n])
			data = data[n:]
		}
	}
	return len(data) == 0
}

func (f *field4) put(code OptionCode4, data []byte) {
	f.b = append(append(f.b, byte(code), byte(len(data))), data...)
	f.room -= len(data) + 2
}

// overload returns the value of the Option Overload option, or 0 if the option is not needed.
func (f *fields4) overload() (o byte) {
	if len(f[1].b) > 0 {
		o |= overloadFile
	}
	if len(f[2].b) > 0 {
		o |= overloadSName
	}
	return o
}
