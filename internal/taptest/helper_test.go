//go:build linux

package taptest

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// helperVar is an environment variable with the name of a helper. The test's binary is also the program
// on the kernel's side of some tests. These tests start the binary again, in the namespace, with this
// variable set.
const helperVar = "USERNET_TAPTEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVar); name != "" {
		if err := helper(name, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		return
	}
	// On Debian, a user's PATH does not have the directories of servers.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	// Most of the time, the tests wait for other programs, so more of them run at a time than there are
	// processors.
	flag.Parse()
	if p := flag.Lookup("test.parallel").Value; p.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		p.Set("6")
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// self returns the shell command that starts a helper.
func self(t *testing.T, name string) string {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return fmt.Sprintf("%s=%s %s", helperVar, name, exe)
}

// helper runs the program name on the kernel's side. The programs use only package net.
func helper(name string, args []string) error {
	switch name {
	case "generate": // SIZE: writes SIZE bytes of content to standard output
		n, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, content(n))
		return err
	case "http": // ADDRESS: serves site
		ln, err := net.Listen("tcp", args[0])
		if err != nil {
			return err
		}
		fmt.Println("ready")
		return http.Serve(ln, site())
	case "send": // ADDRESS SIZE: see sendAndWait
		n, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return sendAndWait(args[0], n)
	case "sink": // ADDRESS DURATION: prints the number of bytes received in that time
		return sink(args[0], args[1])
	case "oracle": // answers the questions on standard input with net's resolver
		return oracle()
	case "uml-exec": // ARGUMENTS: becomes user-mode Linux; see bootUML
		return umlExec(args)
	case "source": // ADDRESS CC: sends with the congestion control CC until the peer closes
		return source(args[0], args[1])
	}
	return fmt.Errorf("no such helper")
}

// sendAndWait sends n bytes of content and waits until the peer has acknowledged all of them. It then
// writes a line to standard output, and waits for the end of standard input.
func sendAndWait(addr string, n int64) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	if _, err := io.Copy(c, content(n)); err != nil {
		return err
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	for {
		var queued int
		var ierr error
		err := raw.Control(func(fd uintptr) { queued, ierr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err != nil || ierr != nil {
			return fmt.Errorf("SIOCOUTQ: %v, %v", err, ierr)
		}
		if queued == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	fmt.Println("acknowledged")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// content returns a reader of n bytes without repetitions. The bytes are the same in each call.
func content(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{'u', 's', 'e', 'r', 'n', 'e', 't'}), n)
}

// sums caches the results of contentSum by size.
var sums sync.Map

// contentSum returns the SHA-256 of content, in hexadecimal.
func contentSum(t *testing.T, n int64) string {
	t.Helper()
	if sum, ok := sums.Load(n); ok {
		return sum.(string)
	}
	h := sha256.New()
	_, err := io.CopyBuffer(h, struct{ io.Reader }{content(n)}, make([]byte, 256<<10))
	require.NoError(t, err)
	sum := hex.EncodeToString(h.Sum(nil))
	sums.Store(n, sum)
	return sum
}

// site is the handler of both sides: GET /content?n=SIZE returns that many bytes of content, and
// PUT /sum answers with the size and the SHA-256 of the request's body.
func site() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /content", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		w.Header().Set("Content-Type", "application/octet-stream")
		io.CopyBuffer(struct{ io.Writer }{w}, content(n), make([]byte, 256<<10))
	})
	mux.HandleFunc("PUT /sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.CopyBuffer(h, struct{ io.Reader }{r.Body}, make([]byte, 256<<10))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d %x\n", n, h.Sum(nil))
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(5 * time.Millisecond)
		io.WriteString(w, "hello\n")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	return mux
}

// startHelper starts a helper in the namespace and waits until the helper has written line.
func (ns *namespace) startHelper(t *testing.T, line, name string, args ...string) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := ns.command(t.Context(), append([]string{exe}, args...)...)
	cmd.Env = append(os.Environ(), helperVar+"="+name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	got, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, "helper %s", name)
	require.Equal(t, line, strings.TrimSpace(got))
}
