package tcp

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	requirementsList  = "testdata/rfc9293.txt"
	requirementsTable = "../../docs/rfc9293.md"
)

// A requirement is one of RFC 9293, Appendix B.
type requirement struct {
	group, id, section, text, note string
	proofs                         []string
}

// provedElsewhere names tests of other packages that prove a requirement
// without naming it: the directory below stack and the test.
var provedElsewhere = map[string][]string{
	"MUST-2":  {"wire.TestTCPChecksumIsTheReferences"},
	"MUST-3":  {"wire.TestTCPChecksumNoticesEveryFlippedBit"},
	"MUST-4":  {"wire.TestTCPMalformedOptionsDoNoHarm", "wire.TestTCPTimestampsAreReadInAnyLayout"},
	"MUST-63": {"stack.TestMartiansAreDroppedByReason"},
	"MUST-64": {"wire.TestTCPTimestampsAreReadInAnyLayout"},
	"MUST-68": {"wire.TestTCPWhateverIsWrittenIsReadTheSame"},
}

var requirementID = regexp.MustCompile(`\b(?:MUST|SHLD|MAY|REC)-\d+\b`)

// TestTheTableOfRFC9293IsUpToDate makes docs/rfc9293.md: every requirement of
// Appendix B and what proves it. A script proves those that its head names, a
// test those that a comment of it names in one line with "RFC 9293". With
// -update the file is written.
func TestTheTableOfRFC9293IsUpToDate(t *testing.T) {
	reqs := readRequirements(t)
	byID := map[string]*requirement{}
	for i := range reqs {
		require.NotContains(t, byID, reqs[i].id)
		byID[reqs[i].id] = &reqs[i]
	}
	prove := func(id, by string) {
		r := byID[id]
		require.NotNil(t, r, "%s names %s, which Appendix B does not have", by, id)
		for _, p := range r.proofs {
			if p == by {
				return
			}
		}
		r.proofs = append(r.proofs, by)
	}
	proveByScripts(t, prove)
	tests := proveByTests(t, prove)
	for id, list := range provedElsewhere {
		for _, name := range list {
			require.Contains(t, tests, name, "it proves %s", id)
			prove(id, name)
		}
	}
	got := formatRequirements(reqs)
	if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
		require.NoError(t, os.WriteFile(requirementsTable, []byte(got), 0o644))
	}
	want, err := os.ReadFile(requirementsTable)
	require.NoError(t, err, "make it: go test ./stack/tcp -run RFC9293 -update")
	require.Equal(t, string(want), got, "make it anew: go test ./stack/tcp -run RFC9293 -update")
}

func readRequirements(t *testing.T) (reqs []requirement) {
	src, err := os.ReadFile(requirementsList)
	require.NoError(t, err)
	group := ""
	for _, line := range strings.Split(strings.TrimSpace(string(src)), "\n") {
		if g, ok := strings.CutPrefix(line, "== "); ok {
			group = g
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := append(strings.Split(line, "|"), "")
		require.GreaterOrEqual(t, len(f), 4, line)
		require.Regexp(t, requirementID, f[0])
		reqs = append(reqs, requirement{group: group, id: f[0], section: f[1], text: f[2], note: f[3]})
	}
	return reqs
}

func proveByScripts(t *testing.T, prove func(id, by string)) {
	files, err := filepath.Glob("testdata/*.pkt")
	require.NoError(t, err)
	sort.Strings(files)
	for _, f := range files {
		src, err := os.ReadFile(f)
		require.NoError(t, err)
		s, err := parseScript(string(src))
		require.NoError(t, err, f)
		name := strings.TrimSuffix(filepath.Base(f), ".pkt")
		for _, id := range requirementID.FindAllString(s.head[0], -1) {
			prove(id, fmt.Sprintf("[%s](../stack/tcp/testdata/%[1]s.pkt)", name))
		}
	}
}

// proveByTests reads the tests of the stack and of the face, and returns the
// names of all of them.
func proveByTests(t *testing.T, prove func(id, by string)) map[string]bool {
	tests := map[string]bool{}
	for _, dir := range []string{".", "../wire", "..", "../.."} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		require.NoError(t, err)
		sort.Strings(files)
		for _, f := range files {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, f, nil, parser.ParseComments)
			require.NoError(t, err)
			pkg := strings.TrimSuffix(file.Name.Name, "_test")
			for _, d := range file.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") {
					continue
				}
				name := pkg + "." + fn.Name.Name
				tests[name] = true
				for _, id := range namedIn(file, fn) {
					prove(id, name)
				}
			}
		}
	}
	return tests
}

// namedIn returns the requirements that the comments of a function name.
func namedIn(file *ast.File, fn *ast.FuncDecl) (ids []string) {
	from := fn.Pos()
	if fn.Doc != nil {
		from = fn.Doc.Pos()
	}
	for _, g := range file.Comments {
		if g.Pos() < from || g.End() > fn.End() {
			continue
		}
		for _, c := range g.List {
			if strings.Contains(c.Text, "RFC 9293") {
				ids = append(ids, requirementID.FindAllString(c.Text, -1)...)
			}
		}
	}
	return ids
}

func formatRequirements(reqs []requirement) string {
	var b strings.Builder
	must, proved := 0, 0
	for _, r := range reqs {
		if strings.HasPrefix(r.id, "MUST") {
			must++
			if len(r.proofs) > 0 {
				proved++
			}
		}
	}
	fmt.Fprintf(&b, `# RFC 9293, requirement by requirement

The requirements of RFC 9293, Appendix B, and the tests that prove them: scripts
of [stack/tcp/testdata](../stack/tcp/testdata) and test functions. A "-" means
that no test names the requirement. %d of %d MUSTs are proved.

This file is made by `+"`go test ./stack/tcp -run RFC9293 -update`"+`.
`, proved, must)
	group := ""
	for _, r := range reqs {
		if r.group != group {
			group = r.group
			fmt.Fprintf(&b, "\n## %s\n\n| | Section | Requirement | Proved by | Remark |\n|---|---|---|---|---|\n", group)
		}
		by := strings.Join(r.proofs, ", ")
		if by == "" {
			by = "-"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.id, r.section, r.text, by, r.note)
	}
	return b.String()
}
