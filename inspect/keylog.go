package inspect

import (
	"bytes"
	"slices"
	"sync"
)

// maxKeyLog is the number of bytes that a KeyLog keeps.
const maxKeyLog = 1 << 20

// A KeyLog holds the secrets of TLS connections for captures, so that Wireshark decrypts them. It is the value of
// KeyLogWriter in a tls.Config, and of KeyLog in a Config:
//
//	keys := new(inspect.KeyLog)
//	server.TLSConfig.KeyLogWriter = keys
//	mux.Handle("/debug/usernet/", inspect.NewHandler(host, inspect.Config{KeyLog: keys}))
//
// Whoever may see the page can then read what the connections carry. A KeyLog keeps the last MiB, which is some
// thousand connections. The zero value is ready for use. Its methods may be called by several goroutines.
type KeyLog struct {
	mu sync.Mutex
	b  []byte
}

// Write adds lines of a key log (RFC 9850). It never fails.
func (k *KeyLog) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.b = append(k.b, p...)
	if over := len(k.b) - maxKeyLog; over > 0 {
		// Whole lines, and many at once, so that not each Write moves all bytes.
		over = min(over+maxKeyLog/8, len(k.b))
		i := bytes.IndexByte(k.b[over-1:], '\n')
		k.b = slices.Delete(k.b, 0, over+max(i, 0))
		if i < 0 {
			k.b = k.b[:0]
		}
	}
	return len(p), nil
}

// lines returns the lines that the KeyLog has.
func (k *KeyLog) lines() []byte {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.b[:bytes.LastIndexByte(k.b, '\n')+1])
}
