package usernet_test

import (
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

func TestADayOfSilenceTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		slow := nic.Impairment{Latency: 100 * time.Millisecond, Loss: 0.01}
		client := host(nic.Impair(wireA, nic.ImpairConfig{In: slow, Out: slow, Seed: 1}), "192.0.2.1/24")
		server := host(wireB, "192.0.2.2/24")
		defer client.Close()
		defer server.Close()

		ln, err := server.Listen("tcp", ":80")
		require.NoError(t, err)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			time.Sleep(24 * time.Hour) // keep-alive probes pass meanwhile
			fmt.Fprint(c, "a day later")
		}()

		c, err := client.Dial("tcp", "192.0.2.2:80")
		require.NoError(t, err)
		defer c.Close()
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "a day later", string(answer))
	})
}

func TestTheCodeOfTheREADMEIsThatOfTheTests(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	var code strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		code.WriteString(flat(string(b)))
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		// Each part of a block, between empty lines, is in some test.
		for _, part := range strings.Split(block[1], "\n\n") {
			require.Contains(t, code.String(), flat(part))
		}
	}
}

// flat removes the indentation.
func flat(code string) string {
	var b strings.Builder
	for line := range strings.Lines(code) {
		b.WriteString(strings.TrimLeft(line, "\t"))
	}
	return strings.TrimSpace(b.String())
}
