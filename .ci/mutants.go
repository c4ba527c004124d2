//go:build ignore

// Mutants shows that the tests notice faults. It changes the program in one place at a time, so that the
// program breaks a rule of IPv6. Then it runs the test of that rule, and the test must fail. The files of the
// checkout do not change: each change is an overlay of go test.
//
//	go run .ci/mutants.go [NAME...]
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A mutant replaces the text old by the text new in file. The file must contain old exactly once.
type mutant struct {
	name     string
	file     string
	old, new string
	pkg      string
	test     string // the test that must fail
}

var mutants = []mutant{
	// RFC 4942 2.2: IPv4-mapped addresses.
	{"mapped source accepted", "stack/ip_v6.go", "if p.src.Is4In6() || p.dst.Is4In6() {", "if p.dst.Is4In6() {",
		"./stack", "TestMartiansOfIPv6AreDroppedByReason"},
	{"mapped destination accepted", "stack/ip_v6.go", "if p.src.Is4In6() || p.dst.Is4In6() {", "if p.src.Is4In6() {",
		"./stack", "TestMartiansOfIPv6AreDroppedByReason"},
	// RFC 4861 7.1.1: "The IP Hop Limit field has a value of 255".
	{"neighbor discovery with hop limit 254 accepted", "stack/link_ndp.go", "case p.ttl != wire.NDHopLimit:", "case p.ttl < wire.NDHopLimit-1:",
		"./stack", "TestInvalidNeighborDiscoveryIsDropped"},
	// RFC 8201 4: no path MTU below 1280.
	{"Packet Too Big of 1000 believed", "stack/ip_pmtu.go", "least = wire.MinIPv6MTU", "least = wire.MinIPv6MTU - 280",
		"./stack", "TestPathMTUNeverFallsBelow1280"},
	// RFC 5722 4: a datagram whose fragments overlap is discarded.
	{"overlapping fragment accepted", "stack/ip_fragment.go", "\t\ta.forget(d)\n\t\treturn nil, dropOverlap\n", "\t\treturn nil, dropDuplicateFragment\n",
		"./stack", "TestAnOverlapDropsTheWholeDatagram"},
	// RFC 8200 8.1: no UDP without a checksum.
	{"zero UDP checksum accepted", "stack/sock_udp.go", " ||\n\t\th.Checksum == 0 && p.csumOffset == 0 && p.src.Is6() {", " {",
		"./stack", "TestUDPOfIPv6NeedsItsChecksum"},
	// RFC 4862 5.4.3: no address resolution for a tentative address.
	{"tentative address answers", "stack/link_ndp.go", "case a.state == AddrTentative:", "case a.state == AddrTentative && ns.HasNonce:",
		"./stack", "TestATentativeAddressIsNotUsed"},
	// RFC 6946 4: an atomic fragment is a whole packet.
	{"atomic fragment parked", "stack/wire/ipv6ext.go", "if f.Offset != 0 || f.More {", "if true {",
		"./stack/wire", "TestExtensionHeadersAreWalked"},
	// RFC 5095 3: routing header type 0 is not processed.
	{"routing header type 0 accepted", "stack/wire/ipv6ext.go", "if h[3] != 0 {", "if h[3] != 0 && h[2] != 0 {",
		"./stack/wire", "TestExtensionHeadersAreWalked"},
	// RFC 3542 3.1: a raw socket gets no ICMPv6 message with a bad checksum.
	{"raw ICMPv6 without its checksum accepted", "stack/sock_raw.go", "if summed = p.sumOK(); !summed {", "if summed = true; !summed {",
		"./stack", "TestARawSocketOfIPv6VerifiesItsChecksum"},
}

func main() {
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	failed, ran := 0, 0
	for i, m := range mutants {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], m.name) {
			continue
		}
		ran++
		began := time.Now()
		if err := m.dies(filepath.Join(dir, fmt.Sprint(i))); err != nil {
			failed++
			fmt.Printf("   %s: %v\n", m.name, err)
			continue
		}
		fmt.Printf("   %s: %s fails (%.0f s)\n", m.name, m.test, time.Since(began).Seconds())
	}
	os.RemoveAll(dir)
	if ran == 0 {
		fmt.Fprintln(os.Stderr, "there is no such mutant")
		os.Exit(1)
	}
	if failed > 0 {
		fmt.Fprintf(os.Stderr, "%d mutants live\n", failed)
		os.Exit(1)
	}
}

// dies runs the test with the change. It returns nil if the test fails, and an error if the test passes or does
// not run. dir is a directory for the changed file.
func (m *mutant) dies(dir string) error {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return fmt.Errorf("%s has the text to replace %d times, not once", m.file, n)
	}
	whole, err := filepath.Abs(m.file)
	if err != nil {
		return err
	}
	changed, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {whole: changed}})
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return err
	}
	out, err := exec.Command("go", "test", "-count=1", "-timeout=5m", "-vet=off", "-overlay", overlay, "-run", "^"+m.test+"$", m.pkg).CombinedOutput()
	switch {
	case strings.Contains(string(out), "--- FAIL: "+m.test+" "):
		return nil
	case err != nil:
		return fmt.Errorf("%s does not run: %w\n%s", m.test, err, out)
	}
	return fmt.Errorf("%s passes\n%s", m.test, out)
}
