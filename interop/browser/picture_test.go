//go:build linux

package browser

import (
	"bytes"
	"flag"
	"fmt"
	"image/png"
	"os"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/inspect"
)

var update = flag.Bool("update", false, "write the pictures in docs/")

// TestThePicturesOfTheDocuments makes the pictures of the page in docs/. With -update it writes them. Otherwise it
// checks that a picture made now shows as much as the one in docs/: pixels differ with the fonts of the machine.
func TestThePicturesOfTheDocuments(t *testing.T) {
	imp := slow
	imp.Loss = 0.005
	x := newTransfer(t, imp, discard)
	s := show(t, x.from, inspect.Config{})
	b := newTab(t)
	enough := 20 // samples
	if *update {
		enough = 150 // a picture that has something to show
	}
	for _, p := range []struct {
		file, view, scheme string
		width, height      int64
		ready              string // when the picture is taken
	}{
		{"inspector.png", view(x.id), "light", 1100, 1140,
			fmt.Sprintf("%s > %d", samples("cwnd", "H"), enough)},
		{"inspector-dark.png", "#/", "dark", 1100, 900, `document.querySelector('[data-plot="traffic"] .plot path.s1').getAttribute("d")?.split("L").length > 5`},
		{"inspector-topology.png", "#/topology", "light", 400, 800, `document.querySelector(".tree rect")`},
	} {
		b.size(p.width, p.height)
		b.scheme(p.scheme)
		b.open(s.url, p.view)
		b.await("what "+p.file+" shows", p.ready)
		b.run(chromedp.Evaluate[chromedp.Void]("window.scrollTo(0, 0)"))
		now := b.screenshot()
		file := "../../docs/" + p.file
		if *update {
			require.NoError(t, os.WriteFile(file, now, 0o644))
		}
		old, err := os.ReadFile(file)
		require.NoError(t, err, "make it with -update")
		was, err := png.DecodeConfig(bytes.NewReader(old))
		require.NoError(t, err)
		is, err := png.DecodeConfig(bytes.NewReader(now))
		require.NoError(t, err)
		require.Equal(t, was.Width, is.Width, p.file)
		require.Equal(t, was.Height, is.Height, p.file)
	}
	b.noErrors()
}
