package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// verifiedJSON is one replica as log verify -o json shows it.
type verifiedJSON struct {
	Directory string   `json:"directory"`
	Topic     string   `json:"topic_id,omitempty"`
	Partition int32    `json:"partition"`
	Group     uint64   `json:"group,omitempty"`
	Replica   string   `json:"replica,omitempty"`
	Segments  int      `json:"segments"`
	First     uint64   `json:"first_index"`
	Last      uint64   `json:"last_index"`
	Entries   int64    `json:"entries"`
	Batches   int64    `json:"batches"`
	Bytes     int64    `json:"bytes"`
	Snapshot  uint64   `json:"snapshot_index"`
	Start     int64    `json:"log_start"`
	End       int64    `json:"log_end"`
	OK        bool     `json:"ok"`
	Damage    []string `json:"damage"`
	Notes     []string `json:"notes"`
}

func (p *program) logVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Check every byte of the logs in a directory, and say where the first damage is",
		Long: `Read the logs in DIR: a broker's data_dir, one directory in its partitions, or a copy of
either. Nothing is changed. Every checksum is computed, of segments, entries, batches and
snapshots; entries are applied as a broker would apply them. The exit code is 5 if
something that was on disk is damaged or gone.

A torn tail is no damage: it is what a crash leaves of a write that was never
acknowledged, and the next start cuts it off. A damaged file does not end the check of
the others. Terms and votes (raft/*.db) are not looked at.

A broker that runs keeps its directory: stop it, or look at a copy.`,
		Example: `  brokerctl log verify /var/lib/brokerd
  brokerctl log verify /var/lib/brokerd/partitions/12-34
  brokerctl log verify ./copy -o json | jq '.[] | select(.ok | not)'`,
		Args: exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.verifyLogs(cmd.Context(), args[0]) },
	}
}

func (p *program) verifyLogs(ctx context.Context, dir string) error {
	fsys := vfs.OSReadOnly()
	if err := lockedBy(fsys, dir); err != nil {
		return err
	}
	replicas, err := findReplicas(fsys, dir)
	if err != nil {
		return err
	}
	total := bytesIn(dir)
	var read atomic.Int64
	bar := p.startProgress(func() string { return fmt.Sprintf("%s of %s read", size(read.Load()), size(total)) })
	list := make([]verifiedJSON, 0, len(replicas))
	damaged := 0
	for i := range replicas {
		v, err := replicas[i].verify(ctx, fsys, &read)
		if err != nil {
			bar.stop()
			return fmt.Errorf("%s: %w", replicas[i].name, err)
		}
		if !v.OK {
			damaged++
		}
		list = append(list, v)
	}
	others, err := verifyControlGroups(fsys, dir, &read)
	bar.stop()
	if err != nil {
		return err
	}
	if err := p.printVerified(list, others); err != nil {
		return err
	}
	if damaged+len(others) > 0 {
		return &checkError{fmt.Sprintf("damage was found in %d of %s", damaged+len(others), plural(int64(len(list)+len(others)), "directory"))}
	}
	return nil
}

func (p *program) printVerified(list []verifiedJSON, others []string) error {
	if p.json() {
		return p.writeJSON(list)
	}
	t := newTable("DIRECTORY", "TOPIC ID AND PARTITION", ">ENTRIES", ">BATCHES", ">BYTES", ">OFFSETS", "RESULT")
	for i := range list {
		v := &list[i]
		result := "ok"
		if !v.OK {
			result = "damaged"
		}
		topic := "-"
		if v.Topic != "" {
			topic = fmt.Sprintf("%s/%d", v.Topic, v.Partition)
		}
		t.row(v.Directory, topic, v.Entries, v.Batches, size(v.Bytes), fmt.Sprintf("%d-%d", v.Start, v.End), result)
	}
	if err := t.write(p.stdout); err != nil {
		return err
	}
	text := ""
	for i := range list {
		for _, d := range list[i].Damage {
			text += fmt.Sprintf("  ! %s: %s\n", list[i].Directory, d)
		}
		for _, n := range list[i].Notes {
			text += fmt.Sprintf("  - %s: %s\n", list[i].Directory, n)
		}
	}
	for _, o := range others {
		text += fmt.Sprintf("  ! %s\n", o)
	}
	return writeTo(p.stdout, text)
}

