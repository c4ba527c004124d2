package usernet

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Limits in lines, so that a reader can follow a file or a function.
const (
	longestFile     = 900
	longestFunction = 80 // in the program; a test may be a long list
)

func TestFilesAndFunctionsAreShortEnoughToBeRead(t *testing.T) {
	files := 0
	require.NoError(t, filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil || ast.IsGenerated(f) {
			return err
		}
		files++
		lines := func(n ast.Node) int { return fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1 }
		if n := fset.File(f.Pos()).LineCount(); n > longestFile {
			t.Errorf("%s has %d lines", name, n)
		}
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && lines(fn) > longestFunction {
				t.Errorf("%s: %s has %d lines", fset.Position(fn.Pos()), fn.Name.Name, lines(fn))
			}
		}
		return nil
	}))
	require.Greater(t, files, 100)
}
