package stack

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every lock has a level, so that the build tag lockorder checks it.
func TestEveryMutexHasALevel(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	levels := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "lockorder") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "sync" {
					require.NotContains(t, []string{"Mutex", "RWMutex"}, n.Sel.Name, "%s: write mutex[level…], see lockorder.go", file)
				}
			case *ast.IndexExpr:
				if x, ok := n.X.(*ast.Ident); ok && (x.Name == "mutex" || x.Name == "rwMutex") {
					levels++
				}
			}
			return true
		})
	}
	require.Greater(t, levels, 20)
}
