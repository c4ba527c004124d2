package main

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/usernet/usernet"
)

// lower returns a name in lower case. Names are compared without regard to case (RFC 4343).
func lower(name string) string { return strings.ToLower(name) }

// ntpEpoch is the second 0 of NTP's timestamps (RFC 5905 6).
var ntpEpoch = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)

// toNTP converts a time to a timestamp: 32 bits of seconds and 32 bits of fraction.
//
//guide:begin stamp
func toNTP(t time.Time) uint64 {
	d := t.Sub(ntpEpoch)
	return uint64(d/time.Second)<<32 | uint64(d%time.Second)<<32/uint64(time.Second)
}

// fromNTP converts a timestamp to a time, rounded to a microsecond. It is right until 2036, when the seconds wrap.
func fromNTP(s uint64) time.Time {
	fraction := time.Duration(s & 0xffffffff * uint64(time.Second) >> 32)
	return ntpEpoch.Add(time.Duration(s>>32)*time.Second + fraction).Round(time.Microsecond)
}

//guide:end

// askTime asks an SNTP server for the time. The offset is what must be added to this host's clock.
//
//guide:begin client
func askTime(h *usernet.Host, server string) (offset, roundTrip time.Duration, err error) {
	c, err := h.Dial("udp", server)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	request := make([]byte, 48)
	request[0] = 4<<3 | 3 // version 4, mode 3: client
	t1 := time.Now()
	binary.BigEndian.PutUint64(request[40:], toNTP(t1))
	if _, err := c.Write(request); err != nil {
		return 0, 0, err
	}
	c.SetReadDeadline(t1.Add(5 * time.Second))
	reply := make([]byte, 100)
	n, err := c.Read(reply)
	t4 := time.Now()
	switch {
	case err != nil:
		return 0, 0, err
	case n < 48 || reply[0]&7 != 4 || reply[1] == 0 || reply[1] > 15:
		return 0, 0, errors.New("sntp: not the answer of a server with a clock")
	case binary.BigEndian.Uint64(reply[24:]) != binary.BigEndian.Uint64(request[40:]):
		return 0, 0, errors.New("sntp: not the answer to this request")
	}
	t2 := fromNTP(binary.BigEndian.Uint64(reply[32:])) // when the server received the request
	t3 := fromNTP(binary.BigEndian.Uint64(reply[40:])) // when it sent the reply
	return (t2.Sub(t1) + t3.Sub(t4)) / 2, t4.Sub(t1) - t3.Sub(t2), nil
}

//guide:end

// serveTime is an SNTP server whose clock is ahead of the host's.
func serveTime(pc net.PacketConn, ahead time.Duration) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if n < 48 || buf[0]&7 != 3 {
			continue
		}
		reply := make([]byte, 48)
		reply[0] = buf[0]&^7 | 4 // the version of the request, mode 4: server
		reply[1] = 1             // stratum 1: a clock of its own
		copy(reply[24:32], buf[40:48])
		now := toNTP(time.Now().Add(ahead))
		binary.BigEndian.PutUint64(reply[32:], now)
		binary.BigEndian.PutUint64(reply[40:], now)
		pc.WriteTo(reply, from)
	}
}
