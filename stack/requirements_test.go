package stack

import (
	"flag"
	"fmt"
	"go/ast"
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

var updateTables = flag.Bool("update", false, "write the tables of requirements in docs anew")

// requirementDirs have the tests that prove requirements of the RFCs which are the host's.
var requirementDirs = []string{".", "wire", "..", "../internal/taptest"}

// TestTablesOfRequirementsAreUpToDate makes a file of docs for each list testdata/rfc*.txt: every requirement of an RFC, and
// what proves it. A test proves those that a comment of it names in one line with the RFC. With -update the files are
// written.
func TestTablesOfRequirementsAreUpToDate(t *testing.T) {
	lists, err := filepath.Glob("testdata/rfc*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, lists)
	named := namedRequirements(t)
	for _, list := range lists {
		name := strings.TrimSuffix(filepath.Base(list), ".txt")
		rfc := "RFC " + strings.TrimPrefix(name, "rfc")
		got := requirementTable(t, list, rfc, named)
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

// namedRequirements returns the tests that name a requirement, by RFC and requirement.
func namedRequirements(t *testing.T) map[string][]string {
	named := map[string][]string{}
	for _, dir := range requirementDirs {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		require.NoError(t, err)
		for _, f := range files {
			file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ParseComments)
			require.NoError(t, err)
			for _, d := range file.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") {
					continue
				}
				test := strings.TrimSuffix(file.Name.Name, "_test") + "." + fn.Name.Name
				for _, key := range requirementsIn(file, fn) {
					if !slices.Contains(named[key], test) {
						named[key] = append(named[key], test)
					}
				}
			}
		}
	}
	return named
}

// requirementsIn returns what the comments of a function name. A line names one RFC, and its requirements after it.
func requirementsIn(file *ast.File, fn *ast.FuncDecl) (keys []string) {
	from := fn.Pos()
	if fn.Doc != nil {
		from = fn.Doc.Pos()
	}
	for _, g := range file.Comments {
		if g.Pos() < from || g.End() > fn.End() {
			continue
		}
		for _, c := range g.List {
			rfc := rfcName.FindString(c.Text)
			for _, id := range requirementName.FindAllString(c.Text, -1) {
				keys = append(keys, rfc+" "+id)
			}
		}
	}
	return keys
}

// requirementTable formats a list as the file of docs.
func requirementTable(t *testing.T, list, rfc string, named map[string][]string) string {
	src, err := os.ReadFile(list)
	require.NoError(t, err)
	var b strings.Builder
	must, proved := 0, 0
	known := map[string]bool{}
	for line := range strings.Lines(string(src)) {
		line = strings.TrimSpace(line)
		if group, ok := strings.CutPrefix(line, "== "); ok {
			fmt.Fprintf(&b, "\n## %s\n\n| | Section | Requirement | Proved by | Remark |\n|---|---|---|---|---|\n", group)
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := append(strings.Split(line, "|"), "")
		require.GreaterOrEqual(t, len(f), 4, line)
		key := rfc + " " + f[0]
		require.Regexp(t, requirementName, f[0])
		require.False(t, known[key], "%s is there twice", key)
		known[key] = true
		by := "-"
		if tests := named[key]; len(tests) > 0 {
			by = strings.Join(tests, ", ")
		}
		if strings.HasPrefix(f[0], "MUST") {
			must++
			if by != "-" {
				proved++
			}
		}
		require.False(t, by == "-" && f[3] == "", "%s: neither a test nor a remark", key)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", f[0], f[1], f[2], by, f[3])
	}
	for key := range named {
		require.True(t, known[key] || !strings.HasPrefix(key, rfc+" "), "a test names %s, which is not in %s", key, list)
	}
	return fmt.Sprintf(`# %s, requirement by requirement

The requirements of %[1]s that concern a host, and the tests that prove them. A "-" means that no test
names the requirement. %d of %d MUSTs are proved.

This file is made by `+"`go test ./stack -run TablesOfRequirements -update`"+` from stack/%s.
`, rfc, proved, must, list) + b.String()
}
