package inspect

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// segmentSnap is the number of bytes of a frame that its headers fit into.
const segmentSnap = 256

// segments returns the producer of the segments of a connection.
func (l *live) segments(p *params) (producer, error) {
	t, err := parseID(p.id)
	if err != nil {
		return producer{}, badRequest(err.Error())
	}
	if _, ok := l.host.Conn(t.local, t.remote); !ok {
		return producer{}, errNoConn
	}
	run := func(ctx context.Context, emit func(any)) {
		local, remote := t.local.Addr().Unmap().WithZone(""), t.remote.Addr().Unmap().WithZone("")
		w, err := l.host.Watch(stack.WatchConfig{
			Frames: true, SnapLen: segmentSnap, Buffer: watchBuffer,
			Filter: fmt.Sprintf("tcp and host %v and host %v and port %d and port %d", local, remote, t.local.Port(), t.remote.Port()),
		})
		if err != nil {
			return // the host is closed
		}
		defer w.Close()
		s := segmentReader{tuple: t}
		follow(ctx, w, func(e *stack.WatchEvent) {
			s.lost += e.Lost
			if !s.scaled {
				s.scale(l)
			}
			if item, ok := s.read(e); ok {
				emit(item)
			}
		})
	}
	return producer{key: "segments?" + p.id, topic: "segments", run: run}, nil
}

// A segmentReader makes the items of api/segments from the frames of a connection.
type segmentReader struct {
	tuple
	out, in segmentFlow
	lost    uint64
	scaled  bool // the shifts are known
}

// A segmentFlow is one direction of a connection.
type segmentFlow struct {
	based bool
	base  uint32 // the first sequence number that was seen
	high  uint32 // the end of what was sent; valid if sent is set
	sent  bool
	shift uint8 // of the windows
}

// relative returns a sequence number less the base, which the first call sets.
func (f *segmentFlow) relative(seq uint32) uint32 {
	if !f.based {
		f.based, f.base = true, seq
	}
	return seq - f.base
}

// scale sets the shifts of the windows from the details of the connection.
func (s *segmentReader) scale(l *live) {
	c, ok := l.host.Conn(s.local, s.remote)
	if !ok {
		return
	}
	if info, ok := c.Info(); ok && info.WScale {
		s.out.shift, s.in.shift, s.scaled = info.RcvWScale, info.SndWScale, true
	}
}

// read describes a frame, if it is a segment of the connection. On the loopback each segment is there twice, as sent and
// as received; the item is that of this end.
func (s *segmentReader) read(e *stack.WatchEvent) (item SegmentItem, ok bool) {
	h, n, fromLocal, ok := s.parse(e)
	if !ok || fromLocal != e.Outbound {
		return item, false
	}
	f, back := &s.in, &s.out
	item = SegmentItem{Time: e.Time, Dir: "in", Len: n, Flags: h.Flags.String()}
	if e.Outbound {
		f, back, item.Dir = &s.out, &s.in, "out"
	}
	item.Seq = f.relative(h.Seq)
	if h.Flags&wire.FlagACK != 0 {
		item.Ack = back.relative(h.Ack)
	}
	item.Win = int(h.Window)
	if h.Flags&wire.FlagSYN == 0 {
		item.Win <<= f.shift
	}
	for _, b := range h.SACK[:h.NSACK] {
		item.SACK = append(item.SACK, [2]uint32{back.relative(b.Start), back.relative(b.End)})
	}
	end := h.Seq + uint32(n)
	if h.Flags&(wire.FlagSYN|wire.FlagFIN) != 0 {
		end++
	}
	if end != h.Seq {
		item.Retransmission = f.sent && int32(h.Seq-f.high) < 0
		if !f.sent || int32(end-f.high) > 0 {
			f.sent, f.high = true, end
		}
	}
	item.Lost, s.lost = s.lost, 0
	return item, true
}

// parse returns the TCP header of a frame, the length of its payload and whether its source is the local end.
func (s *segmentReader) parse(e *stack.WatchEvent) (h wire.TCP, n int, fromLocal, ok bool) {
	b, tail := e.Data, e.Len-len(e.Data)
	if e.Ethernet {
		eth, payload, r := wire.ParseEthernet(b)
		for r == wire.OK && eth.Type == wire.EtherTypeVLAN {
			var tag wire.VLANTag
			tag, payload, r = wire.ParseVLANTag(payload)
			eth.Type = tag.Type
		}
		if r != wire.OK {
			return h, 0, false, false
		}
		b = payload
	}
	if len(b) == 0 {
		return h, 0, false, false
	}
	var src netip.Addr
	if b[0]>>4 == 4 {
		var ip wire.IPv4
		payload, r := ip.ParseHead(b, tail)
		if r != wire.OK || ip.IsFragment() || ip.Proto != wire.ProtoTCP {
			return h, 0, false, false
		}
		b, src = payload, ip.Src
	} else {
		var ip wire.IPv6
		payload, r := ip.ParseHead(b, tail)
		if r != wire.OK {
			return h, 0, false, false
		}
		c, r := wire.WalkIPv6(ip.Next, payload)
		if r != wire.OK || c.Fragmented || c.Proto != wire.ProtoTCP || c.Offset > len(payload) {
			return h, 0, false, false
		}
		b, src = payload[c.Offset:], ip.Src
	}
	data, r := h.Parse(b)
	if r != wire.OK {
		return h, 0, false, false
	}
	fromLocal = src == s.local.Addr().Unmap().WithZone("") && h.SrcPort == s.local.Port()
	return h, len(data) + tail, fromLocal, true
}
