package usernet

import (
	"syscall"
	"time"
)

// These methods set options that package net leaves to setsockopt. Where x/net/ipv4's Conn has such
// a method, the name and the arguments are the same.

// TOS returns the type of service of the packets that the connection sends.
func (c *TCPConn) TOS() (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return int(c.tcp.TOS()), nil
}

// SetTOS sets the type of service of the packets sent from now on. It returns EINVAL if tos is not in
// the range 0 to 255. The upper six bits are the Differentiated Services field (RFC 2474 3). The lower
// two are the ECN field (RFC 3168 5): TCP sets it itself and ignores these two bits of tos.
func (c *TCPConn) SetTOS(tos int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if tos < 0 || tos > 255 {
		return c.option(syscall.EINVAL)
	}
	return c.option(c.tcp.SetTOS(uint8(tos)))
}

// TTL returns the time to live of the packets that the connection sends.
func (c *TCPConn) TTL() (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return int(c.tcp.TTL()), nil
}

// SetTTL sets the time to live of the packets sent from now on. It returns EINVAL if ttl is not in the
// range 1 to 255. The initial value is 64.
func (c *TCPConn) SetTTL(ttl int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if ttl < 1 || ttl > 255 {
		return c.option(syscall.EINVAL)
	}
	return c.option(c.tcp.SetTTL(uint8(ttl)))
}

// SetUserTimeout sets how long data may stay unacknowledged before the connection fails with
// ETIMEDOUT. It is Linux's TCP_USER_TIMEOUT, and R2 in RFC 9293 3.8.3. If d is zero, the default,
// the connection fails after 15 retransmissions without an answer, which takes 15 minutes or more.
// A negative d gives EINVAL.
func (c *TCPConn) SetUserTimeout(d time.Duration) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if d < 0 {
		return c.option(syscall.EINVAL)
	}
	return c.option(c.tcp.SetUserTimeout(d))
}
