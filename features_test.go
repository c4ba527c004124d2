//go:build !windows && !js && !wasip1

// The documents are the same on all systems, and reading them takes long under wine and in wasm.

package usernet

import (
	"bufio"
	"bytes"
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

var updateFeatures = flag.Bool("update-features", false, "write docs/features.md anew")

const (
	featureList = "testdata/features.txt"
	featureDoc  = "docs/features.md"
)

// A feature is one line of testdata/features.txt.
type feature struct {
	group, id, text string
	claimed         string // letters of the systems that list it in their own description
	peers           string // a letter for each peer
	state           string // Y, P, N or x
	remark          string
	proofs          []string
}

var (
	featureName    = regexp.MustCompile(`^[A-R]\d+$`)
	featureComment = regexp.MustCompile(`^// FEATURES ([A-R]\d+(?:, [A-R]\d+)*)\.$`)
	stackNames     = []string{"picoTCP", "microps", "MicroTCP", "smoltcp", "lwIP", "gVisor", "lneto", "usernet"}
	claimants      = map[rune]string{'p': "picoTCP", 'm': "microps", 's': "smoltcp", 'c': "MicroTCP"}
)

// TestFilesOfFeaturesAreUpToDate makes docs/features.md from testdata/features.txt, which describes its form,
// and from the tests. With -update-features it writes the file. It fails if a feature is called present without
// a test, if a named test, script or step of the gate does not exist, if a feature that another system lists in
// its own description is absent and not left out on purpose, and if the file is not the one that is made.
func TestFilesOfFeaturesAreUpToDate(t *testing.T) {
	tests, named := readProofs(t)
	features := readFeatures(t, tests)
	for _, f := range features {
		for _, by := range named[f.id] {
			if !slices.Contains(f.proofs, by) {
				f.proofs = append(f.proofs, by)
			}
		}
		delete(named, f.id)
		checkFeature(t, f)
	}
	require.Empty(t, named, "comments of tests name features that %s does not have", featureList)
	got := featureTable(features, tests)
	if *updateFeatures {
		require.NoError(t, os.WriteFile(featureDoc, []byte(got), 0o644))
	}
	want, err := os.ReadFile(featureDoc)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "make it anew: go test . -run FilesOfFeatures -update-features")
}

// checkFeature checks that what a line says of usernet has its proof or its reason.
func checkFeature(t *testing.T, f *feature) {
	require.Regexp(t, `^[YPN-]{7}$`, f.peers, f.id)
	require.Regexp(t, `^[pmsc]*$`, f.claimed, f.id)
	switch f.state {
	case "Y", "P":
		require.NotEmpty(t, f.proofs, "%s: no test", f.id)
	case "N", "x":
		require.Empty(t, f.proofs, "%s is called absent, and has tests", f.id)
	default:
		t.Fatalf("%s: usernet has %q", f.id, f.state)
	}
	if f.state != "Y" {
		require.NotEmpty(t, f.remark, "%s: no reason", f.id)
	}
	require.False(t, f.claimed != "" && f.state == "N", "%s: others list it in their own description", f.id)
	require.False(t, f.claimed != "" && f.state == "P" && !strings.HasPrefix(f.remark, "Waived: "),
		"%s: others list it in their own description, and the rest is not waived", f.id)
}

// readFeatures reads the list.
func readFeatures(t *testing.T, tests map[string]string) (features []*feature) {
	src, err := os.ReadFile(featureList)
	require.NoError(t, err)
	group, seen := "", map[string]bool{}
	for s := bufio.NewScanner(bytes.NewReader(src)); s.Scan(); {
		line := s.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		if g, ok := strings.CutPrefix(line, "== "); ok {
			group = g
			continue
		}
		if names, ok := strings.CutPrefix(line, "= "); ok {
			f := features[len(features)-1]
			f.proofs = append(f.proofs, strings.Fields(names)...)
			for _, name := range f.proofs {
				require.Contains(t, tests, name, "%s: there is no such test", f.id)
			}
			continue
		}
		// A line has five columns, and perhaps a remark.
		c := append(strings.Split(line, "|"), "")
		require.True(t, len(c) == 6 || len(c) == 7, line)
		require.Regexp(t, featureName, c[0])
		require.False(t, seen[c[0]], "%s is there twice", c[0])
		seen[c[0]] = true
		features = append(features, &feature{group: group, id: c[0], text: c[1], claimed: c[2], peers: c[3], state: c[4], remark: c[5]})
	}
	return features
}

