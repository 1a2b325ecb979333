package recordlog

import (
	"fmt"
	"sort"
	"sync"

	"github.com/oncelog/oncelog/record"
)

// durability is up to where a log is on disk, and who waits for it.
type durability struct {
	// mu guards what follows. Waiters are told without it.
	mu      sync.Mutex
	through record.Index
	// ended is why nothing above through will ever be on disk; nil while that may happen.
	ended   error
	waiters []waiter // in order of index, and of coming among equals
}

// waiter is told once: nil when the log is on disk through its index.
type waiter struct {
	index record.Index
	told  func(error)
}

// reached says up to where the log is on disk.
func (d *durability) reached() record.Index {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.through
}

// wait has told called once the log is on disk through i, or cannot be any more; maybe at once.
func (d *durability) wait(i record.Index, told func(error)) {
	d.mu.Lock()
	done, err := i <= d.through, d.ended
	if !done && err == nil {
		at := len(d.waiters)
		if at > 0 && d.waiters[at-1].index > i {
			at = sort.Search(at, func(k int) bool { return d.waiters[k].index > i })
		}
		d.waiters = append(d.waiters, waiter{})
		copy(d.waiters[at+1:], d.waiters[at:])
		d.waiters[at] = waiter{i, told}
	}
	d.mu.Unlock()
	switch {
	case done:
		told(nil)
	case err != nil:
		told(err)
	}
}

// advance says that the log is on disk through an index.
func (d *durability) advance(through record.Index) {
	d.mu.Lock()
	d.through = through
	n := sort.Search(len(d.waiters), func(k int) bool { return d.waiters[k].index > through })
	due := d.waiters[:n:n]
	if d.waiters = d.waiters[n:]; len(d.waiters) == 0 {
		d.waiters = nil
	}
	d.mu.Unlock()
	for _, w := range due {
		w.told(nil)
	}
}

// cut says that the entries from an index on are being taken away. Who waits for them hears so
// before the first byte goes, and before others can come in their place.
func (d *durability) cut(from record.Index) {
	d.mu.Lock()
	d.through = min(d.through, from-1)
	n := sort.Search(len(d.waiters), func(k int) bool { return d.waiters[k].index >= from })
	gone := d.waiters[n:]
	d.waiters = d.waiters[:n:n]
	d.mu.Unlock()
	for _, w := range gone {
		w.told(fmt.Errorf("%w: entry %d", ErrCutOff, w.index))
	}
}

// end says that nothing more will be on disk.
func (d *durability) end(err error) {
	d.mu.Lock()
	if d.ended == nil {
		d.ended = err
	}
	gone := d.waiters
	d.waiters = nil
	d.mu.Unlock()
	for _, w := range gone {
		w.told(err)
	}
}

// Durable is the last index through which the log is on disk.
func (l *Log) Durable() record.Index { return l.durable.reached() }

// AwaitDurable has told called exactly once: with nil as soon as the log is on disk through entry
// i, with ErrCutOff if that entry is cut off first, with ErrFailed or ErrClosed if it will never
// be. Those who wait for lower entries are told first, equal ones in the order of their calls. told
// may be called before AwaitDurable returns, or from the goroutine that wrote. It must not block,
// nor call a method of the log that writes.
func (l *Log) AwaitDurable(i record.Index, told func(error)) { l.durable.wait(i, told) }
