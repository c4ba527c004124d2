package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// framePatience is how long carryFrames waits for one frame.
const framePatience = time.Second

// The MAC addresses of carryFrames. They are locally administered.
var frameMACs = [2][]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}

// carryFrames writes frames of t.Size bytes to one TAP and reads each from another TAP, for t.Time after a warm-up. Both
// TAPs are ports of the bridge. If t.Stack is usernVLAN, the frames have VLAN tags, and are 4 bytes longer. carryFrames
// uses none of usernet's drivers, so it measures what a frame costs the kernel.
func carryFrames(t *task) (report, error) {
	var taps [2]int
	for i, name := range []string{"raw-near", "raw-far"} {
		fd, err := openRaw(name, unix.IFF_TAP)
		if err != nil {
			return report{}, err
		}
		defer unix.Close(fd)
		if err := ip("link", "set", name, "master", bridgeName, "up"); err != nil {
			return report{}, err
		}
		taps[i] = fd
	}
	c := carrier{in: taps[0], out: taps[1], frame: newFrame(0, t), buf: make([]byte, 2048)}
	// A frame in each direction makes the bridge learn both addresses. A port that has just come up may lose frames.
	back := carrier{in: taps[1], out: taps[0], frame: newFrame(1, t), buf: c.buf}
	for begin := time.Now(); ; {
		arrived, err := c.carry()
		if err == nil && arrived {
			arrived, err = back.carry()
		}
		if err != nil {
			return report{}, err
		}
		if arrived {
			break
		}
		if time.Since(begin) > 10*framePatience {
			return report{}, errors.New("the bridge carries no frames")
		}
	}
	cpu := ownCPU()
	warm, err := c.carryFor(t.Time / 10)
	if err != nil {
		return report{}, err
	}
	begin := time.Now()
	n, err := c.carryFor(t.Time)
	took := time.Since(begin)
	return report{Count: float64(n), Time: took, Total: float64(warm + n), CPU: ownCPU() - cpu, Lost: c.lost}, err
}

// openRaw makes a TAP or a TUN, as mode says, without headers before the frames. Its reads and writes do not block. A blocking
// write would cost the kernel more on a TAP: it then allocates frames as it does for a TUN.
func openRaw(name string, mode uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(mode | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("device %s: %w", name, err)
	}
	return fd, nil
}

// writePackets writes frames of t.Size bytes to a TAP or, without their Ethernet headers, to a TUN, for t.Time after a
// warm-up. They are for a UDP socket of the kernel that nobody reads, so the kernel drops them as soon as the socket is
// full. writePackets uses none of usernet's drivers, so it measures what a frame from a device costs the kernel.
func writePackets(t *task) (report, error) {
	const name, addr = "raw", "198.18.0.2"
	mode, packet := uint16(unix.IFF_TAP), newFrame(0, t)
	if t.Stack == usernTUN {
		mode, packet = unix.IFF_TUN, packet[14:]
	}
	fd, err := openRaw(name, mode)
	if err != nil {
		return report{}, err
	}
	defer unix.Close(fd)
	if mode == unix.IFF_TAP {
		if err := ip("link", "set", name, "address", net.HardwareAddr(frameMACs[1]).String()); err != nil {
			return report{}, err
		}
	}
	if err := ip("addr", "add", addr+"/24", "dev", name); err != nil {
		return report{}, err
	}
	if err := ip("link", "set", name, "up"); err != nil {
		return report{}, err
	}
	sock, err := net.ListenPacket("udp4", addr+":9")
	if err != nil {
		return report{}, err
	}
	defer sock.Close()
	if _, err := unix.Write(fd, packet); err != nil {
		return report{}, fmt.Errorf("write of a frame: %w", err)
	}
	sock.SetReadDeadline(time.Now().Add(framePatience))
	if _, _, err := sock.ReadFrom(make([]byte, 2048)); err != nil {
		return report{}, fmt.Errorf("the first frame: %w", err)
	}
	write := func(d time.Duration) (n int, err error) {
		const batch = 64 // between looks at the clock
		for begin := time.Now(); time.Since(begin) < d; n += batch {
			for range batch {
				if _, err := unix.Write(fd, packet); err != nil {
					return n, fmt.Errorf("write of a frame: %w", err)
				}
			}
		}
		return n, nil
	}
	cpu := ownCPU()
	warm, err := write(t.Time / 10)
	if err != nil {
		return report{}, err
	}
	begin := time.Now()
	n, err := write(t.Time)
	return report{Count: float64(n), Time: time.Since(begin), Total: float64(warm + n), CPU: ownCPU() - cpu}, err
}

// newFrame returns a frame with a UDP datagram from frameMACs[from] to the other address. Both ports are 9 (discard). The
// frame has t.Size bytes and, if t.vlan() is not 0, a VLAN tag of 4 more bytes.
func newFrame(from int, t *task) []byte {
	frame := append(bytes.Clone(frameMACs[1-from]), frameMACs[from]...)
	if id := t.vlan(); id != 0 {
		frame = binary.BigEndian.AppendUint16(frame, 0x8100) // 802.1Q
		frame = binary.BigEndian.AppendUint16(frame, uint16(id))
	}
	frame = binary.BigEndian.AppendUint16(frame, 0x0800) // IPv4
	length := t.Size - 14
	header := []byte{0x45, 0, byte(length >> 8), byte(length), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2}
	if from == 1 {
		header[15], header[19] = 2, 1
	}
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum+sum>>16))
	frame = append(frame, header...)
	frame = append(frame, 0, 9, 0, 9, byte((length-20)>>8), byte(length-20), 0, 0) // the checksum 0 means none
	return append(frame, make([]byte, length-28)...)
}

// A carrier writes a frame to the TAP in and reads it from the TAP out.
type carrier struct {
	in, out int // file descriptors
	frame   []byte
	buf     []byte
	lost    int
}

// carryFor carries frames for a time and returns their number.
func (c *carrier) carryFor(d time.Duration) (n int, err error) {
	const batch = 64 // between looks at the clock
	for begin := time.Now(); time.Since(begin) < d; {
		for range batch {
			arrived, err := c.carry()
			if err != nil {
				return n, err
			}
			if arrived {
				n++
			} else {
				c.lost++
			}
		}
	}
	return n, nil
}

// carry writes one frame and waits for it. It reports false if the frame does not arrive within framePatience. It ignores
// other frames.
func (c *carrier) carry() (arrived bool, err error) {
	if _, err := unix.Write(c.in, c.frame); err != nil {
		return false, fmt.Errorf("write of a frame: %w", err)
	}
	for {
		n, err := unix.Read(c.out, c.buf)
		switch err {
		case nil:
			if bytes.Equal(c.buf[:n], c.frame) {
				return true, nil
			}
		case unix.EINTR:
		case unix.EAGAIN:
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(c.out), Events: unix.POLLIN}}, int(framePatience/time.Millisecond))
			if err != nil && err != unix.EINTR {
				return false, fmt.Errorf("poll of a TAP: %w", err)
			}
			if err == nil && ready == 0 {
				return false, nil
			}
		default:
			return false, fmt.Errorf("read of a frame: %w", err)
		}
	}
}
