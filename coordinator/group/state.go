package group

import (
	"fmt"
	"maps"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// State is one shard. Apply, Clone, Restore and nothing else change it; all other methods may run at the same time as each
// other. A clone and its original are independent.
type State struct {
	limits Limits
	// owner marks what this state may write to in place.
	owner  *token
	groups map[string]*group
	// producers are those whose transactions have reached this shard (T16).
	producers map[record.ProducerID]producer
	// offsets counts all of them, pending ones too; bytes is what clients wrote.
	offsets int
	bytes   int64
}

// Limits bound what clients can make a shard remember. They are part of the state: every replica changes them at
// the same command. What is above a lowered limit stays, and nothing is added to it.
type Limits struct {
	// MaxGroups is how many groups are remembered.
	MaxGroups int
	// MaxMembers is how many members one group can have.
	MaxMembers int
	// MaxOffsets is how many offsets all groups have together, pending ones included.
	MaxOffsets int
	// MaxProducers is how many producers are remembered for their transactions.
	MaxProducers int
	// MaxBytes bounds what clients write into groups, as it is counted here: names, metadata, subscriptions, assignments, and
	// something for each item.
	MaxBytes int64
}

// DefaultLimits hold until a command sets others.
func DefaultLimits() Limits {
	return Limits{MaxGroups: 10_000, MaxMembers: 1_000, MaxOffsets: 200_000, MaxProducers: 20_000, MaxBytes: 256 << 20}
}

// New is the state before the first command.
func New() *State {
	return &State{limits: DefaultLimits(), owner: new(token), groups: make(map[string]*group), producers: make(map[record.ProducerID]producer)}
}

// Result is what came of a command.
type Result struct {
	// Code is OK or why nothing was done.
	Code Code
	// Group is the id of the group that the command was about; empty for the whole shard.
	Group string
	// Changed: the command changed something.
	Changed bool
	// Removed counts what was deleted, forgotten or has expired: offsets, or producers.
	Removed int
	// Subscribed are the topics whose offsets were not deleted, because members are subscribed to them.
	Subscribed []string
	// Member is the member after its heartbeat, as Check foresees it: without its new version; nil: it has left, or it was none.
	Member *Member
	// StoredEpoch is the producer's epoch as it was before the command, where a producer was judged; NoEpoch: not known.
	StoredEpoch record.Epoch
}

// Apply takes the command at an index of the Raft log. Indexes grow; now is the leader's time in ms since 1970 from the
// entry, and may go back. An error means that the entry cannot be applied here at all: the replica must
// stop. A refusal is a Result.
func (s *State) Apply(index uint64, now int64, data []byte) (Result, error) {
	c, err := DecodeCommand(data)
	if err != nil {
		return Result{}, fmt.Errorf("group: entry %d: %w", index, err)
	}
	return s.run(c, stamp{index: index, now: now}), nil
}

// Check says what Apply would say to the command, without changing anything.
func (s *State) Check(now int64, c *statev1.GroupCommand) Result {
	return s.run(c, stamp{now: now, dry: true})
}

// stamp is when and where a command is applied. dry: it is only asked about.
type stamp struct {
	index uint64
	now   int64
	dry   bool
}

// run is the one place where commands meet the state.
func (s *State) run(c *statev1.GroupCommand, at stamp) Result {
	id := c.GetGroupId()
	switch cmd := c.GetCommand().(type) {
	case *statev1.GroupCommand_Commit:
		return s.commit(id, cmd.Commit, at)
	case *statev1.GroupCommand_CommitInTransaction:
		return s.commitInTransaction(id, cmd.CommitInTransaction, at)
	case *statev1.GroupCommand_EndTransaction:
		return s.endTransaction(cmd.EndTransaction, at)
	case *statev1.GroupCommand_Heartbeat:
		return s.heartbeat(id, cmd.Heartbeat, at)
	case *statev1.GroupCommand_Fence:
		return s.fence(id, cmd.Fence, at)
	case *statev1.GroupCommand_Assign:
		return s.assign(id, cmd.Assign, at)
	case *statev1.GroupCommand_BeginGeneration:
		return s.beginGeneration(id, cmd.BeginGeneration, at)
	case *statev1.GroupCommand_AssignGeneration:
		return s.assignGeneration(id, cmd.AssignGeneration, at)
	case *statev1.GroupCommand_ReplaceMember:
		return s.replaceMember(id, cmd.ReplaceMember, at)
	case *statev1.GroupCommand_LeaveGeneration:
		return s.leaveGeneration(id, cmd.LeaveGeneration, at)
	case *statev1.GroupCommand_DeleteOffsets:
		return s.deleteOffsets(id, cmd.DeleteOffsets, at)
	case *statev1.GroupCommand_DeleteGroup:
		return s.deleteGroup(id, at)
	case *statev1.GroupCommand_ExpireOffsets:
		return s.expireOffsets(id, cmd.ExpireOffsets, at)
	case *statev1.GroupCommand_ForgetTopics:
		return s.forgetTopics(cmd.ForgetTopics, at)
	case *statev1.GroupCommand_ExpireProducers:
		return s.expireProducers(cmd.ExpireProducers, at)
	case *statev1.GroupCommand_Limits:
		return s.setLimits(cmd.Limits, at)
	default:
		panic(fmt.Sprintf("group: command %T", cmd)) // DecodeCommand lets nothing else through
	}
}

func (s *State) setLimits(c *statev1.SetGroupLimits, at stamp) Result {
	if !at.dry {
		s.limits = limitsOf(c)
	}
	return Result{Changed: true}
}

// Clone makes an independent copy, which a snapshot can be written from while the original goes on. It copies the maps of
// groups and producers; what is in a group is copied by whoever changes it first. It counts as a change of the original.
func (s *State) Clone() *State {
	c := *s
	c.groups, c.producers = maps.Clone(s.groups), maps.Clone(s.producers)
	s.owner, c.owner = new(token), new(token) // neither may write to what they share
	return &c
}

// Limits are the bounds that hold now.
func (s *State) Limits() Limits { return s.limits }

// Sizes are how much a shard holds of what is limited, for the metrics that go with the limits.
type Sizes struct {
	Groups, Members, Offsets, Pending, Producers, OpenTransactions int
	Bytes                                                          int64
}

// Sizes counts. It looks at all groups and producers.
func (s *State) Sizes() Sizes {
	n := Sizes{Groups: len(s.groups), Offsets: s.offsets, Producers: len(s.producers), Bytes: s.bytes}
	for _, g := range s.groups {
		n.Members += len(g.consumers().members) + len(g.classics().members)
		for _, o := range g.pending {
			count, _ := o.size()
			n.Pending += count
		}
	}
	for _, p := range s.producers {
		if p.open() {
			n.OpenTransactions++
		}
	}
	return n
}

// refuse leaves everything as it is.
func refuse(id string, code Code) Result {
	return Result{Code: code, Group: id, StoredEpoch: record.NoEpoch}
}

func changed(id string) Result {
	return Result{Group: id, Changed: true, StoredEpoch: record.NoEpoch}
}
