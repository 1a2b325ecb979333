package compaction

import (
	"crypto/sha256"
	"encoding/binary"

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

// put notes an offset, which is above all that were noted for the digest before.
func (t *table) put(d digest, o record.Offset) {
	if t.used*4 >= len(t.slots)*3 {
		t.grow()
	}
	s := t.find(d)
	if s.next == 0 {
		s.digest = d
		t.used++
	}
	s.next = o + 1
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
