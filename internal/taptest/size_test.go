//go:build linux && !race

package taptest

// bulk is how many bytes the large transfers have.
const bulk = 1 << 30
