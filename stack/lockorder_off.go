//go:build !lockorder

package stack

import "sync"

type (
	mutex[L lockLevel]   = sync.Mutex
	rwMutex[L lockLevel] = sync.RWMutex
)
