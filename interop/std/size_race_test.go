//go:build race

package std

// streamed is less with the race detector, which makes SHA-256 slow.
const streamed = 32 << 20
