package stack

// A lockLevel is the level of a mutex in the lock order, which stack.go describes under Locks. It is the type
// parameter of the mutex.
//
// Without the build tag lockorder, the parameter costs nothing: mutex and rwMutex are sync.Mutex and
// sync.RWMutex. With the tag, Lock panics if the goroutine holds a lock of the same or a later level.
// .ci/run runs the tests of this package with the tag. The tag has no effect with the race detector, which
// would take the checker's own lock for synchronization between the goroutines.
type lockLevel interface{ level() int }

type (
	levelConfig   struct{} // the configuration of the stack
	levelBind     struct{} // bindings of TCP ports
	levelListener struct{}
	levelSocket   struct{}
	levelShared   struct{} // state that sockets share; while holding it, goroutines lock tables
	levelTable    struct{} // a table or a list
	levelPorts    struct{} // ports of TCP sockets
	levelTimers   struct{} // the timer queue of connections
	levelNeighbor struct{} // a neighbour table
	levelLink     struct{} // an interface's transmit queue or multicast groups, and others
	levelWatch    struct{} // the queue of a Watcher
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
func (levelWatch) level() int    { return 11 }
