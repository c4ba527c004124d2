// Gen writes the files of package dropin that follow from the names that net exports: net.go,
// refused.go and api_test.go. Its argument is the directory of package dropin. It reads net's source
// from the Go installation that runs it.
package main

import (
	"fmt"
	"go/build"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: gen directory")
	}
	net, err := exports(netDir())
	if err != nil {
		return err
	}
	files, err := generate(net, choices())
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(args[0], name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// netDir returns the directory of net's source.
func netDir() string { return filepath.Join(build.Default.GOROOT, "src", "net") }
