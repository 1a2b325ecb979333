package txn

import (
	"errors"
	"fmt"
	"math"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"google.golang.org/protobuf/proto"

	"github.com/oncelog/oncelog/record"
)

// The bounds of what a command holds. They are part of what apply decides, so a change of any of them is gated by a
// feature level.
const (
	// MaxIDLength of a transactional id, in bytes.
	MaxIDLength = 1024
	// MaxTextLength of a client id, an address and the name of an error, in bytes.
	MaxTextLength = 255
	// MaxTopicLength of a topic's name, as in metadata.
	MaxTopicLength = 249
	// MaxAdded is how many partitions one command can add.
	MaxAdded = 10_000
	// MaxNext is how many adds one completion can carry, with no more than MaxAdded partitions together.
	MaxNext = 64
	// MaxCommandBytes bounds one encoded command.
	MaxCommandBytes = 4 << 20
)

// ErrInvalidCommand says that a command cannot be: whoever built it has not checked what it was given.
var ErrInvalidCommand = errors.New("invalid transaction command")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidCommand, fmt.Sprintf(format, args...))
}

// EncodeCommand gives the bytes that are proposed. Equal commands are equal bytes.
func EncodeCommand(c *statev1.TransactionCommand) ([]byte, error) {
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
func DecodeCommand(b []byte) (*statev1.TransactionCommand, error) {
	if len(b) > MaxCommandBytes {
		return nil, invalid("%d bytes", len(b))
	}
	c := new(statev1.TransactionCommand)
	if err := proto.Unmarshal(b, c); err != nil {
		return nil, invalid("%v", err)
	}
	if c.GetCommand() == nil || statev1.HasUnknown(c.ProtoReflect()) {
		return nil, fmt.Errorf("transaction command: %w", statev1.ErrNewer)
	}
	return c, checkCommand(c)
}

// checkCommand makes sure that deciding cannot meet what makes no sense.
func checkCommand(c *statev1.TransactionCommand) error {
	switch cmd := c.GetCommand().(type) {
	case *statev1.TransactionCommand_Limits:
		return checkLimits(cmd.Limits)
	case *statev1.TransactionCommand_Expire:
		return checkExpire(cmd.Expire)
	}
	if err := checkID(c.GetTransactionalId()); err != nil {
		return err
	}
	if len(c.GetClient().GetClientId()) > MaxTextLength || len(c.GetClient().GetAddress()) > MaxTextLength {
		return invalid("client id or address of more than %d bytes", MaxTextLength)
	}
	switch cmd := c.GetCommand().(type) {
	case *statev1.TransactionCommand_Init:
		return checkInit(cmd.Init)
	case *statev1.TransactionCommand_Add:
		return checkAdd(cmd.Add)
	case *statev1.TransactionCommand_End:
		return errors.Join(checkProducer(cmd.End.GetProducerId(), cmd.End.GetProducerEpoch()),
			checkVersion(cmd.End.GetClientVersion()), checkFresh(cmd.End.GetFreshProducerId()))
	case *statev1.TransactionCommand_Complete:
		return checkComplete(cmd.Complete)
	case *statev1.TransactionCommand_Abort:
		return checkAbort(cmd.Abort)
	case *statev1.TransactionCommand_Note:
		return checkNote(cmd.Note)
	}
	return invalid("no command")
}

func checkID(id string) error {
	if id == "" || len(id) > MaxIDLength {
		return invalid("transactional id of %d bytes, 1 to %d are allowed", len(id), MaxIDLength)
	}
	return nil
}

func checkProducer(id int64, epoch int32) error {
	if id < 0 || epoch < 0 || epoch > math.MaxInt16 {
		return invalid("producer %d epoch %d", id, epoch)
	}
	return nil
}

func checkVersion(v uint32) error {
	if v != 1 && v != 2 {
		return invalid("transaction version %d", v)
	}
	return nil
}

func checkFresh(id int64) error {
	if id < int64(record.NoProducerID) {
		return invalid("fresh producer id %d", id)
	}
	return nil
}

func checkInit(c *statev1.InitTransactions) error {
	if c.GetTimeoutMs() <= 0 {
		return invalid("timeout of %d ms", c.GetTimeoutMs())
	}
	if c.GetProducerId() != int64(record.NoProducerID) || c.GetProducerEpoch() != int32(record.NoEpoch) {
		if err := checkProducer(c.GetProducerId(), c.GetProducerEpoch()); err != nil {
			return err
		}
	}
	return errors.Join(checkVersion(c.GetServerVersion()), checkFresh(c.GetFreshProducerId()))
}

func checkAdd(c *statev1.AddPartitions) error {
	if err := errors.Join(checkProducer(c.GetProducerId(), c.GetProducerEpoch()), checkVersion(c.GetClientVersion())); err != nil {
		return err
	}
	return checkPartitions(c.GetPartitions(), MaxAdded)
}

func checkComplete(c *statev1.CompleteTransaction) error {
	if n := len(c.GetNext()); n > MaxNext {
		return invalid("a completion with %d adds, at most %d are allowed", n, MaxNext)
	}
	n := 0
	for _, add := range c.GetNext() {
		if err := checkAdd(add); err != nil {
			return err
		}
		for _, tp := range add.GetPartitions() {
			n += len(tp.GetPartitions())
		}
	}
	if n > MaxAdded {
		return invalid("a completion that adds %d partitions, at most %d are allowed", n, MaxAdded)
	}
	return nil
}

// checkPartitions demands topics and numbers in order, each once.
func checkPartitions(list []*statev1.TopicPartitions, max int) error {
	n := 0
	for i, tp := range list {
		switch {
		case tp.GetTopic() == "" || len(tp.GetTopic()) > MaxTopicLength:
			return invalid("topic name of %d bytes", len(tp.GetTopic()))
		case i > 0 && list[i-1].GetTopic() >= tp.GetTopic():
			return invalid("topics are not sorted")
		case len(tp.GetPartitions()) == 0 || tp.GetPartitions()[0] < 0:
			return invalid("partitions of topic %s", tp.GetTopic())
		}
		for k, p := range tp.GetPartitions() {
			if k > 0 && tp.GetPartitions()[k-1] >= p {
				return invalid("partitions of topic %s are not sorted", tp.GetTopic())
			}
		}
		n += len(tp.GetPartitions())
	}
	if n > max {
		return invalid("%d partitions, at most %d are allowed", n, max)
	}
	return nil
}

func checkAbort(c *statev1.AbortTransaction) error {
	if r := c.GetReason(); r != statev1.AbortReason_ABORT_REASON_TIMEOUT && r != statev1.AbortReason_ABORT_REASON_OPERATOR {
		return invalid("abort for reason %v", r)
	}
	return errors.Join(checkProducer(c.GetProducerId(), c.GetProducerEpoch()),
		checkVersion(c.GetServerVersion()), checkFresh(c.GetFreshProducerId()))
}

func checkNote(c *statev1.NoteRefusal) error {
	switch {
	case c.GetTopic() == "" || len(c.GetTopic()) > MaxTopicLength || c.GetPartition() < 0:
		return invalid("refusal by partition %d of a topic with a name of %d bytes", c.GetPartition(), len(c.GetTopic()))
	case c.GetCode() == "" || len(c.GetCode()) > MaxTextLength:
		return invalid("refusal with a code of %d bytes", len(c.GetCode()))
	case c.GetExpectedSequence() < int32(record.NoSequence) || c.GetReceivedSequence() < int32(record.NoSequence):
		return invalid("sequences %d and %d", c.GetExpectedSequence(), c.GetReceivedSequence())
	}
	return checkProducer(c.GetProducerId(), c.GetProducerEpoch())
}

func checkExpire(c *statev1.ExpireTransactionalIds) error {
	if len(c.GetIds()) > MaxExpired {
		return invalid("%d ids at once, at most %d are allowed", len(c.GetIds()), MaxExpired)
	}
	for _, e := range c.GetIds() {
		if err := checkID(e.GetTransactionalId()); err != nil {
			return err
		}
	}
	return nil
}

func checkLimits(c *statev1.SetTransactionLimits) error {
	for _, n := range []uint32{c.GetMaxIds(), c.GetMaxPartitions(), c.GetMaxOpenPartitions()} {
		if n == 0 || n > math.MaxInt32 {
			return invalid("a limit of %d", n)
		}
	}
	return nil
}

func limitsOf(c *statev1.SetTransactionLimits) Limits {
	return Limits{MaxIDs: int(c.GetMaxIds()), MaxPartitions: int(c.GetMaxPartitions()), MaxOpenPartitions: int(c.GetMaxOpenPartitions())}
}

// LimitsToProto encodes limits.
func LimitsToProto(l Limits) *statev1.SetTransactionLimits {
	return &statev1.SetTransactionLimits{
		MaxIds: uint32(l.MaxIDs), MaxPartitions: uint32(l.MaxPartitions), MaxOpenPartitions: uint32(l.MaxOpenPartitions),
	}
}

// partitionsOf makes a plain list of what a command holds.
func partitionsOf(in []*statev1.TopicPartitions) []record.TopicPartition {
	var out []record.TopicPartition
	for _, tp := range in {
		for _, p := range tp.GetPartitions() {
			out = append(out, record.TopicPartition{Topic: tp.GetTopic(), Partition: p})
		}
	}
	return out
}

// PartitionsToProto groups partitions by topic, in the order that a command wants. The list is sorted on the way, and
// what is there twice goes once.
func PartitionsToProto(list []record.TopicPartition) []*statev1.TopicPartitions {
	list = slices.Clone(list)
	slices.SortFunc(list, comparePartitions)
	list = slices.Compact(list)
	var out []*statev1.TopicPartitions
	for _, tp := range list {
		if n := len(out); n == 0 || out[n-1].Topic != tp.Topic {
			out = append(out, &statev1.TopicPartitions{Topic: tp.Topic})
		}
		last := out[len(out)-1]
		last.Partitions = append(last.Partitions, tp.Partition)
	}
	return out
}
