package kafka

import (
	"context"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/classic"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// Log is the partitions that this broker hosts. All methods may be called from many goroutines. Errors are *partition.Error or
// *record.Error; they say whether the operation may have happened.
type Log interface {
	// Limits are what a batch for the partition is validated with.
	Limits(record.TopicPartition) (record.Limits, error)
	// LogStart is a partition's log start offset; record.NoOffset where it is not led here (P33).
	LogStart(record.TopicPartition) record.Offset
	// Produce appends a validated batch, which it keeps, and calls done exactly once, from any goroutine, at the latest when the
	// request's timeout has passed. Calls from one goroutine are ordered. done must not block.
	Produce(req partition.ProduceRequest, done func(partition.ProduceResult, error))
	// Fetch reads, waiting as the request says, or until ctx ends. Answers are in the request's order.
	Fetch(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition
	// ListOffsets finds offsets by time, and the ends.
	ListOffsets(ctx context.Context, tp record.TopicPartition, timestamp int64, committed bool) (partition.ListedOffset, error)
	// EpochEnd says which epoch, at or below the asked one, the partition knows, and where it ends (L21). current is what the client
	// takes for the leader's epoch, -1 not to check it.
	EpochEnd(ctx context.Context, tp record.TopicPartition, current, epoch int32) (known int32, end record.Offset, err error)
	// CheckEpoch compares what a client takes for the leader's epoch with what it is (L18); -1 passes.
	CheckEpoch(tp record.TopicPartition, epoch int32) error
	// DescribeProducers shows at most limit producers; ids empty: any.
	DescribeProducers(ctx context.Context, tp record.TopicPartition, ids []record.ProducerID, limit int) ([]producer.Description, bool, error)
}

// Replicas shows and changes the Raft groups of this broker.
type Replicas interface {
	// Groups lists this broker's replicas of partitions.
	Groups() []partition.GroupStatus
	// DeleteRecords raises the log start to before and gives the one that holds then; partition.DeleteBefore: to the high
	// watermark.
	DeleteRecords(ctx context.Context, tp record.TopicPartition, before record.Offset) (record.Offset, error)
}

// Cluster is what all brokers agree on, and what this one has heard from the others.
type Cluster interface {
	// Self is this broker's id.
	Self() int32
	// Image is the newest metadata here.
	Image() *metadata.Image
	// Leader is who leads a group and is ready, as far as this broker has heard; ok is false when it has heard of none.
	Leader(metadata.GroupID) (leader partition.Leader, ok bool)
	// Alive says whether a broker was heard from lately.
	Alive(broker int32) bool
	// Controller is the broker that leads the metadata group, -1 if unknown.
	Controller() int32
	// Quorum asks the controller how far the members of the metadata group are.
	Quorum(context.Context) (cluster.Quorum, error)
	// CreateTopic creates a topic, or checks whether it could; the answer is the topic as it is then, and Image holds it.
	CreateTopic(context.Context, NewTopic) (*metadata.Topic, error)
	// AlterTopic changes a topic, or checks whether it could.
	AlterTopic(context.Context, TopicChange) (*metadata.Topic, error)
	DeleteTopic(ctx context.Context, name string) error
	// Reassign begins to move partitions; it returns when that is agreed. replicationFactor is the topic's from now on, for which
	// all partitions have to be named; 0: as it is.
	Reassign(ctx context.Context, topic string, list []Reassignment, replicationFactor int32) (*metadata.Topic, error)
	// CancelReassignments takes back what moves under way have added.
	CancelReassignments(ctx context.Context, topic string, partitions []int32) (*metadata.Topic, error)
	// HandOver has the leader of a partition hand it to another of its replicas, and waits until that one is heard to lead.
	HandOver(ctx context.Context, tp record.TopicPartition, from, to int32) error
	// TopicReady waits until every partition of the topic has a leader that is ready.
	TopicReady(ctx context.Context, name string) error
	// AwaitFirstLeaders waits for the first ready leader of groups that this broker has not heard of any for.
	AwaitFirstLeaders(context.Context, []metadata.GroupID)
	// AlterAccess changes users and rules, all or nothing; Image holds the change afterwards.
	AlterAccess(context.Context, cluster.AccessChange) error
	// NextProducerID gives an id that was never given before (I1).
	NextProducerID(ctx context.Context) (record.ProducerID, error)
}

// Reassignment names the brokers that shall hold a partition, the preferred leader first.
type Reassignment struct {
	Partition int32
	Brokers   []int32
}

// NewTopic asks for a topic.
type NewTopic struct {
	Name string
	// Partitions: 0 for the default. ReplicationFactor: 0 for min(3, brokers). Neither has been checked.
	Partitions, ReplicationFactor int32
	// Placements, if set, name the brokers of each partition, the preferred leader first, instead.
	Placements [][]int32
	Configs    map[string]string
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

// Transactions coordinates transactional ids, as far as this broker leads their shards. Errors are *coordinator.Error, which say
// whether the operation may have happened.
type Transactions interface {
	// InitProducer makes the caller the owner of an id (I2-I14).
	InitProducer(context.Context, coordinator.InitRequest) (coordinator.Producer, error)
	// AddPartitions lets partitions, which the caller has checked to exist, join a transaction (T5).
	AddPartitions(context.Context, coordinator.AddRequest) error
	// EndTransaction commits or aborts; the producer is the one for the next transaction (T17, T19).
	EndTransaction(context.Context, coordinator.EndRequest) (coordinator.Producer, error)
	// List gives at most limit ids of the shards led here.
	List(ctx context.Context, f coordinator.TransactionFilter, limit int) (list []*txn.Transaction, truncated bool, err error)
	Describe(ctx context.Context, id string) (*txn.Transaction, error)
}

// Coordinators finds coordinators, of whatever broker.
type Coordinators interface {
	// Find says which broker coordinates a name, as far as this one has heard. Shards that do not exist yet are made.
	Find(ctx context.Context, k coordinator.Kind, name string) (broker int32, err error)
}

// Markers writes markers of transactions, on whatever broker leads their partitions; one result for each, in order.
type Markers interface {
	Write(context.Context, []coordinator.Marker) []coordinator.MarkerResult
}

// Groups coordinates consumer groups, as far as this broker leads their shards. Errors are *coordinator.Error, which say whether the
// operation may have happened.
type Groups interface {
	// CommitOffsets commits offsets; some may be refused alone (G19-G21).
	CommitOffsets(context.Context, coordinator.CommitRequest) ([]coordinator.RefusedOffset, error)
	// CommitInTransaction commits offsets that count when the producer's transaction is committed (G22-G24).
	CommitInTransaction(context.Context, coordinator.TransactionalCommit) ([]coordinator.RefusedOffset, error)
	// FetchOffsets gives committed offsets, in the order of the question (G26, G27).
	FetchOffsets(context.Context, coordinator.FetchRequest) ([]group.Fetched, error)
	// Heartbeat is all that a member of KIP-848 says, and what it is told (G14-G17).
	Heartbeat(context.Context, coordinator.MemberRequest) (coordinator.HeartbeatAnswer, error)
	// JoinGroup and SyncGroup wait for others until ctx ends; ClassicHeartbeat and LeaveGroup do not (G1-G9).
	JoinGroup(context.Context, coordinator.JoinRequest) (coordinator.JoinAnswer, error)
	SyncGroup(context.Context, coordinator.SyncRequest) (coordinator.SyncAnswer, error)
	ClassicHeartbeat(ctx context.Context, id string, by group.Committer) error
	LeaveGroup(ctx context.Context, id string, members []classic.Leaving) ([]error, error)
	// List gives at most limit groups of the shards led here.
	List(ctx context.Context, f coordinator.GroupFilter, limit int) (list []group.Description, truncated bool, err error)
	Describe(ctx context.Context, id string) (group.Description, error)
	// Delete deletes a group without members; DeleteOffsets gives the topics whose offsets stay (G30).
	Delete(ctx context.Context, id string) error
	DeleteOffsets(ctx context.Context, id string, topics []coordinator.WantedTopic) (subscribed []string, err error)
}
