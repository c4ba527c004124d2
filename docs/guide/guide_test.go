package guide

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// go test ./docs/guide -update writes the blocks of code and output into the chapters instead of comparing them.
var update = flag.Bool("update", false, "write the blocks of code and output into the chapters")

// A block is a fenced block of a page. The comment above it says where its text comes from:
//
//	<!-- code main.go talk -->            the region "talk" of main.go, or of a file of the guide
//	<!-- output -->                       what the chapter's program prints
//	<!-- output of the commands -->       what the block of commands above prints
//	<!-- root -->                         commands that need root
//	<!-- inspector -->                    commands of which the last one serves a page until Ctrl-C
type block struct {
	page     string // path of the page
	language string
	source   string // the words of the comment
	text     string
	number   int // of the block in the page, from 0
}

var fence = regexp.MustCompile("(?m)(?:^<!-- (.*) -->\n)?^```(\\w+)\n((?s:.*?))^```$")

// pages returns the paths of all pages of the guide.
func pages(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("*.md")
	require.NoError(t, err)
	chapters, err := filepath.Glob("*/README.md")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(chapters), 12)
	return append(found, chapters...)
}

// blocks returns the blocks of a page.
func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	for i, m := range fence.FindAllSubmatchIndex(b, -1) {
		one := block{page: page, language: string(b[m[4]:m[5]]), text: string(b[m[6]:m[7]]), number: i}
		if m[2] >= 0 {
			one.source = string(b[m[2]:m[3]])
		}
		all = append(all, one)
	}
	require.Equal(t, strings.Count(string(b), "```"), 2*len(all), "%s: a block that the test does not see", page)
	return all
}

// expect compares a block with the text that it should have, or writes that text.
func expect(t *testing.T, b block, want string) {
	t.Helper()
	if !*update {
		require.Equal(t, want, b.text, "%s differs from %q; go test ./docs/guide -update writes the chapters anew", b.page, b.source)
		return
	}
	// Earlier blocks may have another length by now.
	page, err := os.ReadFile(b.page)
	require.NoError(t, err)
	m := fence.FindAllSubmatchIndex(page, -1)[b.number]
	require.Equal(t, b.text, string(page[m[6]:m[7]]))
	page = slices.Concat(page[:m[6]], []byte(want), page[m[7]:])
	require.NoError(t, os.WriteFile(b.page, page, 0o644))
}

// region returns the lines of a file between "//guide:begin NAME" and "//guide:end", with less indentation.
func region(t *testing.T, file, name string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var lines []string
	inside, indent := false, ""
	for line := range strings.Lines(string(b)) {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "//guide:begin "+name:
			require.Empty(t, lines, "%s has two regions %q", file, name)
			inside, indent = true, line[:strings.Index(line, "//")]
		case trimmed == "//guide:end":
			inside = false
		case inside && !strings.HasPrefix(trimmed, "//guide:"):
			lines = append(lines, strings.TrimPrefix(line, indent))
		}
	}
	require.NotEmpty(t, lines, "%s has no region %q", file, name)
	return strings.Join(lines, "")
}

func TestCodeOfThePagesIsThatOfThePrograms(t *testing.T) {
	n := 0
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			if b.language != "go" {
				continue
			}
			words := strings.Fields(b.source)
			require.Equal(t, 3, len(words), "%s: a block of code without <!-- code FILE REGION -->", page)
			require.Equal(t, "code", words[0])
			expect(t, b, region(t, filepath.Join(filepath.Dir(page), words[1]), words[2]))
			n++
		}
	}
	require.Greater(t, n, 20)
}

// needsGo skips a test where no programs can be started, or where Go is missing.
func needsGo(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("starts Go's commands, which this test does only on Linux")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal(err)
	}
}

// programs is the directory with the programs of the chapters, once build has built them.
var programs string

