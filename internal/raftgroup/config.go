package raftgroup

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
)

// Config is what all groups of a broker share.
type Config struct {
	// Broker is this broker's id, at least 0.
	Broker int32
	// Dir holds the stable stores (terms and votes) of all groups. It exists, on the real disk.
	Dir string
	// FS holds the snapshots, and the record logs of control groups; nil: the real disk. Bolt files are on the real disk
	// in any case.
	FS vfs.FS
	// Listener accepts the Raft connections of other brokers: the raft side of the peer port.
	Listener net.Listener
	// Dial connects to another broker's peer port and chooses its raft side.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve gives the peer address of a replica's broker; false: not known now.
	Resolve func(ServerID) (addr string, ok bool)
	// ClusterID guards against brokers of another cluster: connections between two that are both
	// known and differ are refused. Nil or empty: not known yet.
	ClusterID func() string
	// Node is the directory that this broker runs on; it is told to those it connects to. Nil: not told.
	Node func() Node
	// Replaced says whether another directory was registered in the place of a broker's: nothing goes to it and nothing is taken
	// from it, and connections with it end. Nil: of none. It must not block.
	Replaced func(broker int32, n Node) bool
	// OnReplaced is told when another broker says so of this one. It must not block.
	OnReplaced func()
	// FeatureLevel is stamped on every entry; nil: 0.
	FeatureLevel func() uint16
	// MaxFeatureLevel is the highest level at which this program's machines can apply: an entry of a
	// higher one halts the replica, since it would apply otherwise than the others. 0: not checked.
	MaxFeatureLevel uint16

	// HeartbeatTimeout is how long a follower waits for a leader. Default 1 s.
	HeartbeatTimeout time.Duration
	// ElectionTimeout is how long a candidate waits. Default: HeartbeatTimeout.
	ElectionTimeout time.Duration
	// LeaderLeaseTimeout is how long a leader that reaches no majority stays one. Default
	// HeartbeatTimeout; nothing above relies on it (see Group.Confirm).
	LeaderLeaseTimeout time.Duration
	// CommitTimeout is how late a follower of an idle group may learn of the last commit, at most
	// twice this. Default 500 ms.
	CommitTimeout time.Duration
	// HeartbeatInterval is the time over which heartbeats to one broker are collected into one
	// message. Default 20 ms.
	HeartbeatInterval time.Duration

	// MaxEntryBytes bounds one command with its meta. Default 16 MiB.
	MaxEntryBytes int
	// MaxQueuedBytes and MaxQueuedEntries bound what waits in one group to be proposed. Defaults
	// 32 MiB and 16,384. One command is accepted however large.
	MaxQueuedBytes   int64
	MaxQueuedEntries int
	// MaxSendingBytes bounds the entries under way to all other brokers, 64 MiB by default; to one of them at most
	// 16 MiB are. A single larger entry passes alone.
	MaxSendingBytes int64
	// Sending and Receiving bound the entries under way to other brokers, and those from them that wait for Raft here, where they share a
	// budget with other things. Nil: MaxSendingBytes, and what other brokers may have under way.
	Sending, Receiving Allowance
	// MaxOutstandingBytes bounds what one group has handed to Raft and not seen applied. Default
	// 4 MiB. One command is handed over however large.
	MaxOutstandingBytes int64

	// QueueLogs lets Raft go on before its entries are on disk, and holds back what depends on it
	// (gate.go). False: every entry is on disk before Raft goes on.
	QueueLogs bool

	// MaxReplayBytes is about how much log all groups together have applied since their last snapshots, and
	// apply again after a crash. A group below 4 MiB takes no snapshot for it. Default 256 MiB.
	MaxReplayBytes int64

	// TrustNetwork leaves entry bodies out of the frames' checksums. Set it when TLS protects them.
	TrustNetwork bool

	// Logger and Registerer default to none.
	Logger     *slog.Logger
	Registerer prometheus.Registerer

	// older makes this broker one of a version that does not say when a replica's Raft was opened again, for tests.
	older bool

	// NoSync spares simulations the waiting for the disk: Bolt files are not synced and lay no
	// ballast. A power cut then loses terms, votes and control logs.
	NoSync bool
	// BoltFlush, where simulations set it, takes the time of the flush that NoSync spares, after each commit of terms and votes.
	BoltFlush func()
}

