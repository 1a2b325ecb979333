package raftgroup

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/record"
)

// Config is what all groups of a broker share.
type Config struct {
	// Broker is this broker's id, at least 0.
	Broker int32
	// Dir holds the stable stores (terms and votes) of all groups.
	Dir string
	// Listener accepts the Raft connections of other brokers: the raft side of the peer port.
	Listener net.Listener
	// Dial connects to another broker's peer port and chooses its raft side.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve gives the peer address of a replica's broker; false: not known now.
	Resolve func(ServerID) (addr string, ok bool)
	// ClusterID guards against brokers of another cluster: connections between two that are both
	// known and differ are refused. Nil or empty: not known yet.
	ClusterID func() string
	// FeatureLevel is stamped on every entry; nil: 0.
	FeatureLevel func() uint16

	// HeartbeatTimeout is how long a follower waits for a leader. Default 1 s.
	HeartbeatTimeout time.Duration
	// ElectionTimeout is how long a candidate waits. Default: HeartbeatTimeout.
	ElectionTimeout time.Duration
	// LeaderLeaseTimeout is how long a leader that reaches no majority stays one. Default half of
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
	// MaxOutstandingBytes bounds what one group has handed to Raft and not seen applied. Default
	// 4 MiB. One command is handed over however large.
	MaxOutstandingBytes int64

	// TrustNetwork leaves entry bodies out of the frames' checksums. Set it when TLS protects them.
	TrustNetwork bool

	// Logger and Registerer default to none.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server is a member of a group.
type Server struct {
	ID ServerID
	// Learner receives the log and does not vote.
	Learner bool
}

// RecordLog is a partition's log.
type RecordLog interface {
	Window() (first, last record.Index)
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
	// it after the group. Nil: a Bolt file in Dir.
	Log RecordLog
	// Machine must be as fresh as after its construction, or hold what Applied says.
	Machine StateMachine
	// Bootstrap lists the first members. It is used if the group has no state here, and must then
	// be the same on each of them. Empty: this replica waits to be added.
	Bootstrap []Server
	// SnapshotBytes is how many bytes of log are applied between two snapshots. Default 64 MiB.
	SnapshotBytes int64
	// CatchUp completes an installed snapshot; nil: snapshots are complete in themselves.
	CatchUp CatchUpFunc
	// OnLeadership is called in order, from one goroutine of the group. It may block; it then
	// delays later events only. It must not call Close.
	OnLeadership func(LeadershipEvent)
}