var build = sync.OnceValue(func() (err error) {
	if programs, err = os.MkdirTemp("", "guide"); err != nil {
		return err
	}
	out, err := exec.Command("go", "build", "-o", programs+"/", "./...", "../../cmd/usernet").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if programs != "" {
		os.RemoveAll(programs)
	}
	os.Exit(code)
}

// gorun makes "go run ./docs/guide/NAME" and "go run ./cmd/usernet" run the program that build has built, which is
// quicker.
const gorun = `
go() {
	if [[ $1 == run && ( $2 == ./docs/guide/* || $2 == ./cmd/usernet ) ]]; then
		local program=${2##*/}
		shift 2
		"$PROGRAMS/$program" "$@"
	else
		command go "$@"
	fi
}
`

// shell runs a script in the directory of the module and returns what it prints.
func shell(t *testing.T, script string) string {
	t.Helper()
	require.NoError(t, build())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", gorun+script)
	cmd.Env = append(os.Environ(), "PROGRAMS="+programs)
	cmd.Dir = "../.."
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s\n%s%s", script, out.String(), errs.String())
	return out.String()
}

func TestProgramsPrintWhatTheChaptersSay(t *testing.T) {
	needsGo(t)
	for _, page := range pages(t) {
		dir := filepath.Dir(page)
		if dir == "." {
			continue
		}
		outputs := 0
		for _, b := range blocks(t, page) {
			if b.source == "output" {
				expect(t, b, shell(t, "go run ./docs/guide/"+dir))
				outputs++
			}
		}
		require.Equal(t, 1, outputs, "%s has not the output of its program", page)
	}
}

// tools are the programs besides Go's that the blocks of commands need, and skipped are commands that no test runs, with
// the reason.
var (
	tools   = []string{"tshark", "cmp"}
	skipped = map[string]string{}
)

// The blocks marked "sh" are run, in the order of the page, without root. Those marked "sh root" need root and a network
// of their own; see TestCommandsForRoot. The commands of those marked "sh inspector" end with Ctrl-C; see
// TestCommandsThatOpenTheInspector.
func TestCommandsOfThePages(t *testing.T) {
	needsGo(t)
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			lacks(t, tool, err)
		}
	}
	for _, page := range pages(t) {
		t.Run(filepath.Dir(page), func(t *testing.T) {
			dir := t.TempDir()
			printed := ""
			for _, b := range blocks(t, page) {
				switch {
				case b.language == "sh" && b.source == "":
					// TestProgramsPrintWhatTheChaptersSay runs the programs alone.
					if alone := "go run ./docs/guide/" + filepath.Dir(page) + "\n"; b.text != alone && skipped[b.text] == "" {
						printed = shell(t, strings.ReplaceAll(b.text, "/tmp/", dir+"/"))
					}
				case b.source == "output of the commands":
					expect(t, b, printed)
				case b.language == "sh":
					require.Contains(t, []string{"root", "inspector"}, b.source, "%s: commands with an unknown comment", page)
				case b.language == "text":
					require.Contains(t, []string{"output", "drawing"}, b.source, "%s: a block without a source:\n%s", page, b.text)
				default:
					require.Equal(t, "go", b.language, "%s: a block of another language", page)
				}
			}
		})
	}
}

// lacks skips a test because a tool is missing. With CI=true the test fails instead.
func lacks(t *testing.T, tool string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s: %v", tool, err)
	}
	t.Skipf("needs %s: %v", tool, err)
}

var (
	link    = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)
	picture = regexp.MustCompile(`!\[([^\]]*)\]\(`)
)

func TestLinksOfThePagesLead(t *testing.T) {
	for _, page := range pages(t) {
		b, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			_, err := os.Stat(filepath.Join(filepath.Dir(page), filepath.FromSlash(m[1])))
			require.NoError(t, err, "%s", page)
		}
		for _, m := range picture.FindAllStringSubmatch(string(b), -1) {
			require.Greater(t, len(m[1]), 30, "%s: a picture whose alternative text says nothing", page)
		}
	}
}

// Each chapter has the same parts, is in the table of contents, and leads to the next one.
func TestChaptersAreComplete(t *testing.T) {
	contents, err := os.ReadFile("README.md")
	require.NoError(t, err)
	chapters, err := filepath.Glob("[0-9][0-9]-*")
	require.NoError(t, err)
	for i, dir := range chapters {
		require.True(t, strings.HasPrefix(dir, fmt.Sprintf("%02d-", i+1)), "%s has not the number %d", dir, i+1)
		require.Contains(t, string(contents), "]("+dir+"/README.md)")
		b, err := os.ReadFile(filepath.Join(dir, "README.md"))
		require.NoError(t, err)
		text := string(b)
		for _, part := range []string{"You learn", "## What it prints", "## In Wireshark", "## In the inspector", "## Exercises"} {
			require.Contains(t, text, part, dir)
		}
		require.Contains(t, text, "go run ./docs/guide/"+dir, dir)
		if i+1 < len(chapters) {
			require.Contains(t, text, "Next: ", dir)
			require.Contains(t, text, "](../"+chapters[i+1]+"/README.md)", dir)
		}
		_, exercises, _ := strings.Cut(text, "## Exercises")
		for n, exercise := range strings.Split(exercises, "\n\n") {
			if regexp.MustCompile(`^\d+\. `).MatchString(exercise) {
				require.Contains(t, exercise, "_test.go)", "%s: exercise %d has no solution", dir, n)
			}
		}
	}
}
