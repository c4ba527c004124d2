package ppp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// This file is the discovery of a PPPoE client (RFC 2516 5).

const (
	minPADI  = 2 * time.Second  // time until the first PADI or PADR is repeated; it doubles each time
	maxPADI  = 32 * time.Second // the longest such time
	maxPADRs = 4                // PADRs that are sent before the discovery begins again

	reservedSession = 0xffff // RFC 2516 4: "reserved for future use and MUST NOT be used"
)

// A stage of discovery.
type stage uint8

const (
	stageIdle      stage = iota // before start, and after stop
	stageDiscovery              // a PADI was sent
	stageRequest                // a PADR was sent
	stageSession                // there is a session
	stageWait                   // waiting before the next PADI
)

// pppoeClient is the discovery of a client. It has no clock and does no I/O.
type pppoeClient struct {
	mac     [6]byte
	service string // wanted; empty: any
	acName  string // wanted; empty: any
	payload int    // the MTU that is wanted, if it is above 1492; otherwise 0
	rand    func([]byte)

	stage    stage
	deadline time.Time
	interval time.Duration
	tries    int
	uniq     [8]byte
	ac       [6]byte
	acTags   []tag // to repeat in the PADR
	session  uint16
	mtu      int // of the session
	err      error
	out      [][]byte
}

func (c *pppoeClient) send(code byte, dst [6]byte, session uint16, tags ...tag) {
	d := discovery{dst: dst, src: c.mac, code: code, session: session, tags: tags}
	c.out = append(c.out, d.append(nil))
}

// start begins the discovery.
func (c *pppoeClient) start(now time.Time) {
	c.interval = minPADI
	c.initiate(now)
}

// initiate sends a PADI.
//
// RFC 2516 8: "When a host does not receive a PADO packet within a specified amount of time, it SHOULD
// resend it's PADI packet and double the waiting period."
func (c *pppoeClient) initiate(now time.Time) {
	c.stage = stageDiscovery
	c.rand(c.uniq[:])
	c.send(codePADI, broadcastMAC, 0, c.wanted()...)
	c.deadline = now.Add(c.interval)
	c.interval = min(2*c.interval, maxPADI)
}

// wanted returns the tags of a PADI.
func (c *pppoeClient) wanted() []tag {
	tags := []tag{{tagServiceName, []byte(c.service)}, {tagHostUniq, bytes.Clone(c.uniq[:])}}
	if c.payload > 0 {
		tags = append(tags, tag{tagMaxPayload, binary.BigEndian.AppendUint16(nil, uint16(c.payload))})
	}
	return tags
}

// request sends a PADR.
func (c *pppoeClient) request(now time.Time) {
	c.stage = stageRequest
	c.tries++
	c.deadline = now.Add(minPADI << min(c.tries-1, 4))
	c.send(codePADR, c.ac, 0, append(c.wanted(), c.acTags...)...)
}

// wait forgets the session because of err. It sends nothing. The discovery begins again when the time after has passed.
func (c *pppoeClient) wait(now time.Time, after time.Duration, err error) {
	c.stage, c.err, c.session = stageWait, err, 0
	c.deadline = now.Add(after)
}

// stop ends the discovery, and the session if there is one.
func (c *pppoeClient) stop() {
	c.terminate()
	c.stage, c.deadline = stageIdle, time.Time{}
}

// terminate sends a PADT if there is a session.
func (c *pppoeClient) terminate() {
	if c.stage == stageSession {
		c.send(codePADT, c.ac, c.session)
		c.session = 0
	}
}

