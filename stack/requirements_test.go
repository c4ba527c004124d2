package stack

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var updateTables = flag.Bool("update", false, "write the tables of requirements in docs anew")

// provedAtLeast has the percentage of an RFC's MUSTs that must be proved, for RFCs where it is not 95.
var provedAtLeast = map[string]int{"RFC 9293": 89}

// TestTablesOfRequirementsAreUpToDate generates a file of docs from each list testdata/rfc*.txt. The
// file has every requirement of an RFC, and the tests and scripts that prove it. A test proves the
// requirements that its comments name on the same line as the RFC. A script of tcp/testdata proves the
// requirements that its first line names. With -update the test writes the files.
//
// A list has lines of these forms:
//
//	== title of the group of requirements that follow
//	identifier|section|summary or quotation|remark
//	= package.Test package.Test
//
// The third form names tests that prove the preceding requirement although their comments do not name it.
// A requirement that does not concern a host has "-" for its identifier, and a remark with the reason.
func TestTablesOfRequirementsAreUpToDate(t *testing.T) {
	lists, err := filepath.Glob("testdata/rfc*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, lists)
	tests, named := readRequirements(t)
	for _, list := range lists {
		name := strings.TrimSuffix(filepath.Base(list), ".txt")
		rfc := "RFC " + strings.TrimPrefix(name, "rfc")
		got := requirementTable(t, filepath.ToSlash(list), rfc, tests, named)
		file := filepath.Join("../docs", name+".md")
		if *updateTables {
			require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err, "make it: go test ./stack -run TablesOfRequirements -update")
		require.Equal(t, string(want), got, "make it anew: go test ./stack -run TablesOfRequirements -update")
	}
}

var (
	rfcName         = regexp.MustCompile(`\bRFC \d+\b`)
	requirementName = regexp.MustCompile(`\b(?:MUST|SHLD|MAY|REC)-\d+\b`)
)

// readRequirements returns the names of all tests, and for each "RFC requirement" the tests and scripts
// that name it.
func readRequirements(t *testing.T) (tests map[string]bool, named map[string][]string) {
	tests, named = map[string]bool{}, map[string][]string{}
	prove := func(key, by string) {
		if !slices.Contains(named[key], by) {
			named[key] = append(named[key], by)
		}
	}
	scripts, err := filepath.Glob("tcp/testdata/*.pkt")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, f := range scripts {
		src, err := os.ReadFile(f)
		require.NoError(t, err)
		head, _, _ := strings.Cut(string(src), "\n")
		for _, id := range requirementName.FindAllString(head, -1) { // in scripts, all identifiers are of RFC 9293
			prove("RFC 9293 "+id, fmt.Sprintf("[%s](../stack/tcp/testdata/%[1]s.pkt)", strings.TrimSuffix(filepath.Base(f), ".pkt")))
		}
	}
	for _, f := range testFiles(t) {
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ParseComments)
		require.NoError(t, err)
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") {
				continue
			}
			name := strings.TrimSuffix(file.Name.Name, "_test") + "." + fn.Name.Name
			tests[name] = true
			for _, line := range commentsOf(file, fn) {
				for _, key := range requirementsIn(line) {
					prove(key, name)
				}
			}
		}
	}
	return tests, named
}

// requirementDirs are the directories that come first in the tables, in this order. They have most of the
// tests that prove requirements.
var requirementDirs = []string{"../stack", "../stack/wire", "..", "../internal/taptest", "../stack/tcp"}

