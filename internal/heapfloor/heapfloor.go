// Package heapfloor says how much garbage Go's collector lets gather: an amount, and half of what is live. Go's own rule, as much as
// is live, runs it all the time where little is live and the garbage is large buffers, and doubles a heap that is large.
package heapfloor

import (
	"os"
	"runtime"
	"runtime/debug"
)

// floor is never touched: it takes address space, and hardly any memory.
var floor [][]byte

const (
	// piece is what is allocated at once. The allocator clears the whole of what it hands out if any part of it
	// has been used before, which for one large piece would be a matter of luck.
	piece = 1 << 20
	// percent of what is live, the floor included, gathers as garbage.
	percent = 50
)

// Set lets the given bytes of garbage gather, and half as many as are live, before they are collected. A broker that lives on 15 MB and
// passes 100 MB/s on would otherwise collect ten times a second, for a tenth of its processor time. What Go counts as
// live and as heap is twice the given bytes more than there is, of address space only.
//
// It is to be called once, when the program starts. Where the environment has GOGC, that holds instead.
func Set(bytes int) {
	floor = nil
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(percent)
	for range bytes / piece * 100 / percent {
		floor = append(floor, make([]byte, piece))
	}
	runtime.KeepAlive(floor) // the linter wants it read
}
