package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// dropin is the directory of the generated package.
const dropin = "../.."

func mustExports(t *testing.T, dir string) map[string]export {
	t.Helper()
	all, err := exports(dir)
	require.NoError(t, err)
	return all
}

func TestTheGeneratedFilesAreThoseOfThisRelease(t *testing.T) {
	files, err := generate(mustExports(t, netDir()), choices())
	require.NoError(t, err)
	require.Len(t, files, 3)
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dropin, name))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "%s: run go generate ./dropin", name)
	}
}

// Package dropin exports Use, and the names of package net that policy.go does not refuse.
func TestWhatIsExportedIsWhatNetExportsAndUse(t *testing.T) {
	names := func(all map[string]export) []string {
		var s []string
		for name := range maps.Keys(all) {
			if !isMethod(name) {
				s = append(s, name)
			}
		}
		slices.Sort(s)
		return s
	}
	want := []string{"Use"}
	for _, name := range names(mustExports(t, netDir())) {
		if choices()[name].way != refused {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	require.Equal(t, want, names(mustExports(t, dropin)))
}

func TestANewNameOfNetIsAnErrorUntilSomebodyDecides(t *testing.T) {
	net := mustExports(t, netDir())
	net["DialQuantum"] = export{kind: isFunc}
	_, err := generate(net, choices())
	require.EqualError(t, err, "net.DialQuantum is new: choose in policy.go what is done about it")
}

func TestANameThatNetHasLostIsAnError(t *testing.T) {
	net := mustExports(t, netDir())
	delete(net, "ParseMAC")
	delete(net, "UDPConn")
	_, err := generate(net, choices())
	require.EqualError(t, err, "net has no ParseMAC: remove it from policy.go\n"+
		"net has no UDPConn: remove it from policy.go\n"+
		"net has no UDPConn.File: remove it from policy.go\n"+
		"net has no UDPConn.SyscallConn: remove it from policy.go")
}

func TestEveryRefusalHasAReason(t *testing.T) {
	for name, c := range choices() {
		require.Equal(t, c.way == refused, c.why != "", name)
	}
}

func TestTheExportsOfNetAreFound(t *testing.T) {
	net := mustExports(t, netDir())
	for name, kind := range map[string]kind{
		"IPv4len": isConst, "FlagUp": isConst, "ErrClosed": isVar, "DefaultResolver": isVar, "IP": isType, "Dialer": isType,
		"Dial": isFunc, "ParseCIDR": isFunc, "Dialer.DialContext": isFunc, "IP.To4": isFunc,
	} {
		require.Contains(t, net, name)
		require.Equal(t, kind, net[name].kind, name)
	}
	for _, name := range []string{"sysDialer", "parseIPv4", "IP.matchAddrFamily", "conn.Read"} {
		require.NotContains(t, net, name)
	}
}
