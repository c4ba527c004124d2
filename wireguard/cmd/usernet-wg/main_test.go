package main

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAWrongCommandLineOrFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	const key = "PrivateKey = GIF6nZ2mbPDPIWX2y5xB8cYUa1rDkGG0h7Q6rnA5WHk=\n"
	good := write("good", "[Interface]\n"+key+"Address = 192.0.2.2/24\n")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "Usage: usernet-wg"},
		{[]string{"a", "b", "c"}, 2, "Usage: usernet-wg"},
		{[]string{"-colour", "a"}, 2, "flag provided but not defined: -colour"},
		{[]string{"-h"}, 0, "AllowedIPs ="},
		{[]string{filepath.Join(dir, "none")}, 1, "no such file"},
		{[]string{write("bad", "[Interface]\nFlavour = sweet\n")}, 1, "line 2: [interface] has no key Flavour"},
		{[]string{write("bare", "[Interface]\n"+key)}, 1, "there is no Address"},
		{[]string{good, good}, 1, "is not a directory"},
		{[]string{"-listen", "80", good}, 1, "missing port in address"},
	} {
		var out, errs bytes.Buffer
		require.Equal(t, c.code, run(t.Context(), c.args, &out, &errs), "%q", c.args)
		require.Contains(t, errs.String(), c.want, "%q", c.args)
		require.Empty(t, out.String())
	}
}

func TestURLsNameTheAddressesThatListen(t *testing.T) {
	both := []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}
	for at, want := range map[string]string{
		"[::]:80":          "http://192.0.2.2/ and http://[2001:db8::2]/",
		"[::]:8080":        "http://192.0.2.2:8080/ and http://[2001:db8::2]:8080/",
		"192.0.2.2:80":     "http://192.0.2.2/",
		"[2001:db8::2]:80": "http://[2001:db8::2]/",
	} {
		require.Equal(t, want, urls(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(at)), both))
	}
}