// readProofs returns what can prove a feature, with the link to it: the tests of all modules, the scripts of
// stack/tcp, and the steps of the gate. It also returns the tests that name each feature in their comments.
func readProofs(t *testing.T) (tests map[string]string, named map[string][]string) {
	tests, named = map[string]string{}, map[string][]string{}
	gate, err := os.ReadFile(".ci/run")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^step "([^"]+)"$`).FindAllSubmatch(gate, -1) {
		tests["gate:"+strings.ReplaceAll(string(m[1]), " ", "_")] = fmt.Sprintf("gate: [%s](../.ci/run)", m[1])
	}
	// The gate runs one step for each system.
	for _, system := range []string{"js", "wasip1", "windows"} {
		require.Regexp(t, `(?m)^for system in .*\b`+system+`\b`, string(gate))
		tests["gate:a_subset_of_the_tests_under_"+system] = "gate: [tests under " + system + "](../.ci/systems)"
	}
	scripts, err := filepath.Glob("stack/tcp/testdata/*.pkt")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, s := range scripts {
		s = filepath.ToSlash(s)
		tests[s] = fmt.Sprintf("[%s](../%s)", strings.TrimSuffix(filepath.Base(s), ".pkt"), s)
	}
	err = filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := e.Name(); {
		case e.IsDir() && path != "." && (name[0] == '.' || name == "testdata" || name == "node_modules"):
			return fs.SkipDir
		case strings.HasSuffix(name, "_test.go"):
			readTests(t, filepath.ToSlash(path), tests, named)
		}
		return nil
	})
	require.NoError(t, err)
	return tests, named
}

// readTests adds the tests of one file.
func readTests(t *testing.T, path string, tests map[string]string, named map[string][]string) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
	require.NoError(t, err)
	dir, short := "usernet", "usernet"
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir = path[:i]
		short = dir[strings.LastIndexByte(dir, '/')+1:]
	}
	if dir == "cmd/usernet" {
		short = dir
	}
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !regexp.MustCompile(`^(Test|Example|Fuzz|Benchmark)`).MatchString(fn.Name.Name) {
			continue
		}
		key := dir + "." + fn.Name.Name
		tests[key] = fmt.Sprintf("[%s.%s](../%s)", short, fn.Name.Name, path)
		if fn.Doc == nil {
			continue
		}
		for _, c := range fn.Doc.List {
			if m := featureComment.FindStringSubmatch(c.Text); m != nil {
				for _, id := range strings.Split(m[1], ", ") {
					named[id] = append(named[id], key)
				}
			} else {
				require.NotContains(t, c.Text, "// FEATURES", "%s: the form is: // FEATURES A1, A9.", path)
			}
		}
	}
}

// featureTable formats docs/features.md.
func featureTable(features []*feature, tests map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Features, and the tests that prove them

What TCP/IP stacks in user space have, and what usernet has. **Y**: it has the feature, **P**: in part, **N**: not,
**x**: left out on purpose, **-**: does not apply. A feature counts as present only if the tests in its row prove it.
"Claimed by" names the systems whose own description lists the feature. microps is taken with its fork for IPv6,
gVisor is its netstack with gonet. The columns of the other systems are our reading of their sources and documents in
2026; corrections are welcome.

This file is made by `+"`go test . -run FilesOfFeatures -update-features`"+` from [testdata/features.txt](../testdata/features.txt).
The test fails if a named test does not exist.

`)
	b.WriteString(featureSums(features))
	group := ""
	for _, f := range features {
		if f.group != group {
			group = f.group
			fmt.Fprintf(&b, "\n## %s\n\n| | Feature | Claimed by | %s | Proved by | Remark |\n|---|---|---|%s---|---|\n",
				group, strings.Join(stackNames, " | "), strings.Repeat("---|", len(stackNames)))
		}
		var by, proofs []string
		for _, c := range f.claimed {
			by = append(by, claimants[c])
		}
		for _, p := range f.proofs {
			proofs = append(proofs, tests[p])
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | **%s** | %s | %s |\n", f.id, f.text, strings.Join(by, ", "),
			strings.Join(strings.Split(f.peers, ""), " | "), f.state, strings.Join(proofs, ", "), f.remark)
	}
	return b.String()
}

// featureSums formats a table of how many features each system has.
func featureSums(features []*feature) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| of %d features | %s |\n|---|%s\n", len(features), strings.Join(stackNames, " | "), strings.Repeat("---|", len(stackNames)))
	for _, row := range []struct{ state, title string }{{"Y", "present"}, {"P", "in part"}, {"N", "absent"}, {"x", "left out on purpose"}} {
		fmt.Fprintf(&b, "| %s |", row.title)
		for i := range stackNames {
			n := 0
			for _, f := range features {
				if (f.peers + f.state)[i:i+1] == row.state {
					n++
				}
			}
			fmt.Fprintf(&b, " %d |", n)
		}
		b.WriteString("\n")
	}
	claimed, full := 0, 0
	var open, out []string
	for _, f := range features {
		if f.claimed == "" {
			continue
		}
		claimed++
		switch f.state {
		case "Y":
			full++
		case "x":
			out = append(out, f.id)
		default:
			open = append(open, f.id)
		}
	}
	fmt.Fprintf(&b, "\nOther systems claim %d of these features in their own description. usernet has %d of them; in part, and the rest is waived: %s; left out on purpose: %s.\n",
		claimed, full, orNone(open), orNone(out))
	return b.String()
}

// orNone joins identifiers. It returns "none" if there are none.
func orNone(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, ", ")
}
