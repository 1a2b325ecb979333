package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// LogDir is where the log of a replica's directory lies.
func LogDir(dir string) string { return filepath.Join(dir, logDirName) }

// DamageNoted gives what a broker noted of damage in a replica's directory; "" for nothing.
func DamageNoted(fsys vfs.FS, dir string) (string, error) {
	text, err := vfs.ReadFile(fsys, filepath.Join(dir, damageFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

// Replay applies the entries of a log that no broker has open, to tell which offsets and verdicts its batches
// got, and which producers it remembers. Entries above what was committed may still be replaced by others: what it says of
// them is what would come of them.
type Replay struct {
	state state
	// layout tells where the offsets of the entries below the snapshot are.
	layout recordlog.Layout
	base   record.Offset // of the next batch below the snapshot
	seen   record.Index  // the last entry that was shown
	known  bool          // offsets of entries below the snapshot can be told
	gap    bool          // entries were missing: what comes after them cannot be decided
}

// NewReplay begins with the state of a snapshot, or before the first entry if there is none.
func NewReplay(snapshot []byte) (*Replay, error) {
	if snapshot == nil {
		return &Replay{state: newState()}, nil
	}
	s, err := decodeSnapshot(snapshot)
	if err != nil {
		return nil, err
	}
	return &Replay{state: s.state, layout: s.layout}, nil
}

// BatchFate is what became of a batch.
type BatchFate struct {
	Batch record.Batch
	// Base is its first offset, NoOffset if it has none or if that is not known any more.
	Base record.Offset
	// Verdict is "written", "duplicate", "refused" with the reason, "deleted": it lies below the log start, or "not
	// known" behind entries that are missing.
	Verdict string
	// Marker is set for the end of a transaction.
	Marker *record.Marker
}

// Change is an entry in words.
type Change struct {
	What    string
	Batches []BatchFate
}

// Applied is the last entry that was applied.
func (p *Replay) Applied() record.Index { return p.state.applied }

// Offsets gives log start, last stable offset and log end.
func (p *Replay) Offsets() (start, stable, end record.Offset) {
	return p.state.start, p.state.lastStable(), p.state.next
}

// Producers describes at most limit of the producers that the partition remembers; more: there are others.
func (p *Replay) Producers(limit int) (list []producer.Description, more bool) {
	return p.state.producers.Describe(nil, limit)
}

// LatestEpoch is the latest leader epoch that began.
func (p *Replay) LatestEpoch() int32 { return p.state.epochs.latest() }

// Next takes the next entry of the log. An error means that it cannot be read: a broker would stop at it.
func (p *Replay) Next(e *recordlog.Entry) (Change, error) {
	before := p.seen
	p.seen = e.Index
	p.gap = p.gap || e.Begins() > max(before, p.state.applied)+1
	if e.First != 0 {
		c, err := p.compacted(e)
		return p.passed(e, c), err
	}
	if raftgroup.LogTypeName(e.Type) != "command" {
		return p.passed(e, Change{What: raftgroup.LogTypeName(e.Type)}), nil
	}
	head, err := raftgroup.Head(e.Ext)
	if err != nil {
		return Change{}, err
	}
	if head.Admission == e.Term && e.Index > p.state.applied && !p.gap {
		p.state.level = max(p.state.level, head.Level)
	}
	if head.Kind == raftgroup.KindLeaderStart {
		if e.Index > p.state.applied && !p.gap {
			p.state.epochs.enter(p.state.epochBase+int32(e.Term), p.state.next)
		}
		return p.passed(e, Change{What: "leader start"}), nil
	}
	kind, meta, err := parseMeta(head.Meta)
	if err != nil {
		return Change{}, err
	}
	refused := ""
	if head.Admission != e.Term {
		refused = fmt.Sprintf("refused: admitted in term %d", head.Admission)
	}
	var c Change
	switch {
	case kind == cmdAppend || kind == cmdEndTransaction:
		c, err = p.batches(e, kind, meta, head.AppendTime, refused, e.Index == before+1)
	case refused != "":
		c = Change{What: refused}
	default:
		c, err = p.command(e, kind, head.AppendTime)
	}
	return p.passed(e, c), err
}

// passed notes that an entry is applied.
func (p *Replay) passed(e *recordlog.Entry, c Change) Change {
	if !p.gap {
		p.state.applied = max(p.state.applied, e.Index)
	}
	return c
}

// compacted shows what compaction has left of entries, all of them below the snapshot.
func (p *Replay) compacted(e *recordlog.Entry) (Change, error) {
	c := Change{What: fmt.Sprintf("entries %d to %d, compacted below offset %d", e.First, e.Index, e.Mark().Below)}
	for rest := e.Data; len(rest) > 0; {
		b, r, err := record.Parse(rest)
		if err != nil {
			return c, err
		}
		rest = r
		f := BatchFate{Batch: b, Base: b.BaseOffset(), Verdict: "written"}
		if m, ok, err := record.ParseMarker(b); err == nil && ok {
			f.Marker = &m
		}
		c.Batches = append(c.Batches, f)
	}
	// Where the next entry's offsets begin.
	if y := &p.layout; e.First <= y.StartIndex && y.StartIndex <= e.Index {
		p.known, p.base = y.StartOffset == 0 || y.StartIndex == e.First, y.StartBase
	}
	p.base += record.Offset(e.Records)
	for _, f := range p.layout.Refused {
		if e.First <= f.Index && f.Index <= e.Index {
			p.base -= record.Offset(f.Records)
		}
	}
	return c, nil
}

// command applies what holds no batches.
func (p *Replay) command(e *recordlog.Entry, kind byte, at int64) (Change, error) {
	fresh := e.Index > p.state.applied && !p.gap
	s := &p.state
	switch kind {
	case cmdExpireProducers:
		cutoff, below, list, err := decodeExpire(e.Data)
		if err == nil && fresh {
			s.producers.Expire(list, cutoff, below)
		}
		return Change{What: fmt.Sprintf("expire %d producers", len(list))}, err
	case cmdAdvanceStart:
		to, err := decodeOffset(e.Data)
		if err == nil && fresh && min(to, s.next) > s.start {
			s.start = min(to, s.next)
			s.epochs.truncateStart(s.start)
			s.producers.TruncateStart(s.start)
		}
		return Change{What: fmt.Sprintf("log start %d", to)}, err
	case cmdSettings:
		t, err := decodeSettings(e.Data)
		if err == nil && fresh {
			s.settings = t
			s.producers.SetLimits(t.limits())
		}
		return Change{What: fmt.Sprintf("settings: %d producers, %d ms", t.maxProducers, t.minIdle)}, err
	case cmdCompact:
		m, err := decodeCompact(e.Data)
		if err == nil && fresh {
			s.compact(m, at)
		}
		return Change{What: fmt.Sprintf("compact below %d, tombstones below %d", m.Below, m.Horizon)}, err
	}
	return Change{}, fmt.Errorf("unknown command kind %d", kind)
}

// batches decides an entry's batches as apply does, or looks up what was decided below the snapshot.
func (p *Replay) batches(e *recordlog.Entry, kind byte, meta []byte, now int64, refused string, follows bool) (Change, error) {
	c := Change{What: "append"}
	if kind == cmdEndTransaction {
		c.What = "marker"
	}
	past := e.Index <= p.layout.Index
	if past && (!follows || e.Index <= p.layout.StartIndex) {
		p.known = e.Index == p.layout.StartIndex
		p.base = p.layout.StartBase
	}
	ordinal := int32(0)
	for rest := e.Data; len(rest) > 0; ordinal++ {
		b, r, err := record.Parse(rest)
		if err != nil {
			return c, err
		}
		rest = r
		f := BatchFate{Batch: b, Base: record.NoOffset, Verdict: "written"}
		if m, ok, err := record.ParseMarker(b); err == nil && ok {
			f.Marker = &m
		}
		switch {
		case p.gap:
			f.Verdict = "not known"
		case past:
			p.lookUp(e.Index, ordinal, &f)
		case refused != "":
			f.Verdict = refused
		case kind == cmdEndTransaction:
			err = p.end(meta, e.Data, now, &f)
		default:
			err = p.append(meta, now, &f)
		}
		if err != nil {
			return c, err
		}
		c.Batches = append(c.Batches, f)
	}
	return c, nil
}

// lookUp finds a batch's fate in the snapshot's layout.
func (p *Replay) lookUp(i record.Index, ordinal int32, f *BatchFate) {
	if i < p.layout.StartIndex {
		f.Verdict = "deleted"
		return
	}
	for len(p.layout.Refused) > 0 && (p.layout.Refused[0].Index < i || p.layout.Refused[0].Index == i && p.layout.Refused[0].Ordinal < ordinal) {
		p.layout.Refused = p.layout.Refused[1:]
	}
	if r := p.layout.Refused; len(r) > 0 && r[0].Index == i && r[0].Ordinal == ordinal {
		f.Verdict = "refused"
		return
	}
	if p.known {
		f.Base = p.base
		p.base += record.Offset(f.Batch.LastOffsetDelta()) + 1
	}
}

func (p *Replay) append(meta []byte, now int64, f *BatchFate) error {
	knew, err := decodeKnew(meta)
	if err != nil {
		return err
	}
	pb := batchOf(f.Batch, knew)
	v := p.state.producers.Append(pb, p.state.next, now)
	switch v.Code {
	case producer.Accepted:
		f.Base = p.state.next
		p.state.next += record.Offset(f.Batch.LastOffsetDelta()) + 1
	case producer.Duplicate:
		f.Base, f.Verdict = v.Base, "duplicate"
	default:
		f.Verdict = "refused: " + string(verdictError(pb, v).Code)
	}
	return nil
}

func (p *Replay) end(meta, payload []byte, now int64, f *BatchFate) error {
	b, marker, err := decodeMarker(meta, payload)
	if err != nil {
		return err
	}
	v := p.state.producers.EndTransaction(marker, p.state.next, now)
	if v.Code != producer.Accepted {
		f.Verdict = "refused: " + string(markerError(marker, v).Code)
		return nil
	}
	f.Base = p.state.next
	p.state.next += record.Offset(b.LastOffsetDelta()) + 1
	return nil
}
