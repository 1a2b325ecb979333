package api

import (
	"bytes"
	"slices"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// decode replaces the batches of an answer by records in proto form, for clients that cannot read
// batches. What such a client could not tell apart is left out here: control records, and with
// committed data wanted those of aborted transactions (L11).
func (s *service) decode(answer *clientv1.FetchResponse, req *clientv1.FetchRequest, ask partition.FetchRequest) {
	room := maxDecodedBytes
	for i, p := range answer.Partitions {
		d := decoder{from: record.Offset(req.Partitions[i].GetOffset()), out: p, room: &room}
		p.NextOffset = int64(d.from)
		if ask.Committed {
			d.aborted = slices.Clone(p.Aborted)
			slices.SortStableFunc(d.aborted, func(a, b *clientv1.AbortedTransaction) int { return int(min(max(a.FirstOffset-b.FirstOffset, -1), 1)) })
		}
		if p.Error == nil {
			if err := d.run(p.Batches); err != nil {
				p.Error = s.ofDomain(err)
			}
		}
		p.Batches, p.Aborted = nil, nil
	}
}

// decoder takes apart the batches of one partition.
type decoder struct {
	from record.Offset
	out  *clientv1.FetchedPartition
	// room is what is left of maxDecodedBytes for the whole answer.
	room *int
	// aborted are transactions not yet reached, by first offset; in are those reached whose marker
	// has not come.
	aborted []*clientv1.AbortedTransaction
	in      map[record.ProducerID]bool
}

// run decodes until the room is used up. An error behind records already decoded is left to the
// next fetch, which begins with it.
func (d *decoder) run(runs [][]byte) error {
	for _, run := range runs {
		for len(run) > 0 {
			b, rest, err := record.Parse(run)
			if err == nil {
				var more bool
				if more, err = d.batch(b); err == nil && !more {
					return nil
				}
			}
			if err != nil {
				if len(d.out.Records) > 0 {
					return nil
				}
				return err
			}
			run = rest
		}
	}
	return nil
}

// batch decodes one batch; false: the answer is full.
func (d *decoder) batch(b record.Batch) (more bool, err error) {
	last := b.BaseOffset() + record.Offset(b.LastOffsetDelta())
	if !d.shown(b, last) {
		d.out.NextOffset = max(d.out.NextOffset, int64(last)+1)
		return true, nil
	}
	records, err := b.Records(0)
	if err != nil {
		return false, err
	}
	defer records.Close()
	for records.Next() {
		r := records.Record()
		if r.Offset < d.from {
			continue
		}
		size := sizeOf(r)
		if size > *d.room && *d.room < maxDecodedBytes {
			return false, nil
		}
		*d.room -= size
		d.out.Records = append(d.out.Records, protoRecord(r))
		d.out.NextOffset = int64(r.Offset) + 1
	}
	if err := records.Err(); err != nil {
		return false, err
	}
	d.out.NextOffset = max(d.out.NextOffset, int64(last)+1)
	return true, nil
}

// shown says whether a batch's records are for the client's eyes (L11).
func (d *decoder) shown(b record.Batch, last record.Offset) bool {
	for len(d.aborted) > 0 && record.Offset(d.aborted[0].FirstOffset) <= last {
		if d.in == nil {
			d.in = make(map[record.ProducerID]bool)
		}
		d.in[record.ProducerID(d.aborted[0].ProducerId)] = true
		d.aborted = d.aborted[1:]
	}
	a := b.Attributes()
	if a.Control() {
		if m, ok, err := record.ParseMarker(b); err == nil && ok && !m.Commit {
			delete(d.in, m.ProducerID)
		}
		return false
	}
	return !a.Transactional() || !d.in[b.ProducerID()]
}

// sizeOf is what a record counts against maxDecodedBytes.
func sizeOf(r *record.Record) int {
	n := 64 + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += 32 + len(h.Key) + len(h.Value)
	}
	return n
}

// protoRecord copies a record: its bytes lie in a buffer that is used again.
func protoRecord(r *record.Record) *clientv1.Record {
	p := &clientv1.Record{Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value), TimestampMs: r.Timestamp, Offset: int64(r.Offset)}
	for _, h := range r.Headers {
		// Kafka's header names are bytes of any kind, a protobuf string is not.
		p.Headers = append(p.Headers, &clientv1.Header{Key: valid(h.Key), Value: bytes.Clone(h.Value)})
	}
	return p
}
