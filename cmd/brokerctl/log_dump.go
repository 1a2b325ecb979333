package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// dumpOptions are the flags of log dump.
type dumpOptions struct {
	from, to  uint64
	records   bool
	producers bool
}

func (p *program) logDump() *cobra.Command {
	var o dumpOptions
	cmd := &cobra.Command{
		Use:   "dump DIR",
		Short: "Show segments, entries and batches of one log, and the producers at its end",
		Long: `Show what lies in the log of one replica: DIR is a directory in a broker's partitions,
or a copy of one. Nothing is changed; what is damaged is named and passed.

Each entry of the Raft log is a line, each batch in it too, with the offsets it got or
why it got none. "deleted" batches lie below the log start. A log may end in entries
that were never committed: whether those count, only the other replicas can tell.`,
		Example: `  brokerctl log dump /var/lib/brokerd/partitions/12-34
  brokerctl log dump ./copy --from 1000 --to 1010 --records
  brokerctl log dump ./copy -o json | jq 'select(.batches)'`,
		Args: exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.dumpLog(cmd.Context(), args[0], o) },
	}
	f := cmd.Flags()
	f.Uint64Var(&o.from, "from", 0, "first Raft index to show")
	f.Uint64Var(&o.to, "to", math.MaxUint64, "last Raft index to show")
	f.BoolVar(&o.records, "records", false, "show records, too")
	f.BoolVar(&o.producers, "producers", false, "show the producers at the end of the log")
	return cmd
}

// What log dump -o json writes, one object a line; exactly one field of dumpJSON is set.
type dumpJSON struct {
	Segment  *segmentJSON  `json:"segment,omitempty"`
	Entry    *entryJSON    `json:"entry,omitempty"`
	Producer *dumpProducer `json:"producer,omitempty"`
	End      *dumpEnd      `json:"end,omitempty"`
}

type segmentJSON struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Size    int64  `json:"size"`
	First   uint64 `json:"first_index"`
	Created string `json:"created,omitempty"`
}

type entryJSON struct {
	Position int64       `json:"position"`
	Bytes    int         `json:"bytes"`
	Index    uint64      `json:"index"`
	Term     uint64      `json:"term"`
	What     string      `json:"what"`
	Synced   uint64      `json:"synced_through"`
	CRC      string      `json:"crc"`
	Batches  []batchJSON `json:"batches,omitempty"`
	Problem  string      `json:"problem,omitempty"`
}

type batchJSON struct {
	Verdict      string       `json:"verdict"`
	Base         int64        `json:"base_offset"`
	Records      int32        `json:"records"`
	Bytes        int          `json:"bytes"`
	CRC          string       `json:"crc"`
	Codec        string       `json:"codec"`
	Transaction  bool         `json:"transactional"`
	Marker       string       `json:"marker,omitempty"`
	Producer     int64        `json:"producer_id"`
	Epoch        int16        `json:"producer_epoch"`
	BaseSequence int32        `json:"base_sequence"`
	MaxTimestamp int64        `json:"max_timestamp_ms"`
	Contents     []dumpRecord `json:"contents,omitempty"`
}

type dumpRecord struct {
	Offset    int64  `json:"offset"`
	Timestamp int64  `json:"timestamp_ms"`
	Key       []byte `json:"key"`
	Value     []byte `json:"value"`
}

type dumpProducer struct {
	ID           int64 `json:"producer_id"`
	Epoch        int16 `json:"producer_epoch"`
	LastSequence int32 `json:"last_sequence"`
	OpenFrom     int64 `json:"open_from"`
	LastMarker   int64 `json:"last_marker"`
	At           int64 `json:"last_timestamp_ms"`
}

type dumpEnd struct {
	Start    int64    `json:"log_start"`
	Stable   int64    `json:"last_stable"`
	End      int64    `json:"log_end"`
	Snapshot uint64   `json:"snapshot_index"`
	Synced   uint64   `json:"synced_through"`
	Torn     string   `json:"torn_tail,omitempty"`
	Damage   []string `json:"damage"`
}

// dumper writes a log as text or as lines of JSON.
type dumper struct {
	p      *program
	o      dumpOptions
	out    *bufio.Writer
	replay *partition.Replay
}

