package guide

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const modulePath = "github.com/usernet/usernet"

// ours maps the names of packages in coming-from.md to their directories in this module. The page also names package
// wireguard, which is in another module.
var ours = map[string]string{"usernet": "", "nic": "/nic", "stack": "/stack", "tcp": "/stack/tcp"}

// exports returns what the packages of ours export, from the compiler's export data.
func exports(t *testing.T) map[string]*types.Package {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}
	for _, path := range ours {
		args = append(args, modulePath+path)
	}
	out, err := exec.Command("go", args...).Output()
	require.NoError(t, err)
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		files[path] = file
	}
	from := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(files[path]) })
	all := map[string]*types.Package{}
	for name, path := range ours {
		p, err := from.Import(modulePath + path)
		require.NoError(t, err)
		all[name] = p
	}
	return all
}

// exists reports whether a package has an exported identifier, or a type with an exported method or field.
func exists(p *types.Package, name string) bool {
	first, second, nested := strings.Cut(name, ".")
	o := p.Scope().Lookup(first)
	if o == nil || !o.Exported() {
		return false
	}
	if !nested {
		return true
	}
	if _, ok := o.(*types.TypeName); !ok {
		return false
	}
	member, _, _ := types.LookupFieldOrMethod(o.Type(), true, p, second)
	return member != nil && member.Exported()
}

// declared returns the functions, types and methods that the files of a directory declare, such as "Net.Dial".
func declared(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	names := map[string]bool{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range f.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				name := d.Name.Name
				if d.Recv != nil {
					recv := d.Recv.List[0].Type
					if star, ok := recv.(*ast.StarExpr); ok {
						recv = star.X
					}
					name = recv.(*ast.Ident).Name + "." + name
				}
				names[name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if s, ok := spec.(*ast.TypeSpec); ok {
						names[s.Name.Name] = true
					}
				}
			}
		}
	}
	return names
}

func TestComingFromNamesWhatExists(t *testing.T) {
	needsGo(t)
	packages, wireguard := exports(t), declared(t, "../../wireguard")
	// exists finds a name that is missing, or not exported.
	require.False(t, exists(packages["usernet"], "Host.Fly"))
	require.False(t, exists(packages["usernet"], "Host.resolver"))
	page, err := os.ReadFile("coming-from.md")
	require.NoError(t, err)
	span := regexp.MustCompile("`([^`]+)`")
	name := regexp.MustCompile(`^([a-z]+)\.([A-Z]\w*(?:\.\w+)?)$`)
	checked := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| `") && !strings.HasPrefix(line, "| a ") && !strings.HasPrefix(line, "| an ") {
			continue
		}
		require.Len(t, cells, 2, "%s", line)
		found := strings.HasPrefix(cells[1], "none")
		for _, m := range span.FindAllStringSubmatch(cells[1], -1) {
			n := name.FindStringSubmatch(m[1])
			switch {
			case n == nil || n[1] == "syscall" || n[1] == "http" || n[1] == "tls":
				continue
			case n[1] == "wireguard":
				require.True(t, wireguard[n[2]], "%s does not exist:\n%s", m[1], line)
			default:
				require.Contains(t, packages, n[1], "%s", line)
				require.True(t, exists(packages[n[1]], n[2]), "%s does not exist:\n%s", m[1], line)
			}
			found = true
			checked++
		}
		require.True(t, found, "a row without one of our names:\n%s", line)
	}
	require.Greater(t, checked, 80, "the expressions above still find the names")
}
