package usernet

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/usernet/usernet"

// floors maps each package to the packages outside the standard library that it may import. A
// package that is not listed must not exist.
var floors = map[string][]string{
	"":           {"stack", "stack/wire", "nic", "resolve", "dhcp", "mdns"},
	"stack":      {"stack/wire", "stack/tcp", "nic", "internal/addrsel", "internal/tally", "internal/filter"},
	"stack/tcp":  {"stack/wire"},
	"stack/wire": {},
	"nic":        {"stack/wire", "internal/tally", "nic/pcap", "github.com/songgao/water", "golang.org/x/sys/unix", "golang.org/x/sys/windows"},
	"nic/ppp":    {"nic"},
	"nic/pcap":   {},
	"resolve":    {"golang.org/x/net/dns/dnsmessage", "internal/addrsel"},
	// These two contain a TLS and an HTTP client, which an importer of the root does not get.
	"resolve/dot":      {},
	"resolve/doh":      {},
	"dhcp":             {},
	"mdns":             {},
	"inspect":          {"", "stack", "stack/tcp", "stack/wire", "nic", "nic/pcap", "dhcp", "internal/filter"},
	"internal/addrsel": {},
	"internal/tally":   {},
	"internal/filter":  {"stack/wire"},
	// The command uses all packages.
	"cmd/usernet":       {"", "inspect", "stack", "stack/wire", "nic", "nic/pcap", "internal/filter", "internal/iperf", "internal/site", "nic/ppp", "resolve", "dhcp", "internal/accept", "golang.org/x/sys/unix"},
	"internal/accept":   {},
	"internal/iperf":    {"stack", "internal/accept"},
	"internal/hosttest": {"", "nic", "internal/accept"},
	"internal/nictest":  {"nic"},
	"internal/leak":     {},
	"internal/world":    {"", "internal/hosttest"},
	"internal/contract": {},
	"internal/netns":    {"golang.org/x/sys/unix"},
	"internal/scenario": {},
	// The web site of the commands, also of those in other modules.
	"internal/site":    {"", "nic", "stack"},
	"internal/taptest": {},
	"interop/std":      {},
	// dropin gives the default host the API of package net. Parts of it are generated.
	"dropin":              {"", "stack", "nic", "resolve", "dhcp"},
	"dropin/internal/gen": {},
	// The guide. Its programs are listed below.
	"docs/guide":              {},
	"docs/guide/internal/lab": {"", "inspect", "nic", "stack/wire", "internal/filter"},
}

// guideProgram matches the programs of the guide. They may import the packages of guideFloor: those that a program
// of a user may import, and the package that all of them share.
var (
	guideProgram = regexp.MustCompile(`^docs/guide/\d\d-\w+$`)
	guideFloor   = []string{"", "stack", "stack/tcp", "stack/wire", "nic", "dhcp", "docs/guide/internal/lab", "golang.org/x/net/dns/dnsmessage"}
)

// testOnly are prefixes of the import paths that the tests of all packages may import.
var testOnly = []string{"github.com/stretchr/testify/", "golang.org/x/net/", "golang.org/x/sys/"}

// pure are the packages that use no clock, lock, goroutine or randomness.
var pure = []string{"stack/wire", "stack/tcp", "dhcp", "mdns", "internal/filter"}

// impure are packages of which only the named files may use a clock, locks, goroutines and randomness.
var impure = map[string][]string{"nic/ppp": {"config.go", "device.go", "serial.go", "pppoe.go", "server.go"}}

// A listing is go list's description of a package.
type listing struct {
	ImportPath, Dir                     string
	Standard                            bool
	Imports, TestImports, XTestImports  []string
	GoFiles, IgnoredGoFiles, OtherFiles []string
}

// packages lists the packages of the module on a system.
func packages(t *testing.T, goos string) []listing {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,TestImports,XTestImports,GoFiles", "./...")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("%s: %s", cmd, exit.Stderr)
	}
	require.NoError(t, err)
	var all []listing
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listing
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, l)
	}
}

// isStandard reports whether an import belongs to the standard library.
func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// inModule converts the import path of a package of this module to its directory.
func inModule(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
}

