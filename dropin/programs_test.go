package dropin

import (
	"encoding/json"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The changed line, before and after.
const (
	netImport = "\t\"net\"\n"
	ourImport = "\tnet \"github.com/usernet/usernet/dropin\"\n"
)

// built is the directory of packages that exist only for the compiler.
const built = "testdata/built"

// A tree is an overlay: files that the go command sees in the package's directory although they do
// not exist there.
type tree struct {
	temp    string
	Replace map[string]string // from the visible path to the path of the text
}

func newTree(t *testing.T) *tree {
	return &tree{temp: t.TempDir(), Replace: map[string]string{}}
}

// add adds a file below built.
func (tr *tree) add(t *testing.T, name, text string) {
	t.Helper()
	seen, err := filepath.Abs(filepath.Join(built, name))
	require.NoError(t, err)
	file := filepath.Join(tr.temp, fmt.Sprintf("%d.go", len(tr.Replace)))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	tr.Replace[seen] = file
}

// goBuild compiles packages of the tree and returns the go command's output.
func (tr *tree) goBuild(t *testing.T, args ...string) (string, error) {
	t.Helper()
	overlay, err := json.Marshal(tr)
	require.NoError(t, err)
	file := filepath.Join(tr.temp, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	cmd := exec.Command("go", append([]string{"build", "-overlay=" + file}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// dropIn changes the import.
func dropIn(t *testing.T, name, text string) string {
	t.Helper()
	require.Equal(t, 1, strings.Count(text, netImport), "imports of net in %s", name)
	return strings.Replace(text, netImport, ourImport, 1)
}

// mainText returns a program that runs the given programs on the kernel's network, or on a Host
// with only its loopback.
func mainText(programs []string) string {
	var imports, kernel, host strings.Builder
	for _, p := range programs {
		fmt.Fprintf(&imports, "\tk_%s %q\n\tu_%s %q\n", p, "github.com/usernet/usernet/dropin/"+built+"/kernel/"+p,
			p, "github.com/usernet/usernet/dropin/"+built+"/usernet/"+p)
		fmt.Fprintf(&kernel, "\t\t%q: k_%s.Run,\n", p, p)
		fmt.Fprintf(&host, "\t\t%q: u_%s.Run,\n", p, p)
	}
	return `package main

import (
	"fmt"
	"io"
	"os"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dropin"
` + imports.String() + `)

func main() {
	host, err := usernet.New(usernet.Config{})
	if err != nil {
		panic(err)
	}
	dropin.Use(host)
	run := map[string]map[string]func(io.Writer) error{
		"kernel": {
` + kernel.String() + `		},
		"usernet": {
` + host.String() + `		},
	}[os.Args[1]][os.Args[2]]
	if err := run(os.Stdout); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
`
}

func TestProgramsForNetRunTheSameWithOneLineChanged(t *testing.T) {
	dirs, err := os.ReadDir("testdata/programs")
	require.NoError(t, err)
	tr := newTree(t)
	var programs []string
	for _, dir := range dirs {
		p := dir.Name()
		programs = append(programs, p)
		text, err := os.ReadFile(filepath.Join("testdata/programs", p, p+".go"))
		require.NoError(t, err)
		tr.add(t, "kernel/"+p+"/"+p+".go", string(text))
		tr.add(t, "usernet/"+p+"/"+p+".go", dropIn(t, p, string(text)))
	}
	require.GreaterOrEqual(t, len(programs), 7)
	tr.add(t, "main.go", mainText(programs))
	binary := filepath.Join(tr.temp, "programs")
	out, err := tr.goBuild(t, "-o", binary, "./"+built)
	require.NoError(t, err, out)
	for _, p := range programs {
		t.Run(p, func(t *testing.T) {
			run := func(world string) string {
				cmd := exec.Command(binary, world, p)
				cmd.Env = append(os.Environ(), "GODEBUG=netdns=go") // net's own resolver is meant, not the C library's
				out, err := cmd.Output()                            // without standard error, to which net/rpc logs at the end
				require.NoError(t, err, "%s: %s", world, out)
				return string(out)
			}
			got := run("usernet")
			require.NotEmpty(t, got)
			if runtime.GOOS == "linux" { // usernet has Linux's errors and flags
				require.Equal(t, run("kernel"), got)
			}
		})
	}
}

func TestCodeOfOthersCompilesWithOneLineChanged(t *testing.T) {
	tr := newTree(t)
	var args []string
	for _, path := range []string{
		"log/syslog", "net/mail", "net/rpc", "net/rpc/jsonrpc", "net/smtp", "net/textproto", "golang.org/x/net/netutil",
	} {
		pkg, err := build.Import(path, "", 0)
		require.NoError(t, err)
		changed := 0
		for _, name := range pkg.GoFiles {
			b, err := os.ReadFile(filepath.Join(pkg.Dir, name))
			require.NoError(t, err)
			text := string(b)
			if strings.Contains(text, netImport) {
				text = dropIn(t, name, text)
				changed++
			}
			tr.add(t, path+"/"+name, text)
		}
		require.Positive(t, changed, path)
		args = append(args, "./"+built+"/"+path)
	}
	out, err := tr.goBuild(t, args...)
	require.NoError(t, err, out)
}

func TestARefusedNameIsACompileErrorAndNotTheKernel(t *testing.T) {
	var text strings.Builder
	text.WriteString("package refused\n\nimport (\n" + ourImport + ")\n\n")
	for _, name := range apiRefused() {
		typ, method, ok := strings.Cut(name, ".")
		if ok {
			fmt.Fprintf(&text, "var _ = (*net.%s).%s\n", typ, method)
		} else {
			fmt.Fprintf(&text, "var _ = net.%s\n", name)
		}
	}
	tr := newTree(t)
	tr.add(t, "refused/refused.go", text.String())
	out, err := tr.goBuild(t, "-gcflags=-e", "./"+built+"/refused") // -e: all errors
	require.Error(t, err)
	for _, name := range apiRefused() {
		typ, method, ok := strings.Cut(name, ".")
		if ok {
			require.Contains(t, out, fmt.Sprintf("(*net.%s).%s undefined", typ, method))
		} else {
			require.Contains(t, out, "undefined: net."+name)
		}
	}
}

func TestADialerCannotBeHandedToCodeThatDialsThroughTheKernel(t *testing.T) {
	tr := newTree(t)
	tr.add(t, "handed/handed.go", "package handed\n\nimport (\n\t\"crypto/tls\"\n"+ourImport+")\n\nvar _ = tls.Dialer{NetDialer: &net.Dialer{}}\n")
	out, err := tr.goBuild(t, "./"+built+"/handed")
	require.Error(t, err)
	require.Contains(t, out, "cannot use &net.Dialer{}")
}
