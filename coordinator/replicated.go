package coordinator

import (
	"fmt"
	"io"
	"sync"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// machine is what a shard replicates: a pure machine, deterministic and without clock. S is the machine itself, R what it answers.
type machine[S, R any] interface {
	// Apply takes the command at an index. now is the leader's time in ms. An error stops the replica; a refusal is a result.
	Apply(index uint64, now int64, command []byte) (R, error)
	// Clone makes an independent copy, quickly.
	Clone() S
	// AppendSnapshot appends the whole state.
	AppendSnapshot(buf []byte) ([]byte, error)
}

// maxSnapshotBytes bounds what Restore reads.
const maxSnapshotBytes = 1<<30 + 1024

// replicated drives a machine for raftgroup. What needs no proposal reads the applied state through it.
type replicated[S machine[S, R], R any] struct {
	// restore makes a machine from a snapshot.
	restore func([]byte) (S, error)
	// told hears what each batch of commands came to, on every replica, before those who proposed them; nil: nobody. It must
	// not block, and runs outside of mu.
	told func(results []R)

	// mu guards what follows. Apply writes, requests read.
	mu      sync.RWMutex
	state   S
	applied record.Index
}

// read lets f look at the applied state. f must not keep what changes.
func (m *replicated[S, R]) read(f func(S)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	f(m.state)
}

// Apply takes committed entries (raftgroup.StateMachine). What cannot be applied stops the replica: going on would make replicas
// differ.
func (m *replicated[S, R]) Apply(entries []raftgroup.Entry) []any {
	results := make([]any, len(entries))
	var answers []R
	m.mu.Lock()
	for i := range entries {
		e := &entries[i]
		if e.Kind == raftgroup.KindCommand {
			r, err := m.state.Apply(uint64(e.Index), e.AppendTime, e.Data)
			if err != nil {
				m.mu.Unlock()
				panic(err)
			}
			results[i] = r
			answers = append(answers, r)
		}
		m.applied = e.Index
	}
	m.mu.Unlock()
	if m.told != nil && len(answers) > 0 {
		m.told(answers)
	}
	return results
}

// Applied is the index of the last entry applied or restored.
func (m *replicated[S, R]) Applied() record.Index {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.applied
}

// Snapshot captures the state.
func (m *replicated[S, R]) Snapshot() (raftgroup.StateSnapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return capture[S, R]{m.state.Clone()}, nil
}

// Restore replaces the state by a snapshot's.
func (m *replicated[S, R]) Restore(index record.Index, r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshotBytes))
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	s, err := m.restore(b)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state, m.applied = s, index
	return nil
}

// capture is a state at one index, to be written while apply goes on.
type capture[S machine[S, R], R any] struct{ state S }

// WriteTo writes the snapshot.
func (c capture[S, R]) WriteTo(w io.Writer) (int64, error) {
	b, err := c.state.AppendSnapshot(nil)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

// Release lets go of the capture.
func (capture[S, R]) Release() {}
