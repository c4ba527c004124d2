package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// notRun has the commands of the documents that TestCommandsOfTheDocumentsRun does not run, with the reason and the
// test that runs a command like it.
var notRun = map[string]string{
	"go run ./cmd/usernet serve": "as usernet serve -wire, or on a TAP: internal/taptest.TestServeCommandServesOverATAPThatItMakes",
	"go test ./...":              "the gate runs it",
	"sudo -E go test ./...":      "the gate runs it",
	"sudo -E .ci/run":            "it is the gate",
	"go install github.com/usernet/usernet/cmd/usernet@latest":                    "it downloads",
	"sudo ip tuntap add dev tap0 mode tap user $USER":                             "needs root: internal/taptest.TestServeCommandUsesADeviceOfTheUsersWithoutRoot",
	"sudo ip addr add 192.0.2.1/24 dev tap0":                                      "needs root: internal/taptest.TestServeCommandUsesADeviceOfTheUsersWithoutRoot",
	"sudo ip link set tap0 up":                                                    "needs root: internal/taptest.TestServeCommandUsesADeviceOfTheUsersWithoutRoot",
	"go test ./docs/guide -update":                                                "it writes files, which the test without the flag compares",
	"go run ./docs/guide/10-congestion -svg docs/guide/10-congestion/windows.svg": "it writes a file, which a test of docs/guide compares",
	"cd bench && go run . -compare main":                                          "takes minutes; the gate runs the tests of bench",
	"cd bench && go run .":                                                        "takes minutes; the gate runs the tests of bench",
	"go generate ./dropin":                                                        "it writes files, which a test of dropin/internal/gen compares",
	"go test -fuzz=FuzzTCP -fuzztime=1m ./stack/wire":                             "the gate runs each fuzzer",
	"go test . -run FilesOfFeatures -update-features":                             "it writes a file, which the test without the flag compares",
	"go test ./stack -run TablesOfRequirements -update":                           "it writes files, which the test without the flag compares",
	"go test ./stack/tcp -run Golden -update":                                     "takes long; the test without the flag compares a sample",
	"usernet echo -addr 192.168.69.1/24 -udp-echo 6969":                           "needs a TAP: internal/taptest.TestEchoCommandServesAtTheAddressOfSmoltcp",
	"usernet serve -tap tap0":                                                     "needs a TAP: internal/taptest.TestServeCommandUsesADeviceOfTheUsersWithoutRoot",
	"usernet serve ~/www":                                                         "needs a TAP: internal/taptest.TestServeCommandServesOverATAPThatItMakes",
	"usernet echo -udp-echo 6969":                                                 "needs a TAP: internal/taptest.TestEchoCommandServesAtTheAddressOfSmoltcp",
	"usernet ping -c 1000 -i 0 -s 1472 192.0.2.1":                                 "needs a TAP: internal/taptest.TestPingAndGetCommandsReachTheKernel",
	"usernet dump -answer -c 20":                                                  "needs a TAP: internal/taptest.TestDumpCommandPrintsWhatArrives",
	"usernet serve -i eth0 -auto":                                                 "needs root: internal/taptest.TestServeCommandServesOverAVeth, internal/taptest.TestServeAutoGetsItsAddresses",
	"usernet serve -vlan 100 -tap tap0":                                           "needs root: internal/taptest.TestAKernelAnswersInEachVLAN",
	"usernet serve -tun tun0":                                                     "needs root: internal/taptest.TestCommandsWorkOnATUN",
	"usernet serve -pppoe eth0 -user joe -password FILE":                          "needs root: internal/taptest.TestServeOverPPPoE",
	"usernet serve -stream listen:unix:/run/vm":                                   "needs a virtual machine: internal/taptest.TestServeCommandServesAVirtualMachine",
}

// inText finds the commands that stand within a sentence.
var inText = regexp.MustCompile("`((?:go (?:run|test|install|generate)|cd|sudo)\\s[^`]+|usernet \\w+ -[^`]+)`")

// TestCommandsOfTheDocumentsRun runs the lines of the blocks marked "sh" in README.md, CONTRIBUTING.md and docs/*.md.
// Commands within sentences have to be in notRun.
func TestCommandsOfTheDocumentsRun(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	pages = append(pages, "../../README.md", "../../CONTRIBUTING.md")
	texts := map[string]string{}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		require.NoError(t, err)
		texts[filepath.Base(page)] = string(b)
	}
	t.Chdir(t.TempDir())
	seen, ran := map[string]bool{}, 0
	for page, text := range texts {
		for _, block := range regexp.MustCompile("(?s)```sh[^\n]*\n(.*?)```").FindAllStringSubmatch(text, -1) {
			for line := range strings.Lines(block[1]) {
				line, _, _ = strings.Cut(line, "  #")
				line = strings.TrimSpace(line)
				seen[line] = true
				if line == "" || notRun[line] != "" {
					continue
				}
				runDocumented(t, page, line)
				ran++
			}
		}
		for _, m := range inText.FindAllStringSubmatch(text, -1) {
			line := strings.Join(strings.Fields(m[1]), " ")
			seen[line] = true
			require.NotEmpty(t, notRun[line], "%s: %q is neither run nor in the list", page, line)
		}
	}
	require.GreaterOrEqual(t, ran, 9, "the expressions above still find the commands")
	for line := range notRun {
		require.True(t, seen[line], "no document has %q", line)
	}
}

// runDocumented runs a line of a document, which must succeed. A server is ended when it serves.
func runDocumented(t *testing.T, page, line string) {
	args, ok := strings.CutPrefix(line, "usernet ")
	require.True(t, ok, "%s: %q is neither run nor in the list", page, line)
	if rest, ok := strings.CutPrefix(args+" ", "serve -wire "); ok {
		url, _, end := serve(t, strings.Fields(rest)...)
		require.Contains(t, get(t, url), "Hello from")
		require.Equal(t, exitOK, end(), line)
		return
	}
	code, _, errs := runLine(t, strings.Fields(args)...)
	require.Equal(t, exitOK, code, "%s: %s: %s", page, line, errs)
}
