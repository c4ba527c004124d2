package main

import (
	"context"
	"crypto/ecdh"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/usernet/usernet/wireguard"
)

// The addresses of the two sides inside the tunnel.
var wgAddrs = [2]string{"192.0.2.1", "192.0.2.2"}

const (
	wgPort = 51820 // of both sides
	wgMTU  = 1420
)

// wireGuardOnVeth makes one end of a tunnel between the two namespaces of a veth pair.
func wireGuardOnVeth(t *task) (*network, error) {
	peer := nearAddr
	if t.Near {
		peer = farAddr
	}
	return wireGuard(t, conn.NewDefaultBind(), fmt.Sprintf("%s:%d", peer, wgPort))
}

// wireGuard makes one end of a tunnel. The encrypted packets travel over bind to the endpoint.
func wireGuard(t *task, bind conn.Bind, endpoint string) (*network, error) {
	own, peer := 1, 0
	if t.Near {
		own, peer = 0, 1
	}
	dev, n, err := insideOfTunnel(t, wgAddrs[own])
	if err != nil {
		return nil, err
	}
	wg := device.NewDevice(dev, bind, &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	n.close = func() {
		// Down waits for the receivers of the peers. wireguard-go's netstack panics if a packet arrives after Close
		// has closed its device.
		wg.Down()
		wg.Close()
	}
	ownKey, _ := wgKey(own)
	_, peerKey := wgKey(peer)
	err = wg.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\nallowed_ip=%s/32\n",
		ownKey, wgPort, peerKey, endpoint, wgAddrs[peer]))
	if err == nil {
		err = wg.Up()
	}
	if err != nil {
		wg.Close()
		return nil, err
	}
	return n, nil
}

// wgKey returns the keys of a side in hexadecimal. They are the same in each run, because no secrets pass.
func wgKey(side int) (private, public string) {
	b := make([]byte, 32)
	b[0], b[31] = 8, byte(side)+0x40
	k, err := ecdh.X25519().NewPrivateKey(b)
	if err != nil {
		panic(err) // b has the right length
	}
	return hex.EncodeToString(b), hex.EncodeToString(k.PublicKey().Bytes())
}

// insideOfTunnel returns the stack inside one end of a tunnel, and its device for WireGuard.
func insideOfTunnel(t *task, addr string) (tun.Device, *network, error) {
	addrs := []netip.Addr{netip.MustParseAddr(addr)}
	switch t.Stack {
	case kernel:
		const name = "wg0"
		dev, err := tun.CreateTUN(name, wgMTU)
		if err != nil {
			return nil, nil, err
		}
		if err = ip("addr", "add", addr+prefixed, "dev", name); err == nil {
			err = ip("link", "set", name, "up")
		}
		if err != nil {
			dev.Close()
			return nil, nil, err
		}
		return dev, kernelNetwork(t.Setup.CC), nil
	case usern:
		dev, n, err := wireguard.CreateNetTUN(addrs, nil, wgMTU)
		if err != nil {
			return nil, nil, err
		}
		return dev, ofHost(n.Host()), nil
	case gvisor:
		dev, n, err := netstack.CreateNetTUN(addrs, nil, wgMTU)
		if err != nil {
			return nil, nil, err
		}
		return dev, ofNetstack(n, addr), nil
	}
	return nil, nil, fmt.Errorf("no WireGuard on %q", t.Stack)
}

// ofNetstack returns the network of wireguard-go's netstack with an address. The netstack does not listen on all
// addresses.
func ofNetstack(n *netstack.Net, addr string) *network {
	port := func(address string) (netip.AddrPort, error) {
		_, service, err := net.SplitHostPort(address)
		if err != nil {
			return netip.AddrPort{}, err
		}
		return netip.ParseAddrPort(net.JoinHostPort(addr, service))
	}
	return &network{
		dial: func(network, address string) (net.Conn, error) {
			return n.DialContext(context.Background(), network, address)
		},
		listen: func(_, address string) (net.Listener, error) {
			at, err := port(address)
			if err != nil {
				return nil, err
			}
			return n.ListenTCPAddrPort(at)
		},
		listenPacket: func(_, address string) (net.PacketConn, error) {
			at, err := port(address)
			if err != nil {
				return nil, err
			}
			return n.ListenUDPAddrPort(at)
		},
	}
}
