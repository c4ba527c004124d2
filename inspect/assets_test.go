package inspect

import (
	"io/fs"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestThePageMakesNoHTMLOfText checks that scripts put text into the page as text nodes alone, that nothing is inline,
// and that nothing comes from elsewhere.
func TestThePageMakesNoHTMLOfText(t *testing.T) {
	html := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|\beval\(|new Function|javascript:`)
	inline := regexp.MustCompile(`(?i)<script(?: type="module")?>|<style|\sstyle=|\son[a-z]+=`)
	elsewhere := regexp.MustCompile(`(?:https?:)?//[a-z0-9-]+\.[a-z]`)
	n := 0
	require.NoError(t, fs.WalkDir(assets, "assets", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		b, err := fs.ReadFile(assets, path)
		require.NoError(t, err)
		require.NotRegexp(t, html, string(b), path)
		if path == "assets/index.html" {
			require.NotRegexp(t, inline, string(b), path)
		}
		for _, url := range elsewhere.FindAllString(string(b), -1) {
			require.Contains(t, []string{"http://www.w"}, url, path) // XML namespaces, such as that of SVG
		}
		return nil
	}))
	require.Greater(t, n, 10)
}
