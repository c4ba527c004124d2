package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// A behaviour is a short program that must give the same transcript in all Worlds.
type behaviour struct {
	name string
	// run runs the program and returns what it observes: results, errors, addresses.
	run func(t *testing.T, w *world.World) []any
	// want is the end of the transcript's last line. If that line is an error, want is the error's text. A
	// check of want ensures that the behaviour tests what its name says.
	want string
}

// A difference is an allowed difference, with its reason and the end of usernet's transcript.
type difference struct {
	name, reason, want string
}

// The project promises at least leastBehaviours behaviours and at most mostDifferences differences.
const (
	leastBehaviours = 150
	mostDifferences = 10
)

func behaviours() []behaviour {
	return slices.Concat(
		dialBehaviours(), dialAddrBehaviours(), typedDialBehaviours(),
		listenBehaviours(), acceptBehaviours(),
		tcpBehaviours(), streamBehaviours(), shutdownBehaviours(), copyBehaviours(), optionBehaviours(),
		deadlineBehaviours(), closedBehaviours(), zeroBehaviours(),
		udpBehaviours(), datagramBehaviours(), udpErrorBehaviours(), ipBehaviours(),
		resolveBehaviours(), lookupBehaviours(), programBehaviours(),
	)
}

func TestUsernetBehavesAsTheKernel(t *testing.T) {
	ws, all, allowed := world.All(t), behaviours(), allowedDifferences()
	if families := os.Getenv(familiesEnv); families != "" {
		// In this process, the kernel has the same families as the hosts (see
		// TestTheContractHoldsWithAndWithoutIPv6).
		all = append(all, sixBehaviours()...)
		if families == bothFamilies {
			ws = world.AllSix(t)
		} else {
			ws = world.AllFour(t)
		}
	}
	for _, b := range all {
		t.Run(b.name, func(t *testing.T) {
			i := slices.IndexFunc(allowed, func(d difference) bool { return d.name == b.name })
			kernel := transcript(t, ws[0], b, b.want)
			for _, w := range ws[1:] {
				if i < 0 {
					require.Equal(t, kernel, transcript(t, w, b, b.want), "in the world %q", w.Name)
					continue
				}
				ours := transcript(t, w, b, allowed[i].want)
				require.NotEqual(t, kernel, ours, "there is no difference any more that needs to be allowed")
			}
		})
	}
}

func TestThereAreEnoughBehavioursAndFewDifferences(t *testing.T) {
	all, allowed := behaviours(), allowedDifferences()
	t.Logf("%d behaviours are compared with the kernel's, %d of them may differ; %d more are about IPv6", len(all), len(allowed), len(sixBehaviours()))
	require.GreaterOrEqual(t, len(all), leastBehaviours)
	require.LessOrEqual(t, len(allowed), mostDifferences)
	names := make(map[string]bool)
	for _, b := range all {
		require.False(t, names[b.name], "%q is there twice", b.name)
		require.NotEmpty(t, b.want, b.name)
		names[b.name] = true
	}
	for _, b := range sixBehaviours() {
		require.False(t, names[b.name], "%q is there twice", b.name)
		names[b.name] = true
	}
	for _, d := range allowed {
		require.True(t, names[d.name], "there is no behaviour %q", d.name)
		require.NotEmpty(t, d.reason, d.name)
	}
}

// transcript runs a behaviour in a World and returns its observations in a form that is the same in
// all Worlds.
func transcript(t *testing.T, w *world.World, b behaviour, want string) []string {
	t.Helper()
	seen := b.run(t, w)
	require.NotEmpty(t, seen, "a behaviour that shows nothing cannot fail")
	var lines []string
	for _, v := range seen {
		lines = append(lines, show(w, v))
	}
	last := lines[len(lines)-1]
	if err, ok := seen[len(seen)-1].(error); ok {
		last = observe(w, err).Text
	}
	require.True(t, strings.HasSuffix(last, want), "%s: %q does not end in %q", w.Name, last, want)
	return lines
}

// show formats a value without the parts that depend on the World.
func show(w *world.World, v any) string {
	switch v := v.(type) {
	case nil:
		return "<nil>"
	case error:
		return fmt.Sprintf("%+v", observe(w, v))
	case net.Addr:
		if reflect.ValueOf(v).IsNil() {
			return fmt.Sprintf("a nil %T", v)
		}
		ip := addrIP(v)
		return fmt.Sprintf("%T of %d bytes: %s %s", v, len(ip), v.Network(), plain(w, v.String()))
	case netip.AddrPort, netip.Addr:
		return plain(w, fmt.Sprint(v))
	case []byte, string, []string:
		return plain(w, fmt.Sprintf("%q", v))
	}
	return plain(w, fmt.Sprint(v))
}

// ephemeral matches ephemeral ports.
var ephemeral = regexp.MustCompile(`:(3[2-9]|4\d|5\d|60)\d\d\d\b`)

// loopback6 matches ::1, but not within another address.
var loopback6 = regexp.MustCompile(`(^|[^0-9a-f:])::1($|: |[^0-9a-f:.%])`)

