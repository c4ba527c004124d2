//go:build race

package std

// streamed is smaller with the race detector, which makes SHA-256 slow.
const streamed = 32 << 20
