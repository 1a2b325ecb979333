package heapfloor

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// restInterval is how often Rest looks.
	restInterval = 20 * time.Second
	// calmBytes is the most that is allocated in one interval while there is little to do: 2 MiB/s.
	calmBytes = 40 << 20
	// worthwhile is how much has to be allocated before it is worth another collection.
	worthwhile = 64 << 20
)

// Rest gives what was garbage back to the system once there is little to do, until ctx ends. Left to itself, Go keeps what a
// load took until the next load has filled it again: it collects when the heap has grown by its share, which an idle program's never does.
func Rest(ctx context.Context) {
	ticker := time.NewTicker(restInterval)
	defer ticker.Stop()
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var r rest
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			metrics.Read(allocated)
			if r.look(allocated[0].Value.Uint64()) {
				debug.FreeOSMemory()
			}
		}
	}
}

// rest decides by what has been allocated since the program began, at the last look and when memory was last given back.
type rest struct{ seen, freed uint64 }

// look says whether to give back now.
func (r *rest) look(allocated uint64) bool {
	calm := allocated-r.seen <= calmBytes
	r.seen = allocated
	if !calm || allocated-r.freed < worthwhile {
		return false
	}
	r.freed = allocated
	return true
}
