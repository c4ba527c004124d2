//go:build !race

package std

// streamed is the number of bytes that the streaming test sends in each direction: 1 GiB.
const streamed = 1 << 30
