//go:build !lockorder || race

package stack

import "sync"

type (
	mutex[L lockLevel]   = sync.Mutex
	rwMutex[L lockLevel] = sync.RWMutex
)