// verify reads one replica.
func (r *replicaDir) verify(ctx context.Context, fsys vfs.FS, read *atomic.Int64) (verifiedJSON, error) {
	v := verifiedJSON{Directory: r.name, Damage: []string{}, Notes: []string{}}
	switch {
	case r.identity != nil:
		v.Topic, v.Partition = fmt.Sprintf("%x", r.identity.Topic), r.identity.Partition
		v.Group, v.Replica = uint64(r.identity.Group), string(r.identity.Self)
	case errors.Is(r.unknown, fs.ErrNotExist):
		v.Notes = append(v.Notes, "there is no file that says whose log it is: a broker would not open it")
	default:
		v.Damage = append(v.Damage, r.unknown.Error())
	}
	if noted, err := partition.DamageNoted(fsys, r.dir); err != nil {
		return v, err
	} else if noted != "" {
		v.Notes = append(v.Notes, "its broker has stopped it for good: "+firstLine(noted))
	}
	replay, snapshots, err := r.begin(fsys)
	for _, s := range snapshots {
		if s.Err != nil {
			v.Damage = append(v.Damage, fmt.Sprintf("snapshot %s: %v", s.Name, s.Err))
		}
	}
	if err != nil {
		v.Damage = append(v.Damage, err.Error())
		replay, _ = partition.NewReplay(nil) // never fails without a snapshot
	}
	v.Snapshot = uint64(newest(snapshots))
	n := recordlog.Inspector{FS: fsys, Dir: r.log, Snapshot: newest(snapshots), Read: func(n int64) { read.Add(n) }}
	whole := true // nothing is missing so far, and entries can be applied
	n.Frame = func(s recordlog.SegmentFile, f recordlog.Frame) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if whole && f.Entry.Begins() > replay.Applied()+1 {
			whole = false
		}
		batches, bad := checkEntry(replay, &f.Entry, whole)
		v.Batches += int64(batches)
		if bad != nil && len(v.Damage) < maxToldDamage {
			v.Damage = append(v.Damage, fmt.Sprintf("%s at byte %d, entry %d: %v", s.Name, f.Position, f.Entry.Index, bad))
			whole = false
		}
		return nil
	}
	found, err := n.Inspect()
	if err != nil {
		return v, err
	}
	v.Segments, v.First, v.Last, v.Entries, v.Bytes = len(found.Segments), uint64(found.First), uint64(found.Last), found.Entries, found.Bytes
	for _, d := range found.Damage {
		v.Damage = append(v.Damage, d.Error())
	}
	if found.Torn != nil {
		v.Notes = append(v.Notes, fmt.Sprintf("a torn tail, which the next start cuts off: %s at byte %d, entry %d", found.Torn.Segment, found.Torn.Position, found.Torn.Index))
	}
	start, _, end := replay.Offsets()
	v.Start, v.End, v.OK = int64(start), int64(end), len(v.Damage) == 0
	return v, nil
}

// maxToldDamage bounds what is told of entries of one replica.
const maxToldDamage = 100

// checkEntry checks what is in an entry, whose own checksums fit; apply: the entries before it are known.
func checkEntry(replay *partition.Replay, e *recordlog.Entry, apply bool) (batches int, err error) {
	if e.Records > 0 {
		for rest := e.Data; len(rest) > 0; batches++ {
			var b record.Batch
			if b, rest, err = record.Parse(rest); err == nil {
				err = b.CheckCRC()
			}
			if err != nil {
				return batches, err
			}
		}
	}
	if apply {
		_, err = replay.Next(e)
	}
	return batches, err
}

// verifyControlGroups checks the snapshots of coordinators and of the metadata, and the logs that are record logs.
func verifyControlGroups(fsys vfs.FS, dir string, read *atomic.Int64) ([]string, error) {
	var bad []string
	found, err := filepath.Glob(filepath.Join(dir, "coordinators", "*"))
	if err != nil {
		return nil, err
	}
	for _, sub := range append(found, filepath.Join(dir, "cluster", "metadata")) {
		rel, _ := filepath.Rel(dir, sub) // it lies below
		snapshots, err := raftgroup.SnapshotsOnDisk(fsys, sub)
		if err != nil {
			return bad, err
		}
		for _, s := range snapshots {
			if s.Err != nil {
				bad = append(bad, fmt.Sprintf("%s: snapshot %s: %v", rel, s.Name, s.Err))
			}
		}
		damage, err := verifyControlLog(fsys, sub, newest(snapshots), read)
		if err != nil {
			return bad, fmt.Errorf("%s: %w", rel, err)
		}
		for _, d := range damage {
			bad = append(bad, fmt.Sprintf("%s: %v", rel, d))
		}
	}
	return bad, nil
}

// verifyControlLog checks the record log of a control group, if it has one: every checksum.
func verifyControlLog(fsys vfs.FS, dir string, snapshot record.Index, read *atomic.Int64) ([]error, error) {
	n := recordlog.Inspector{FS: fsys, Dir: raftgroup.ControlLogDir(dir), Snapshot: snapshot, Read: func(n int64) { read.Add(n) }}
	if there, err := vfs.Exists(fsys, n.Dir); err != nil || !there {
		return nil, err
	}
	found, err := n.Inspect()
	if err != nil {
		return nil, err
	}
	return found.Damage, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
