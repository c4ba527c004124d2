//go:build linux && race

package taptest

// bulk is how many bytes the large transfers have. The race detector makes
// everything many times slower.
const bulk = 64 << 20
