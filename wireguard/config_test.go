package wireguard

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	keyA = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	keyB = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	keyC = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
)

func key(t testing.TB, s string) Key {
	t.Helper()
	k, err := ParseKey(s)
	require.NoError(t, err)
	require.Equal(t, s, k.String())
	return k
}

func TestParseConfigReadsAFileOfWgQuick(t *testing.T) {
	cfg, err := ParseConfig(strings.NewReader(`
# A comment
[Interface]
Address = 192.0.2.1/24, 2001:db8::1/64
address = 198.51.100.7
PrivateKey = ` + keyA + ` # the key of this end
ListenPort = 51820
FwMark = 0x10
DNS = 192.0.2.53, 2001:db8::53, example.com
MTU = 1380
Table = auto
SaveConfig = true

[Peer]
PublicKey = ` + keyB + `
PresharedKey = ` + keyC + `
AllowedIPs = 192.0.2.77/24, 2001:db8::/32
AllowedIPs = 198.51.100.9
Endpoint = vpn.example.com:51820
PersistentKeepalive = 25

[Peer]
PublicKey=` + keyC + `
PersistentKeepalive = off
Endpoint = [2001:db8::9]:7
`))
	require.NoError(t, err)
	prefixes := func(s ...string) (all []netip.Prefix) {
		for _, p := range s {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	require.Equal(t, Config{
		PrivateKey: key(t, keyA),
		ListenPort: 51820,
		FwMark:     16,
		Addresses:  prefixes("192.0.2.1/24", "2001:db8::1/64", "198.51.100.7/32"),
		DNS:        []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")},
		Search:     []string{"example.com"},
		MTU:        1380,
		Peers: []Peer{{
			PublicKey:    key(t, keyB),
			PresharedKey: key(t, keyC),
			AllowedIPs:   prefixes("192.0.2.0/24", "2001:db8::/32", "198.51.100.9/32"),
			Endpoint:     "vpn.example.com:51820",
			Keepalive:    25 * time.Second,
		}, {
			PublicKey: key(t, keyC),
			Endpoint:  "[2001:db8::9]:7",
		}},
	}, cfg)
}

func TestParseConfigSaysWhatIsWrong(t *testing.T) {
	const head = "[Interface]\nPrivateKey = " + keyA + "\n"
	for text, want := range map[string]string{
		"":                                    "there is no private key",
		"[Interface]\nPrivateKey = abc":       "line 2: PrivateKey: a key has 44 characters of base64",
		"PrivateKey = " + keyA:                "line 1: PrivateKey stands before the first section",
		"[Interfaces]":                        `line 1: section "[Interfaces]" is neither [Interface] nor [Peer]`,
		head + "Adress = 192.0.2.1/24":        "line 3: [interface] has no key Adress",
		head + "Address = 192.0.2.1/33":       `line 3: Address: "192.0.2.1/33" is not an address with a prefix length, such as 192.0.2.0/24`,
		head + "ListenPort = 65536":           `line 3: ListenPort: "65536" is not a number from 0 to 65535`,
		head + "MTU":                          `line 3: "MTU" is not of the form Key = Value`,
		head + "MTU =":                        "line 3: MTU has no value",
		head + "PostUp = iptables -A INPUT":   "line 3: PostUp: a usernet host runs no commands: remove this line",
		head + "Table = 7":                    `line 3: Table: a usernet host has one routing table: use "auto" or "off"`,
		head + "[Peer]\n":                     "a peer has no public key",
		head + "[Peer]\nEndpoint = a":         "line 4: Endpoint: address a: missing port in address",
		head + "[Peer]\nListenPort = 1":       "line 4: [peer] has no key ListenPort",
		head + peerOf(keyB) + peerOf(keyB):    "two peers have the public key " + keyB,
		head + "Address = fe80::1%eth0":       `line 3: Address: "fe80::1%eth0" is not an address with a prefix length, such as 192.0.2.0/24`,
		head + strings.Repeat("x", 1<<17):     "token too long",
		head + "[Peer]\nAllowedIPs = 0.0.0/0": `line 4: AllowedIPs: "0.0.0/0" is not an address with a prefix length, such as 192.0.2.0/24`,
	} {
		_, err := ParseConfig(strings.NewReader(text))
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "wireguard: ")
	}
}

func peerOf(key string) string { return "[Peer]\nPublicKey = " + key + "\n" }

// FuzzParseConfig checks that each configuration that ParseConfig accepts can be given to a WireGuard device.
func FuzzParseConfig(f *testing.F) {
	f.Add("[Interface]\nPrivateKey = " + keyA + "\nAddress = 192.0.2.1/24\n" + peerOf(keyB) + "AllowedIPs = ::/0, 0.0.0.0/0\nEndpoint = 127.0.0.1:1\n")
	f.Add("[Interface]\nTable = off\nFwMark = off\nDNS = a,b,192.0.2.1\n[Peer]\nPersistentKeepalive = 65535")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := ParseConfig(strings.NewReader(text))
		if err != nil {
			return
		}
		require.NoError(t, cfg.check())
		for i := range cfg.Peers {
			cfg.Peers[i].Endpoint = "" // a name would be resolved
		}
		ipc, err := cfg.ipc(t.Context())
		require.NoError(t, err)
		dev := newDevice(t)
		require.NoError(t, dev.IpcSet(ipc), "%q", ipc)
	})
}
