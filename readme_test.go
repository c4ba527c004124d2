package usernet_test

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// In virtual time a day without traffic takes no real time.
func Example_virtualTime() {
	test(func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			wireA, wireB := nic.Pipe(nic.PipeConfig{})
			slow := nic.Impairment{Latency: 100 * time.Millisecond, Loss: 0.01}
			client := host(nic.Impair(wireA, nic.ImpairConfig{In: slow, Out: slow, Seed: 1}), "192.0.2.1/24")
			server := host(wireB, "192.0.2.2/24")
			defer client.Close()
			defer server.Close()

			ln, _ := server.Listen("tcp", ":80")
			go func() {
				c, _ := ln.Accept()
				defer c.Close()
				time.Sleep(24 * time.Hour) // keep-alive probes pass meanwhile
				fmt.Fprint(c, "a day later")
			}()

			began := time.Now()
			c, _ := client.Dial("tcp", "192.0.2.2:80")
			defer c.Close()
			answer, _ := io.ReadAll(c)
			fmt.Printf("%s, after %v\n", answer, time.Since(began).Truncate(time.Hour))
		})
	})
	// Output:
	// a day later, after 24h0m0s
}

// test runs f as go test runs a test, but without output even with -v. Examples need it because they
// have no testing.T, which synctest needs.
func test(f func(t *testing.T)) {
	for name, value := range map[string]string{"test.v": "false", "test.skip": "", "test.count": "1"} {
		v := flag.Lookup(name).Value
		was := v.String()
		v.Set(value)
		defer v.Set(was)
	}
	all := func(pat, str string) (bool, error) { return true, nil }
	if !testing.RunTests(all, []testing.InternalTest{{Name: "Example", F: f}}) {
		panic("the test failed")
	}
}

// TestTheCodeOfTheREADMEIsThatOfTheTests checks the blocks of Go in README.md and docs/*.md.
func TestTheCodeOfTheREADMEIsThatOfTheTests(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	var code strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		code.WriteString(flat(string(b)))
	}
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	for _, page := range append(pages, "README.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
		require.True(t, page != "README.md" || len(blocks) >= 3, "README.md has three examples")
		for _, block := range blocks {
			// A block consists of parts between empty lines. Each part is in some test file.
			for _, part := range strings.Split(block[1], "\n\n") {
				require.Contains(t, code.String(), flat(part), page)
			}
		}
	}
}

// flat removes the indentation, and the space at both ends.
func flat(code string) string {
	var b strings.Builder
	for line := range strings.Lines(code) {
		b.WriteString(strings.TrimLeft(line, "\t"))
	}
	return strings.TrimSpace(b.String())
}
