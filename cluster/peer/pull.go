package peer

import (
	"fmt"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/record"
	"google.golang.org/grpc/codes"
)

// PullRequest asks for entries of a partition's log.
type PullRequest struct {
	Group uint64
	// Incarnation of the replica that is to send.
	Incarnation uint64
	// From and Through are inclusive.
	From, Through record.Index
}

// Entry is one entry of a partition's log as it is stored.
type Entry struct {
	Index record.Index
	Term  record.Term
	// Type is Raft's.
	Type uint8
	// AppendedAt is in Unix ns; 0: none.
	AppendedAt int64
	// Records its batches hold if all are accepted.
	Records      int32
	MaxTimestamp int64
	Ext, Data    []byte
	// First is 0, or the first of the entries that compaction has made one of, up to Index.
	First record.Index
}

const (
	// chunkBytes bounds the entries in one message.
	chunkBytes = 1 << 20
	// entryOverhead is more than an entry takes besides its Ext and Data.
	entryOverhead = 100
	// maxExtBytes bounds an entry's Ext, which is not split.
	maxExtBytes = 64 << 10
	// maxPulledEntryBytes bounds what a receiver puts together for one entry.
	maxPulledEntryBytes = 256 << 20
)

func pullRequestFromProto(p *peerv1.PullEntriesRequest) (PullRequest, error) {
	r := PullRequest{
		Group: p.GetGroupId(), Incarnation: p.GetIncarnation(),
		From: record.Index(p.GetFromIndex()), Through: record.Index(p.GetThroughIndex()),
	}
	if r.From == 0 || r.Through < r.From {
		return r, refusal(codes.InvalidArgument, Malformed, "entries %d to %d", r.From, r.Through)
	}
	return r, nil
}

// entryWriter packs entries into messages of bounded size.
type entryWriter struct {
	send func(*peerv1.PullEntriesResponse) error
	next peerv1.PullEntriesResponse
	size int
}

// write sends entries. Nothing of them is kept.
func (w *entryWriter) write(entries []Entry) error {
	for i := range entries {
		if err := w.add(&entries[i]); err != nil {
			return err
		}
	}
	return w.flush()
}

func (w *entryWriter) add(e *Entry) error {
	if len(e.Ext) > maxExtBytes {
		return fmt.Errorf("entry %d has %d bytes besides its data", e.Index, len(e.Ext))
	}
	p := &peerv1.Entry{
		Index: uint64(e.Index), Term: uint64(e.Term), Type: uint32(e.Type), AppendedAtNs: e.AppendedAt,
		Records: e.Records, MaxTimestampMs: e.MaxTimestamp, Ext: e.Ext, FirstIndex: uint64(e.First),
	}
	data := e.Data
	for {
		room := chunkBytes - w.size - entryOverhead - len(p.Ext)
		if w.size > 0 && room < min(len(data), chunkBytes/4) {
			// Rather begin a message than cut off a small piece.
			if err := w.flush(); err != nil {
				return err
			}
			continue
		}
		n := min(len(data), room)
		p.Data, data = data[:n], data[n:]
		p.Continues = len(data) > 0
		w.next.Entries = append(w.next.Entries, p)
		w.size += entryOverhead + len(p.Ext) + n
		if !p.Continues {
			return nil
		}
		p = &peerv1.Entry{Index: uint64(e.Index)}
	}
}

func (w *entryWriter) flush() error {
	if len(w.next.Entries) == 0 {
		return nil
	}
	err := w.send(&w.next)
	w.next.Entries, w.size = nil, 0
	return err
}

// entryReader puts together what an entryWriter sent and checks that it is what was asked for.
type entryReader struct {
	next, through record.Index
	begun         bool
	part          *Entry // has come in part
}

// read gives the entries that a message completes.
func (r *entryReader) read(m *peerv1.PullEntriesResponse) ([]Entry, error) {
	out := make([]Entry, 0, len(m.GetEntries()))
	for _, p := range m.GetEntries() {
		if r.part == nil {
			first, last := record.Index(p.GetFirstIndex()), record.Index(p.GetIndex())
			if first == 0 {
				first = last
			}
			if !r.begun && first > r.next && first <= r.through {
				r.next = first // below it the sender has deleted everything
			}
			if first != r.next && (r.begun || first > r.next) || last < r.next || last > r.through {
				return nil, fmt.Errorf("entry %d to %d came, not %d", first, last, r.next)
			}
			r.begun, r.next = true, last
			if p.GetType() > 255 || p.GetRecords() < 0 {
				return nil, fmt.Errorf("entry %d has type %d and %d records", p.GetIndex(), p.GetType(), p.GetRecords())
			}
			r.part = &Entry{
				Index: last, First: record.Index(p.GetFirstIndex()), Term: record.Term(p.GetTerm()), Type: uint8(p.GetType()), AppendedAt: p.GetAppendedAtNs(),
				Records: p.GetRecords(), MaxTimestamp: p.GetMaxTimestampMs(), Ext: p.GetExt(), Data: p.GetData(),
			}
		} else {
			if p.GetIndex() != uint64(r.part.Index) || len(p.GetData()) == 0 {
				return nil, fmt.Errorf("entry %d came inside of entry %d", p.GetIndex(), r.part.Index)
			}
			if len(r.part.Data)+len(p.GetData()) > maxPulledEntryBytes {
				return nil, fmt.Errorf("entry %d has more than %d bytes", p.GetIndex(), maxPulledEntryBytes)
			}
			r.part.Data = append(r.part.Data, p.GetData()...)
		}
		if !p.GetContinues() {
			out = append(out, *r.part)
			r.part = nil
			r.next++
		}
	}
	return out, nil
}

// done tells whether all that was asked for has come.
func (r *entryReader) done() error {
	if r.part != nil || r.next != r.through+1 {
		return fmt.Errorf("the stream ended before entry %d; %d was the last wanted", r.next, r.through)
	}
	return nil
}
