package group

import (
	"errors"
	"fmt"
	"math"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"google.golang.org/protobuf/proto"
)

// The bounds of what a command holds. They are part of what apply decides, so a change of any of them is gated by a
// feature level.
const (
	// MaxIDLength of a group's id, a member's and an instance's, in bytes.
	MaxIDLength = 1024
	// MaxTopicLength of a topic's name, as in metadata.
	MaxTopicLength = 249
	// MaxMetadataUnits of an offset's metadata, in units of UTF-16 as Kafka counts (G21).
	MaxMetadataUnits = 4096
	// MaxCommitted is how many offsets one command can commit.
	MaxCommitted = 10_000
	// MaxSubscribed is how many topics a member can name, MaxPatternLength bounds its pattern, in bytes.
	MaxSubscribed    = 1_000
	MaxPatternLength = 1024
	// MaxTextLength of a client id, an address, a rack and the name of an assignor, in bytes.
	MaxTextLength = 255
	// MaxAssigned is how many partitions a group can have assigned.
	MaxAssigned = 100_000
	// MaxForgotten is how many topics one command can forget.
	MaxForgotten = 1_000
	// MaxCommandBytes bounds one encoded command.
	MaxCommandBytes = 4 << 20
)

// ErrInvalidCommand says that a command cannot be: whoever built it has not checked what it was given.
var ErrInvalidCommand = errors.New("invalid group command")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidCommand, fmt.Sprintf(format, args...))
}

// EncodeCommand gives the bytes that are proposed. Equal commands are equal bytes.
func EncodeCommand(c *statev1.GroupCommand) ([]byte, error) {
	if err := checkCommand(c); err != nil {
		return nil, err
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return nil, invalid("%v", err)
	}
	if len(b) > MaxCommandBytes {
		return nil, invalid("%d bytes, at most %d are allowed", len(b), MaxCommandBytes)
	}
	return b, nil
}

// DecodeCommand reads what EncodeCommand gives, and nothing else.
func DecodeCommand(b []byte) (*statev1.GroupCommand, error) {
	if len(b) > MaxCommandBytes {
		return nil, invalid("%d bytes", len(b))
	}
	c := new(statev1.GroupCommand)
	if err := proto.Unmarshal(b, c); err != nil {
		return nil, invalid("%v", err)
	}
	if c.GetCommand() == nil || statev1.HasUnknown(c.ProtoReflect()) {
		return nil, fmt.Errorf("group command: %w", statev1.ErrNewer)
	}
	return c, checkCommand(c)
}

// checkCommand makes sure that deciding cannot meet what makes no sense.
func checkCommand(c *statev1.GroupCommand) error {
	if err := checkID("group id", c.GetGroupId()); err != nil {
		return err
	}
	switch cmd := c.GetCommand().(type) {
	case *statev1.GroupCommand_Commit:
		return checkCommit(cmd.Commit)
	case *statev1.GroupCommand_CommitInTransaction:
		return checkCommitInTransaction(cmd.CommitInTransaction)
	case *statev1.GroupCommand_EndTransaction:
		return checkEnd(c.GetGroupId(), cmd.EndTransaction)
	case *statev1.GroupCommand_Heartbeat:
		return checkHeartbeat(cmd.Heartbeat)
	case *statev1.GroupCommand_Fence:
		return checkFence(cmd.Fence)
	case *statev1.GroupCommand_Assign:
		return checkAssign(cmd.Assign)
	case *statev1.GroupCommand_BeginGeneration:
		return checkBegin(cmd.BeginGeneration)
	case *statev1.GroupCommand_AssignGeneration:
		return checkAssignGeneration(cmd.AssignGeneration)
	case *statev1.GroupCommand_ReplaceMember:
		return checkReplace(cmd.ReplaceMember)
	case *statev1.GroupCommand_LeaveGeneration:
		return checkLeave(cmd.LeaveGeneration)
	case *statev1.GroupCommand_DeleteOffsets:
		return checkPartitions(cmd.DeleteOffsets.GetTopics())
	case *statev1.GroupCommand_DeleteGroup, *statev1.GroupCommand_ExpireOffsets:
		return nil
	case *statev1.GroupCommand_ForgetTopics:
		return errors.Join(checkWhole(c.GetGroupId()), checkTopicIDs(cmd.ForgetTopics.GetTopicIds()))
	case *statev1.GroupCommand_ExpireProducers:
		return checkWhole(c.GetGroupId())
	case *statev1.GroupCommand_Limits:
		return errors.Join(checkWhole(c.GetGroupId()), checkLimits(cmd.Limits))
	}
	return invalid("no command")
}

func checkID(what, id string) error {
	if len(id) > MaxIDLength {
		return invalid("%s of %d bytes, at most %d are allowed", what, len(id), MaxIDLength)
	}
	return nil
}

// checkWhole is for commands that are about the whole shard.
func checkWhole(id string) error {
	if id != "" {
		return invalid("a group id in a command that is about no group")
	}
	return nil
}

func checkCommitter(c *statev1.Committer) error {
	return errors.Join(checkID("member id", c.GetMemberId()), checkID("instance id", c.GetInstanceId()))
}

