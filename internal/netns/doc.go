//go:build !linux

// Package netns makes network namespaces, which only Linux has.
package netns
