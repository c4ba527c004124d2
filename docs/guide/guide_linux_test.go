package guide

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/netns"
)

// The commands that need root, in a network namespace of their own for each block.
func TestCommandsForRoot(t *testing.T) {
	netns.Need(t, "bash", "curl", "nc", "ping", "go")
	found := 0
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			if b.source != "root" {
				continue
			}
			found++
			t.Run(filepath.Base(filepath.Dir(page)), func(t *testing.T) {
				script := strings.ReplaceAll(b.text, "/tmp/", t.TempDir()+"/")
				out := netns.New(t).Shell(t, "cd ../..\n"+script)
				require.NotEmpty(t, out)
				if strings.Contains(script, "echo hello") {
					require.Equal(t, 2, strings.Count(out, "hello\n"), "%s", out)
				}
				require.NotContains(t, out, "100% packet loss")
			})
		}
	}
	require.Equal(t, 3, found)
}
