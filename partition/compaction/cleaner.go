package compaction

import (
	"slices"
	"sort"

	"github.com/oncelog/oncelog/record"
)

// Pass is what all replicas agree on.
type Pass struct {
	// Below bounds what is compacted: batches that end below it (L31). A batch ends right before it.
	Below record.Offset
	// Horizon bounds which tombstones and markers go: those below it, which an earlier pass has reached long
	// enough ago that every reader has seen them (L33). It is never above what that pass reached.
	Horizon record.Offset
	// Last holds the last offsets of the batches and markers that stand for what the partition remembers of its
	// producers; those batches stay, emptied if need be (L35). It rises.
	Last []record.Offset
}

// Cleaner carries out a pass, or as much of it as its memory allows, in three steps, each with the log's
// batches in order:
//
//   - Settle, with those that no pass has seen, finds out how their transactions ended;
//   - Index, with those that are not compacted yet, notes the last record of each key. When its memory is
//     full it lowers the bound: what lies above is for the next round;
//   - Clean, with all below the bound, says what stays.
//
// Take does the first two at once, as far as no transaction is in the way.
//
// Base offsets are those of the log. A batch is settled if a pass has taken it in before: then it was
// committed, for what was aborted went in the first (L32). Settled batches lie below all others.
type Cleaner struct {
	pass   Pass
	limit  int
	latest table
	// last are the records in latest that Index has seen, by offset: what it says of them costs no look at their keys.
	last offsets
	// unreadable are the batches, by base offset, of which Index could not tell what they hold.
	unreadable map[record.Offset]struct{}
	// aborted holds the aborted transactions, open those whose end is still to be seen, by producer.
	aborted map[record.ProducerID][]span
	open    map[record.ProducerID]record.Offset
	spans   int
	indexed bool // at least one batch
	// next is the offset after the batches that Take has indexed; waiting: others have to wait until transactions are settled.
	next    record.Offset
	waiting bool
	// alive are the producers with records, kept, of a transaction whose marker is still to come.
	alive  map[record.ProducerID]struct{}
	keys   record.Keys
	found  []found // in the batch that is indexed
	retain record.Retainer
	stats  Stats
}

// found is a key of a record.
type found struct {
	digest
	offset record.Offset
}

// span is where an aborted transaction has its batches.
type span struct{ first, marker record.Offset }

// Stats say what Clean did.
type Stats struct {
	// Records were looked at, of which these were kept. Aborted and Tombstones are among those that were not.
	Records, Kept, Aborted, Tombstones int64
	// Unreadable batches stay as they are.
	Unreadable int64
}

// entryBytes is the most that a key takes in the table, with the room that the table leaves.
const entryBytes = 64

// lastShare is the part of the memory that the set of last records may take: enough for sixteen times as many offsets as keys.
const lastShare = 32

// maxUnreadable bounds the batches that are remembered to be unreadable.
const maxUnreadable = 1024

// minKeys is how many keys fit in any case.
const minKeys = 1024

// New makes a cleaner that takes about memory bytes for keys and transactions, and more only if one batch
// alone has more keys.
func New(p Pass, memory int64) *Cleaner {
	return &Cleaner{
		pass: p, limit: int(max((memory-memory/lastShare)/entryBytes, minKeys)), last: offsets{limit: int(memory / lastShare / 8)},
		aborted: map[record.ProducerID][]span{}, open: map[record.ProducerID]record.Offset{}, alive: map[record.ProducerID]struct{}{}, unreadable: map[record.Offset]struct{}{},
	}
}

// Bound is where this round ends: Pass.Below, or lower where the memory did not suffice. A batch ends right before it.
func (c *Cleaner) Bound() record.Offset { return c.pass.Below }

// Settle takes a batch that is not settled, from the first one on, and says whether it wants the next: until all
// transactions with batches below the bound have ended. head: it is the first one of its entry; a round ends
// before such a one.
func (c *Cleaner) Settle(b record.Batch, head bool) (more bool, err error) {
	below := b.BaseOffset() < c.pass.Below
	if !below && len(c.open) == 0 {
		return false, nil
	}
	a, pid := b.Attributes(), b.ProducerID()
	switch {
	case a.Control():
		m, ok, err := record.ParseMarker(b)
		if err != nil {
			return false, err
		}
		first, open := c.open[pid]
		if !ok || !open {
			break
		}
		if !m.Commit {
			c.aborted[pid] = append(c.aborted[pid], span{first, b.BaseOffset()})
			c.spans++
		}
		delete(c.open, pid)
	case a.Transactional() && below:
		if _, open := c.open[pid]; open {
			break
		}
		if head && c.spans+len(c.open) >= c.limit {
			c.pass.Below = b.BaseOffset() // the rest is for the next round
			return len(c.open) > 0, nil
		}
		c.open[pid] = b.BaseOffset()
	}
	return b.LastOffset()+1 < c.pass.Below || len(c.open) > 0, nil
}

// Take settles a batch, unless an earlier pass has, and indexes it if that can be done yet: until it has seen a transaction, which may end
// either way. The batches begin with the first one to be indexed, or that is not settled, whichever lies lower. It says whether it wants
// the next.
func (c *Cleaner) Take(b record.Batch, head, settled bool) (more bool, err error) {
	more = true
	if !settled {
		if more, err = c.Settle(b, head); err != nil {
			return false, err
		}
	}
	if c.waiting = c.waiting || len(c.open) > 0; c.waiting {
		return more, nil
	}
	if !c.Index(b, head) {
		return false, nil // nor is anything left to be settled: no transaction is open, and the bound is here
	}
	c.next = b.LastOffset() + 1
	return more, nil
}

