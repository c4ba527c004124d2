package usernet

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// inlined maps each package to functions that run for each packet, most of them several times. The
// functions are so small that a call would cost more than their work.
var inlined = map[string][]string{
	"stack/wire": {"Fold", "(*IPv4).HeaderLen"},
	"stack/tcp":  {"Seq.Less", "Seq.LessEq", "Seq.In"},
	"stack": {
		"(*Stack).now", "(*UDP).coarse",
		"(*iface).mtu", "(*iface).mac",
		"(*path).valid", "(*path).mss", "(*path).nextID", "(*path).pseudoSum",
		"(*txQueue).room",
	},
}

func TestWhatEachPacketRunsIsInlined(t *testing.T) {
	for pkg, names := range inlined {
		// If nothing has changed, the go command repeats the compiler's earlier output.
		out, err := exec.Command("go", "build", "-gcflags=-m", "./"+pkg).CombinedOutput()
		require.NoError(t, err, string(out))
		canInline := make(map[string]bool)
		for line := range strings.Lines(string(out)) {
			if _, name, ok := strings.Cut(strings.TrimSpace(line), "can inline "); ok {
				canInline[name] = true
			}
		}
		require.NotEmpty(t, canInline)
		for _, name := range names {
			require.True(t, canInline[name], "%s: %s is not inlined: go build -gcflags=-m=2 ./%s says why", pkg, name, pkg)
		}
	}
}
