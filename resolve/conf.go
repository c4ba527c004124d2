package resolve

import (
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The limits in resolv.conf(5), to which values are reduced without an error.
const (
	maxServers  = 3
	maxNdots    = 15
	maxTimeout  = 30 // seconds
	maxAttempts = 5

	serverPort = 53
)

// ParseResolvConf parses the form of /etc/resolv.conf, see resolv.conf(5). It supports the keywords
// nameserver, domain, search and options, and the options ndots, timeout, attempts, rotate,
// single-request, single-request-reopen, use-vc and trust-ad. single-request-reopen is the same as
// single-request. EDNS0 is always on. Other keywords and options, such as sortlist, debug,
// no-check-names, no-reload, no-tld-query and inet6, have no effect and cause no error. The error, if
// any, is the reader's.
//
// If the file names no server, ParseResolvConf returns a Config without servers. resolv.conf(5) says that
// the server is then the host itself: the caller has to add it.
func ParseResolvConf(r io.Reader) (Config, error) {
	var cfg Config
	err := eachLine(r, func(line string) {
		if strings.HasPrefix(line, ";") || strings.HasPrefix(line, "#") {
			return
		}
		if f := fields(line); len(f) > 1 {
			cfg.keyword(f[0], f[1:])
		} else if len(f) == 1 && f[0] == "search" {
			cfg.Search = nil
		}
	})
	return cfg, err
}

func (cfg *Config) keyword(keyword string, args []string) {
	switch keyword {
	case "nameserver":
		addr, err := netip.ParseAddr(args[0])
		if err == nil && len(cfg.Servers) < maxServers {
			cfg.Servers = append(cfg.Servers, netip.AddrPortFrom(addr, serverPort))
		}
	case "domain":
		// "The domain and search keywords are mutually exclusive. If more than one
		// instance of these keywords is present, the last instance wins."
		cfg.Search = []string{rooted(args[0])}
	case "search":
		cfg.Search = nil
		for _, name := range args {
			if name = rooted(name); name != "." {
				cfg.Search = append(cfg.Search, name)
			}
		}
	case "options":
		for _, option := range args {
			cfg.option(option)
		}
	}
}

func (cfg *Config) option(option string) {
	name, value, hasValue := strings.Cut(option, ":")
	n, err := strconv.Atoi(value)
	if hasValue && err != nil {
		return
	}
	switch {
	case name == "ndots" && hasValue:
		cfg.Ndots = min(n, maxNdots)
		if n <= 0 {
			cfg.Ndots = -1 // no dots; zero would mean the default
		}
	case name == "timeout" && hasValue:
		cfg.Timeout = time.Duration(max(1, min(n, maxTimeout))) * time.Second
	case name == "attempts" && hasValue:
		cfg.Attempts = max(1, min(n, maxAttempts))
	case name == "rotate":
		cfg.Rotate = true
	case name == "single-request", name == "single-request-reopen":
		cfg.SingleRequest = true
	case name == "use-vc", name == "usevc", name == "tcp": // Linux, FreeBSD, OpenBSD
		cfg.UseTCP = true
	case name == "trust-ad":
		cfg.TrustAD = true
	}
}
