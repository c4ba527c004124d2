//go:build !race

package tcp

const racing = false
