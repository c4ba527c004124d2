package site

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// serve serves a site on a host, and returns a function that gets a path from another host. The hosts are on an Ethernet
// if eth is set, and otherwise on a link for IP packets only.
func serve(t *testing.T, eth bool, dir string) (get func(path string) string) {
	t.Helper()
	cfg := nic.PipeConfig{Medium: nic.Ethernet}
	if !eth {
		cfg.Medium = nic.IP
	}
	a, b := nic.Pipe(cfg)
	devs := [2]nic.Device{a, b}
	var hosts [2]*usernet.Host
	for i, addr := range []string{"192.0.2.1/24", "192.0.2.2/24"} {
		h, err := usernet.New(usernet.Config{NIC: devs[i], Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		hosts[i] = h
	}
	ln, err := hosts[0].Listen("tcp", ":80")
	require.NoError(t, err)
	s := Site{Host: hosts[0], Addr: netip.MustParseAddr("192.0.2.1"), Link: "a link", Dir: dir}
	srv := s.Server(nil)
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	client := &http.Client{Transport: &http.Transport{DialContext: hosts[1].DialContext}}
	t.Cleanup(client.CloseIdleConnections)
	return func(path string) string {
		resp, err := client.Get("http://192.0.2.1" + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode, path)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(body)
	}
}

func TestThePageNamesWhatIsBelowTCP(t *testing.T) {
	for _, eth := range []bool{true, false} {
		get := serve(t, eth, "")
		page := get("/")
		require.Equal(t, page[:200], get(PagePath)[:200])
		require.Contains(t, page, "Hello from <span>192.0.2.1</span>")
		require.Contains(t, page, "IPv4")
		if eth {
			require.Contains(t, page, "ARP and Ethernet below it")
			require.Contains(t, page, "MAC address")
			require.Contains(t, page, "RFC 826, 894")
		} else {
			require.Contains(t, page, "the TCP and IPv4 below it")
			require.NotContains(t, page, "Ethernet")
			require.NotContains(t, page, "MAC address")
		}
		var f Facts
		require.NoError(t, json.Unmarshal([]byte(get(factsPath)), &f))
		require.Equal(t, !eth, f.NoLink)
		require.Equal(t, "This connection", f.Groups[0].Name)
	}
}

func TestFilesAreServedBesideThePage(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
	get := serve(t, true, dir)
	require.Equal(t, "content", get("/file"))
	require.Contains(t, get(PagePath), "Hello from")
	require.NotContains(t, get("/"), "Hello from")
}
