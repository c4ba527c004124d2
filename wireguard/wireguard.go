// Package wireguard puts a usernet host inside a WireGuard interface. golang.zx2c4.com/wireguard implements the
// protocol; encrypted packets travel over the kernel's UDP sockets.
//
//	cfg, err := wireguard.ParseConfig(file) // in the form of wg-quick
//	...
//	wg, err := wireguard.Open(ctx, cfg)
//	...
//	defer wg.Close()
//	client := &http.Client{Transport: &http.Transport{DialContext: wg.DialContext}}
//
// A program that uses CreateNetTUN of golang.zx2c4.com/wireguard/tun/netstack can import this package instead:
// CreateNetTUN has the same parameters and Net has the same methods, but the connections are those of usernet.
package wireguard

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// An Interface is a WireGuard interface with a usernet host inside. The Host's methods dial, listen and
// resolve names through the tunnel.
type Interface struct {
	*usernet.Host
	dev      *device.Device
	nic      string // the name of the tunnel's link
	noRoutes bool   // see Config.NoRoutes
}

// Options has the settings that a file of wg-quick does not have. The zero value is ready for use.
type Options struct {
	// Bind sends and receives the encrypted packets. If Bind is nil, they travel over the kernel's UDP sockets.
	Bind conn.Bind
	// Host has further settings of the host, such as a Logger. OpenWith adds the link with its addresses and routes,
	// the name servers and the search domains.
	Host usernet.Config
	// Logger gets the messages of the WireGuard protocol: errors, and at level Debug the handshakes. If Logger is nil,
	// the messages are discarded.
	Logger *slog.Logger
}

// Open makes an interface and brings it up. If the endpoint of a peer is a name, Open resolves the name with
// net.DefaultResolver; ctx limits only this resolution. The handshake with a peer starts when there is a packet for
// the peer, or at once if the peer has an endpoint and a keep-alive interval.
func Open(ctx context.Context, cfg Config) (*Interface, error) {
	return OpenWith(ctx, cfg, Options{})
}

// OpenWith is Open with further options.
func OpenWith(ctx context.Context, cfg Config, o Options) (*Interface, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ipc, err := cfg.ipc(ctx)
	if err != nil {
		return nil, err
	}
	tunnel := nic.NewTunnel(nic.TunnelConfig{Name: "wg0", MTU: cfg.MTU})
	hc := o.Host
	hc.NICs = append(hc.NICs[:len(hc.NICs):len(hc.NICs)], usernet.NIC{Device: tunnel, Addrs: cfg.Addresses})
	for _, a := range cfg.DNS {
		hc.DNS = append(hc.DNS[:len(hc.DNS):len(hc.DNS)], netip.AddrPortFrom(a, 53))
	}
	hc.Search = append(hc.Search[:len(hc.Search):len(hc.Search)], cfg.Search...)
	host, err := usernet.New(hc)
	if err != nil {
		return nil, err
	}
	if !cfg.NoRoutes {
		if err := addRoutes(host, lastLink(host), cfg.Peers); err != nil {
			host.Close()
			return nil, err
		}
	}
	bind := o.Bind
	if bind == nil {
		bind = conn.NewDefaultBind()
	}
	wg := &Interface{Host: host, nic: lastLink(host), noRoutes: cfg.NoRoutes, dev: device.NewDevice(newTUN(tunnel, failing(tunnel)), bind, logger(o.Logger))}
	if err = wg.dev.IpcSet(ipc); err == nil {
		err = wg.dev.Up()
	}
	if err != nil {
		wg.Close()
		return nil, fmt.Errorf("wireguard: %w", err)
	}
	return wg, nil
}

// lastLink returns the name of the link that was added last.
func lastLink(host *usernet.Host) string {
	links := host.Interfaces()
	return links[len(links)-1].Name
}

// addRoutes adds a route over a link for each prefix in the peers' AllowedIPs, unless the host has that route.
func addRoutes(host *usernet.Host, name string, peers []Peer) error {
	for i := range peers {
		for _, p := range peers[i].AllowedIPs {
			err := host.AddRoute(usernet.Route{Dst: p, NIC: name})
			if err != nil && !errors.Is(err, syscall.EEXIST) {
				return fmt.Errorf("wireguard: route to %v: %w", p, err)
			}
		}
	}
	return nil
}

// logger returns a logger for the WireGuard device. The logger writes to l, or discards all messages if l is nil.
func logger(l *slog.Logger) *device.Logger {
	if l == nil {
		return &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	}
	return &device.Logger{
		Verbosef: func(format string, args ...any) { l.Debug(fmt.Sprintf(format, args...)) },
		Errorf:   func(format string, args ...any) { l.Error(fmt.Sprintf(format, args...)) },
	}
}

