package usernet_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoFileIsEmpty checks the files that git tracks. If the directory is not a checkout, as in the
// module's zip, or if git is missing, it checks every file below the directory.
func TestNoFileIsEmpty(t *testing.T) {
	files := trackedFiles(t)
	if files == nil {
		t.Log("no git checkout: looking at all files")
		files = allFiles(t)
	}
	require.Contains(t, files, "go.mod")
	require.Contains(t, files, "empty_test.go")
	for _, file := range files {
		info, err := os.Lstat(file)
		if os.IsNotExist(err) {
			continue // the file was deleted, but the index still lists it
		}
		require.NoError(t, err)
		require.False(t, info.Mode().IsRegular() && info.Size() == 0, "%s is empty", file)
	}
}

// trackedFiles returns the files that git tracks in this directory, or nil if git tracks no file of the
// module.
func trackedFiles(t *testing.T) []string {
	t.Helper()
	// The checkout may belong to another user.
	out, err := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z").Output()
	if err != nil {
		return nil
	}
	var files []string
	for file := range bytes.SplitSeq(bytes.TrimSuffix(out, []byte{0}), []byte{0}) {
		files = append(files, string(file))
	}
	if !slices.Contains(files, "go.mod") {
		return nil // this directory is part of another project's checkout
	}
	return files
}

func allFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		if err == nil && !d.IsDir() {
			files = append(files, filepath.ToSlash(path))
		}
		return err
	}))
	return files
}
