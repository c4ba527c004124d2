package stack

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// kernelBind binds a socket of the kernel, and returns the socket and its port. If port is 0, the kernel
// chooses the port.
func kernelBind(t *testing.T, kind int, fam Family, a netip.Addr, port int) (fd, bound int, err error) {
	t.Helper()
	var sa syscall.Sockaddr = &syscall.SockaddrInet4{Port: port}
	domain := syscall.AF_INET
	if a.Is6() {
		domain = syscall.AF_INET6
		sa = &syscall.SockaddrInet6{Port: port, Addr: a.As16()}
	} else {
		sa.(*syscall.SockaddrInet4).Addr = a.As4()
	}
	fd, err = syscall.Socket(domain, kind|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	if domain == syscall.AF_INET6 {
		only := 0
		if fam == Family6 {
			only = 1
		}
		require.NoError(t, syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, only))
	}
	if err := syscall.Bind(fd, sa); err != nil {
		return fd, 0, err
	}
	if kind == syscall.SOCK_STREAM {
		if err := syscall.Listen(fd, 1); err != nil {
			return fd, 0, err
		}
	}
	got, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	switch got := got.(type) {
	case *syscall.SockaddrInet4:
		return fd, got.Port, nil
	case *syscall.SockaddrInet6:
		return fd, got.Port, nil
	}
	return fd, 0, fmt.Errorf("unexpected address %v", got)
}

// Two sockets of one port conflict if and only if they conflict in the kernel that runs the test.
func TestBoundConflictsAsTheKernelHasIt(t *testing.T) {
	type socket struct {
		fam  Family
		addr string
	}
	all := []socket{{Family4, "0.0.0.0"}, {Family4, "127.0.0.1"}, {Family4, "127.0.0.2"}}
	if fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_DGRAM, 0); err == nil {
		syscall.Close(fd)
		all = append(all, socket{Family6, "::"}, socket{FamilyAny, "::"}, socket{Family6, "::1"}, socket{FamilyAny, "::1"})
	}
	for _, kind := range []int{syscall.SOCK_DGRAM, syscall.SOCK_STREAM} {
		for _, x := range all {
			for _, y := range all {
				b, c := bind(x.fam, addr(x.addr), 0), bind(y.fam, addr(y.addr), 0)
				var err error
				// Try several ports: by chance, another process may use the port at the second address.
				for range 5 {
					var first, second, port int
					first, port, err = kernelBind(t, kind, x.fam, addr(x.addr), 0)
					if err == nil {
						second, _, err = kernelBind(t, kind, y.fam, addr(y.addr), port)
						syscall.Close(second)
					}
					syscall.Close(first)
					if err != syscall.EADDRINUSE || b.conflicts(&c) {
						break
					}
				}
				if err == syscall.EADDRNOTAVAIL {
					continue // the kernel's loopback has no ::1
				}
				require.Equal(t, err == syscall.EADDRINUSE, b.conflicts(&c), "%v %v beside %v: %v", kind, y, x, err)
				require.Equal(t, b.conflicts(&c), c.conflicts(&b), "%v %v", x, y)
			}
		}
	}
}