// Rest says whether there is more to index after Take, and from which offset on, if that is not the first one.
func (c *Cleaner) Rest() (from record.Offset, more bool) { return c.next, c.waiting }

// Unsettled says whether Settle has not seen the end of a transaction with batches below the bound.
func (c *Cleaner) Unsettled() bool { return len(c.open) > 0 }

// isAborted says whether a batch belongs to an aborted transaction.
func (c *Cleaner) isAborted(b record.Batch) bool {
	if !b.Attributes().Transactional() {
		return false
	}
	spans := c.aborted[b.ProducerID()]
	k := sort.Search(len(spans), func(k int) bool { return spans[k].marker > b.BaseOffset() })
	return k < len(spans) && spans[k].first <= b.BaseOffset()
}

// Index notes the keys of a batch and says whether it wants the next. A batch that cannot be read counts as one
// without keys. head is as in Settle.
func (c *Cleaner) Index(b record.Batch, head bool) (more bool) {
	if b.LastOffset() >= c.pass.Below {
		return false
	}
	c.last.begin(b.BaseOffset())
	if b.Attributes().Control() || b.Count() == 0 || c.isAborted(b) {
		return true
	}
	if head && c.indexed && c.latest.used+int(b.Count()) > c.limit {
		c.pass.Below = b.BaseOffset()
		return false
	}
	c.indexed = true
	if c.keys.Reset(b, 0) != nil {
		c.cannotRead(b)
		return true
	}
	defer c.keys.Close()
	c.found = c.found[:0]
	for c.keys.Next() {
		if key := c.keys.Key(); key != nil {
			c.found = append(c.found, found{digestOf(key), c.keys.Offset()})
		}
	}
	if c.keys.Err() != nil {
		c.cannotRead(b)
		return true
	}
	for _, f := range c.found {
		if before, had := c.latest.put(f.digest, f.offset); had {
			c.last.clear(before)
		}
		c.last.set(f.offset)
	}
	return true
}

// cannotRead notes a batch that cannot be read: it stays as it is, and hides nothing.
func (c *Cleaner) cannotRead(b record.Batch) {
	if len(c.unreadable) == maxUnreadable {
		c.last.giveUp()
		return
	}
	c.unreadable[b.BaseOffset()] = struct{}{}
}

// Clean says what stays of a batch below the bound: nil, the batch itself, or one that is good until the next
// call.
func (c *Cleaner) Clean(b record.Batch) record.Batch {
	if b.Attributes().Control() {
		return c.marker(b)
	}
	kept := c.records(b)
	if kept != nil {
		if b.Attributes().Transactional() && kept.Count() > 0 {
			c.alive[b.ProducerID()] = struct{}{}
		}
		return kept
	}
	if c.stays(b) {
		return b.Emptied()
	}
	return nil
}

// records gives a batch with the records that stay; nil: none does.
func (c *Cleaner) records(b record.Batch) record.Batch {
	count := int64(b.Count())
	c.stats.Records += count
	if count == 0 {
		return nil
	}
	if c.isAborted(b) {
		c.stats.Aborted += count
		return nil
	}
	indexed := c.last.whole(b.BaseOffset())
	if indexed {
		if kept, decided := c.wholly(b); decided {
			return kept
		}
	}
	tombstones := int64(0)
	kept, err := c.retain.Retain(b, func(offset record.Offset, key []byte, tombstone bool) bool {
		if key == nil {
			return false // L38
		}
		if indexed {
			if !c.last.has(offset) {
				return false
			}
		} else if last, ok := c.latest.get(digestOf(key)); ok && last > offset {
			return false
		}
		if tombstone && offset < c.pass.Horizon {
			tombstones++
			return false
		}
		return true
	})
	if err != nil {
		c.stats.Unreadable++
		c.stats.Kept += count
		return b
	}
	c.stats.Tombstones += tombstones
	if kept != nil {
		c.stats.Kept += int64(kept.Count())
	}
	return kept
}

// wholly decides over batches that were indexed, and of which all records stay or none, without reading them again.
func (c *Cleaner) wholly(b record.Batch) (kept record.Batch, decided bool) {
	if _, unreadable := c.unreadable[b.BaseOffset()]; unreadable {
		return nil, false
	}
	switch n := c.last.count(b.BaseOffset(), b.LastOffset()); {
	case n == 0:
		return nil, true
	case n == int(b.Count()) && b.BaseOffset() >= c.pass.Horizon: // below it, tombstones go
		c.stats.Kept += int64(n)
		return b, true
	}
	return nil, false
}

// marker gives a control batch that stays: one of a transaction with records that stay (L33), one that has not
// been there long enough, one that stands for its producer, or one of a kind that is not known.
func (c *Cleaner) marker(b record.Batch) record.Batch {
	pid := b.ProducerID()
	_, alive := c.alive[pid]
	_, ok, err := record.ParseMarker(b)
	if ok {
		delete(c.alive, pid)
	}
	if alive || b.LastOffset() >= c.pass.Horizon || c.stays(b) || err != nil || !ok && b.Count() > 0 {
		return b
	}
	return nil
}

// stays says whether a batch keeps its place even if it is empty: for its producer (L35), or because
// it is the last one of the pass, so that readers get to where it ends (L36).
func (c *Cleaner) stays(b record.Batch) bool {
	last := b.LastOffset()
	if last+1 == c.pass.Below {
		return true
	}
	_, found := slices.BinarySearch(c.pass.Last, last)
	return found
}

// Stats are those of all calls of Clean so far.
func (c *Cleaner) Stats() Stats { return c.stats }

// Keys is how many keys are noted.
func (c *Cleaner) Keys() int { return c.latest.used }
