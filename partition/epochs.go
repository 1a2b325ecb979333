package partition

import (
	"encoding/binary"
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// epochs is the leader-epoch cache (KIP-101, L21, L23): which epoch began at which offset.
// Epochs and start offsets both rise strictly.
type epochs struct {
	entries []epochEntry
}

type epochEntry struct {
	epoch int32
	start record.Offset
}

// enter notes that an epoch begins at the log's end (R7). A leader that got no record in
// leaves its place to the next one.
func (e *epochs) enter(epoch int32, at record.Offset) {
	if n := len(e.entries); n > 0 {
		last := &e.entries[n-1]
		if epoch <= last.epoch {
			return
		}
		if last.start == at {
			last.epoch = epoch
			return
		}
	}
	e.entries = append(e.entries, epochEntry{epoch, at})
}

// truncateStart forgets epochs that ended at or below the log start; the one that holds the
// log start now begins there.
func (e *epochs) truncateStart(logStart record.Offset) {
	first := 0
	for first+1 < len(e.entries) && e.entries[first+1].start <= logStart {
		first++
	}
	e.entries = append([]epochEntry(nil), e.entries[first:]...)
	if len(e.entries) > 0 && e.entries[0].start < logStart {
		e.entries[0].start = logStart
	}
}

// latest gives the newest epoch, -1 for none.
func (e *epochs) latest() int32 {
	if len(e.entries) == 0 {
		return -1
	}
	return e.entries[len(e.entries)-1].epoch
}

// at gives the epoch of the record at an offset, -1 where none is known.
func (e *epochs) at(o record.Offset) int32 {
	for i := len(e.entries) - 1; i >= 0; i-- {
		if e.entries[i].start <= o {
			return e.entries[i].epoch
		}
	}
	return -1
}

// endOf answers OffsetForLeaderEpoch (L21): the largest known epoch at or below the asked one
// and where it ends; (-1, -1) for an epoch newer than all.
func (e *epochs) endOf(epoch int32, logEnd record.Offset) (int32, record.Offset) {
	if epoch == e.latest() {
		return epoch, logEnd
	}
	if len(e.entries) == 0 || epoch > e.latest() {
		return -1, record.NoOffset
	}
	for i := len(e.entries) - 1; i >= 0; i-- {
		if e.entries[i].epoch <= epoch {
			return e.entries[i].epoch, e.entries[i+1].start
		}
	}
	return epoch, e.entries[0].start
}

func (e *epochs) clone() epochs {
	return epochs{entries: append([]epochEntry(nil), e.entries...)}
}

const epochEntryLen = 12

func (e *epochs) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.entries)))
	for _, x := range e.entries {
		b = binary.BigEndian.AppendUint32(b, uint32(x.epoch))
		b = binary.BigEndian.AppendUint64(b, uint64(x.start))
	}
	return b
}

func decodeEpochs(b []byte) (epochs, error) {
	if len(b) < 4 {
		return epochs{}, fmt.Errorf("epoch table of %d bytes, want at least 4", len(b))
	}
	n := int(binary.BigEndian.Uint32(b))
	b = b[4:]
	if n < 0 || len(b) != n*epochEntryLen {
		return epochs{}, fmt.Errorf("epoch table names %d epochs in %d bytes", n, len(b))
	}
	var e epochs
	for i := range n {
		p := b[i*epochEntryLen:]
		x := epochEntry{int32(binary.BigEndian.Uint32(p)), record.Offset(binary.BigEndian.Uint64(p[4:]))}
		if i > 0 && (x.epoch <= e.entries[i-1].epoch || x.start <= e.entries[i-1].start) {
			return epochs{}, fmt.Errorf("epoch table falls at entry %d", i)
		}
		e.entries = append(e.entries, x)
	}
	return e, nil
}
