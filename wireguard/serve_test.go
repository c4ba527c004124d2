//go:build linux

package wireguard

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/netns"
)

// TestTheCommandServesCurlThroughWireguardGo runs the command usernet-wg in a namespace. curl in another namespace gets the
// start page and a file over Debian's wireguard-go, in both families.
func TestTheCommandServesCurlThroughWireguardGo(t *testing.T) {
	netns.Need(t, "wireguard-go", "wg", "curl", "nft", "sha256sum")
	exe := filepath.Join(t.TempDir(), "usernet-wg")
	out, err := exec.Command("go", "build", "-o", exe, "./cmd/usernet-wg").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, loss := range []bool{false, true} {
		t.Run(fmt.Sprintf("loss %v", loss), func(t *testing.T) {
			far, near := twoNamespaces(t, loss)
			cfgs := configs(t, outer[0]+":51820")
			startKernel(t, far, cfgs[0])
			dir := t.TempDir()
			body := content(4 << 20)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "body"), body, 0o600))
			line, end := startCommand(t, near, exe, quickFile(t, cfgs[1]), dir)
			require.Equal(t, fmt.Sprintf("serving on http://%s/ and http://[%s]/ (Ctrl-C ends)\n", addrs4[1], addrs6[1]), line)
			want := sha256.Sum256(body)
			for i, url := range []string{"http://" + addrs4[1], "http://[" + addrs6[1] + "]"} {
				curl := fmt.Sprintf("curl -%d -g -sS --fail %s", []int{4, 6}[i], url)
				// Until the command's first packet has arrived, the other end does not know where to send.
				page := far.Shell(t, curl+"/.usernet/ --retry 100 --retry-all-errors --retry-delay 1")
				require.Contains(t, page, fmt.Sprintf("Hello from <span>%s</span> and <span>%s</span>", addrs4[1], addrs6[1]))
				require.Contains(t, page, "a WireGuard interface")
				require.NotContains(t, page, "Ethernet", "there is none inside a WireGuard interface")
				sum := far.Shell(t, curl+"/body | sha256sum")
				require.Equal(t, hex.EncodeToString(want[:]), strings.Fields(sum)[0])
			}
			end()
		})
	}
}

// quickFile writes a configuration in the form of wg-quick, and returns the path of the file. The configuration has one
// peer. The interface sends a packet to the peer at once, so that the peer learns the interface's address.
func quickFile(t *testing.T, cfg Config) string {
	t.Helper()
	p := cfg.Peers[0]
	file := filepath.Join(t.TempDir(), "wg.conf")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `# in the form of wg-quick
[Interface]
PrivateKey = %v
Address = %v, %v
[Peer]
PublicKey = %v
PresharedKey = %v
AllowedIPs = %v, %v
Endpoint = %s
PersistentKeepalive = 1
`, cfg.PrivateKey, cfg.Addresses[0], cfg.Addresses[1], p.PublicKey, p.PresharedKey, p.AllowedIPs[0], p.AllowedIPs[1], p.Endpoint), 0o600))
	return file
}

// startCommand starts a command in a namespace and returns the first line of its output. end interrupts the command and
// checks that it ends without an error.
func startCommand(t *testing.T, ns netns.Namespace, args ...string) (line string, end func()) {
	t.Helper()
	cmd := ns.Command(t.Context(), args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	out := bufio.NewReader(pipe)
	if line, err = out.ReadString('\n'); err != nil {
		cmd.Wait()
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return line, func() {
		t.Helper()
		require.NoError(t, cmd.Process.Signal(unix.SIGINT))
		_, err := io.Copy(io.Discard, out)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait(), "%s", errs.String())
	}
}
