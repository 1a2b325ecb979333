package kafka

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/frontdoor"
)

// walker steps over an encoded request without making anything of it.
type walker struct {
	b   []byte
	bad bool
}

func (w *walker) skip(n int) {
	if n < 0 || n > len(w.b) {
		w.bad, w.b = true, nil
		return
	}
	w.b = w.b[n:]
}

func (w *walker) uvarint() int {
	v, n := binary.Uvarint(w.b)
	if n <= 0 || v > 1<<31-1 {
		w.bad, w.b = true, nil
		return 0
	}
	w.b = w.b[n:]
	return int(v)
}

func (w *walker) int16() int {
	if len(w.b) < 2 {
		w.bad, w.b = true, nil
		return 0
	}
	v := int(int16(binary.BigEndian.Uint16(w.b)))
	w.b = w.b[2:]
	return v
}

func (w *walker) int32() int {
	if len(w.b) < 4 {
		w.bad, w.b = true, nil
		return 0
	}
	v := int(int32(binary.BigEndian.Uint32(w.b)))
	w.b = w.b[4:]
	return v
}

// tags steps over the tags of a flexible version; it gives how many there are.
func (w *walker) tags() (count int) {
	for n := w.uvarint(); n > 0 && !w.bad; n-- {
		w.uvarint()
		w.skip(w.uvarint())
		count++
	}
	return count
}

// text steps over a string that may be null.
func (w *walker) text(flexible bool) {
	if flexible {
		w.skip(max(w.uvarint()-1, 0))
		return
	}
	w.skip(max(w.int16(), 0))
}

// blob steps over bytes that may be null.
func (w *walker) blob(flexible bool) {
	if flexible {
		w.skip(max(w.uvarint()-1, 0))
		return
	}
	w.skip(max(w.int32(), 0))
}

// count reads how many elements an array has.
func (w *walker) count(flexible bool) int {
	if flexible {
		return w.uvarint() - 1
	}
	return w.int32()
}

// checkProduceShape counts what a produce request names before it is decoded: it may be large, and most of a large one ought to
// be batches. Else a few bytes for each of millions of partitions, or of tags that nobody knows, would take a hundred times as much memory.
func checkProduceShape(p *kmsg.ProduceRequest, body []byte) error {
	w, flexible, named := walker{b: body}, p.IsFlexible(), 0
	if p.Version >= 3 {
		w.text(flexible) // transactional id
	}
	w.skip(2 + 4) // acks, timeout
	topics := w.count(flexible)
	for range topics {
		if p.Version >= 13 {
			w.skip(16)
		} else {
			w.text(flexible)
		}
		partitions := w.count(flexible)
		if named += 1 + max(partitions, 0); named > frontdoor.MaxPartitions || w.bad {
			break
		}
		for range partitions {
			w.skip(4)
			w.blob(flexible)
			if flexible {
				named += w.tags()
			}
		}
		if flexible {
			named += w.tags()
		}
	}
	if flexible && named <= frontdoor.MaxPartitions {
		named += w.tags()
	}
	switch {
	case w.bad:
		return &closing{"bad_frame", fmt.Sprintf("Produce version %d cannot be decoded", p.Version)}
	case named > frontdoor.MaxPartitions:
		return &closing{"too_large", fmt.Sprintf("Produce names more than %d topics, partitions and tags", frontdoor.MaxPartitions)}
	}
	return nil
}