// Node is a broker's data directory, of which an id may have had several.
type Node struct {
	// Incarnation was minted with the directory; 0: not told.
	Incarnation uint64
	// Since is an index of the metadata at which it was registered; 0: not known.
	Since uint64
}

// Allowance is how many bytes may be held. What is given back is what was taken.
type Allowance interface {
	// Acquire waits for n bytes, in turn; false: one of the channels was closed before. What is more than there can ever be is granted all
	// there is.
	Acquire(n int64, stop, closed <-chan struct{}) bool
	// TryAcquire takes n bytes if they are there.
	TryAcquire(n int64) bool
	Release(n int64)
}

const (
	defaultSnapshotBytes = 64 << 20

	// maxMetaBytes bounds Command.Meta.
	maxMetaBytes = 64 << 10
)

// withDefaults fills in what is not set and names the field that cannot be used.
func (c Config) withDefaults() (Config, error) {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&c.HeartbeatTimeout, time.Second)
	or(&c.ElectionTimeout, c.HeartbeatTimeout)
	or(&c.LeaderLeaseTimeout, c.HeartbeatTimeout)
	or(&c.CommitTimeout, 500*time.Millisecond)
	or(&c.HeartbeatInterval, min(20*time.Millisecond, c.HeartbeatTimeout/20))
	if c.MaxEntryBytes == 0 {
		c.MaxEntryBytes = 16 << 20
	}
	if c.MaxQueuedBytes == 0 {
		c.MaxQueuedBytes = 32 << 20
	}
	if c.MaxSendingBytes == 0 {
		c.MaxSendingBytes = 64 << 20
	}
	if c.MaxQueuedEntries == 0 {
		c.MaxQueuedEntries = 16384
	}
	if c.MaxOutstandingBytes == 0 {
		c.MaxOutstandingBytes = 4 << 20
	}
	if c.MaxReplayBytes == 0 {
		c.MaxReplayBytes = defaultReplayBytes
	}
	if c.FS == nil {
		c.FS = vfs.OS()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.validate()
}

func (c *Config) validate() error {
	const least = 20 * time.Millisecond
	switch {
	case c.Broker < 0:
		return fmt.Errorf("raftgroup: Broker is %d, must be at least 0", c.Broker)
	case c.Dir == "":
		return fmt.Errorf("raftgroup: Dir is empty")
	case c.Listener == nil || c.Dial == nil || c.Resolve == nil:
		return fmt.Errorf("raftgroup: Listener, Dial and Resolve must be set")
	case c.HeartbeatTimeout < least:
		return fmt.Errorf("raftgroup: HeartbeatTimeout is %v, must be at least %v", c.HeartbeatTimeout, least)
	case c.ElectionTimeout < c.HeartbeatTimeout:
		return fmt.Errorf("raftgroup: ElectionTimeout is %v, must be at least HeartbeatTimeout, %v", c.ElectionTimeout, c.HeartbeatTimeout)
	case c.LeaderLeaseTimeout < least/2 || c.LeaderLeaseTimeout > c.HeartbeatTimeout:
		return fmt.Errorf("raftgroup: LeaderLeaseTimeout is %v, must be %v to HeartbeatTimeout, %v", c.LeaderLeaseTimeout, least/2, c.HeartbeatTimeout)
	case c.CommitTimeout < time.Millisecond:
		return fmt.Errorf("raftgroup: CommitTimeout is %v, must be at least 1ms", c.CommitTimeout)
	case c.HeartbeatInterval < 0 || c.HeartbeatInterval > c.HeartbeatTimeout/10:
		return fmt.Errorf("raftgroup: HeartbeatInterval is %v, must be at most a tenth of HeartbeatTimeout, %v", c.HeartbeatInterval, c.HeartbeatTimeout)
	case c.MaxEntryBytes < 1024 || c.MaxEntryBytes > maxEntryLimit:
		return fmt.Errorf("raftgroup: MaxEntryBytes is %d, must be 1024 to %d", c.MaxEntryBytes, maxEntryLimit)
	case c.MaxQueuedBytes < 0 || c.MaxQueuedEntries < 1 || c.MaxOutstandingBytes < 0 || c.MaxSendingBytes < 0 || c.MaxReplayBytes < 0:
		return fmt.Errorf("raftgroup: MaxQueuedBytes, MaxQueuedEntries, MaxOutstandingBytes, MaxSendingBytes and MaxReplayBytes must not be negative")
	}
	return nil
}

