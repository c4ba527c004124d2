package guide

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/netns"
)

// The commands that need root, in a network namespace of their own for each block.
func TestCommandsForRoot(t *testing.T) {
	netns.Need(t, "bash", "curl", "nc", "ping", "go")
	found := 0
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			if b.source != "root" {
				continue
			}
			found++
			t.Run(filepath.Base(filepath.Dir(page)), func(t *testing.T) {
				script := strings.ReplaceAll(b.text, "/tmp/", t.TempDir()+"/")
				out := netns.New(t).Shell(t, "cd ../..\n"+script)
				require.NotEmpty(t, out)
				if strings.Contains(script, "echo hello") {
					require.Equal(t, 2, strings.Count(out, "hello\n"), "%s", out)
				}
				require.NotContains(t, out, "100% packet loss")
			})
		}
	}
	require.Equal(t, 3, found)
}

// get gets a value from an inspector.
func get[T any](t *testing.T, url string) (v T) {
	t.Helper()
	answer, err := http.Get(url)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode, url)
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&v))
	return v
}

// samples returns the states of a connection that a recording has.
func samples(t *testing.T, page, id string) (all []inspect.ConnDetail) {
	t.Helper()
	answer, err := http.Get(page + "api/stream?topics=conn&id=" + url.QueryEscape(id))
	require.NoError(t, err)
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan() && lines.Text() != "event: end"; {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var d inspect.ConnDetail
			require.NoError(t, json.Unmarshal([]byte(data), &d))
			all = append(all, d)
		}
	}
	return all
}

// Each program in virtual time prints the same while it is recorded, and the inspector opens its recording.
func TestProgramsAreRecorded(t *testing.T) {
	needsGo(t)
	connections := map[string]int{"09-sequence": 1, "10-congestion": 1, "13-http": 1, "14-tests": 4}
	n := 0
	for _, page := range pages(t) {
		dir := filepath.Dir(page)
		main, err := os.ReadFile(filepath.Join(dir, "main.go"))
		if dir == "." || err == nil && !strings.Contains(string(main), "lab.Run(") {
			continue
		}
		require.NoError(t, err)
		n++
		t.Run(dir, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "run.usernet")
			printed := shell(t, "go run ./docs/guide/"+dir+" -record "+file)
			for _, b := range blocks(t, page) {
				if b.source == "output" && !*update {
					require.Equal(t, b.text, printed)
				}
			}
			f, err := os.Open(file)
			require.NoError(t, err)
			defer f.Close()
			h, err := inspect.Open(f)
			require.NoError(t, err)
			srv := httptest.NewServer(h)
			defer srv.Close()
			defer srv.CloseClientConnections()
			page := srv.URL + "/"
			o := get[inspect.Overview](t, page+"api/overview")
			require.True(t, o.Host.Recorded)
			require.Equal(t, 2000, o.Time.UTC().Year(), "virtual time")
			require.Positive(t, o.Host.UptimeS)
			all := get[inspect.Conns](t, page+"api/conns")
			if want := connections[dir]; want > 0 {
				require.Equal(t, want, all.Total, "%+v", all.Conns)
			}
			if dir != "09-sequence" {
				return
			}
			require.Equal(t, "192.0.2.2:80", all.Conns[0].Remote)
			require.Equal(t, uint64(6*1448+20_000), all.Conns[0].BytesOut)
			require.Positive(t, all.Conns[0].Retrans)
			kinds := map[string]int{}
			seen := samples(t, page, all.Conns[0].ID)
			require.Greater(t, len(seen), 20)
			for _, d := range seen {
				for _, e := range d.Events {
					kinds[e.Kind]++
				}
			}
			require.Positive(t, kinds["retransmission"], "%v", kinds)
			require.Positive(t, kinds["window_closed"], "%v", kinds)
		})
	}
	require.GreaterOrEqual(t, n, 12)
}

// The commands that end with Ctrl-C print the address of a page, which is there.
func TestCommandsThatOpenTheInspector(t *testing.T) {
	needsGo(t)
	require.NoError(t, build())
	found := 0
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			if b.source != "inspector" {
				continue
			}
			found++
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", gorun+strings.ReplaceAll(b.text, "/tmp/", t.TempDir()+"/"))
			cmd.Env = append(os.Environ(), "PROGRAMS="+programs)
			cmd.Dir = "../.."
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			address, printed := "", ""
			for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
				printed += lines.Text() + "\n"
				address = regexp.MustCompile(`http://127\.0\.0\.1:\d+/\S+`).FindString(lines.Text())
			}
			require.NotEmpty(t, address, "%s: %s", page, printed)
			all := get[inspect.Conns](t, address+"api/conns")
			cancel()
			cmd.Wait()
			require.Positive(t, all.Total, page)
		}
	}
	require.Equal(t, 3, found)
}
