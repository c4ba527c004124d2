package usernet

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet/nic"
)

// An mdnsRecorder is a link that records the records of Multicast DNS responses. After hold, the next such response
// blocks in Send until release.
type mdnsRecorder struct {
	nic.Device
	mu       sync.Mutex
	sent     []sentRecord
	held     chan struct{} // not nil: the next response blocks
	blocking chan struct{} // closed when a response blocks
}

// A sentRecord is a DNS record of a response.
type sentRecord struct {
	at   time.Time
	six  bool // over IPv6
	typ  dnsmessage.Type
	ttl  uint32
	name string
}

// Nonblocking makes the host call Send in the goroutine that has the frame.
func (d *mdnsRecorder) Nonblocking() nic.Device { return d }

func (d *mdnsRecorder) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		if wait := d.record(slices.Concat(batch[i].Head, batch[i].Body)); wait != nil {
			<-wait
		}
	}
	return d.Device.Send(batch)
}

// record records a frame. It returns a channel on which the sender has to wait, or nil.
func (d *mdnsRecorder) record(b []byte) (wait chan struct{}) {
	six := b[12] == 0x86
	// The length of the headers of Ethernet, IP and UDP. UDP begins with the source port.
	headers := map[bool]int{false: 14 + 20 + 8, true: 14 + 40 + 8}[six]
	if b[12] == 0x08 && b[13] == 0x06 || len(b) < headers || b[headers-8] != 5353>>8 || b[headers-7] != 5353&0xff {
		return nil
	}
	var m dnsmessage.Message
	if err := m.Unpack(b[headers:]); err != nil || !m.Response {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range append(m.Answers, m.Additionals...) {
		d.sent = append(d.sent, sentRecord{time.Now(), six, r.Header.Type, r.Header.TTL, r.Header.Name.String()})
	}
	if wait = d.held; wait != nil {
		d.held = nil
		close(d.blocking)
	}
	return wait
}

// hold makes the next response block until the caller closes the channel release. blocking is closed when the
// response blocks.
func (d *mdnsRecorder) hold() (release, blocking chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.blocking = make(chan struct{}), make(chan struct{})
	return d.held, d.blocking
}

// since returns the records that were sent since a time.
func (d *mdnsRecorder) since(at time.Time) []sentRecord {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(d.sent), func(s sentRecord) bool { return s.at.Before(at) })
}

// recordedMDNS makes a host with Multicast DNS on a recorder, and a host that sends queries to it.
func recordedMDNS(t *testing.T) (d *mdnsRecorder, h *Host, ask func(typ dnsmessage.Type, name string)) {
	near, far := nic.Pipe(nic.PipeConfig{})
	d = &mdnsRecorder{Device: near}
	h = newHost(t, d, addrA, func(cfg *Config) { cfg.MDNS = &MDNSConfig{HostName: "alice"} })
	other := newHost(t, far, addrB)
	pc, err := other.ListenPacket("udp4", addrB+":5353") // another port would be that of a legacy resolver
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	return d, h, func(typ dnsmessage.Type, name string) {
		q := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}
		m := dnsmessage.Message{Questions: []dnsmessage.Question{q}}
		b, err := m.Pack()
		require.NoError(t, err)
		_, err = pc.WriteTo(b, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
		require.NoError(t, err)
	}
}

// The program withdraws a service while a timer's goroutine has sent an answer over IPv4 and not yet over IPv6.
// The goodbye must follow the answer over both families: otherwise other hosts keep the service for 75 minutes.
func TestMulticastDNSMessagesLeaveInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h, ask := recordedMDNS(t)
		p, err := h.Publish(MDNSService{Instance: "Web", Type: "_http._tcp", Port: 80})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.True(t, p.Established())
		release, blocking := d.hold()
		start := time.Now()
		ask(dnsmessage.TypePTR, "_http._tcp.local.")
		<-blocking
		require.NoError(t, p.Close())
		close(release)
		time.Sleep(500 * time.Millisecond)
		for _, six := range []bool{false, true} {
			var ttls []uint32
			for _, s := range d.since(start) {
				if s.six == six && s.name == "_http._tcp.local." {
					ttls = append(ttls, s.ttl)
				}
			}
			require.Equal(t, []uint32{4500, 0}, ttls, "IPv6: %v", six)
		}
	})
}

// A goroutine is sending when the host ends. The sockets stay open until the goodbyes are sent.
func TestMulticastDNSEndsAfterItsGoodbyes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h, ask := recordedMDNS(t)
		time.Sleep(10 * time.Second)
		release, blocking := d.hold()
		start := time.Now()
		ask(dnsmessage.TypeA, "alice.local.")
		<-blocking
		time.AfterFunc(mdnsEndTime/2, func() { close(release) })
		require.NoError(t, h.StopMDNS(""))
		require.Equal(t, mdnsEndTime/2, time.Since(start))
		for _, six := range []bool{false, true} {
			sent := d.since(start.Add(mdnsEndTime / 2))
			require.True(t, slices.ContainsFunc(sent, func(s sentRecord) bool { return s.six == six && s.ttl == 0 }), "IPv6: %v", six)
		}
		require.NoError(t, h.StartMDNS("", MDNSConfig{HostName: "alice"}))
		time.Sleep(10 * time.Second)

		// A device that blocks for ever delays the end only by mdnsEndTime.
		release, blocking = d.hold()
		defer close(release)
		start = time.Now()
		ask(dnsmessage.TypeA, "alice.local.")
		<-blocking
		require.NoError(t, h.StopMDNS(""))
		require.Equal(t, mdnsEndTime, time.Since(start))
	})
}

// The host loses an address while an answer with the address waits for its time.
func TestAnAddressThatIsGoneIsNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h, ask := recordedMDNS(t)
		extra := netip.MustParsePrefix("192.0.2.77/24")
		require.NoError(t, h.AddAddr("", extra, AddrOptions{}))
		time.Sleep(10 * time.Second)
		start := time.Now()
		ask(dnsmessage.TypePTR, "77.2.0.192.in-addr.arpa.")
		require.NoError(t, h.RemoveAddr("", extra.Addr()))
		time.Sleep(5 * time.Second)
		var ttls []uint32
		for _, s := range d.since(start) {
			if !s.six && s.name == "77.2.0.192.in-addr.arpa." {
				ttls = append(ttls, s.ttl)
			}
		}
		require.NotEmpty(t, ttls)
		require.Equal(t, []uint32{0, 0}, ttls[max(0, len(ttls)-2):], "the goodbye is sent twice")
	})
}
