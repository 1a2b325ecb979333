package recordlog

import (
	"sort"

	"github.com/oncelog/oncelog/record"
)

// cache holds the last entries by reference, as they were handed over, so that replication, apply
// and consumers at the tail do not touch the disk. Bounded in bytes, but for entries that are not
// on disk: those stay in any case. Guarded by Log.mu.
type cache struct {
	limit   int64 // below 0: holds nothing that is on disk
	bytes   int64
	entries []cached // in order of index, without gaps
}

// cached is an entry and where its offsets begin, once it has its fate.
type cached struct {
	Entry
	base record.Offset // end of the log before this entry
}

// entryOverhead stands for the memory of an entry apart from its bytes.
const entryOverhead = 128

func (c *cached) size() int64 { return int64(len(c.Data)+len(c.Ext)) + entryOverhead }

// push takes appended entries and lets go of the oldest ones that are on disk, which they are
// through an index.
func (c *cache) push(entries []Entry, durable record.Index) {
	if n := len(c.entries); n > 0 && c.entries[n-1].Index+1 != entries[0].Index {
		c.clear()
	}
	for _, e := range entries {
		k := cached{Entry: e, base: record.NoOffset}
		c.entries = append(c.entries, k)
		c.bytes += k.size()
	}
	c.evict(durable)
}

// evict lets go of the oldest entries beyond the limit.
func (c *cache) evict(durable record.Index) {
	drop := 0
	for c.bytes > c.limit && drop < len(c.entries) && c.entries[drop].Index <= durable {
		c.bytes -= c.entries[drop].size()
		c.entries[drop] = cached{} // readers copy what they need under the lock
		drop++
	}
	c.entries = c.entries[drop:]
}

// forget lets go of all entries that are on disk.
func (c *cache) forget(durable record.Index) {
	limit := c.limit
	c.limit = -1
	c.evict(durable)
	c.limit = limit
}

// truncate forgets the entries from an index on.
func (c *cache) truncate(from record.Index) {
	for n := len(c.entries); n > 0 && c.entries[n-1].Index >= from; n-- {
		c.bytes -= c.entries[n-1].size()
		c.entries[n-1] = cached{}
		c.entries = c.entries[:n-1]
	}
}

func (c *cache) clear() { c.entries, c.bytes = nil, 0 }

// get gives entry i, nil if it is not here.
func (c *cache) get(i record.Index) *cached {
	if n := len(c.entries); n == 0 || i < c.entries[0].Index || i > c.entries[n-1].Index {
		return nil
	}
	return &c.entries[i-c.entries[0].Index]
}

// find gives the position of the last assigned entry whose offsets begin at or below an offset,
// -1 if that one may have left the cache.
func (c *cache) find(from record.Offset, assigned record.Index) int {
	n := len(c.entries)
	if n == 0 || c.entries[0].Index > assigned {
		return -1
	}
	n = min(n, int(assigned-c.entries[0].Index)+1)
	if c.entries[0].base == record.NoOffset || c.entries[0].base > from {
		return -1
	}
	return sort.Search(n, func(k int) bool { return c.entries[k].base > from }) - 1
}
