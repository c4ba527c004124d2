//go:build linux

package taptest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/resolve"
)

// A question is a lookup or a dial for both usernet's and net's resolver.
type question struct {
	Method  string // a Lookup method, or Dial
	Network string // for LookupIP, LookupNetIP and Dial
	Name    string
	Cancel  time.Duration // time until the caller cancels the context; 0: never
	Timeout time.Duration // timeout of the context; 0: none
}

func (q question) String() string {
	s := q.Method + " " + q.Network + " " + q.Name
	if q.Cancel > 0 {
		s += " canceled"
	}
	if q.Timeout > 0 {
		s += " with a limit"
	}
	return s
}

// An outcome is everything that a program sees of the result of a lookup or dial.
type outcome struct {
	Value string // as fmt prints it
	Error string
	Type  string // type of the error

	// The fields of the *net.DNSError in the error.
	DNS                            bool
	Err, Name, Server              string
	Timeout, Temporary, IsNotFound bool

	Canceled, Deadline bool // errors.Is reports context.Canceled, context.DeadlineExceeded
}

// A lookuper has the methods that both resolvers share.
type lookuper interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupIP(ctx context.Context, network, host string) ([]net.IP, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupCNAME(ctx context.Context, host string) (string, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNS(ctx context.Context, name string) ([]*net.NS, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// printed formats records as JSON. It keeps the order of one or two records, and sorts more than two. unordered always
// sorts, for records whose order the server chooses.
func printed[T any](records []T, err error) (string, error) {
	texts := textsOf(records)
	if len(texts) > 2 {
		slices.Sort(texts)
	}
	return strings.Join(texts, " "), err
}

func unordered[T any](records []T, err error) (string, error) {
	texts := textsOf(records)
	slices.Sort(texts)
	return strings.Join(texts, " "), err
}

func textsOf[T any](records []T) []string {
	texts := make([]string, len(records))
	for i, r := range records {
		b, err := json.Marshal(r)
		if err != nil {
			panic(err)
		}
		texts[i] = string(b)
	}
	return texts
}

func ask(ctx context.Context, r lookuper, dial dialFunc, q question) (string, error) {
	switch q.Method {
	case "LookupHost":
		return printed(r.LookupHost(ctx, q.Name))
	case "LookupIPAddr":
		return printed(r.LookupIPAddr(ctx, q.Name))
	case "LookupIP":
		return printed(r.LookupIP(ctx, q.Network, q.Name))
	case "LookupNetIP":
		return printed(r.LookupNetIP(ctx, q.Network, q.Name))
	case "LookupCNAME":
		return r.LookupCNAME(ctx, q.Name)
	case "LookupSRV":
		cname, srvs, err := r.LookupSRV(ctx, "sip", "tcp", q.Name)
		texts, err := printed(srvs, err)
		return cname + " " + texts, err
	case "LookupMX":
		return printed(r.LookupMX(ctx, q.Name))
	case "LookupNS":
		return unordered(r.LookupNS(ctx, q.Name))
	case "LookupTXT":
		return unordered(r.LookupTXT(ctx, q.Name))
	case "LookupAddr":
		return unordered(r.LookupAddr(ctx, q.Name))
	case "Dial":
		c, err := dial(ctx, q.Network, q.Name)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.RemoteAddr().String(), nil
	}
	panic("no such method: " + q.Method)
}

// localAddr matches the local address in an error, whose port is different each time.
var localAddr = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+:\d+->`)

func outcomeOf(r lookuper, dial dialFunc, q question) outcome {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if q.Cancel > 0 {
		defer time.AfterFunc(q.Cancel, cancel).Stop()
	}
	if q.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, q.Timeout)
		defer cancel()
	}
	value, err := ask(ctx, r, dial, q)
	o := outcome{Value: value, Type: fmt.Sprintf("%T", err)}
	if err == nil {
		return o
	}
	plain := func(s string) string { return localAddr.ReplaceAllString(s, "OURS->") }
	o.Error = plain(err.Error())
	var e *net.DNSError
	if errors.As(err, &e) {
		o.DNS, o.Err, o.Name, o.Server = true, plain(e.Err), e.Name, e.Server
		o.Timeout, o.Temporary, o.IsNotFound = e.IsTimeout, e.IsTemporary, e.IsNotFound
	}
	// When a dial times out, net reports the deadline of its socket or that of the context,
	// whichever it sees first.
	if q.Method == "Dial" && q.Timeout > 0 {
		return o
	}
	o.Canceled, o.Deadline = errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded)
	return o
}

// oracle is the helper that runs net's resolver. It reads questions from standard input and writes their
// outcomes to standard output.
func oracle() error {
	var qs []question
	if err := json.NewDecoder(os.Stdin).Decode(&qs); err != nil {
		return err
	}
	r := &net.Resolver{PreferGo: true}
	d := &net.Dialer{Resolver: r}
	return json.NewEncoder(os.Stdout).Encode(outcomesOf(r, d.DialContext, qs))
}

func outcomesOf(r lookuper, dial dialFunc, qs []question) []outcome {
	outcomes := make([]outcome, len(qs))
	for i, q := range qs {
		outcomes[i] = outcomeOf(r, dial, q)
	}
	return outcomes
}

// A system is a resolv.conf and a hosts file.
type system struct {
	resolvConf string
	hosts      string
}

// theirs returns the outcomes of net's resolver, which runs in a process whose /etc has the files of s.
func (s system) theirs(t *testing.T, ns *namespace, qs []question) []outcome {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"resolv.conf": s.resolvConf, "hosts": s.hosts, "nsswitch.conf": "hosts: files dns\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	// "ip netns exec" makes a mount namespace for this process only.
	cmd := ns.command(t.Context(), "bash", "-euc", `
		for f in resolv.conf hosts nsswitch.conf; do mount --bind "$0/$f" "/etc/$f"; done
		exec "$1"`, dir, exe)
	cmd.Env = append(os.Environ(), helperVar+"=oracle", "LOCALDOMAIN=", "RES_OPTIONS=")
	in, err := json.Marshal(qs)
	require.NoError(t, err)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("%v: %s", err, exit.Stderr)
	}
	require.NoError(t, err)
	var outcomes []outcome
	require.NoError(t, json.Unmarshal(out, &outcomes))
	require.Len(t, outcomes, len(qs))
	return outcomes
}

// host makes a host with the system's files.
func (s system) host(t *testing.T, ns *namespace, change ...func(*usernet.Config)) *usernet.Host {
	t.Helper()
	rc, err := resolve.ParseResolvConf(bytes.NewBufferString(s.resolvConf))
	require.NoError(t, err)
	rc.Hosts, err = resolve.ParseHosts(bytes.NewBufferString(s.hosts))
	require.NoError(t, err)
	cfg := usernet.Config{
		NIC:      ns.openTAP(t, false),
		Addrs:    []netip.Prefix{netip.MustParsePrefix(ourAddr + "/24")},
		Resolver: rc,
	}
	for _, f := range change {
		f(&cfg)
	}
	h, err := usernet.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// compare asks usernet's resolver and net's resolver, and compares the outcomes.
func (s system) compare(t *testing.T, ns *namespace, h *usernet.Host, qs []question) {
	t.Helper()
	theirs := s.theirs(t, ns, qs)
	for i, q := range qs {
		ours := outcomeOf(h.Resolver(), h.DialContext, q)
		// A known difference: if a query for one name of the search list fails, usernet reports that
		// failure. For records other than addresses, net reports the result of the last name, even if
		// that is "no such host".
		if searched := !strings.HasSuffix(q.Name, "."); searched && theirs[i].IsNotFound && ours.DNS && !ours.IsNotFound {
			require.Contains(t, []string{"LookupMX", "LookupNS", "LookupTXT", "LookupSRV"}, q.Method, "%v", q)
			require.Equal(t, theirs[i].Name, ours.Name, "%v", q)
			continue
		}
		require.Equal(t, theirs[i], ours, "%v: theirs is the first", q)
	}
}
