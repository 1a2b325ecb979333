package recordlog

import (
	"sync/atomic"
	"time"
)

// troubleWindow is for how long a slow sync or a refusal is remembered.
const troubleWindow = 10 * time.Second

// trouble is what a log has lately seen of its disk, for those who watch over it. Nothing here holds up a write.
type trouble struct {
	// full is when an append was refused for lack of space, unix ns; 0: none was since the last one that was written.
	full atomic.Int64
	// slowest is the longest sync since the window began, before that of the window before it, ns; began is unix ns.
	slowest, before, began atomic.Int64
}

// synced notes a sync that succeeded. The gate is held.
func (t *trouble) synced(took time.Duration) {
	t.full.Store(0)
	t.turn()
	t.slowest.Store(max(t.slowest.Load(), int64(took)))
}

// turn begins a new window if the present one is over.
func (t *trouble) turn() {
	at := now()
	switch age := time.Duration(at - t.began.Load()); {
	case age < troubleWindow:
		return
	case age < 2*troubleWindow:
		t.before.Store(t.slowest.Load())
	default:
		t.before.Store(0)
	}
	t.slowest.Store(0)
	t.began.Store(at)
}

// Full says whether the disk has refused an append lately, and none was written since.
func (l *Log) Full() bool {
	at := l.trouble.full.Load()
	return at != 0 && time.Duration(now()-at) < troubleWindow
}

// SlowestSync is the longest sync of the last 10 to 20 s; 0: there was none.
func (l *Log) SlowestSync() time.Duration {
	switch age := time.Duration(now() - l.trouble.began.Load()); {
	case age < troubleWindow:
		return time.Duration(max(l.trouble.slowest.Load(), l.trouble.before.Load()))
	case age < 2*troubleWindow:
		return time.Duration(l.trouble.slowest.Load())
	}
	return 0
}
