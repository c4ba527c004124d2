//go:build linux

package taptest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The addresses of a test's name servers, on the kernel's side of the link.
const (
	dnsmasqAddr = "192.0.2.51"
	unboundAddr = "192.0.2.52"
	silentAddr  = "192.0.2.55" // receives everything and never answers
	absentAddr  = "192.0.2.56" // nothing listens there, so the kernel answers with an ICMP error
	spooferAddr = "192.0.2.57"
)

// dnsmasq and unbound have the zone dns.test, and give the same answers. dnsmasq forwards queries for the zones
// other.test and broken.test to unbound. unbound cannot load broken.test, and refuses refused.test.
// dnsmasq refuses names that it does not know.

const (
	manyAddrs = 100 // number of addresses of many.dns.test, which make an answer of at least 1600 bytes
	bigTXT    = 20  // number of records of big.dns.test, of 200 bytes each
)

// unboundZone returns the zone file of dns.test.
func unboundZone() string {
	var b strings.Builder
	b.WriteString(`$ORIGIN dns.test.
$TTL 300
@ 3600 IN SOA ns1 admin 1 3600 600 86400 2
@ IN NS ns1
@ IN NS ns2
@ IN MX 20 mail2
@ IN MX 10 mail1
ns1 IN A 192.0.2.52
ns2 IN A 192.0.2.53
host IN A 192.0.2.80
host IN AAAA 2001:db8::80
four IN A 192.0.2.4
six IN AAAA 2001:db8::6
short 2 IN A 192.0.2.7
alias1 IN CNAME host
alias2 IN CNAME alias1
alias3 IN CNAME alias2
away IN CNAME there.other.test.
dangling IN CNAME nowhere
sub.deep IN A 192.0.2.9
*.wild IN A 192.0.2.81
txt IN TXT "a" "b c"
txt IN TXT "second"
_sip._tcp IN SRV 2 0 5061 four
_sip._tcp IN SRV 1 5 5060 host
`)
	for i := range manyAddrs {
		fmt.Fprintf(&b, "many IN A 198.51.100.%d\n", i+1)
	}
	for i := range bigTXT {
		fmt.Fprintf(&b, "big IN TXT %q\n", bigText(i))
	}
	return b.String()
}

func bigText(i int) string { return fmt.Sprintf("%03d%s", i, strings.Repeat("x", 197)) }

const (
	unboundOther = `$ORIGIN other.test.
@ 300 IN SOA ns1 admin 1 3600 600 86400 2
@ 300 IN NS ns1.dns.test.
there 300 IN A 192.0.2.82
there 300 IN AAAA 2001:db8::82
`
	unboundReverse = `$ORIGIN 2.0.192.in-addr.arpa.
@ 300 IN SOA ns1.dns.test. admin.dns.test. 1 3600 600 86400 2
@ 300 IN NS ns1.dns.test.
80 300 IN PTR host.dns.test.
80 300 IN PTR second.dns.test.
`
	unboundReverse6 = `$ORIGIN 8.b.d.0.1.0.0.2.ip6.arpa.
@ 300 IN SOA ns1.dns.test. admin.dns.test. 1 3600 600 86400 2
@ 300 IN NS ns1.dns.test.
6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 300 IN PTR six.dns.test.
`
	// unbound has its own root zone, so it sends no query to other servers.
	unboundRoot = `. 300 IN SOA ns1.dns.test. admin.dns.test. 1 3600 600 86400 2
. 300 IN NS ns1.dns.test.
`
)

// unboundConfig returns a configuration with the zone files in dir.
func unboundConfig(dir string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `server:
	directory: "%[1]s"
	pidfile: "%[1]s/unbound.pid"
	chroot: ""
	username: ""
	use-syslog: no
	log-servfail: yes
	do-daemonize: no
	num-threads: 1
	interface: %[2]s
	do-ip6: no
	access-control: 0.0.0.0/0 allow
	module-config: "iterator"
	so-rcvbuf: 4m
	num-queries-per-thread: 4096
	outgoing-range: 8192
	local-zone: "test." nodefault
	local-zone: "2.0.192.in-addr.arpa." nodefault
	local-zone: "8.b.d.0.1.0.0.2.ip6.arpa." nodefault
	local-zone: "refused.test." refuse
remote-control:
	control-enable: no
`, dir, unboundAddr)
	for _, zone := range []string{"dns.test", "other.test", "2.0.192.in-addr.arpa", "8.b.d.0.1.0.0.2.ip6.arpa", "broken.test", "root"} {
		name := zone + "."
		if zone == "root" {
			name = "."
		}
		fmt.Fprintf(&b, "auth-zone:\n\tname: %q\n\tzonefile: %q\n\tfor-downstream: no\n\tfor-upstream: yes\n\tfallback-enabled: no\n",
			name, filepath.Join(dir, zone))
		if zone == "broken.test" {
			fmt.Fprintf(&b, "\tprimary: %s\n", absentAddr)
		}
	}
	return b.String()
}