// plain replaces the client's and the server's address by HOST or, for IPv6, SIX, and ephemeral
// ports by P.
func plain(w *world.World, s string) string {
	s = ephemeral.ReplaceAllString(s, ":P")
	for _, addr := range []string{w.Alone, w.Server, w.Client, "127.0.0.1"} {
		s = strings.ReplaceAll(s, addr, "HOST")
	}
	for _, addr := range []string{"2001:db8:6::1", "2001:db8:6::2"} {
		s = strings.ReplaceAll(s, addr, "SIX")
	}
	s = loopback6.ReplaceAllString(s, "${1}SIX${2}")
	return s
}

// An observation is everything that a program can see of an error if it knows only net's types.
type observation struct {
	Text               string
	Chain              []string
	Op, Net            string
	Source, Addr       string
	Syscall            string
	DNS                string
	Is                 []string
	NetError           bool
	Timeout, Temporary bool
}

// observe returns the observation of an error that occurred in a World.
func observe(w *world.World, err error) observation {
	o := observation{Text: plain(w, err.Error())}
	for e := err; e != nil; e = errors.Unwrap(e) {
		o.Chain = append(o.Chain, typeName(e))
	}
	if oe, ok := err.(*net.OpError); ok {
		o.Op, o.Net = oe.Op, oe.Net
		if oe.Source != nil {
			o.Source = show(w, oe.Source)
		}
		if oe.Addr != nil {
			// The type is not compared, because net's methods return different types of addresses.
			o.Addr = plain(w, oe.Addr.Network()+" "+oe.Addr.String())
		}
	}
	var se *os.SyscallError
	if errors.As(err, &se) {
		o.Syscall = se.Syscall
	}
	var de *net.DNSError
	if errors.As(err, &de) {
		o.DNS = fmt.Sprintf("%s of %q: not found %v", de.Err, de.Name, de.IsNotFound)
	}
	var ne net.Error
	o.NetError = errors.As(err, &ne)
	var te interface {
		Timeout() bool
		Temporary() bool
	}
	if errors.As(err, &te) {
		o.Timeout, o.Temporary = te.Timeout(), te.Temporary()
	}
	for _, target := range []error{
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, os.ErrClosed, net.ErrWriteToConnected,
		os.ErrDeadlineExceeded, context.Canceled, context.DeadlineExceeded, errors.ErrUnsupported, os.ErrInvalid,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ENOTCONN, syscall.EADDRINUSE,
		syscall.EADDRNOTAVAIL, syscall.EDESTADDRREQ, syscall.EMSGSIZE, syscall.EINVAL, syscall.ENETUNREACH,
		syscall.EHOSTUNREACH, syscall.ETIMEDOUT, syscall.EAFNOSUPPORT, syscall.ENOTSUP, syscall.EISCONN,
	} {
		if errors.Is(err, target) {
			o.Is = append(o.Is, target.Error())
		}
	}
	return o
}

// typeName returns the name of an error's type, or "unexported" if a program cannot name the type. For an
// errno it returns the number.
func typeName(err error) string {
	t := reflect.TypeOf(err)
	name := t.String()
	if i := strings.LastIndexByte(name, '.'); name[i+1] < 'A' || name[i+1] > 'Z' || strings.HasPrefix(name, "*poll.") {
		return "unexported"
	}
	if errno, ok := err.(syscall.Errno); ok {
		return fmt.Sprintf("errno %d", int(errno))
	}
	return name
}

// after runs f in a goroutine, and returns when f is running or blocked. The result of f arrives on
// the channel.
func after[T any](f func() T) <-chan T {
	got := make(chan T, 1)
	go func() { got <- f() }()
	world.Settle()
	return got
}

// concurrently calls f in n goroutines and reports how many calls had no error. The other calls must return
// net.ErrClosed.
func concurrently(n int, f func() error) string {
	got := make(chan error)
	for range n {
		go func() { got <- f() }()
	}
	fine := 0
	for range n {
		err := <-got
		switch {
		case err == nil:
			fine++
		case !errors.Is(err, net.ErrClosed):
			return err.Error()
		}
	}
	return fmt.Sprintf("%d of %d without an error", fine, n)
}

// readErr and writeErr return the error of one call.
func readErr(r io.Reader) error {
	_, err := r.Read(make([]byte, 1))
	return err
}

func writeErr(w io.Writer) error {
	_, err := w.Write([]byte("x"))
	return err
}

// read and write return all results of one call.
func read(r io.Reader, size int) []any {
	b := make([]byte, size)
	n, err := r.Read(b)
	return []any{n, b[:max(n, 0)], err}
}

func write(w io.Writer, s string) []any {
	n, err := w.Write([]byte(s))
	return []any{n, err}
}

// all returns everything that a reader returns until its end.
func all(r io.Reader) []any {
	b, err := io.ReadAll(r)
	return []any{b, err}
}

// reset closes s with a reset, and waits until the peer of s has noticed.
func reset(t *testing.T, s world.TCPConn) {
	t.Helper()
	require.NoError(t, s.SetLinger(0))
	require.NoError(t, s.Close())
	world.Settle()
}

// addrIP returns the IP address of a net.Addr unchanged, or nil if there is none.
func addrIP(a net.Addr) net.IP {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP
	case *net.UDPAddr:
		return a.IP
	case *net.IPAddr:
		return a.IP
	}
	return nil
}
