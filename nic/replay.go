package nic

import (
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/usernet/usernet/nic/pcap"
)

// ReplayConfig configures OpenReplay.
type ReplayConfig struct {
	// Speed is the factor by which the frames come faster than they were captured: 2 halves the time
	// between them. 0 stands for 1. It must not be negative.
	Speed float64
	// AtOnce makes the frames come without delays. The device then ignores Speed.
	AtOnce bool
	// InboundOnly omits the frames that were sent by the machine that captured them. A host on the device
	// then receives what that machine received.
	InboundOnly bool

	Name string  // name in messages; empty stands for "replay"
	MAC  [6]byte // address of this end; zero stands for a random one
	MTU  int     // in bytes, at most 65535; 0 stands for 65535, because captures may have super-frames
}

// Replay is a device that receives the frames of a capture. Sent frames are counted and discarded.
//
// The first frame arrives when the device is attached. The time from the first frame to a later frame is the time
// between the two in the capture, divided by Speed. At the end of the capture the device fails with an error that
// wraps io.EOF: Err returns the error, and the device passes it to the function of NotifyDown. If the capture is
// malformed, the device fails with another error.
//
// The device does not pass on frames that the capture has truncated, frames whose medium differs from that of
// the first frame, and frames that are too long for the MTU. They are counted in Stats().RecvDropped.
type Replay struct{ rxLoop }

var _ Device = (*Replay)(nil)

// OpenReplay reads the beginning of a capture in the pcap or pcapng format. The link type of the first packet
// decides whether the medium of the device is Ethernet or IP. Without a packet, the medium is Ethernet. Close closes r
// if it is an io.Closer.
func OpenReplay(r io.Reader, cfg ReplayConfig) (*Replay, error) {
	d, err := openReplay(r, cfg)
	if err != nil {
		return nil, fmt.Errorf("nic: open replay: %w", err)
	}
	return d, nil
}

func openReplay(r io.Reader, cfg ReplayConfig) (*Replay, error) {
	if cfg.Speed < 0 || math.IsNaN(cfg.Speed) {
		return nil, fmt.Errorf("bad speed %v: it is negative", cfg.Speed)
	}
	if cfg.MTU == 0 {
		cfg.MTU = maxPacket
	}
	if err := checkMTU(cfg.MTU); err != nil {
		return nil, err
	}
	file, err := pcap.NewReader(r)
	if err != nil {
		return nil, err
	}
	s := &replaySource{file: file, from: r, cfg: cfg, done: make(chan struct{})}
	if s.first, err = file.Next(); err != nil && err != io.EOF {
		return nil, err
	}
	s.end = err
	link := Link{Name: cfg.Name, MAC: cfg.MAC, MTU: cfg.MTU, Up: true}
	switch l := s.first.Link; {
	case l.IsIP():
		link.Medium = IP
	case l != pcap.LinkEthernet && err == nil:
		return nil, fmt.Errorf("the packets have %v, which is neither Ethernet nor IP", l)
	}
	link = link.withDefaults("replay")
	s.link = link
	d := &Replay{rxLoop{src: s}}
	d.setLink(link)
	return d, nil
}

// Nonblocking returns the device: its Send does not block.
func (d *Replay) Nonblocking() Device { return d }

// Send counts the frames and discards them.
func (d *Replay) Send(batch []Frame) (n int, err error) {
	if err := d.sendError(); err != nil {
		return 0, err
	}
	link := d.current()
	link.each(batch, d.countRun, func() { d.sendDropped.Add(1) })
	return len(batch), nil
}

func (d *Replay) countRun(run []Frame, bytes int) { d.countSent(len(run), bytes) }

// A replaySource is the source of a Replay.
type replaySource struct {
	file  *pcap.Reader
	from  io.Reader // what file reads
	cfg   ReplayConfig
	link  Link
	once  sync.Once     // for Close
	done  chan struct{} // closed by Close
	first pcap.Packet   // the first packet, which openReplay has read
	end   error         // the error of reading the first packet
	began bool          // next has returned first and end

	start    time.Time // when the first frame that has a time was passed on
	captured time.Time // when the first frame that has a time was captured
	batch    [1]Frame
}

// Close ends the replay.
func (s *replaySource) Close() error {
	var err error
	s.once.Do(func() {
		close(s.done)
		if c, ok := s.from.(io.Closer); ok {
			err = c.Close()
		}
	})
	return err
}

// next returns the next packet.
func (s *replaySource) next() (pcap.Packet, error) {
	if !s.began {
		s.began = true
		return s.first, s.end
	}
	return s.file.Next()
}

// read waits until the next frame is due, and returns it. For a frame that InboundOnly omits, and for a frame that it
// drops, read returns no frame and does not wait.
func (s *replaySource) read() (frames []Frame, dropped int, err error) {
	pkt, err := s.next()
	if err != nil {
		return nil, 0, err
	}
	if s.cfg.InboundOnly && pkt.Direction == pcap.Outbound {
		return nil, 0, nil
	}
	s.batch[0] = Frame{Head: pkt.Data}
	if len(pkt.Data) < pkt.Len || pkt.Link.IsIP() != (s.link.Medium == IP) ||
		!pkt.Link.IsIP() && pkt.Link != pcap.LinkEthernet || !s.link.carries(&s.batch[0]) {
		return nil, 1, nil
	}
	if !s.wait(pkt.Time) {
		return nil, 0, io.EOF // after Close
	}
	return s.batch[:], 0, nil
}

// wait waits until a frame that was captured at t is due. It returns false if the device was closed.
func (s *replaySource) wait(t time.Time) bool {
	var delay time.Duration
	switch {
	case s.captured.IsZero(): // no earlier frame had a time
		s.start, s.captured = time.Now(), t
	case !s.cfg.AtOnce && !t.IsZero():
		delay = time.Until(s.start.Add(s.scale(t.Sub(s.captured))))
	}
	if delay <= 0 {
		select {
		case <-s.done:
			return false
		default:
			return true
		}
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-s.done:
		return false
	case <-timer.C:
		return true
	}
}

// maxReplayGap bounds the time from the first frame of a replay to a later frame, because a hostile capture may have
// any times.
const maxReplayGap = 365 * 24 * time.Hour

// scale converts a time since the first frame of the capture to a time since the first frame of the replay, from 0 to
// maxReplayGap.
func (s *replaySource) scale(d time.Duration) time.Duration {
	speed := s.cfg.Speed
	if speed == 0 {
		speed = 1
	}
	return time.Duration(min(max(float64(d)/speed, 0), float64(maxReplayGap)))
}
