package resolve

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// rdata returns the record whose RDATA is in a vector of RFC 9460 appendix D.
func rdata(t *testing.T, typ dnsmessage.Type, vector string) (dnsmessage.ResourceBody, error) {
	t.Helper()
	raw, err := hex.DecodeString(strings.Join(strings.Fields(vector), ""))
	require.NoError(t, err)
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{Response: true})
	require.NoError(t, b.StartAnswers())
	require.NoError(t, b.UnknownResource(dnsmessage.ResourceHeader{Name: mustName("example.com."), Class: dnsmessage.ClassINET},
		dnsmessage.UnknownResource{Type: typ, Data: raw}))
	msg, err := b.Finish()
	require.NoError(t, err)
	var p dnsmessage.Parser
	_, err = p.Start(msg)
	require.NoError(t, err)
	require.NoError(t, p.SkipAllQuestions())
	rr, err := p.Answer()
	return rr.Body, err
}

const (
	fooExampleCom = "03 66 6f 6f 07 65 78 61 6d 70 6c 65 03 63 6f 6d 00 "
	fooExampleOrg = "03 66 6f 6f 07 65 78 61 6d 70 6c 65 03 6f 72 67 00 "
)

// RFC 9460 appendix D.1 and D.2.
var svcbVectors = map[string]struct {
	wire  string
	alias string
	want  *ServiceBinding
}{
	"HTTPS 0 foo.example.com.": {"00 00 " + fooExampleCom, "foo.example.com.", nil},
	"SVCB 1 .":                 {"00 01 00", "", &ServiceBinding{Priority: 1, Target: "example.com."}},
	"SVCB 16 foo.example.com. port=53": {"00 10 " + fooExampleCom + "00 03 00 02 00 35", "",
		&ServiceBinding{Priority: 16, Target: "foo.example.com.", Port: 53, Params: []ServiceParam{{3, []byte{0, 53}}}}},
	"SVCB 1 foo.example.com. key667=hello": {"00 01 " + fooExampleCom + "02 9b 00 05 68 65 6c 6c 6f", "",
		&ServiceBinding{Priority: 1, Target: "foo.example.com.", Params: []ServiceParam{{667, []byte("hello")}}}},
	`SVCB 1 foo.example.com. key667="hello\210qoo"`: {"00 01 " + fooExampleCom + "02 9b 00 09 68 65 6c 6c 6f d2 71 6f 6f", "",
		&ServiceBinding{Priority: 1, Target: "foo.example.com.", Params: []ServiceParam{{667, []byte("hello\xd2qoo")}}}},
	`SVCB 1 foo.example.com. ipv6hint="2001:db8::1,2001:db8::53:1"`: {"00 01 " + fooExampleCom + "00 06 00 20" +
		"20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 20 01 0d b8 00 00 00 00 00 00 00 00 00 53 00 01", "",
		&ServiceBinding{Priority: 1, Target: "foo.example.com.", IPv6Hint: addrs("2001:db8::1", "2001:db8::53:1")}},
	`SVCB 1 example.com. ipv6hint="2001:db8:122:344::192.0.2.33"`: {"00 01 07 65 78 61 6d 70 6c 65 03 63 6f 6d 00 00 06 00 10" +
		"20 01 0d b8 01 22 03 44 00 00 00 00 c0 00 02 21", "",
		&ServiceBinding{Priority: 1, Target: "example.com.", IPv6Hint: addrs("2001:db8:122:344::c000:221")}},
	"SVCB 16 foo.example.org. alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1": {"00 10 " + fooExampleOrg +
		"00 00 00 04 00 01 00 04 00 01 00 09 02 68 32 05 68 33 2d 31 39 00 04 00 04 c0 00 02 01", "",
		&ServiceBinding{Priority: 16, Target: "foo.example.org.", ALPN: []string{"h2", "h3-19"}, Mandatory: []uint16{1, 4}, IPv4Hint: addrs("192.0.2.1")}},
	`SVCB 16 foo.example.org. alpn="f\\\\oo\\,bar,h2"`: {"00 10 " + fooExampleOrg + "00 01 00 0c 08 66 5c 6f 6f 2c 62 61 72 02 68 32", "",
		&ServiceBinding{Priority: 16, Target: "foo.example.org.", ALPN: []string{`f\oo,bar`, "h2"}}},
}

