package compaction

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"github.com/oncelog/oncelog/record"
)

// digest stands for a key: the first 128 bits of its SHA-256. Nobody can make two keys with the same, and among a
// hundred billion of them that any two have it by chance is less likely than 1 in 10^16.
type digest struct{ a, b uint64 }

func digestOf(key []byte) digest {
	s := sha256.Sum256(key)
	return digest{binary.LittleEndian.Uint64(s[:]), binary.LittleEndian.Uint64(s[8:])}
}

// table maps digests to offsets, by open addressing.
type table struct {
	slots []tableSlot
	used  int
}

// tableSlot is free if next is 0; else next is the offset after the key's last record.
type tableSlot struct {
	digest
	next record.Offset
}

// find gives the slot of a digest, or the free one where it would go.
func (t *table) find(d digest) *tableSlot {
	mask := uint64(len(t.slots) - 1)
	for i := d.a & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		if s.next == 0 || s.digest == d {
			return s
		}
	}
}

// put notes an offset, which is above all that were noted for the digest before, and gives the one that was; had: there was one.
func (t *table) put(d digest, o record.Offset) (before record.Offset, had bool) {
	if t.used*4 >= len(t.slots)*3 {
		t.grow()
	}
	s := t.find(d)
	if before, had = s.next-1, s.next != 0; !had {
		s.digest = d
		t.used++
	}
	s.next = o + 1
	return before, had
}

func (t *table) get(d digest) (record.Offset, bool) {
	if len(t.slots) == 0 {
		return 0, false
	}
	s := t.find(d)
	return s.next - 1, s.next != 0
}

func (t *table) grow() {
	old := t.slots
	t.slots = make([]tableSlot, max(2*len(old), 1024))
	for i := range old {
		if old[i].next != 0 {
			*t.find(old[i].digest) = old[i]
		}
	}
}

// offsets is a set of offsets that lie close together, one bit for each from the first on. It holds none that are further apart than its limit;
// then it is no use (see whole).
type offsets struct {
	first record.Offset
	bits  []uint64
	limit int // of bits, in words
	begun bool
	over  bool
}

// begin says where offsets begin; only the first call counts.
func (s *offsets) begin(first record.Offset) {
	if !s.begun {
		s.first, s.begun = first, true
	}
}

// set takes an offset in, clear takes it out. Those below the first are passed over.
func (s *offsets) set(o record.Offset) {
	word := int((o - s.first) / 64)
	switch {
	case s.over || o < s.first:
		return
	case word >= s.limit:
		s.giveUp()
		return
	case word >= len(s.bits):
		s.bits = append(s.bits, make([]uint64, max(word+1, min(2*len(s.bits), s.limit))-len(s.bits))...)
	}
	s.bits[word] |= 1 << ((o - s.first) % 64)
}

func (s *offsets) clear(o record.Offset) {
	if word := int((o - s.first) / 64); o >= s.first && word < len(s.bits) {
		s.bits[word] &^= 1 << ((o - s.first) % 64)
	}
}

// whole says whether the set tells of all offsets from one on.
func (s *offsets) whole(from record.Offset) bool { return s.begun && !s.over && from >= s.first }

// has says whether an offset is in the set, which is whole.
func (s *offsets) has(o record.Offset) bool {
	word := int((o - s.first) / 64)
	return word < len(s.bits) && s.bits[word]&(1<<((o-s.first)%64)) != 0
}

// count is how many there are from one offset to another, both of them included.
func (s *offsets) count(from, to record.Offset) (n int) {
	first, last := int((from-s.first)/64), int((to-s.first)/64)
	for k := first; k <= last && k < len(s.bits); k++ {
		word := s.bits[k]
		if k == first {
			word &= ^uint64(0) << ((from - s.first) % 64)
		}
		if k == last {
			word &= ^uint64(0) >> (63 - (to-s.first)%64)
		}
		n += bits.OnesCount64(word)
	}
	return n
}

// giveUp makes the set one that tells nothing.
func (s *offsets) giveUp() { s.bits, s.over = nil, true }