// dnsmasqConfig returns dnsmasq's configuration, which contains the zone. The server announces a maximum of
// 512 bytes over UDP, and obeys it.
func dnsmasqConfig() string {
	var b strings.Builder
	fmt.Fprintf(&b, `no-resolv
no-hosts
keep-in-foreground
bind-interfaces
listen-address=%[1]s
user=root
group=root
edns-packet-max=512
local-ttl=300
domain-needed
local=/dns.test/
local=/2.0.192.in-addr.arpa/
local=/8.b.d.0.1.0.0.2.ip6.arpa/
server=/other.test/%[2]s
server=/broken.test/%[2]s
host-record=ns1.dns.test,192.0.2.52
host-record=ns2.dns.test,192.0.2.53
host-record=host.dns.test,192.0.2.80,2001:db8::80
host-record=four.dns.test,192.0.2.4
host-record=six.dns.test,2001:db8::6
host-record=short.dns.test,192.0.2.7,2
host-record=sub.deep.dns.test,192.0.2.9
address=/wild.dns.test/192.0.2.81
cname=alias1.dns.test,host.dns.test
cname=alias2.dns.test,alias1.dns.test
cname=alias3.dns.test,alias2.dns.test
txt-record=txt.dns.test,a,b c
txt-record=txt.dns.test,second
srv-host=_sip._tcp.dns.test,four.dns.test,5061,2,0
srv-host=_sip._tcp.dns.test,host.dns.test,5060,1,5
mx-host=dns.test,mail2.dns.test,20
mx-host=dns.test,mail1.dns.test,10
ptr-record=80.2.0.192.in-addr.arpa,host.dns.test
ptr-record=80.2.0.192.in-addr.arpa,second.dns.test
ptr-record=6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa,six.dns.test
`, dnsmasqAddr, unboundAddr)
	for _, ns := range []string{"ns1", "ns2"} { // records of type 2 (NS), in wire format
		fmt.Fprintf(&b, "dns-rr=dns.test,2,%x\n", "\x03"+ns+"\x03dns\x04test\x00")
	}
	for i := range manyAddrs {
		fmt.Fprintf(&b, "host-record=many.dns.test,198.51.100.%d\n", i+1)
	}
	for i := range bigTXT {
		fmt.Fprintf(&b, "txt-record=big.dns.test,%s\n", bigText(i))
	}
	return b.String()
}

// startNameServers starts dnsmasq and unbound in the namespace, and waits until they listen. unbound is
// text that is added to unbound's configuration.
func (ns *namespace) startNameServers(t *testing.T, unbound ...string) {
	t.Helper()
	for _, addr := range []string{dnsmasqAddr, unboundAddr, silentAddr, absentAddr, spooferAddr} {
		// The addresses are on the loopback and not on the TAP, because tests delete the TAP.
		ns.run(t, "ip", "addr", "add", addr+"/32", "dev", "lo")
	}
	ns.run(t, "sysctl", "-q", "-w", "net.ipv4.icmp_ratelimit=0")
	dir := t.TempDir()
	for name, content := range map[string]string{
		"dns.test": unboundZone(), "other.test": unboundOther, "root": unboundRoot,
		"2.0.192.in-addr.arpa": unboundReverse, "8.b.d.0.1.0.0.2.ip6.arpa": unboundReverse6,
		"unbound.conf": unboundConfig(dir) + strings.Join(unbound, ""), "dnsmasq.conf": dnsmasqConfig(),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	ns.startServer(t, unboundAddr, "unbound", "-d", "-c", filepath.Join(dir, "unbound.conf"))
	ns.startServer(t, dnsmasqAddr, "dnsmasq", "--conf-file="+filepath.Join(dir, "dnsmasq.conf"),
		"--pid-file="+filepath.Join(dir, "dnsmasq.pid"), "--log-facility=-")
}

// startServer starts a name server, which is killed at the end of the test.
func (ns *namespace) startServer(t *testing.T, addr string, args ...string) {
	t.Helper()
	cmd := ns.command(t.Context(), args...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	for end := time.Now().Add(patience); ; {
		err := ns.inside(func() error {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "53"), time.Second)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			return
		}
		select {
		case err = <-ended:
			ended <- err
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("%s: %v\n%s", args[0], err, said)
		case <-time.After(10 * time.Millisecond):
			require.True(t, time.Now().Before(end), "%s does not listen: %v", args[0], err)
		}
	}
}

// needNameServers is like need, for a test with name servers.
func needNameServers(t *testing.T) {
	t.Helper()
	need(t, "dnsmasq", "unbound", "mount", "bash")
}