// testFiles returns the test files of the module.
func testFiles(t *testing.T) (files []string) {
	for _, dir := range requirementDirs {
		list, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		require.NoError(t, err)
		files = append(files, list...)
	}
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		switch name := e.Name(); {
		case err != nil:
			return err
		case e.IsDir() && path != ".." && (name[0] == '.' || name == "testdata" || path == "../bench" || path == "../interop"):
			return fs.SkipDir
		case strings.HasSuffix(name, "_test.go") && !slices.Contains(requirementDirs, filepath.Dir(path)):
			files = append(files, path)
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

// commentsOf returns the lines of the comments above and inside a function.
func commentsOf(file *ast.File, fn *ast.FuncDecl) (lines []string) {
	from := fn.Pos()
	if fn.Doc != nil {
		from = fn.Doc.Pos()
	}
	for _, g := range file.Comments {
		if g.Pos() < from || g.End() > fn.End() {
			continue
		}
		for _, c := range g.List {
			lines = append(lines, c.Text)
		}
	}
	return lines
}

// requirementsIn returns the requirements that a line names, each with its RFC.
func requirementsIn(line string) (keys []string) {
	rfcs := rfcName.FindAllStringIndex(line, -1)
	for _, at := range requirementName.FindAllStringIndex(line, -1) {
		for i := len(rfcs) - 1; i >= 0; i-- {
			if rfcs[i][0] < at[0] || i == 0 {
				keys = append(keys, line[rfcs[i][0]:rfcs[i][1]]+" "+line[at[0]:at[1]])
				break
			}
		}
	}
	return keys
}

// A requirement is one line of a list.
type requirement struct {
	group, id, section, text, note string
	proofs                         []string
}

// readList reads a list.
func readList(t *testing.T, list string, tests map[string]bool) (reqs []*requirement) {
	src, err := os.ReadFile(list)
	require.NoError(t, err)
	group := ""
	for line := range strings.Lines(string(src)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if g, ok := strings.CutPrefix(line, "== "); ok {
			group = g
			continue
		}
		if names, ok := strings.CutPrefix(line, "= "); ok {
			r := reqs[len(reqs)-1]
			r.proofs = append(r.proofs, strings.Fields(names)...)
			for _, name := range r.proofs {
				require.True(t, tests[name], "%s: there is no %s", list, name)
			}
			continue
		}
		f := append(strings.Split(line, "|"), "")
		require.GreaterOrEqual(t, len(f), 4, line)
		require.LessOrEqual(t, len(f), 5, line)
		reqs = append(reqs, &requirement{group: group, id: f[0], section: f[1], text: f[2], note: f[3]})
	}
	return reqs
}

// requirementTable formats a list as the file of docs.
func requirementTable(t *testing.T, list, rfc string, tests map[string]bool, named map[string][]string) string {
	var b strings.Builder
	must, proved, group := 0, 0, ""
	known := map[string]bool{}
	for _, r := range readList(t, list, tests) {
		if r.group != group {
			group = r.group
			fmt.Fprintf(&b, "\n## %s\n\n| | Section | Requirement | Proved by | Remark |\n|---|---|---|---|---|\n", group)
		}
		key := rfc + " " + r.id
		if r.id != "-" {
			require.Regexp(t, requirementName, r.id)
			require.False(t, known[key], "%s is there twice", key)
			known[key] = true
		}
		for _, by := range named[key] {
			if !slices.Contains(r.proofs, by) {
				r.proofs = append(r.proofs, by)
			}
		}
		by := "-"
		if len(r.proofs) > 0 {
			by = strings.Join(r.proofs, ", ")
		}
		if strings.HasPrefix(r.id, "MUST") {
			must++
			if by != "-" {
				proved++
			}
		}
		require.False(t, by == "-" && r.note == "", "%s: neither a test nor a remark", key)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.id, r.section, r.text, by, r.note)
	}
	for key := range named {
		require.True(t, known[key] || !strings.HasPrefix(key, rfc+" "), "a test names %s, which is not in %s", key, list)
	}
	least := 95
	if n, ok := provedAtLeast[rfc]; ok {
		least = n
	}
	require.GreaterOrEqual(t, 100*proved, least*must, "%s: %d of %d MUSTs are proved", rfc, proved, must)
	scripts := ""
	if strings.Contains(b.String(), ".pkt)") {
		scripts = "\nThose with a link are scripts of [stack/tcp/testdata](../stack/tcp/testdata)."
	}
	return fmt.Sprintf(`# %s, requirement by requirement

The requirements of %[1]s that concern a host, and the tests that prove them. A "-" means that no test
names the requirement. %d of %d MUSTs are proved.%s

This file is made by `+"`go test ./stack -run TablesOfRequirements -update`"+` from stack/%s.
`, rfc, proved, must, scripts, list) + b.String()
}