func addrs(list ...string) (all []netip.Addr) {
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func TestVectorsOfRFC9460(t *testing.T) {
	for name, v := range svcbVectors {
		t.Run(name, func(t *testing.T) {
			typ := dnsmessage.TypeSVCB
			if strings.HasPrefix(name, "HTTPS") {
				typ = dnsmessage.TypeHTTPS
			}
			body, err := rdata(t, typ, v.wire)
			require.NoError(t, err)
			alias, bindings, ok := New(Config{}).bindings("example.com.", []dnsmessage.Resource{{Body: body}})
			require.True(t, ok)
			require.Equal(t, v.alias, alias)
			if v.want == nil {
				require.Empty(t, bindings)
				return
			}
			require.Len(t, bindings, 1)
			if v.want.Params == nil {
				bindings[0].Params = nil
			}
			require.Equal(t, v.want, bindings[0])
		})
	}
}

// RFC 9460 section 2.2: "If any RRs are malformed, the client MUST reject the entire RRSet". The first cases
// are the wire forms of those in appendix D.3.
func TestMalformedServiceBindingsAreRefused(t *testing.T) {
	for name, params := range map[string]string{
		"a repeated key":                   "00 7b 00 01 61 00 7b 00 01 61",
		"keys in descending order":         "00 03 00 02 00 35 00 01 00 03 02 68 32",
		"mandatory without value":          "00 00 00 00",
		"alpn without value":               "00 01 00 00",
		"port without value":               "00 03 00 00",
		"ipv4hint without value":           "00 04 00 00",
		"ipv6hint without value":           "00 06 00 00",
		"no-default-alpn with a value":     "00 01 00 03 02 68 32 00 02 00 03 61 62 63",
		"no-default-alpn without alpn":     "00 02 00 00",
		"a missing mandatory key":          "00 00 00 02 02 9b",
		"mandatory in itself":              "00 00 00 02 00 00",
		"a mandatory key twice":            "00 00 00 04 02 9b 02 9b 02 9b 00 01 61",
		"mandatory keys in wrong order":    "00 00 00 04 00 03 00 01 00 01 00 03 02 68 32 00 03 00 02 00 35",
		"half a mandatory key":             "00 00 00 03 00 03 00 00 03 00 02 00 35",
		"an empty protocol":                "00 01 00 01 00",
		"a protocol beyond the value":      "00 01 00 03 03 68 32",
		"a port of three bytes":            "00 03 00 03 00 35 00",
		"an address of three bytes":        "00 04 00 03 c0 00 02",
		"an IPv6 address of four bytes":    "00 06 00 04 c0 00 02 01",
		"a value beyond the record":        "00 03 00 04 00 35",
		"half a key":                       "00",
		"a key without a length":           "00 03 00",
		"a target that is not a host name": "", // the test makes this target itself
	} {
		t.Run(name, func(t *testing.T) {
			target := fooExampleCom
			if params == "" {
				target = "03 66 20 6f 00" // "f o"
			}
			body, err := rdata(t, dnsmessage.TypeSVCB, "00 01 "+target+params)
			if err != nil {
				return // the parser of the message refuses it already
			}
			_, _, ok := New(Config{}).bindings("example.com.", []dnsmessage.Resource{{Body: body}})
			require.False(t, ok)
		})
	}
}

func https(priority uint16, target string, params ...dnsmessage.SVCParam) dnsmessage.ResourceBody {
	return &dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{Priority: priority, Target: mustName(target), Params: params}}
}

