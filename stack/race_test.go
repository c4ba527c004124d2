//go:build race

package stack

const racing = true
