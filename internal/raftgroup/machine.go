package raftgroup

import (
	"context"
	"io"

	"github.com/oncelog/oncelog/record"
)

// Kind says what an Entry is.
type Kind uint8

// The kinds of entries. They are written in the log: never renumber them.
const (
	// KindCommand is what somebody proposed.
	KindCommand Kind = 0
	// KindLeaderStart is the first entry of every leadership (R1): its term is the new epoch (R7).
	KindLeaderStart Kind = 1
)

// Entry is one committed entry of the log as the state machine sees it. Meta and Data belong to
// the log: the machine must not change them, nor keep them beyond Apply.
type Entry struct {
	Index record.Index
	Term  record.Term
	// AppendTime is the clock of the leader that proposed the entry, in ms since 1970 (R5).
	AppendTime int64
	// Level is the cluster's feature level that the proposing leader knew. What apply does may
	// depend on it, never on the level this broker knows.
	Level uint16
	Kind  Kind
	// Meta is what the proposer put beside the payload (R3a). Data is the payload.
	Meta, Data []byte
}

// StateMachine is what a group replicates. All methods but Applied are called from one goroutine
// at a time; Apply and Snapshot never overlap, while StateSnapshot.WriteTo runs beside Apply.
// A panic in any of them stops this replica of the group, loudly, and nothing else.
type StateMachine interface {
	// Apply takes the next committed entries, in index order. Indexes may have gaps: what Raft
	// keeps for itself, and commands that landed in a later term than they were admitted in, are
	// not shown. The results, one for each entry, go to the proposers on the leader. Apply must
	// give the same state and the same results on every replica. Meta and Data of the entries may be
	// overwritten once it has returned.
	Apply(entries []Entry) []any
	// Applied is the index of the last entry applied or restored. Entries at or below it are not
	// applied again. It may be called from any goroutine.
	Applied() record.Index
	// Snapshot captures the state quickly; writing it happens later.
	Snapshot() (StateSnapshot, error)
	// Restore replaces all state by a snapshot's. index is the last index the snapshot covers; Applied
	// must not be above it from then on. It may be called several times.
	Restore(index record.Index, r io.Reader) error
}

// StateSnapshot is a captured state.
type StateSnapshot interface {
	// WriteTo writes the state; it runs while later entries are applied.
	WriteTo(w io.Writer) (int64, error)
	// Release lets go of what the capture holds. It is called exactly once.
	Release()
}

// SnapshotInfo says what a snapshot covers and where it came from.
type SnapshotInfo struct {
	// Index and Term are those of the last entry in the snapshot.
	Index record.Index
	Term  record.Term
	// Source is the leader that sent it; empty for a snapshot taken here.
	Source ServerID
}

// CatchUpFunc pulls from the snapshot's source what the snapshot only refers to, and returns when
// it is durable. state is the machine's part of the snapshot. It runs before the snapshot becomes
// visible; its error makes the installation fail, and the leader tries again later. ctx ends
// when the group is closed.
type CatchUpFunc func(ctx context.Context, info SnapshotInfo, state []byte) error

// LeadershipEvent tells that this replica's leadership began to be usable or ended.
type LeadershipEvent struct {
	Term record.Term
	// Ready: this replica leads and has applied its own leader-start (R1). Otherwise the
	// leadership of Term is over; a leadership that ends before it was ready is not reported.
	Ready bool
	// Index is that of the leader-start entry; 0 when leadership is over.
	Index record.Index
	// Context ends with the leadership. It is set with Ready.
	Context context.Context
}
