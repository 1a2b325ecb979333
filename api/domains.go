package api

import (
	"context"
	"time"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// Log is the partitions that this broker hosts. All methods may be called from many goroutines.
// Errors are *partition.Error or *record.Error; they say whether the operation may have happened.
type Log interface {
	// Limits are what a batch for the partition is validated with.
	Limits(record.TopicPartition) (record.Limits, error)
	// LogStart is a partition's log start offset; record.NoOffset where it is not led here (P33).
	LogStart(record.TopicPartition) record.Offset
	// Produce appends a validated batch, which it keeps, and calls done exactly once, from any
	// goroutine, at the latest when the request's timeout has passed. Calls from one goroutine are
	// ordered. done must not block.
	Produce(req partition.ProduceRequest, done func(partition.ProduceResult, error))
	// Fetch reads, waiting as the request says, or until ctx ends. Answers are in the request's order.
	Fetch(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition
	// ListOffsets finds offsets by time, and the ends.
	ListOffsets(ctx context.Context, tp record.TopicPartition, timestamp int64, committed bool) (partition.ListedOffset, error)
	// DescribeProducers shows at most limit producers; ids empty: any.
	DescribeProducers(ctx context.Context, tp record.TopicPartition, ids []record.ProducerID, limit int) ([]producer.Description, bool, error)
}

// Transactions coordinates transactional ids, as far as this broker leads their shards. Errors are *coordinator.Error, which say
// whether the operation may have happened, and which broker to ask instead.
type Transactions interface {
	// InitProducer makes the caller the owner of an id (I2-I14).
	InitProducer(context.Context, coordinator.InitRequest) (coordinator.Producer, error)
	// EndTransaction commits or aborts; the producer is the one for the next transaction (T19).
	EndTransaction(context.Context, coordinator.EndRequest) (coordinator.Producer, error)
	// List gives at most limit ids of the shards led here.
	List(ctx context.Context, f coordinator.TransactionFilter, limit int) (list []*txn.Transaction, truncated bool, err error)
	Describe(ctx context.Context, id string) (*txn.Transaction, error)
	// Abort aborts an open transaction against its producer.
	Abort(ctx context.Context, id string, p coordinator.Producer, by txn.Client) error
}

// Groups coordinates consumer groups, as far as this broker leads their shards. Errors are *coordinator.Error, which say
// whether the operation may have happened, and which broker to ask instead.
type Groups interface {
	// OpenMembership begins a member's stream, which the caller closes (G14 to G17).
	OpenMembership(context.Context, coordinator.MemberRequest) (*coordinator.Membership, error)
	// HeartbeatInterval is how often members should be heard, SessionTimeout for how long they may be silent.
	HeartbeatInterval() time.Duration
	SessionTimeout() time.Duration
	// CommitOffsets and CommitInTransaction commit offsets; those that are refused one by one are given (G19 to G24).
	CommitOffsets(context.Context, coordinator.CommitRequest) ([]coordinator.RefusedOffset, error)
	CommitInTransaction(context.Context, coordinator.TransactionalCommit) ([]coordinator.RefusedOffset, error)
	FetchOffsets(context.Context, coordinator.FetchRequest) ([]group.Fetched, error)
	// List gives at most limit groups of the shards led here.
	List(ctx context.Context, f coordinator.GroupFilter, limit int) (list []group.Description, truncated bool, err error)
	Describe(ctx context.Context, id string) (group.Description, error)
	Delete(ctx context.Context, id string) error
	// DeleteOffsets gives the topics whose offsets stay, since members are subscribed to them.
	DeleteOffsets(ctx context.Context, id string, topics []coordinator.WantedTopic) (subscribed []string, err error)
}

// Coordinators finds coordinators, of whatever broker, and shows those of this one.
type Coordinators interface {
	// Find says which broker coordinates a name, as far as this one has heard. Shards that do not exist yet are made.
	Find(ctx context.Context, k coordinator.Kind, name string) (broker int32, err error)
	// Groups lists this broker's replicas of shards.
	Groups() []coordinator.GroupStatus
}

// Replicas shows and steers the Raft groups of this broker.
type Replicas interface {
	// Groups lists this broker's replicas of partitions.
	Groups() []partition.GroupStatus
	// TransferLeadership hands over to a broker; to below 0: to any.
	TransferLeadership(ctx context.Context, tp record.TopicPartition, to int32) error
	// Checksums sums the records of the local replica below upTo; upTo below 0: below its high watermark.
	Checksums(tp record.TopicPartition, upTo record.Offset) (partition.Checksum, error)
	// DeleteRecords raises the log start to before and gives the one that holds then;
	// partition.DeleteBefore: to the high watermark.
	DeleteRecords(ctx context.Context, tp record.TopicPartition, before record.Offset) (record.Offset, error)
}

// Cluster is what all brokers agree on, and what this one has heard from the others.
type Cluster interface {
	// Self is this broker's id.
	Self() int32
	// Image is the newest metadata here.
	Image() *metadata.Image
	// Leader is who leads a group as far as this broker has heard; ok is false when it has heard of
	// none.
	Leader(metadata.GroupID) (leader partition.Leader, ok bool)
	// Alive says whether a broker was heard from lately.
	Alive(broker int32) bool
	// Controller is the broker that leads the metadata group, -1 if unknown.
	Controller() int32
	// MetadataGroup is the local replica of the metadata group; ok is false where there is none.
	MetadataGroup() (status raftgroup.Status, ok bool)
	// CreateTopic creates a topic, or checks whether it could; the answer is the topic as it is then,
	// and Image holds it.
	CreateTopic(context.Context, NewTopic) (*metadata.Topic, error)
	// AlterTopic changes a topic, or checks whether it could.
	AlterTopic(context.Context, TopicChange) (*metadata.Topic, error)
	DeleteTopic(ctx context.Context, name string) error
	// AlterAccess changes users and rules, all or nothing; Image holds the change afterwards.
	AlterAccess(context.Context, cluster.AccessChange) error
	// Reassign begins to move partitions, SetReplicationFactor lets the cluster choose where to.
	Reassign(ctx context.Context, topic string, list []Reassignment, replicationFactor int32, validateOnly bool) (*metadata.Topic, error)
	SetReplicationFactor(ctx context.Context, topic string, n int32, validateOnly bool) (*metadata.Topic, error)
	CancelReassignments(ctx context.Context, topic string, partitions []int32) (*metadata.Topic, error)
	// Drain makes a broker give its replicas to others, or stops that.
	Drain(ctx context.Context, broker int32, draining bool) error
	// UnregisterBroker forgets a broker that holds no replica.
	UnregisterBroker(ctx context.Context, broker int32) error
	// SetFeatureLevel raises the cluster's feature level.
	SetFeatureLevel(ctx context.Context, level uint16) error
	// TopicReady waits until every partition of the topic has a leader that is ready.
	TopicReady(ctx context.Context, name string) error
	// NextProducerID gives an id that was never given before (I1).
	NextProducerID(ctx context.Context) (record.ProducerID, error)
}

// NewTopic asks for a topic.
type NewTopic struct {
	Name string
	// Partitions: 0 for the default. ReplicationFactor: 0 for min(3, brokers). Neither has been
	// checked.
	Partitions, ReplicationFactor int32
	Configs                       map[string]string
	// ValidateOnly checks and changes nothing.
	ValidateOnly bool
}

// TopicChange asks for a change of a topic.
type TopicChange struct {
	Name string
	// Partitions: 0 to leave their number. Not checked.
	Partitions   int32
	Set          map[string]string
	Unset        []string
	ValidateOnly bool
}

// Reassignment names the brokers that shall hold a partition, the preferred leader first.
type Reassignment struct {
	Partition int32
	Brokers   []int32
}

// Health says whether the broker can do its work: it has a quorum and has caught up.
type Health interface {
	// Serving gives the state, and a channel that is closed when it may have changed.
	Serving() (serving bool, changed <-chan struct{})
}

// Self is how this broker is.
type Self interface {
	Describe() SelfState
}

// SelfState is how a broker is, as it sees it.
type SelfState struct {
	// Reasons keep it from being ready, Warnings keep nobody from being served.
	Reasons, Warnings []string
	Disk              DiskState
	// Now is its time of day, ClockJump by how much that is not believed.
	Now       time.Time
	ClockJump time.Duration
	// MaxFeatureLevel is the newest that it knows.
	MaxFeatureLevel uint16
}

// DiskState is how a broker's disk is.
type DiskState struct {
	// Free and Total are bytes of the file system; 0 of 0: it does not tell.
	Free, Total int64
	// Full: a write was refused lately for lack of space.
	Full bool
	// Stalled is for how long the longest write under way has been, SlowestSync the longest sync of the last 10 to 20 s.
	Stalled, SlowestSync time.Duration
}