func svcb(priority uint16, target string, params ...dnsmessage.SVCParam) dnsmessage.ResourceBody {
	return &dnsmessage.SVCBResource{Priority: priority, Target: mustName(target), Params: params}
}

func port(n byte) dnsmessage.SVCParam { return dnsmessage.SVCParam{Key: 3, Value: []byte{0, n}} }

var bindingZone = zone{
	"web.test.":                   {https(2, "b.test."), https(1, "."), https(3, "c.test.", dnsmessage.SVCParam{Key: 0, Value: []byte{2, 155}}, dnsmessage.SVCParam{Key: 667})},
	"_8443._https.web.test.":      {https(1, "alt.test.", port(99))},
	"alias.test.":                 {https(0, "web.test.")},
	"alias2.test.":                {https(0, "alias.test."), https(1, "ignored.test.")},
	"cname.test.":                 {cname("alias.test.")},
	"plain.test.":                 {https(0, "bare.test.")},
	"bare.test.":                  {a("192.0.2.1")},
	"local.test.":                 {https(0, "localhost.")},
	"tocname.test.":               {https(0, "barecname.test.")},
	"barecname.test.":             {cname("bare.test.")},
	"gone.test.":                  {https(0, ".")},
	"loop.test.":                  {https(0, "loop2.test.")},
	"loop2.test.":                 {https(0, "loop.test.")},
	"nine.test.":                  {https(0, "eight.test.")},
	"eight.test.":                 {https(0, "seven.test.")},
	"seven.test.":                 {https(0, "six.test.")},
	"six.test.":                   {https(0, "five.test.")},
	"five.test.":                  {https(0, "four.test.")},
	"four.test.":                  {https(0, "three.test.")},
	"three.test.":                 {https(0, "two.test.")},
	"two.test.":                   {https(0, "one.test.")},
	"one.test.":                   {https(0, "web.test.")},
	"bad.test.":                   {https(1, "."), https(2, "x.test.", dnsmessage.SVCParam{Key: 3, Value: []byte{1}})},
	"useless.test.":               {https(1, ".", dnsmessage.SVCParam{Key: 0, Value: []byte{2, 155}}, dnsmessage.SVCParam{Key: 667})},
	"_dns.resolver.test.":         {svcb(1, "dot.test.")},
	"_8853._dns.resolver.test.":   {svcb(1, "dot2.test.")},
	"resolver.test.":              {svcb(1, "dot3.test.")},
	"_8080._https.bare.a.test.":   {https(1, ".")},
	"_https.no-such-prefix.test.": {https(1, ".")},
}

func TestLookupHTTPS(t *testing.T) {
	n := newNetwork(map[string]handler{server1: bindingZone.serve})
	r := resolverOn(n, Config{Search: []string{"a.test"}}, server1)
	for _, c := range []struct {
		host    string
		port    uint16
		target  string
		targets []string
		err     string
	}{
		{"web.test", 0, "web.test.", []string{"web.test.", "b.test."}, ""},
		{"web.test", 443, "web.test.", []string{"web.test.", "b.test."}, ""},
		{"web.test", 8443, "_8443._https.web.test.", []string{"alt.test."}, ""},
		{"bare", 8080, "_8080._https.bare.a.test.", []string{"_8080._https.bare.a.test."}, ""},
		{"alias.test", 0, "web.test.", []string{"web.test.", "b.test."}, ""},
		{"alias2.test", 0, "web.test.", []string{"web.test.", "b.test."}, ""},
		{"cname.test", 0, "web.test.", []string{"web.test.", "b.test."}, ""},
		{"plain.test", 0, "bare.test.", nil, ""},
		{"tocname.test", 0, "bare.test.", nil, ""},
		{"local.test", 0, "localhost.", nil, ""},
		{"useless.test", 0, "useless.test.", nil, ""},
		{"bare.test", 0, "", nil, "no such host"},
		{"nowhere.test", 0, "", nil, "no such host"},
		{"localhost", 0, "", nil, "no such host"},
		{"a..b", 0, "", nil, "no such host"},
		{"gone.test", 0, "", nil, "no such host"},
		{"loop.test", 0, "", nil, "too many aliases"},
		{"eight.test", 0, "web.test.", []string{"web.test.", "b.test."}, ""},
		{"nine.test", 0, "", nil, "too many aliases"},
		{"bad.test", 0, "", nil, "DNS response contained records which contain invalid names"},
	} {
		t.Run(c.host, func(t *testing.T) {
			target, bindings, err := r.LookupHTTPS(t.Context(), c.host, c.port)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.target, target)
			var targets []string
			for _, b := range bindings {
				targets = append(targets, b.Target)
			}
			require.Equal(t, c.targets, targets)
		})
	}
	n.asked = nil
	_, _, err := r.LookupHTTPS(t.Context(), "loop.test", 0)
	require.Error(t, err)
	require.LessOrEqual(t, len(n.log()), 2*(maxServiceAliases+1), "RFC 9460 2.4.2: clients MUST limit the number of AliasMode records")
}