func (c *GroupConfig) validate(broker int32) error {
	b, _, err := ParseServerID(c.Self)
	switch {
	case c.ID == 0:
		return fmt.Errorf("raftgroup: group id 0 is not used")
	case err != nil:
		return fmt.Errorf("raftgroup: Self: %w", err)
	case b != broker:
		return fmt.Errorf("raftgroup: Self is %s, this is broker %d", c.Self, broker)
	case c.CommitTimeout != 0 && c.CommitTimeout < time.Millisecond:
		return fmt.Errorf("raftgroup: CommitTimeout is %v, must be at least 1ms", c.CommitTimeout)
	case c.Dir == "" || c.Machine == nil:
		return fmt.Errorf("raftgroup: Dir and Machine must be set")
	}
	return nil
}

// Server is a member of a group.
type Server struct {
	ID ServerID
	// Learner receives the log and does not vote.
	Learner bool
}

// GroupConfig says which group to open, and what it drives.
type GroupConfig struct {
	ID GroupID
	// Name appears in logs, metrics and Status: "metadata", "topic/partition".
	Name string
	// Self is this replica.
	Self ServerID
	// Dir holds the snapshots and, for groups without Log, the log. It exists.
	Dir string
	// Log is the Raft log and record log of a partition. The caller opens it before and closes
	// it after the group. Nil: the group keeps one itself.
	Log *recordlog.Log
	// RecordLog has a group without Log keep its log as a record log in Dir, on Config.FS; what it has in a Bolt file is
	// converted. False: in a Bolt file, unless it is converted already.
	RecordLog bool
	// Machine must be as fresh as after its construction, or hold what Applied says.
	Machine StateMachine
	// Bootstrap lists the first members. It is used if the group has no state here, and must then
	// be the same on each of them. Empty: this replica waits to be added.
	Bootstrap []Server
	// MustExist: this replica has applied entries before, so that one without a log and a snapshot, or without a term, has lost
	// what it acknowledged and voted (ErrStateLost).
	MustExist bool
	// SnapshotBytes is how many bytes of log are applied between two snapshots. Default 64 MiB.
	SnapshotBytes int64
	// CommitTimeout is Config.CommitTimeout for this group; 0: as there.
	CommitTimeout time.Duration
	// CatchUp completes an installed snapshot; nil: snapshots are complete in themselves.
	CatchUp CatchUpFunc
	// OnLeadership is called in order, from one goroutine of the group. It may block; it then
	// delays later events only. It must not call Close.
	OnLeadership func(LeadershipEvent)

	// OnDamage is told of damage that Raft or the transport has met in the log; only: this replica is the only voter. It must not block, and may
	// be called before Open returns. Raft itself cannot go on without an entry that it reads, and halts; what the transport reads for a
	// follower is left to the owner.
	OnDamage func(damage error, only bool)

	// wrapLog lets tests stand between Raft and the log.
	wrapLog func(logStore) logStore
}
