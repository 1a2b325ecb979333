package cluster

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// machine drives the metadata machine for raftgroup and publishes its images. Apply, Snapshot and
// Restore come from one goroutine at a time; everything else may be called from anywhere.
type machine struct {
	state *metadata.State

	// image and applied are published together with changed: first the image, then applied, then the
	// signal. So whoever sees applied at N sees an image with all up to N.
	image   atomic.Pointer[metadata.Image]
	applied atomic.Uint64
	changed signal
}

var _ raftgroup.StateMachine = (*machine)(nil)

func newMachine() *machine {
	m := &machine{state: metadata.NewState()}
	m.image.Store(m.state.Image())
	return m
}

// Apply takes committed entries (raftgroup.StateMachine). The result of a command is a
// metadata.Result. What cannot be applied stops the replica: going on would make replicas differ.
func (m *machine) Apply(entries []raftgroup.Entry) []any {
	results := make([]any, len(entries))
	for i := range entries {
		e := &entries[i]
		if e.Kind != raftgroup.KindCommand {
			continue
		}
		r, err := m.state.Apply(uint64(e.Index), e.Data)
		if err != nil {
			panic(err)
		}
		results[i] = r
	}
	if len(entries) > 0 {
		m.publish(entries[len(entries)-1].Index)
	}
	return results
}

func (m *machine) publish(index record.Index) {
	m.image.Store(m.state.Image())
	m.applied.Store(uint64(index))
	m.changed.wake()
}

// Applied is the index of the last entry applied or restored.
func (m *machine) Applied() record.Index { return record.Index(m.applied.Load()) }

// Snapshot captures the image, which never changes.
func (m *machine) Snapshot() (raftgroup.StateSnapshot, error) {
	return imageSnapshot{m.state.Image()}, nil
}

type imageSnapshot struct{ img *metadata.Image }

func (s imageSnapshot) WriteTo(w io.Writer) (int64, error) {
	b, err := s.img.AppendSnapshot(nil)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (imageSnapshot) Release() {}

// Restore replaces the state by a snapshot's.
func (m *machine) Restore(index record.Index, r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, metadata.MaxSnapshotBytes+1024))
	if err != nil {
		return fmt.Errorf("read metadata snapshot: %w", err)
	}
	img, err := metadata.RestoreImage(b)
	if err != nil {
		return err
	}
	if img.Version() > uint64(index) {
		return fmt.Errorf("metadata snapshot at index %d holds version %d", index, img.Version())
	}
	m.state = metadata.StateOf(img)
	m.publish(index)
	return nil
}

// waitApplied waits until everything up to an index is in the image.
func (m *machine) waitApplied(ctx context.Context, index uint64) error {
	for {
		changed := m.changed.wait()
		if m.applied.Load() >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