func TestLookupSVCB(t *testing.T) {
	r := resolverOn(newNetwork(map[string]handler{server1: bindingZone.serve}), Config{}, server1)
	for _, c := range []struct {
		scheme string
		port   uint16
		want   string
	}{{"dns", 0, "dot.test."}, {"dns", 8853, "dot2.test."}, {"", 0, "dot3.test."}} {
		_, bindings, err := r.LookupSVCB(t.Context(), c.scheme, c.port, "resolver.test")
		require.NoError(t, err)
		require.Equal(t, c.want, bindings[0].Target)
	}
}

// RFC 9460 section 2.4.1: clients "SHOULD apply a random shuffle within a priority level".
func TestBindingsOfEqualPriorityAreShuffled(t *testing.T) {
	var records []dnsmessage.Resource
	for _, target := range []string{"a.", "b.", "c."} {
		records = append(records, dnsmessage.Resource{Body: svcb(1, target)})
	}
	records = append(records, dnsmessage.Resource{Body: svcb(0xffff, "last.")})
	r := New(Config{})
	first := map[string]bool{}
	for range 200 {
		_, bindings, _ := r.bindings("x.", records)
		first[bindings[0].Target] = true
		require.Equal(t, "last.", bindings[3].Target)
	}
	require.Len(t, first, 3)
}

// A binding belongs to the caller, so a change must not reach the cache.
func TestABindingMayBeModified(t *testing.T) {
	r := resolverOn(newNetwork(map[string]handler{server1: bindingZone.serve}), Config{CacheSize: 10}, server1)
	for range 2 {
		_, bindings, err := r.LookupHTTPS(t.Context(), "web.test", 8443)
		require.NoError(t, err)
		require.Equal(t, []byte{0, 99}, bindings[0].Params[0].Value)
		bindings[0].Params[0].Value[1] = 1
	}
}

func FuzzServiceBinding(f *testing.F) {
	for _, v := range svcbVectors {
		raw, err := hex.DecodeString(strings.Join(strings.Fields(v.wire), ""))
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 0xffff {
			return
		}
		body, err := rdata(t, dnsmessage.TypeSVCB, hex.EncodeToString(raw))
		if err != nil {
			return
		}
		_, bindings, ok := New(Config{}).bindings("example.com.", []dnsmessage.Resource{{Body: body}})
		for _, b := range bindings {
			require.True(t, ok)
			require.NotZero(t, b.Priority)
			require.True(t, isDomainName(b.Target))
			require.False(t, slices.Contains(b.ALPN, ""))
			require.True(t, slices.IsSortedFunc(b.Params, func(x, y ServiceParam) int { return int(x.Key) - int(y.Key) }))
		}
	})
}
