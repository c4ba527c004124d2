package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A memoryFile is a file in memory. It exists until the process ends.
type memoryFile struct {
	fd   *os.File
	size int64
}

// newMemoryFile makes a file of size bytes, which repeats the bytes of pattern.
func newMemoryFile(size int64) (*memoryFile, error) {
	fd, err := unix.MemfdCreate("usernet-bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := &memoryFile{fd: os.NewFile(uintptr(fd), "memory"), size: size}
	block := pattern()
	for left := size; left > 0; {
		n, err := f.fd.Write(block[:min(left, int64(len(block)))])
		if err != nil {
			f.fd.Close()
			return nil, err
		}
		left -= int64(n)
	}
	return f, nil
}

// pattern returns the bytes that a memoryFile repeats. Their number is prime, so that its pages differ.
func pattern() []byte {
	b := make([]byte, 1_048_573)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// ServeHTTP serves the file as http.FileServer does: it opens it for each request.
func (f *memoryFile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	own, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.fd.Fd()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer own.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "file", time.Time{}, own)
}

// fetch gets the file again and again until the run ends. It counts the bytes as they arrive.
func (c *client) fetch(count *counter) error {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return c.dial(c.t.network("tcp"))
		},
		DisableCompression: true,
		ReadBufferSize:     16 << 10,
	}
	defer tr.CloseIdleConnections()
	cl := &http.Client{Transport: tr}
	buf := make([]byte, max(c.t.Setup.Chunk, smallChunk))
	connected := false
	for !c.stop.Load() {
		resp, err := cl.Get("http://" + c.addr() + "/")
		if err != nil {
			return err
		}
		if !connected {
			connected = true
			c.connected <- struct{}{}
		}
		if resp.StatusCode != http.StatusOK || resp.ContentLength != int64(c.t.Size) {
			resp.Body.Close()
			return fmt.Errorf("%s, %d bytes", resp.Status, resp.ContentLength)
		}
		n := int64(0)
		for !c.stop.Load() {
			k, err := resp.Body.Read(buf)
			n += int64(k)
			count.Add(int64(k))
			if err == io.EOF {
				break
			}
			if err != nil {
				resp.Body.Close()
				return err
			}
		}
		resp.Body.Close()
		if n != int64(c.t.Size) && !c.stop.Load() {
			return fmt.Errorf("a body of %d bytes", n)
		}
	}
	return nil
}
