// Lneto is the smallest program that dials with package net and with lneto.
package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/soypat/lneto/x/xnet"
	"golang.org/x/sys/unix"
)

func main() {
	_, err := net.Dial("tcp", "127.0.0.1:1")
	var s xnet.StackAsync
	err2 := s.Reset(xnet.StackConfig{
		StaticAddress: netip.MustParseAddr("192.0.2.1"), RandSeed: 1, Hostname: "hello", MTU: 1500, MaxActiveTCPPorts: 1,
	})
	if err2 != nil {
		fmt.Println(err2)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	host := s.StackGo(nil, xnet.StackGoConfig{ListenerPoolConfig: xnet.TCPPoolConfig{QueueSize: 4, TxBufSize: 2048, RxBufSize: 2048}})
	to := netip.MustParseAddrPort("192.0.2.2:1")
	_, err2 = host.SocketNetip(ctx, "tcp4", unix.AF_INET, unix.SOCK_STREAM, netip.AddrPort{}, to)
	fmt.Println("hello", err, err2)
}
