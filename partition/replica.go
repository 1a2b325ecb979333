package partition

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// Replica is this broker's copy of one partition: a Raft group's state machine and the log that
// Raft writes and consumers read.
type Replica struct {
	host   *Host
	spec   ReplicaSpec
	logger *slog.Logger
	log    *recordlog.Log
	group  *raftgroup.Group
	// opened is closed once group is set: its first term can begin before that.
	opened chan struct{}

	config atomic.Pointer[Config]
	// damaged is the damage that was found in the log since it was opened; nil: none.
	damaged atomic.Pointer[error]
	// left: it was damaged and has ended itself.
	left atomic.Bool
	// broken: apply has panicked, and state is no more what a prefix of the log makes.
	broken atomic.Bool

	// mu guards state. Apply writes it; requests read it. Taken after admission.mu, never before.
	mu    sync.RWMutex
	state state
	// advance is the log start that apply has decided and the log does not have yet; 0: none.
	advance record.Offset

	// bounds is the part of state that every fetch needs, published after each apply.
	bounds atomic.Pointer[bounds]

	admission admission

	// cleaned is how far the log is compacted, as far as was looked at last; nil: never. passing is the pass that is under way,
	// lastPass the last one that was done since the start; nil: none. looks counts the leader's since then.
	cleaned  atomic.Pointer[cleanedTo]
	passing  atomic.Pointer[pass]
	lastPass atomic.Pointer[LastPass]
	looks    atomic.Uint32

	// fetchMu guards fetches: the long polls to wake when the bounds move.
	fetchMu sync.Mutex
	fetches map[*fetchWaiter]struct{}
}

// bounds are a partition's offsets at one moment.
type bounds struct {
	start, lastStable, highWatermark record.Offset
	epoch                            int32
	// horizon is below which the state knows aborted transactions no more.
	horizon record.Offset
}

// publish makes the new bounds visible to readers. Held: mu.
func (r *Replica) publish() {
	s := &r.state
	b := bounds{start: s.start, lastStable: r.host.config.Sabotage.stable(s), highWatermark: s.next, epoch: s.epochs.latest(), horizon: s.compacted.horizon}
	if old := r.bounds.Load(); old == nil || *old != b {
		r.bounds.Store(&b)
	}
}

// Applied is the last applied index (raftgroup.StateMachine).
func (r *Replica) Applied() record.Index {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.state.applied
}

// leaderEpoch is a term as clients see it (R7).
func (r *Replica) leaderEpoch(t record.Term) int32 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.state.epochBase + int32(t)
}

// notLeader says who is, as far as this replica knows.
func (r *Replica) notLeader() *Error {
	e := refused(CodeNotLeader, "this broker does not lead %s", r.spec.TopicPartition)
	if id, term := r.group.Leader(); id != "" {
		if broker, _, err := raftgroup.ParseServerID(id); err == nil && broker != r.host.config.Broker {
			e.Leader = &Leader{Broker: broker, Epoch: r.leaderEpoch(term)}
		}
	}
	return e
}

// ready answers with the term when this replica leads and has applied its own leader-start (R1).
func (r *Replica) ready() (record.Term, *Error) {
	term, ok := r.group.IsReady()
	if !ok || r.broken.Load() {
		return 0, r.notLeader()
	}
	return term, nil
}

// confirm proves by a quorum round sent after the call that this replica still leads. What a
// deposed leader would get wrong is answered only after it.
func (r *Replica) confirm(ctx context.Context) *Error {
	if err := r.group.Confirm(ctx); err != nil {
		e := r.notLeader()
		e.Cause = err
		return e
	}
	return nil
}

// onLeadership is told of every change, in order (raftgroup).
func (r *Replica) onLeadership(e raftgroup.LeadershipEvent) {
	r.host.leadershipChanged(r, e)
	if !e.Ready {
		r.admission.discard()
		r.wakeFetches()
		return
	}
	r.logger.Info("leads partition", "term", uint64(e.Term))
	r.host.background(func() { r.lead(e.Context) })
}

// String names the replica in panics and errors.
func (s ReplicaSpec) String() string {
	return fmt.Sprintf("%s (group %d, replica %s)", s.TopicPartition, s.Group, s.Self)
}
