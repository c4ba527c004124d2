package inspect

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

const (
	lastFrames  = 8       // dropped frames that are kept of each reason
	dropSnap    = 2 << 10 // bytes that are decoded of a dropped frame
	hexBytes    = 256     // bytes of a dropped frame in hexadecimal
	watchBuffer = 256 << 10
	dropEvents  = 1000                  // drops that a sample reads: more than watchBuffer holds
	burst       = 200                   // events of a stream after which it rests
	rest        = 50 * time.Millisecond // 200 events in 50 ms are the most that a stream has
)

// A dropWatch keeps the last dropped frames of each reason while there is a client.
type dropWatch struct {
	mu      sync.Mutex
	users   int
	watcher *stack.Watcher // nil if there is no user, or the host is closed
	last    map[stack.DropReason][]DroppedFrame
	lost    uint64
}

// begin starts the watch for its first user.
func (d *dropWatch) begin(h *usernet.Host) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users++; d.users > 1 {
		return
	}
	w, err := h.Watch(stack.WatchConfig{Drops: true, SnapLen: dropSnap, Buffer: watchBuffer})
	if err != nil {
		return // the host is closed
	}
	d.watcher, d.last, d.lost = w, make(map[stack.DropReason][]DroppedFrame), 0
}

// end ends the watch after its last user.
func (d *dropWatch) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.users == 0 && d.watcher != nil {
		d.watcher.Close()
		d.watcher, d.last = nil, nil
	}
}

// add adds the last frames to a description.
func (d *dropWatch) add(to *Drops) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watcher == nil {
		return
	}
	// Only the last frames of each reason are decoded: a flood costs no more than a copy of its frames.
	fresh := make(map[stack.DropReason][]stack.WatchEvent)
	n := 0
	for e := range waiting(d.watcher) {
		d.lost += e.Lost
		fresh[e.Reason] = append(last(fresh[e.Reason], lastFrames-1), e)
		if n++; n >= dropEvents {
			break
		}
	}
	keepDropped(d.last, fresh)
	to.Lost = d.lost
	for i := range to.Reasons {
		r := &to.Reasons[i]
		r.Last = append(r.Last, d.last[stack.DropReason(r.Reason)]...)
	}
}

// keepDropped decodes drops and adds them to the last ones of each reason.
func keepDropped(to map[stack.DropReason][]DroppedFrame, fresh map[stack.DropReason][]stack.WatchEvent) {
	for r, events := range fresh {
		all := to[r]
		for i := range events {
			all = append(all, droppedFrame(&events[i]))
		}
		to[r] = last(all, lastFrames)
	}
}

// last returns the last n items of a list, or all of them if there are fewer. What it leaves out is not kept in memory.
func last[T any](all []T, n int) []T {
	return slices.Delete(all, 0, max(len(all)-n, 0))
}

// waiting returns an iterator over the events that a Watcher has now. It does not wait for more.
func waiting(w *stack.Watcher) func(yield func(stack.WatchEvent) bool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return w.Events(ctx)
}

// droppedFrame describes a dropped frame.
func droppedFrame(e *stack.WatchEvent) DroppedFrame {
	f := DroppedFrame{Time: e.Time, NIC: e.NIC, Dir: "in", Len: e.Len}
	if e.Outbound {
		f.Dir = "out"
	}
	if e.Data == nil {
		f.Summary = "no bytes are known"
		if e.Local.IsValid() && e.Remote.IsValid() {
			f.Summary = "from " + e.Remote.String() + " to " + e.Local.String()
			if e.Outbound {
				f.Summary = "from " + e.Local.String() + " to " + e.Remote.String()
			}
		}
		return f
	}
	f.Summary = string(wire.AppendFrame(nil, e.Data, e.Ethernet))
	f.Decoded = string(wire.AppendFields(nil, e.Data, e.Ethernet))
	f.Hex = hex.EncodeToString(e.Data[:min(len(e.Data), hexBytes)])
	return f
}

// drops describes the dropped packets.
func (l *live) drops() *Drops {
	d := &Drops{Time: time.Now(), Reasons: dropCounts(l.host)}
	l.dropped.add(d)
	return d
}

// runDrops wraps the producer of the topic drops: the last frames are kept while it runs.
func (l *live) runDrops(run func(ctx context.Context, emit func(any))) func(ctx context.Context, emit func(any)) {
	return func(ctx context.Context, emit func(any)) {
		l.dropped.begin(l.host)
		defer l.dropped.end()
		run(ctx, emit)
	}
}

// runDropped emits each dropped packet.
func (l *live) runDropped(ctx context.Context, emit func(any)) {
	w, err := l.host.Watch(stack.WatchConfig{Drops: true, SnapLen: dropSnap, Buffer: watchBuffer})
	if err != nil {
		return // the host is closed
	}
	defer w.Close()
	follow(ctx, w, func(e *stack.WatchEvent) {
		emit(Dropped{Reason: string(e.Reason), Rule: e.Reason.Rule(), Lost: e.Lost, DroppedFrame: droppedFrame(e)})
	})
}

// follow calls f for the events of a Watcher until ctx ends, at a bounded rate. The Watcher loses what comes faster.
func follow(ctx context.Context, w *stack.Watcher, f func(e *stack.WatchEvent)) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	n := 0
	for e := range w.Events(ctx) {
		f(&e)
		if n++; n%burst != 0 {
			continue
		}
		timer.Reset(rest)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// watchError returns the error of a request whose Watch has failed.
func watchError(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return errClosed
	}
	return badRequest(err.Error())
}
