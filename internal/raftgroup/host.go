package raftgroup

import (
	"context"

	"github.com/oncelog/oncelog/record"
)

// Host is one broker's end of all its Raft groups.
type Host struct{}

// NewHost opens the stable stores and begins to accept connections.
func NewHost(c Config) (*Host, error) { return nil, ErrStopped }

// Open starts a group.
func (h *Host) Open(c GroupConfig) (*Group, error) { return nil, ErrStopped }

// Group finds an open group; nil: not open here.
func (h *Host) Group(id GroupID) *Group { return nil }

// LatestSnapshot gives the index of the newest good state snapshot in a group's directory; 0: none.
func (h *Host) LatestSnapshot(dir string) (record.Index, error) { return 0, ErrStopped }

// Forget removes a closed replica's term and vote from the stable stores. Its directory is the
// caller's to remove.
func (h *Host) Forget(id GroupID, self ServerID) error { return ErrStopped }

// Close stops all groups and connections and waits for every goroutine.
func (h *Host) Close() error { return nil }

// Group is one replica of one Raft group.
type Group struct{}

// Command is one command to be replicated.
type Command struct {
	// Meta travels beside the payload, at most 64 KiB. Data is the payload. Both belong to the
	// group from the call on.
	Meta, Data []byte
	// AppendTime is the leader's clock in ms since 1970 (R5).
	AppendTime int64
	// Term is the leadership the command was computed in; if another leadership orders it, it does
	// not happen. 0: the one at the time of the call.
	Term record.Term
}

// Propose replicates a command and waits for its result.
func (g *Group) Propose(ctx context.Context, c Command) (any, error) { return nil, ErrStopped }

// ProposeAsync replicates a command; done is called exactly once.
func (g *Group) ProposeAsync(c Command, done func(result any, err error)) { done(nil, ErrStopped) }

// Status describes the group.
func (g *Group) Status() Status { return Status{} }

// Leader gives the leader as far as this replica knows (empty: unknown) and this replica's term.
func (g *Group) Leader() (ServerID, record.Term) { return "", 0 }

// IsReady says whether this replica leads and has applied its own leader-start (R1), and in which term.
func (g *Group) IsReady() (record.Term, bool) { return 0, false }

// Confirm proves that this replica still leads at some moment after the call.
func (g *Group) Confirm(ctx context.Context) error { return ErrStopped }

// AddVoter makes a server a voter.
func (g *Group) AddVoter(ctx context.Context, id ServerID) error { return ErrStopped }

// AddLearner makes a server a member without a vote.
func (g *Group) AddLearner(ctx context.Context, id ServerID) error { return ErrStopped }

// Remove removes a server from the group.
func (g *Group) Remove(ctx context.Context, id ServerID) error { return ErrStopped }

// TransferLeadership hands leadership to a voter; empty: to the one that is furthest.
func (g *Group) TransferLeadership(ctx context.Context, to ServerID) error { return ErrStopped }

// Snapshot takes a state snapshot now.
func (g *Group) Snapshot(ctx context.Context) error { return ErrStopped }

// Close stops the replica and waits for its goroutines.
func (g *Group) Close() error { return nil }
