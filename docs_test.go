//go:build !windows && !js && !wasip1

// The documents are the same on all systems, and reading them takes long under wine and in wasm.

package usernet

import (
	"bytes"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each package that a program can import has an example that runs, and thus has output.
func TestReadablePackagesHaveAnExample(t *testing.T) {
	for _, p := range packages(t, "linux") {
		name := inModule(p.ImportPath)
		if slices.Contains(strings.Split(name, "/"), "internal") || strings.HasPrefix(name, "interop/") || name == "docs/guide" {
			continue
		}
		fset := token.NewFileSet()
		var files []*ast.File
		sources, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		require.NoError(t, err)
		main := false
		for _, source := range sources {
			f, err := parser.ParseFile(fset, source, nil, parser.ParseComments|parser.SkipObjectResolution)
			require.NoError(t, err)
			main = main || f.Name.Name == "main"
			if strings.HasSuffix(source, "_test.go") {
				files = append(files, f)
			}
		}
		if main {
			continue
		}
		runs := slices.ContainsFunc(doc.Examples(files...), func(e *doc.Example) bool { return e.Output != "" })
		require.True(t, runs, "the package %q has no example with an output", name)
	}
}

// documents are the pages for readers. Those of docs/guide have tests of their own.
func documents(t *testing.T) map[string]string {
	pages := map[string]string{}
	files, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range append(files, "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md") {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		pages[filepath.ToSlash(file)] = string(b)
	}
	return pages
}

func TestREADMEIsReadInThreeMinutes(t *testing.T) {
	b, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(b, []byte("\n")), 200, "lines of README.md; what is longer goes to docs")
}

// TestREADMELinksToWhatExists checks the relative links of all documents, with their anchors.
func TestREADMELinksToWhatExists(t *testing.T) {
	pages := documents(t)
	for file, text := range pages {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, ":") {
				continue
			}
			if target == "" {
				target = filepath.Base(file)
			}
			path := filepath.Join(filepath.Dir(file), target)
			_, err := os.Stat(path)
			require.NoError(t, err, "%s links to %s", file, m[1])
			if anchor != "" {
				require.Contains(t, anchors(pages[filepath.ToSlash(path)]), anchor, "%s links to %s", file, m[1])
			}
		}
	}
}

// anchors returns the anchors of a page's headings, as GitHub makes them.
func anchors(text string) (list []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		a := strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")
		list = append(list, regexp.MustCompile(`[^\w-]`).ReplaceAllString(a, ""))
	}
	return list
}

// TestREADMEFilesNameTestsThatExist checks the tests that documents name, such as `stack.TestPacketsWait`.
func TestREADMEFilesNameTestsThatExist(t *testing.T) {
	tests, _ := readProofs(t)
	n := 0
	for file, text := range documents(t) {
		for _, m := range regexp.MustCompile("`([a-z][\\w/-]*\\.(?:Test|Fuzz|Example|Benchmark)[A-Z]\\w*)`").FindAllStringSubmatch(text, -1) {
			require.Contains(t, tests, m[1], file)
			n++
		}
	}
	require.Greater(t, n, 50, "SECURITY.md names its tests")
	src, err := os.ReadFile("cmd/usernet/documents_test.go")
	require.NoError(t, err)
	for _, name := range regexp.MustCompile(`internal/taptest\.\w+`).FindAllString(string(src), -1) {
		require.Contains(t, tests, name, "cmd/usernet/documents_test.go")
	}
}

// TestREADMENamesAllCommands checks that docs/commands.md has the commands of usernet.
func TestREADMENamesAllCommands(t *testing.T) {
	page := documents(t)["docs/commands.md"]
	files, err := filepath.Glob("cmd/usernet/*.go")
	require.NoError(t, err)
	n := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`\bcommand\{\s*name:\s*"(\w+)"`).FindAllStringSubmatch(string(src), -1) {
			require.Regexp(t, "(?m)^\\| `usernet "+m[1]+"\\b", page, "docs/commands.md: a row for usernet %s", m[1])
			n++
		}
	}
	require.GreaterOrEqual(t, n, 7)
}