func (p *program) dumpLog(ctx context.Context, dir string, o dumpOptions) error {
	if o.from > o.to {
		return usagef("flags --from and --to: %d lies above %d", o.from, o.to)
	}
	fsys := vfs.OSReadOnly()
	if err := lockedBy(fsys, dir); err != nil {
		return err
	}
	replicas, err := findReplicas(fsys, dir)
	if err != nil {
		return err
	}
	if len(replicas) != 1 {
		for i := range replicas {
			p.sayf("  %s  %s", replicas[i].name, replicas[i].topic())
		}
		return usagef("%s holds %s: name one of them", dir, plural(int64(len(replicas)), "log"))
	}
	r := &replicas[0]
	d := &dumper{p: p, o: o, out: bufio.NewWriterSize(p.stdout, 64<<10)}
	replay, snapshots, err := r.begin(fsys)
	if err != nil {
		p.sayf("offsets and producers are as if there were no snapshot: %v", err)
		replay, _ = partition.NewReplay(nil) // never fails without a snapshot
	}
	d.replay = replay
	if !p.json() {
		fmt.Fprintf(d.out, "topic %s on broker %s\n", r.topic(), r.broker())
	}
	n := recordlog.Inspector{FS: fsys, Dir: r.log, Snapshot: newest(snapshots), Segment: d.segment, Frame: func(s recordlog.SegmentFile, f recordlog.Frame) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return d.frame(&f)
	}}
	found, err := n.Inspect()
	if err != nil {
		return err
	}
	if err := d.end(&found, uint64(newest(snapshots))); err != nil {
		return err
	}
	if err := d.out.Flush(); err != nil {
		return err
	}
	if len(found.Damage) > 0 {
		return &checkError{plural(int64(len(found.Damage)), "file") + " of the log damaged"}
	}
	return nil
}

func (d *dumper) write(v dumpJSON, format string, args ...any) error {
	if d.p.json() {
		return json.NewEncoder(d.out).Encode(v)
	}
	_, err := fmt.Fprintf(d.out, format+"\n", args...)
	return err
}

func (d *dumper) segment(s recordlog.SegmentFile) error {
	v := segmentJSON{Name: s.Name, Role: s.Role, Size: s.Size, First: uint64(s.First)}
	if s.CreatedAt > 0 {
		v.Created = time.Unix(0, s.CreatedAt).UTC().Format(time.RFC3339)
	}
	return d.write(dumpJSON{Segment: &v}, "segment %s, %s", s.Name, size(s.Size))
}

func (d *dumper) frame(f *recordlog.Frame) error {
	e := &f.Entry
	change, err := d.replay.Next(e)
	if i := uint64(e.Index); i < d.o.from || i > d.o.to {
		return nil
	}
	v := entryJSON{
		Position: f.Position, Bytes: f.Bytes, Index: uint64(e.Index), Term: uint64(e.Term), What: change.What,
		Synced: uint64(f.Synced), CRC: fmt.Sprintf("%08x", f.BodyCRC),
	}
	if err != nil {
		v.Problem = err.Error()
	}
	for i := range change.Batches {
		b, err := d.batch(&change.Batches[i])
		if err != nil {
			v.Problem = err.Error()
		}
		v.Batches = append(v.Batches, b)
	}
	if d.p.json() {
		return d.write(dumpJSON{Entry: &v}, "")
	}
	if _, err := fmt.Fprintf(d.out, "%9d  entry %d, term %d: %s, %s\n", v.Position, v.Index, v.Term, v.What, size(int64(v.Bytes))); err != nil {
		return err
	}
	for i := range v.Batches {
		d.batchText(&v.Batches[i])
	}
	if v.Problem != "" {
		fmt.Fprintf(d.out, "  ! entry %d: %s\n", v.Index, v.Problem)
	}
	return nil
}

func (d *dumper) batch(f *partition.BatchFate) (batchJSON, error) {
	b := f.Batch
	v := batchJSON{
		Verdict: f.Verdict, Base: int64(f.Base), Records: b.LastOffsetDelta() + 1, Bytes: len(b), CRC: fmt.Sprintf("%08x", b.CRC()),
		Codec: b.Attributes().Codec().String(), Transaction: b.Attributes().Transactional(), Producer: int64(b.ProducerID()), Epoch: int16(b.ProducerEpoch()),
		BaseSequence: int32(b.BaseSequence()), MaxTimestamp: b.MaxTimestamp(),
	}
	if f.Marker != nil {
		v.Marker = "abort"
		if f.Marker.Commit {
			v.Marker = "commit"
		}
	}
	err := b.CheckCRC()
	if err != nil || !d.o.records || f.Marker != nil {
		return v, err
	}
	records, err := b.Records(maxDumped)
	if err != nil {
		return v, err
	}
	defer records.Close()
	for records.Next() {
		r := records.Record()
		offset := int64(-1)
		if f.Base >= 0 {
			offset = int64(f.Base) + int64(len(v.Contents))
		}
		v.Contents = append(v.Contents, dumpRecord{Offset: offset, Timestamp: r.Timestamp, Key: append([]byte(nil), r.Key...), Value: append([]byte(nil), r.Value...)})
	}
	return v, records.Err()
}

