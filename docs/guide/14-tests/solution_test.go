package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

// The context ends 1.5 seconds after the start, in the second pause, and fetch returns at that instant.
func TestSolution14_1CancelEndsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := network(t, nic.Impairment{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		time.AfterFunc(1500*time.Millisecond, cancel)
		_, err := fetch(ctx, client.DialContext, "192.0.2.2:80")
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Fatal(took)
		}
	})
}

// captureOnFailure returns a device whose frames are written to a file if the test fails.
func captureOnFailure(t testing.TB, dev nic.Device, file string) nic.Device {
	var frames bytes.Buffer
	t.Cleanup(func() {
		if t.Failed() {
			if err := os.WriteFile(file, frames.Bytes(), 0o644); err == nil {
				t.Log("the frames are in", file)
			}
		}
	})
	return nic.Capture(dev, &frames, nic.CaptureConfig{})
}

// A failing is a testing.TB that reports a failure if failed is set. The test itself does not fail, and runs the
// cleanups.
type failing struct {
	testing.TB
	failed  bool
	cleanup []func()
}

func (f *failing) Failed() bool     { return f.failed }
func (f *failing) Cleanup(g func()) { f.cleanup = append(f.cleanup, g) }

func TestSolution14_2CaptureOfAFailure(t *testing.T) {
	for _, failed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "failure.pcapng")
			inner := &failing{TB: t}
			left, right := lab.Wire()
			client := lab.Host(captureOnFailure(inner, left, file), 1, "192.0.2.1/24")
			server := lab.Host(right, 2, "192.0.2.2/24")
			client.DialTimeout("tcp", "192.0.2.2:80", time.Second) // refused
			client.Close()
			server.Close()
			inner.failed = failed
			for _, f := range inner.cleanup {
				f()
			}
			info, err := os.Stat(file)
			if failed && (err != nil || info.Size() == 0) {
				t.Fatal("no capture of the failed test: ", err)
			}
			if !failed && err == nil {
				t.Fatal("a capture of a test that has not failed")
			}
		})
	}
}