// ipc returns the configuration in the form of the cross-platform user space protocol
// (https://www.wireguard.com/xplatform/), with the endpoints resolved.
func (c *Config) ipc(ctx context.Context) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%s\nlisten_port=%d\nfwmark=%d\nreplace_peers=true\n", hexKey(c.PrivateKey), c.ListenPort, c.FwMark)
	for i := range c.Peers {
		if err := c.Peers[i].ipc(ctx, &b); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

func (p *Peer) ipc(ctx context.Context, b *strings.Builder) error {
	fmt.Fprintf(b, "public_key=%s\nreplace_allowed_ips=true\npersistent_keepalive_interval=%d\n",
		hexKey(p.PublicKey), int((p.Keepalive+time.Second/2)/time.Second))
	fmt.Fprintf(b, "preshared_key=%s\n", hexKey(p.PresharedKey)) // a key of zeros removes the earlier key
	if p.Endpoint != "" {
		ep, err := resolve(ctx, p.Endpoint)
		if err != nil {
			return fmt.Errorf("wireguard: endpoint of peer %v: %w", p.PublicKey, err)
		}
		fmt.Fprintf(b, "endpoint=%v\n", ep)
	}
	for _, a := range p.AllowedIPs {
		fmt.Fprintf(b, "allowed_ip=%v\n", a)
	}
	return nil
}

// resolve returns the address of an endpoint, which may be a name.
func resolve(ctx context.Context, endpoint string) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(endpoint); err == nil {
		return ap, nil
	}
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(port)), nil
}

func hexKey(k Key) string { return hex.EncodeToString(k[:]) }

// AddPeer adds a peer, or changes the peer that has the same public key. It adds routes for p.AllowedIPs, unless
// Config.NoRoutes is set.
func (wg *Interface) AddPeer(ctx context.Context, p Peer) error {
	var b strings.Builder
	if err := p.check(); err != nil {
		return err
	}
	if err := p.ipc(ctx, &b); err != nil {
		return err
	}
	if err := wg.dev.IpcSet(b.String()); err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	if wg.noRoutes {
		return nil
	}
	return addRoutes(wg.Host, wg.nic, []Peer{p})
}

// RemovePeer removes the peer with a public key. The routes for the peer's AllowedIPs remain.
func (wg *Interface) RemovePeer(public Key) error {
	if err := wg.dev.IpcSet(fmt.Sprintf("public_key=%s\nremove=true\n", hexKey(public))); err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	return nil
}

// A PeerStatus is what the wg command shows about a peer.
type PeerStatus struct {
	PublicKey     Key
	Endpoint      netip.AddrPort // invalid if not known
	LastHandshake time.Time      // zero if there was none
	Received      uint64         // encrypted bytes received
	Sent          uint64         // encrypted bytes sent
}

// Peers returns the state of the peers.
func (wg *Interface) Peers() ([]PeerStatus, error) {
	out, err := wg.dev.IpcGet()
	if err != nil {
		return nil, fmt.Errorf("wireguard: %w", err)
	}
	return parsePeers(out), nil
}

// ListenPort returns the UDP port for encrypted packets.
func (wg *Interface) ListenPort() (uint16, error) {
	out, err := wg.dev.IpcGet()
	if err != nil {
		return 0, fmt.Errorf("wireguard: %w", err)
	}
	for line := range strings.Lines(out) {
		if port, ok := strings.CutPrefix(strings.TrimSpace(line), "listen_port="); ok {
			n, err := strconv.ParseUint(port, 10, 16)
			return uint16(n), err
		}
	}
	return 0, nil
}

// parsePeers parses the result of IpcGet.
func parsePeers(out string) (peers []PeerStatus) {
	in := bufio.NewScanner(strings.NewReader(out))
	for in.Scan() {
		key, value, _ := strings.Cut(in.Text(), "=")
		if key == "public_key" {
			var p PeerStatus
			hex.Decode(p.PublicKey[:], []byte(value))
			peers = append(peers, p)
			continue
		}
		if len(peers) == 0 {
			continue
		}
		p := &peers[len(peers)-1]
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "endpoint":
			p.Endpoint, _ = netip.ParseAddrPort(value)
		case "last_handshake_time_sec":
			if n > 0 {
				p.LastHandshake = time.Unix(n, 0)
			}
		case "last_handshake_time_nsec":
			if !p.LastHandshake.IsZero() {
				p.LastHandshake = p.LastHandshake.Add(time.Duration(n))
			}
		case "rx_bytes":
			p.Received = uint64(n)
		case "tx_bytes":
			p.Sent = uint64(n)
		}
	}
	return peers
}

// Close closes the host and the interface.
func (wg *Interface) Close() error {
	err := wg.Host.Close()
	wg.dev.Close()
	return err
}