// maxDumped bounds one batch when it is decompressed.
const maxDumped = 256 << 20

func (d *dumper) batchText(b *batchJSON) {
	fate := b.Verdict
	switch {
	case b.Base >= 0 && b.Records == 1:
		fate += fmt.Sprintf(" at offset %d", b.Base)
	case b.Base >= 0:
		fate += fmt.Sprintf(" at offsets %d-%d", b.Base, b.Base+int64(b.Records)-1)
	}
	who := "no producer"
	if b.Producer >= 0 {
		who = fmt.Sprintf("producer %d/%d", b.Producer, b.Epoch)
		if b.BaseSequence >= 0 {
			who += fmt.Sprintf(" sequence %d", b.BaseSequence)
		}
	}
	what := plural(int64(b.Records), "record")
	switch {
	case b.Marker != "":
		what = b.Marker + " marker"
	case b.Transaction:
		what += " of a transaction"
	}
	packed := size(int64(b.Bytes))
	if b.Codec != record.CodecNone.String() {
		packed += " of " + b.Codec
	}
	fmt.Fprintf(d.out, "           %s: %s, %s, %s\n", fate, what, packed, who)
	for _, r := range b.Contents {
		fmt.Fprintf(d.out, "             %s  %s  %s  %s\n", dash(r.Offset), shortStamp(r.Timestamp), excerpt(r.Key), excerpt(r.Value))
	}
}

// excerpt quotes the begin of a key or value.
func excerpt(b []byte) string {
	const most = 40
	switch {
	case b == nil:
		return "-"
	case len(b) > most:
		return fmt.Sprintf("%q... (%s)", b[:most], size(int64(len(b))))
	}
	return fmt.Sprintf("%q", b)
}

func (d *dumper) end(found *recordlog.Inspection, snapshot uint64) error {
	if d.o.producers {
		list, more := d.replay.Producers(math.MaxInt32)
		for _, x := range list {
			open := "no open transaction"
			if x.OpenFrom != record.NoOffset {
				open = fmt.Sprintf("a transaction open from offset %d", x.OpenFrom)
			}
			v := dumpProducer{int64(x.ProducerID), int16(x.Epoch), int32(x.LastSequence), int64(x.OpenFrom), int64(x.LastMarker), x.LastTimestamp}
			err := d.write(dumpJSON{Producer: &v}, "producer %d/%d: last sequence %s, %s, last write %s", v.ID, v.Epoch, dash(v.LastSequence), open, shortStamp(v.At))
			if err != nil {
				return err
			}
		}
		if more {
			d.p.sayf("there are more producers")
		}
	}
	start, stable, end := d.replay.Offsets()
	v := dumpEnd{Start: int64(start), Stable: int64(stable), End: int64(end), Snapshot: snapshot, Synced: uint64(found.Synced), Damage: []string{}}
	text := fmt.Sprintf("log start %d, last stable %d, log end %d; %s in %s; state snapshot at entry %d", start, stable, end,
		plural(found.Entries, "entry"), plural(int64(len(found.Segments)), "segment"), snapshot)
	for _, s := range found.Segments {
		if s.Role != "live" {
			text += fmt.Sprintf("\n  - %s: %s", s.Role, s.Name)
		}
	}
	if found.Torn != nil {
		v.Torn = found.Torn.Error()
		text += fmt.Sprintf("\n  - torn tail, which the next start cuts off: %s at byte %d, entry %d", found.Torn.Segment, found.Torn.Position, found.Torn.Index)
	}
	for _, e := range found.Damage {
		v.Damage = append(v.Damage, e.Error())
		text += "\n  ! " + e.Error()
	}
	return d.write(dumpJSON{End: &v}, "%s", text)
}
