package resolve

import (
	"context"
	"net"
	"strings"
)

// services are well-known services from IANA's registry (RFC 6335), with their common aliases. The
// map is never modified.
var services = map[string]map[string]int{
	"tcp": {
		"echo": 7, "discard": 9, "systat": 11, "daytime": 13, "netstat": 15, "chargen": 19,
		"ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "mail": 25, "time": 37,
		"whois": 43, "nicname": 43, "tacacs": 49, "domain": 53, "gopher": 70, "finger": 79,
		"http": 80, "www": 80, "kerberos": 88, "pop3": 110, "sunrpc": 111, "auth": 113,
		"nntp": 119, "ntp": 123, "epmap": 135, "netbios-ssn": 139, "imap": 143, "imap2": 143,
		"snmp": 161, "snmptrap": 162, "bgp": 179, "irc": 194, "imap3": 220, "ldap": 389,
		"https": 443, "microsoft-ds": 445, "submissions": 465, "exec": 512, "login": 513,
		"shell": 514, "printer": 515, "rtsp": 554, "nntps": 563, "submission": 587, "ipp": 631,
		"ldaps": 636, "domain-s": 853, "rsync": 873, "ftps-data": 989, "ftps": 990,
		"telnets": 992, "imaps": 993, "pop3s": 995, "socks": 1080, "mqtt": 1883, "nfs": 2049,
		"iscsi-target": 3260, "mysql": 3306, "ms-wbt-server": 3389, "svn": 3690, "sip": 5060,
		"sips": 5061, "xmpp-client": 5222, "xmpp-server": 5269, "postgresql": 5432, "amqps": 5671,
		"amqp": 5672, "rfb": 5900, "x11": 6000, "redis": 6379, "http-alt": 8080,
		"secure-mqtt": 8883, "git": 9418,
	},
	"udp": {
		"echo": 7, "discard": 9, "daytime": 13, "chargen": 19, "time": 37, "tacacs": 49,
		"domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "kerberos": 88,
		"sunrpc": 111, "ntp": 123, "epmap": 135, "netbios-ns": 137, "netbios-dgm": 138,
		"snmp": 161, "snmptrap": 162, "ldap": 389, "https": 443, "isakmp": 500, "syslog": 514,
		"dhcpv6-client": 546, "dhcpv6-server": 547, "domain-s": 853, "l2f": 1701, "l2tp": 1701,
		"radius": 1812, "radius-acct": 1813, "ssdp": 1900, "nfs": 2049, "stun": 3478, "turn": 3478,
		"ipsec-nat-t": 4500, "vxlan": 4789, "sip": 5060, "mdns": 5353, "coap": 5683,
	},
}

// LookupPort returns the port of a service: a well-known name, a decimal number, or "", which is 0.
// The network is "tcp", "tcp4", "tcp6", "udp", "udp4" or "udp6"; "ip" and "" mean either.
// LookupPort sends no query. The error is a *net.DNSError for an unknown name, and a *net.AddrError
// for an unknown network or a number that is not in 0..65535.
func (r *Resolver) LookupPort(_ context.Context, network, service string) (int, error) {
	port, isNumber := parsePort(service)
	if !isNumber {
		return servicePort(network, service)
	}
	if port < 0 || port > 65535 {
		return 0, &net.AddrError{Err: "invalid port", Addr: service}
	}
	return port, nil
}

// aliases are the names in services that are not the usual names of their ports.
const aliases = " mail nicname www imap2 l2f turn "

// ServiceName returns the usual name of the service on a port, from the same table as LookupPort, or "" if
// the table has none. The network is "tcp" or "udp".
func ServiceName(network string, port int) string {
	for name, p := range services[network] {
		if p == port && !strings.Contains(aliases, " "+name+" ") {
			return name
		}
	}
	return ""
}

func servicePort(network, service string) (int, error) {
	tables := []string{"tcp", "udp"}
	switch network {
	case "tcp", "tcp4", "tcp6":
		tables, network = tables[:1], "tcp"
	case "udp", "udp4", "udp6":
		tables, network = tables[1:], "udp"
	case "ip", "":
		network = "ip"
	default:
		return 0, &net.AddrError{Err: errUnknownNetwork.text, Addr: network}
	}
	for _, table := range tables {
		if port, ok := services[table][lower(service)]; ok {
			return port, nil
		}
	}
	return 0, dnsError(errUnknownPort, network+"/"+service, "")
}

// parsePort parses a decimal number with an optional sign. As in net, a number that is far too
// large is still a number, and a sign alone is zero.
func parsePort(s string) (port int, isNumber bool) {
	const enough = 1 << 30 // larger than any port, and cannot overflow
	sign := 1
	if s != "" && (s[0] == '+' || s[0] == '-') {
		if s[0] == '-' {
			sign = -1
		}
		s = s[1:]
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		if port >= enough {
			break
		}
		port = min(port*10+int(s[i]-'0'), enough)
	}
	return sign * port, true
}
