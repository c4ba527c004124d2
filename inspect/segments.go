package inspect

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/usernet/usernet"
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
				s.scale(l.host)
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
func (s *segmentReader) scale(h *usernet.Host) {
	c, ok := h.Conn(s.local, s.remote)
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
	p, ok := parseSegment(e)
	if !ok || p.tuple != (tuple{unzoned(s.local), unzoned(s.remote)}) {
		return item, false
	}
	return s.item(e, &p), true
}

// unzoned returns an address as it is in a packet.
func unzoned(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// item describes a segment of the connection.
func (s *segmentReader) item(e *stack.WatchEvent, p *segment) SegmentItem {
	h, n := &p.header, p.length
	f, back := &s.in, &s.out
	item := SegmentItem{Time: e.Time, Dir: "in", Len: n, Flags: h.Flags.String()}
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
	return item
}

// A segment is a TCP segment in a frame.
type segment struct {
	tuple  // as this host sees it
	header wire.TCP
	length int // bytes of the payload
}

// parseSegment returns the segment in a frame. It reports false if there is none.
func parseSegment(e *stack.WatchEvent) (p segment, ok bool) {
	b, tail := e.Data, e.Len-len(e.Data)
	if e.Ethernet {
		eth, payload, r := wire.ParseEthernet(b)
		for r == wire.OK && eth.Type == wire.EtherTypeVLAN {
			var tag wire.VLANTag
			tag, payload, r = wire.ParseVLANTag(payload)
			eth.Type = tag.Type
		}
		if r != wire.OK || eth.Type != wire.EtherTypeIPv4 && eth.Type != wire.EtherTypeIPv6 {
			return p, false
		}
		b = payload
	}
	if len(b) == 0 {
		return p, false
	}
	var src, dst netip.Addr
	if b[0]>>4 == 4 {
		var ip wire.IPv4
		payload, r := ip.ParseHead(b, tail)
		if r != wire.OK || ip.IsFragment() || ip.Proto != wire.ProtoTCP {
			return p, false
		}
		b, src, dst = payload, ip.Src, ip.Dst
	} else {
		var ip wire.IPv6
		payload, r := ip.ParseHead(b, tail)
		if r != wire.OK {
			return p, false
		}
		c, r := wire.WalkIPv6(ip.Next, payload)
		if r != wire.OK || c.Fragmented || c.Proto != wire.ProtoTCP || c.Offset > len(payload) {
			return p, false
		}
		b, src, dst = payload[c.Offset:], ip.Src, ip.Dst
	}
	data, r := p.header.Parse(b)
	if r != wire.OK {
		return p, false
	}
	p.local, p.remote = netip.AddrPortFrom(src, p.header.SrcPort), netip.AddrPortFrom(dst, p.header.DstPort)
	if !e.Outbound {
		p.local, p.remote = p.remote, p.local
	}
	p.length = len(data) + tail
	return p, true
}
