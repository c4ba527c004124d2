package usernet

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each package that a program can import has an example that runs, and thus has output.
func TestReadablePackagesHaveAnExample(t *testing.T) {
	for _, p := range packages(t, "linux") {
		name := inModule(p.ImportPath)
		if slices.Contains(strings.Split(name, "/"), "internal") || strings.HasPrefix(name, "interop/") {
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
