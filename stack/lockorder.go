package stack

// A lockLevel is the type parameter of a mutex: its place in the order of locks, which stack.go describes
// under Locks.
//
// The parameter costs nothing: mutex and rwMutex are those of package sync, unless the build tag
// lockorder is set. With it, Lock panics if the goroutine holds a lock of the same or a later level;
// .ci/run runs the tests of this package so. It does not work with the race detector, which would take
// the checker's own lock for one that orders the goroutines.
type lockLevel interface{ level() int }

type (
	levelConfig   struct{} // the configuration of the stack
	levelBind     struct{} // what TCP ports are bound to
	levelListener struct{}
	levelSocket   struct{}
	levelShared   struct{} // what sockets share, and which looks into tables
	levelTable    struct{} // a table or a list
	levelPorts    struct{} // TCP's ports, of which tables tell
	levelTimers   struct{} // the timer queue of connections
	levelNeighbor struct{} // a neighbour table
	levelLink     struct{} // of an interface: the transmit queue, the groups
)

func (levelConfig) level() int   { return 1 }
func (levelBind) level() int     { return 2 }
func (levelListener) level() int { return 3 }
func (levelSocket) level() int   { return 4 }
func (levelShared) level() int   { return 5 }
func (levelTable) level() int    { return 6 }
func (levelPorts) level() int    { return 7 }
func (levelTimers) level() int   { return 8 }
func (levelNeighbor) level() int { return 9 }
func (levelLink) level() int     { return 10 }
