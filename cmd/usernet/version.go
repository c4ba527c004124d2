package main

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

func versionCommand() command {
	return command{
		name: "version",
		what: "prints the version of this program",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) > 0 {
					return usageError(fmt.Sprintf("unexpected argument %q", args[0]))
				}
				info, _ := debug.ReadBuildInfo()
				fmt.Fprintln(t.out, version(info))
				return nil
			}
		},
		more: "Examples:\n  usernet version\n",
	}
}

// version describes the program's build. info may be nil.
func version(info *debug.BuildInfo) string {
	words := []string{"usernet"}
	goVersion := runtime.Version()
	if info != nil {
		if v := info.Main.Version; v != "" {
			words = append(words, v)
		}
		settings := make(map[string]string)
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if commit := settings["vcs.revision"]; commit != "" {
			words = append(words, "commit "+commit[:min(12, len(commit))])
		}
		if settings["vcs.modified"] == "true" {
			words = append(words, "with changes")
		}
		if info.GoVersion != "" {
			goVersion = info.GoVersion
		}
	}
	if len(words) == 1 {
		words = append(words, "(version unknown)")
	}
	words = append(words, goVersion, runtime.GOOS+"/"+runtime.GOARCH)
	return strings.Join(words, " ")
}
