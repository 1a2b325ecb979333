package client

import (
	"cmp"
	"iter"
	"slices"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// Fetched is what Poll gives of one partition: records, or an error, or neither where the log holds what is not shown (markers,
// and with ReadCommitted aborted records): then only Next has moved.
type Fetched struct {
	record.TopicPartition
	// Err, an *Error, says why the partition gives nothing; there are no records then, and the
	// position has not moved. Errors that pass by themselves, such as a leader that moves, are not
	// reported.
	Err error
	// HighWatermark, LastStable and LogStart are the partition's, as of the answer. The lag is
	// HighWatermark, or with ReadCommitted LastStable, minus Next.
	HighWatermark, LastStable, LogStart record.Offset
	// Next is the offset to go on from: one beyond the last batch, records that are not shown
	// included. Offsets have holes, so it is not a count (L2).
	Next record.Offset

	from    record.Offset
	batches []record.Batch
	bytes   int
}

// Batches gives the batches with records to show, as stored, and with ConsumerConfig.ControlBatches those of markers. The first may begin below the
// position; those records are not to be used. The memory is the caller's and is not used again.
func (f *Fetched) Batches() []record.Batch { return f.batches }

// Records gives the records in order of offset, or an error at a batch that cannot be read.
//
// The record is overwritten by the next one. Its Key, Value and header values alias the fetched
// bytes: they stay as they are for as long as they are referred to, at the price of keeping the
// whole answer, or the decompressed batch, in memory. Copy what is to be kept for long.
func (f *Fetched) Records() iter.Seq2[*record.Record, error] {
	return func(yield func(*record.Record, error) bool) {
		var rs record.Records
		for _, b := range f.batches {
			if err := rs.Reset(b, maxMessageBytes); err != nil {
				yield(nil, corrupt(f.TopicPartition, b.BaseOffset(), err))
				return
			}
			for rs.Next() {
				if r := rs.Record(); r.Offset >= f.from && !yield(r, nil) {
					return
				}
			}
			if err := rs.Err(); err != nil {
				yield(nil, corrupt(f.TopicPartition, b.BaseOffset(), err))
				return
			}
			// Not closed: the caller may hold on to what it was given. A compressed batch's buffer
			// goes to the collector.
			rs = record.Records{}
		}
	}
}

// Count is the number of records in Batches, those below the position included.
func (f *Fetched) Count() int {
	n := 0
	for _, b := range f.batches {
		n += int(b.Count())
	}
	return n
}

func corrupt(tp record.TopicPartition, at record.Offset, err error) *Error {
	e := refusal(ReasonCorruptMessage, "batch at offset %d: %v; Seek beyond it to go on", at, err).at(tp)
	e.cause = err
	return e
}

// survey tells what decode will, going by the batches' headers alone: the offset to go on from, and
// the bytes of the batches at or above from. It stops where a batch is cut short.
func survey(from record.Offset, p *clientv1.FetchedPartition) (next record.Offset, bytes int64) {
	next = from
	for _, run := range p.GetBatches() {
		for len(run) > 0 {
			b, rest, err := record.Parse(run)
			if err != nil {
				return next, bytes
			}
			run = rest
			if last := b.BaseOffset() + record.Offset(b.LastOffsetDelta()); last >= from {
				next = last + 1
				bytes += int64(len(b))
			}
		}
	}
	return next, bytes
}

// decoding says what is shown of what was fetched, and whether every CRC is checked.
type decoding struct{ committed, control, crc bool }

// decode takes the batches out of an answer for one partition: whole, intact, at or above from,
// and of those the ones to be shown. It returns what came before the first bad batch together
// with the error.
func decode(tp record.TopicPartition, from record.Offset, p *clientv1.FetchedPartition, how decoding) (Fetched, error) {
	f := Fetched{
		TopicPartition: tp, from: from, Next: from, HighWatermark: record.Offset(p.GetHighWatermark()),
		LastStable: record.Offset(p.GetLastStableOffset()), LogStart: record.Offset(p.GetLogStartOffset()),
	}
	var filter abortedFilter
	if how.committed {
		filter = newAbortedFilter(p.GetAborted())
	}
	for _, run := range p.GetBatches() {
		for len(run) > 0 {
			b, rest, err := record.Parse(run)
			if err != nil {
				return f, corrupt(tp, f.Next, err)
			}
			run = rest
			if how.crc {
				if err := b.CheckCRC(); err != nil {
					return f, corrupt(tp, b.BaseOffset(), err)
				}
			}
			last := b.BaseOffset() + record.Offset(b.LastOffsetDelta())
			show := filter.shows(b, last) || how.control && b.Attributes().Control()
			if last < from {
				continue
			}
			f.Next = last + 1
			f.bytes += len(b)
			if show {
				f.batches = append(f.batches, b)
			}
		}
	}
	return f, nil
}

// abortedFilter drops what read_committed does not show (L11). The zero value shows everything but
// control batches.
type abortedFilter struct {
	pending []*clientv1.AbortedTransaction // by first offset
	aborted map[record.ProducerID]struct{}
}

func newAbortedFilter(list []*clientv1.AbortedTransaction) abortedFilter {
	pending := slices.Clone(list)
	slices.SortFunc(pending, func(a, b *clientv1.AbortedTransaction) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	return abortedFilter{pending: pending, aborted: make(map[record.ProducerID]struct{})}
}

// shows says whether a batch is shown, given all before it.
func (f *abortedFilter) shows(b record.Batch, last record.Offset) bool {
	for len(f.pending) > 0 && record.Offset(f.pending[0].FirstOffset) <= last {
		f.aborted[record.ProducerID(f.pending[0].ProducerId)] = struct{}{}
		f.pending = f.pending[1:]
	}
	switch {
	case b.Attributes().Control():
		if m, ok, err := record.ParseMarker(b); err == nil && ok && !m.Commit {
			delete(f.aborted, b.ProducerID())
		}
		return false
	case b.Attributes().Transactional():
		_, dropped := f.aborted[b.ProducerID()]
		return !dropped
	}
	return true
}