func checkCommit(c *statev1.CommitOffsets) error {
	if c.GetExpireMs() < NoExpiry {
		return invalid("offsets that expire at %d", c.GetExpireMs())
	}
	return errors.Join(checkCommitter(c.GetCommitter()), checkOffsets(c.GetTopics()))
}

func checkCommitInTransaction(c *statev1.CommitOffsetsInTransaction) error {
	return errors.Join(checkCommitter(c.GetCommitter()), checkProducer(c.GetProducerId(), c.GetProducerEpoch()), checkOffsets(c.GetTopics()))
}

func checkProducer(id int64, epoch int32) error {
	if id < 0 || epoch < 0 || epoch > math.MaxInt16 {
		return invalid("producer %d epoch %d", id, epoch)
	}
	return nil
}

func checkEnd(id string, c *statev1.EndTransactionOfOffsets) error {
	if v := c.GetVersion(); v != 1 && v != 2 {
		return invalid("transaction version %d", v)
	}
	if c.GetCoordinatorEpoch() < 0 {
		return invalid("coordinator epoch %d", c.GetCoordinatorEpoch())
	}
	return errors.Join(checkWhole(id), checkProducer(c.GetProducerId(), c.GetProducerEpoch()))
}

// checkOffsets demands topics and partitions in order, each once.
func checkOffsets(topics []*statev1.TopicOffsets) error {
	n := 0
	for i, t := range topics {
		switch {
		case checkTopic(t.GetTopic()) != nil:
			return checkTopic(t.GetTopic())
		case i > 0 && topics[i-1].GetTopic() >= t.GetTopic():
			return invalid("topics are not sorted")
		case len(t.GetTopicId()) != len(TopicID{}):
			return invalid("topic id of %d bytes", len(t.GetTopicId()))
		case len(t.GetPartitions()) == 0:
			return invalid("topic %s without partitions", t.GetTopic())
		}
		for k, p := range t.GetPartitions() {
			switch {
			case p.GetPartition() < 0 || k > 0 && t.GetPartitions()[k-1].GetPartition() >= p.GetPartition():
				return invalid("partitions of topic %s are not sorted", t.GetTopic())
			case p.GetLeaderEpoch() < -1:
				return invalid("leader epoch %d", p.GetLeaderEpoch())
			case MetadataUnits(p.GetMetadata()) > MaxMetadataUnits:
				return invalid("metadata of %d units", MetadataUnits(p.GetMetadata()))
			}
		}
		n += len(t.GetPartitions())
	}
	if n > MaxCommitted {
		return invalid("%d offsets at once, at most %d are allowed", n, MaxCommitted)
	}
	return nil
}

func checkTopic(name string) error {
	if name == "" || len(name) > MaxTopicLength {
		return invalid("topic name of %d bytes", len(name))
	}
	return nil
}

// MetadataUnits measures an offset's metadata as Kafka does, in units of UTF-16.
func MetadataUnits(s string) int {
	n := 0
	for _, r := range s {
		if n++; r > math.MaxUint16 {
			n++
		}
	}
	return n
}

func checkPartitions(topics []*statev1.TopicPartitions) error {
	for i, t := range topics {
		if err := checkTopic(t.GetTopic()); err != nil {
			return err
		}
		if i > 0 && topics[i-1].GetTopic() >= t.GetTopic() {
			return invalid("topics are not sorted")
		}
		for k, p := range t.GetPartitions() {
			if p < 0 || k > 0 && t.GetPartitions()[k-1] >= p {
				return invalid("partitions of topic %s are not sorted", t.GetTopic())
			}
		}
	}
	return nil
}

func checkTopicIDs(ids [][]byte) error {
	if len(ids) > MaxForgotten {
		return invalid("%d topics at once, at most %d are allowed", len(ids), MaxForgotten)
	}
	for i, id := range ids {
		if len(id) != len(TopicID{}) || i > 0 && string(ids[i-1]) >= string(id) {
			return invalid("topic ids are not sorted")
		}
	}
	return nil
}

func checkLimits(c *statev1.SetGroupLimits) error {
	for _, n := range []uint32{c.GetMaxGroups(), c.GetMaxMembers(), c.GetMaxOffsets(), c.GetMaxProducers()} {
		if n == 0 || n > math.MaxInt32 {
			return invalid("a limit of %d", n)
		}
	}
	if c.GetMaxBytes() == 0 || c.GetMaxBytes() > MaxStateBytes {
		return invalid("a limit of %d bytes", c.GetMaxBytes())
	}
	return nil
}

func limitsOf(c *statev1.SetGroupLimits) Limits {
	return Limits{
		MaxGroups: int(c.GetMaxGroups()), MaxMembers: int(c.GetMaxMembers()), MaxOffsets: int(c.GetMaxOffsets()),
		MaxProducers: int(c.GetMaxProducers()), MaxBytes: int64(c.GetMaxBytes()),
	}
}

// LimitsToProto encodes limits.
func LimitsToProto(l Limits) *statev1.SetGroupLimits {
	return &statev1.SetGroupLimits{
		MaxGroups: uint32(l.MaxGroups), MaxMembers: uint32(l.MaxMembers), MaxOffsets: uint32(l.MaxOffsets),
		MaxProducers: uint32(l.MaxProducers), MaxBytes: uint64(l.MaxBytes),
	}
}