// receive handles a discovery packet.
func (c *pppoeClient) receive(now time.Time, d *discovery) {
	if d.src[0]&1 != 0 || d.dst != c.mac {
		return
	}
	uniq, _ := d.find(tagHostUniq)
	mine := bytes.Equal(uniq, c.uniq[:])
	switch {
	case d.code == codePADO && c.stage == stageDiscovery && mine && d.session == 0:
		c.offer(now, d)
	case d.code == codePADS && c.stage == stageRequest && mine && d.src == c.ac:
		c.confirm(now, d)
	case d.code == codePADT && c.stage == stageSession && d.src == c.ac && d.session == c.session:
		err := errors.New("the access concentrator has ended the session")
		if e := tagError(d); e != nil {
			err = fmt.Errorf("%w: %w", err, e)
		}
		c.interval = minPADI
		c.wait(now, minHoldoff, err)
	}
}

// offer handles a PADO.
func (c *pppoeClient) offer(now time.Time, d *discovery) {
	if err := tagError(d); err != nil {
		c.err = err // another access concentrator may still offer the service
		return
	}
	name, ok := d.find(tagACName)
	if !ok || c.acName != "" && string(name) != c.acName {
		return
	}
	served := false
	for _, t := range d.tags {
		served = served || t.kind == tagServiceName && (c.service == "" || string(t.value) == c.service)
	}
	if !served {
		c.err = fmt.Errorf("the access concentrator %q does not offer the service %q", clip(name), c.service)
		return
	}
	c.ac, c.acTags, c.tries = d.src, nil, 0
	for _, t := range d.tags {
		// RFC 2516 A, of both tags: a host that receives one "MUST return the TAG unmodified".
		if (t.kind == tagACCookie || t.kind == tagRelaySessionID) && len(t.value) <= 1024 && len(c.acTags) < 2 {
			c.acTags = append(c.acTags, tag{t.kind, bytes.Clone(t.value)})
		}
	}
	c.request(now)
}

// confirm handles a PADS.
func (c *pppoeClient) confirm(now time.Time, d *discovery) {
	// RFC 2516 5.4: a PADS that rejects the service has a Service-Name-Error tag and "the SESSION_ID MUST be
	// set to 0x0000".
	err := tagError(d)
	if err == nil && (d.session == 0 || d.session == reservedSession) {
		err = errors.New("the access concentrator gives no session")
	}
	if err != nil {
		c.wait(now, c.interval, err)
		c.interval = min(2*c.interval, maxPADI)
		return
	}
	c.mtu = pppoeMTU
	if v, ok := d.find(tagMaxPayload); ok && len(v) == 2 && c.payload > 0 {
		// RFC 4638 4: the tag in the PADS is the largest payload that both support.
		c.mtu = max(pppoeMTU, min(c.payload, int(binary.BigEndian.Uint16(v))))
	}
	c.stage, c.session, c.deadline, c.err = stageSession, d.session, time.Time{}, nil
}

// tick sends the next PADI or PADR if its time has come.
func (c *pppoeClient) tick(now time.Time) {
	if c.deadline.IsZero() || now.Before(c.deadline) {
		return
	}
	c.deadline = time.Time{}
	switch c.stage {
	case stageDiscovery:
		if c.err == nil {
			c.err = errors.New("no access concentrator answers")
		}
		c.initiate(now)
	case stageWait:
		c.initiate(now)
	case stageRequest:
		if c.tries < maxPADRs {
			c.request(now)
			return
		}
		// RFC 2516 8: "After a specified number of retries, the Host SHOULD then resend a PADI packet."
		c.err = errors.New("the access concentrator does not confirm the session")
		c.interval = minPADI
		c.initiate(now)
	}
}

// tagError returns the error that an error tag of a packet reports, or nil if there is no such tag.
func tagError(d *discovery) error {
	for _, e := range []struct {
		kind uint16
		text string
	}{
		{tagServiceNameError, "the access concentrator does not offer the service"},
		{tagACSystemError, "the access concentrator cannot serve us"},
		{tagGenericError, "the access concentrator reports an error"},
	} {
		v, ok := d.find(e.kind)
		switch {
		case ok && len(v) > 0:
			return fmt.Errorf("%s: %q", e.text, clip(v))
		case ok:
			return errors.New(e.text)
		}
	}
	return nil
}