func TestImportsPointDown(t *testing.T) {
	for _, goos := range []string{"linux", "windows", "darwin"} {
		for _, p := range packages(t, goos) {
			name := inModule(p.ImportPath)
			allowed, ok := floors[name]
			if guideProgram.MatchString(name) {
				allowed, ok = guideFloor, true
			}
			require.True(t, ok, "the package %q has no floor in this test", name)
			for _, path := range p.Imports {
				if isStandard(path) {
					require.NotEqual(t, "C", path, "%s: cgo", name)
					continue
				}
				// An allowed name is an import path outside this module, or a directory of it.
				require.True(t, slices.ContainsFunc(allowed, func(a string) bool { return path == a || inModule(path) == a && path != a }),
					"%q must not import %q (%s)", name, path, goos)
			}
			for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
				if isStandard(path) || strings.HasPrefix(path+"/", module+"/") || slices.Contains(allowed, path) {
					continue
				}
				require.True(t, slices.ContainsFunc(testOnly, func(prefix string) bool { return strings.HasPrefix(path, prefix) }),
					"a test of %q must not import %q", name, path)
			}
		}
	}
}

func TestTestsDoNotBringPackagesIntoTheProgram(t *testing.T) {
	for _, p := range packages(t, "linux") {
		for _, path := range p.Imports {
			require.False(t, strings.HasPrefix(path, "github.com/stretchr/") || strings.HasPrefix(path, "golang.org/x/net/nettest"),
				"%s imports %s", p.ImportPath, path)
		}
	}
}

func TestPurePackagesHaveNoClockLockOrGoroutine(t *testing.T) {
	forbidden := []string{"sync", "sync/atomic", "os", "net", "context", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand"}
	for _, name := range append(pure, slices.Collect(maps.Keys(impure))...) {
		files, err := filepath.Glob(filepath.Join(filepath.FromSlash(name), "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || slices.Contains(impure[name], filepath.Base(file)) {
				continue
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, 0)
			require.NoError(t, err)
			for _, spec := range f.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				require.NoError(t, err)
				require.NotContains(t, forbidden, path, "%s", fset.Position(spec.Pos()))
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s: a go statement", fset.Position(n.Pos()))
				case *ast.SelectorExpr:
					if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "time" &&
						slices.Contains([]string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}, n.Sel.Name) {
						t.Errorf("%s: time.%s", fset.Position(n.Pos()), n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

func TestNoPackageHasAnInit(t *testing.T) {
	for _, p := range packages(t, "linux") {
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
			require.NoError(t, err)
			for _, decl := range f.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: an init function", fset.Position(fn.Pos()))
				}
			}
		}
	}
}

// kernelNames are prefixes of those names of package net that use the kernel's network or the resolver
// of the process. Channels of that resolver do not work in synctest bubbles.
var kernelNames = []string{"Lookup", "Resolve", "DefaultResolver", "Dial", "Listen", "File", "InterfaceAddrs", "InterfaceBy", "Interfaces"}

func TestNothingAsksTheResolverOrTheNetworkOfNet(t *testing.T) {
	allowed := map[string][]string{
		"": {"Resolver", "Listener"}, // the type of a Dialer's field, and an interface
		// The kernel's side of a link, and the sockets of virtual machines. Their addresses are IP
		// addresses and paths, so no name is looked up.
		"nic": {"InterfaceByName", "InterfaceByIndex", "Dialer", "Listener", "ListenConfig", "ListenUDP", "ListenUnixgram", "DialUnix"},
	}
	for _, name := range []string{"", "resolve", "resolve/dot", "resolve/doh", "dhcp", "mdns", "stack", "stack/tcp", "stack/wire", "nic"} {
		files, err := filepath.Glob(filepath.Join(filepath.FromSlash(name), "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, 0)
			require.NoError(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := sel.X.(*ast.Ident)
				if !ok || pkg.Name != "net" || pkg.Obj != nil || slices.Contains(allowed[name], sel.Sel.Name) {
					return true
				}
				if slices.ContainsFunc(kernelNames, func(prefix string) bool { return strings.HasPrefix(sel.Sel.Name, prefix) }) {
					t.Errorf("%s: net.%s", fset.Position(n.Pos()), sel.Sel.Name)
				}
				return true
			})
		}
	}
}
