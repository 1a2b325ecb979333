package producer

import (
	"slices"

	"github.com/oncelog/oncelog/record"
)

// LastOffsets lists, rising, the last offsets below an offset of the batches and markers that stand for the producers that
// are remembered: the latest batch of each or, where none of its epoch is, its latest marker (L35). What lies below
// an offset never joins the list later.
func (s *State) LastOffsets(below record.Offset) []record.Offset {
	var offsets []record.Offset
	add := func(e *entry) {
		o := e.lastMarker
		if e.count > 0 {
			o = e.batches[e.newest].lastOffset
		}
		if o != record.NoOffset && o < below {
			offsets = append(offsets, o)
		}
	}
	for _, l := range []*list{&s.table.open, &s.table.idle} {
		for at := l.head; at != noSlot; at = s.table.links.at(at).next {
			add(s.table.entries.at(at))
		}
	}
	slices.Sort(offsets)
	return offsets
}

// ForgetAborted forgets the aborted transactions whose marker lies below an offset: compaction removes the marker, and has
// removed their records before (L32, L33).
func (s *State) ForgetAborted(below record.Offset) { s.aborted.dropBelow(below) }
