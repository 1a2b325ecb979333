package coordinator

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// OffsetToCommit is one offset of a commit.
type OffsetToCommit struct {
	record.TopicPartition
	// TopicID is the topic that is meant; zero: whichever has the name.
	TopicID group.TopicID
	// Offset is the next one to be read. Any number is taken (G21).
	Offset record.Offset
	// LeaderEpoch is that of the last record before it, -1 if it is not known.
	LeaderEpoch int32
	// Metadata is whatever the committer wants to remember, up to 4,096 units of UTF-16.
	Metadata string
}

// RefusedOffset is an offset that was not committed, though others of its request were (G21).
type RefusedOffset struct {
	record.TopicPartition
	Code    Code
	Message string
	// Field that is at fault, and the limit it broke; empty: none.
	Field, Limit string
}

// CommitRequest commits offsets outside of transactions.
type CommitRequest struct {
	// Group may be empty (G21).
	Group string
	By    group.Committer
	// Offsets, at most group.MaxCommitted. If a partition is there twice, the last counts.
	Offsets []OffsetToCommit
	// Retention is how long the offsets are kept whatever the server's retention is; 0: the server decides.
	Retention time.Duration
	// BeforeKIP848: it came in a request that is older than that protocol, of which no member sends it.
	BeforeKIP848 bool
}

// CommitOffsets commits offsets (G19, G20). Offsets for partitions that do not exist, or with too much metadata, are refused one by one;
// all others are committed together or, with an error, not at all.
func (g *Groups) CommitOffsets(ctx context.Context, r CommitRequest) ([]RefusedOffset, error) {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	s, term, topics, refusals, err := g.commitTo(ctx, r.Group, r.By, r.Offsets)
	if err != nil {
		return nil, err
	}
	if err := g.mayCommit(ctx, s, r.Group, r.By, false); err != nil {
		return nil, err
	}
	if r.BeforeKIP848 {
		if err := g.refuseOldCommit(ctx, s, term, r); err != nil {
			return nil, err
		}
	}
	expire := group.NoExpiry
	if r.Retention > 0 {
		expire = g.host.nowMS() + r.Retention.Milliseconds()
	}
	_, err = g.execute(ctx, s, &statev1.GroupCommand{GroupId: r.Group, Command: &statev1.GroupCommand_Commit{Commit: &statev1.CommitOffsets{
		Committer: committerToProto(r.By), Topics: topics, ExpireMs: expire}}})
	return refusals, asError(err)
}

// commitTo checks a commit, and finds the shard that it is for. Where the group holds an offset of another topic by the same name, one of the two
// is gone; so it is where the topic that is meant is not known here. Which of them is gone is not guessed from metadata that may be old: the offset
// of the living one would be overwritten for the dead.
func (g *Groups) commitTo(ctx context.Context, id string, by group.Committer, list []OffsetToCommit) (*groupShard, record.Term, []*statev1.TopicOffsets, []RefusedOffset, *Error) {
	topics, refusals, err := g.offsetsToProto(id, by, list)
	if err != nil {
		return nil, 0, nil, nil, err
	}
	s, term, err := g.leading(ctx, id, true)
	if err != nil {
		return nil, 0, nil, nil, err
	}
	wanted := make([]group.Want, len(topics))
	for i, t := range topics {
		wanted[i] = group.Want{Topic: t.Topic, TopicID: group.TopicID(t.TopicId)}
		for _, p := range t.Partitions {
			wanted[i].Partitions = append(wanted[i].Partitions, p.Partition)
		}
	}
	doubtful := slices.ContainsFunc(refusals, func(r RefusedOffset) bool { return r.Code == CodeUnknownTopicID })
	s.machine.read(func(m *group.State) { doubtful = doubtful || m.OfAnotherTopic(id, wanted) })
	if doubtful {
		if err := g.confirmTopics(ctx, id); err != nil {
			return nil, 0, nil, nil, err
		}
		topics, refusals, err = g.offsetsToProto(id, by, list)
	}
	return s, term, topics, refusals, err
}

// confirmTopics has this broker hear of all topics that were made and deleted before the call.
func (g *Groups) confirmTopics(ctx context.Context, id string) *Error {
	if err := g.config.Topics.Confirm(ctx); err != nil {
		e := refused(CodeNotAvailable, "this coordinator cannot find out now whether topics of group %s were deleted", id)
		e.Cause = err
		return e
	}
	return nil
}

// refuseOldCommit refuses a commit whose request cannot tell a member of KIP-848 what it may have to hear (G20).
func (g *Groups) refuseOldCommit(ctx context.Context, s *groupShard, term record.Term, r CommitRequest) error {
	member := false
	s.machine.read(func(m *group.State) { member = m.Member(r.Group, r.By.MemberID) != nil })
	if !member {
		return nil
	}
	if err := s.confirm(ctx, term); err != nil {
		return err
	}
	return refused(CodeUnsupportedVersion, "member %q of group %q speaks the protocol of KIP-848, which commits by OffsetCommit from version 9 on", r.By.MemberID, r.Group)
}

func committerToProto(c group.Committer) *statev1.Committer {
	return &statev1.Committer{MemberId: c.MemberID, InstanceId: c.InstanceID, Epoch: c.Epoch}
}

// offsetsToProto checks a commit and sorts it.
func (g *Groups) offsetsToProto(id string, by group.Committer, list []OffsetToCommit) ([]*statev1.TopicOffsets, []RefusedOffset, *Error) {
	if err := checkGroup(id, by.MemberID, by.InstanceID); err != nil {
		return nil, nil, err
	}
	if len(list) > group.MaxCommitted {
		return nil, nil, badField(CodeInvalidRequest, "offsets", strconv.Itoa(group.MaxCommitted), "%d offsets in one commit; at most %d are allowed", len(list), group.MaxCommitted)
	}
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b OffsetToCommit) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	var topics []*statev1.TopicOffsets
	var refusals []RefusedOffset
	for i, o := range sorted {
		if i+1 < len(sorted) && sorted[i+1].TopicPartition == o.TopicPartition {
			continue
		}
		topic, refusal := g.checkOffset(&o)
		if refusal != nil {
			refusals = append(refusals, *refusal)
			continue
		}
		if n := len(topics); n == 0 || topics[n-1].Topic != o.Topic {
			topics = append(topics, &statev1.TopicOffsets{Topic: o.Topic, TopicId: topic.ID[:]})
		}
		last := topics[len(topics)-1]
		last.Partitions = append(last.Partitions, &statev1.PartitionOffset{
			Partition: o.Partition, Offset: int64(o.Offset), LeaderEpoch: max(o.LeaderEpoch, -1), Metadata: o.Metadata})
	}
	return topics, refusals, nil
}

func (g *Groups) checkOffset(o *OffsetToCommit) (Topic, *RefusedOffset) {
	topic, ok := g.config.Topics.Topic(o.Topic)
	switch units := group.MetadataUnits(o.Metadata); {
	case !ok || o.Partition < 0 || o.Partition >= topic.Partitions:
		return topic, &RefusedOffset{TopicPartition: o.TopicPartition, Code: CodeUnknownTopicOrPartition, Message: "there is no partition " + o.TopicPartition.String(), Field: "topic, partition"}
	case o.TopicID != (group.TopicID{}) && o.TopicID != topic.ID:
		return topic, &RefusedOffset{TopicPartition: o.TopicPartition, Code: CodeUnknownTopicID, Field: "topic_id",
			Message: "topic " + o.Topic + " is not the one that was meant: that was deleted, and its offsets are none of this one"}
	case units > group.MaxMetadataUnits || !utf8.ValidString(o.Metadata):
		limit := strconv.Itoa(group.MaxMetadataUnits) + " units of UTF-16"
		return topic, &RefusedOffset{TopicPartition: o.TopicPartition, Code: CodeOffsetMetadataTooLarge, Field: "metadata", Limit: limit,
			Message: "the metadata of " + o.TopicPartition.String() + " has " + strconv.Itoa(units) + " units, or is not UTF-8; at most " + limit + " are allowed"}
	}
	return topic, nil
}

// checkGroup refuses what no ids of groups and members can be. All of them may be empty.
func checkGroup(id, member, instance string) *Error {
	for _, f := range [...]struct{ field, value string }{{"group_id", id}, {"member_id", member}, {"instance_id", instance}} {
		switch {
		case len(f.value) > group.MaxIDLength:
			limit := strconv.Itoa(group.MaxIDLength) + " bytes"
			return badField(CodeInvalidRequest, f.field, limit, "%s has %d bytes; at most %s are allowed", f.field, len(f.value), limit)
		case !utf8.ValidString(f.value):
			return badField(CodeInvalidRequest, f.field, "", "%s is not UTF-8", f.field)
		}
	}
	return nil
}

// FetchRequest asks for committed offsets.
type FetchRequest struct {
	Group string
	// By is checked if it names a member or an epoch (G20).
	By group.Committer
	// Topics are what is wanted; nil: all that the group has.
	Topics []WantedTopic
	// RequireStable: an offset that an open transaction may yet change is not given, but said to be unstable (G26).
	RequireStable bool
}

// WantedTopic names partitions of one topic.
type WantedTopic struct {
	Topic      string
	Partitions []int32
}

// maxWanted bounds the partitions of one fetch.
const maxWanted = 100_000

// Distinct leaves out partitions that are named again. Four bytes name one, and the metadata of its offset has kilobytes.
func Distinct(topics []WantedTopic) []WantedTopic {
	named := make(map[record.TopicPartition]bool)
	var out []WantedTopic
	for _, w := range topics {
		fresh := WantedTopic{Topic: w.Topic}
		for _, p := range w.Partitions {
			if tp := (record.TopicPartition{Topic: w.Topic, Partition: p}); !named[tp] {
				named[tp] = true
				fresh.Partitions = append(fresh.Partitions, p)
			}
		}
		if len(fresh.Partitions) > 0 {
			out = append(out, fresh)
		}
	}
	return out
}

// FetchOffsets gives committed offsets, in the order of the question, of each partition once; all of a group by topic and partition. A group or
// an offset that does not exist is not found, which is no error (G27).
func (g *Groups) FetchOffsets(ctx context.Context, r FetchRequest) ([]group.Fetched, error) {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	if err := checkGroup(r.Group, r.By.MemberID, r.By.InstanceID); err != nil {
		return nil, err
	}
	n := 0
	for _, w := range r.Topics {
		if n += len(w.Partitions); n > maxWanted {
			return nil, badField(CodeInvalidRequest, "topics", strconv.Itoa(maxWanted), "more than %d partitions are asked for", maxWanted)
		}
	}
	s, term, err := g.leading(ctx, r.Group, true)
	if err != nil {
		return nil, err
	}
	found, code, sure := g.lookUp(s, &r)
	if !sure {
		// "No offset" makes a consumer start over: it is not said on metadata that may be old.
		if err := g.confirmTopics(ctx, r.Group); err != nil {
			return nil, err
		}
		found, code, _ = g.lookUp(s, &r)
	}
	if err := s.confirm(ctx, term); err != nil {
		return nil, err
	}
	return found, asError(groupAnswer(r.Group, group.Result{Code: code}))
}

// lookUp reads committed offsets. It is not sure where what the group holds does not fit the topics that this broker has heard of.
func (g *Groups) lookUp(s *groupShard, r *FetchRequest) (found []group.Fetched, code group.Code, sure bool) {
	wanted := make([]group.Want, 0, len(r.Topics))
	for _, w := range Distinct(r.Topics) {
		topic, ok := g.config.Topics.Topic(w.Topic)
		if !ok {
			topic.ID = group.TopicID{} // which no topic has
		}
		wanted = append(wanted, group.Want{Topic: w.Topic, TopicID: topic.ID, Partitions: w.Partitions})
	}
	sure = true
	s.machine.read(func(m *group.State) {
		switch code = m.MayFetch(r.Group, r.By); {
		case code != group.OK:
		case r.Topics == nil:
			found = m.FetchAll(r.Group, r.RequireStable)
		default:
			found = m.Fetch(r.Group, wanted, r.RequireStable)
			sure = !m.OfAnotherTopic(r.Group, wanted)
		}
	})
	if r.Topics == nil {
		n := len(found)
		found = slices.DeleteFunc(found, g.isOfOldTopic)
		sure = len(found) == n
	}
	return found, code, sure
}

// isOfOldTopic: the topic was deleted, and another one has its name now (G27).
func (g *Groups) isOfOldTopic(f group.Fetched) bool {
	topic, ok := g.config.Topics.Topic(f.Topic)
	return ok && f.Found && topic.ID != f.Offset.TopicID
}

// TransactionalCommit commits offsets that count when the producer's transaction is committed (G22 to G24).
type TransactionalCommit struct {
	TransactionalID string
	Producer        Producer
	// Group must not be empty.
	Group string
	// By says for whom the producer works; nothing of it: nobody in particular, and no member fences it (G22).
	By      group.Committer
	Offsets []OffsetToCommit
	// Version is the client's transaction version, 1 or 2. Under 2 the group joins the transaction by this (T15).
	Version int8
}

// CommitInTransaction keeps offsets until the end of the producer's transaction. The transaction's coordinator is asked first, unless the
// transaction is known to be open here (T9).
func (g *Groups) CommitInTransaction(ctx context.Context, r TransactionalCommit) ([]RefusedOffset, error) {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	err := checkID(r.TransactionalID)
	if err == nil && r.Group == "" {
		err = badField(CodeInvalidGroupID, "group_id", "1 to 1024 bytes", "offsets are committed in a transaction for a group without a name (G22)")
	}
	if err != nil {
		return nil, err
	}
	s, term, topics, refusals, err := g.commitTo(ctx, r.Group, r.By, r.Offsets)
	if err != nil {
		return nil, err
	}
	if err := g.mayCommit(ctx, s, r.Group, r.By, true); err != nil {
		return nil, err
	}
	if r.Producer.unheardOf() {
		return nil, g.refuseStranger(ctx, s, r)
	}
	cmd := &statev1.CommitOffsetsInTransaction{
		Committer: committerToProto(r.By), Topics: topics, ProducerId: int64(r.Producer.ID), ProducerEpoch: int32(r.Producer.Epoch), Verified: true,
	}
	c := &statev1.GroupCommand{GroupId: r.Group, Command: &statev1.GroupCommand_CommitInTransaction{CommitInTransaction: cmd}}
	var open bool
	var seen group.Result
	s.machine.read(func(m *group.State) {
		open, cmd.KnownMarker = m.HasOpen(r.Producer.ID, r.Producer.Epoch), m.LastMarker(r.Producer.ID)
		seen = m.Check(g.host.nowMS(), c)
	})
	switch {
	case !seen.Changed: // nothing to write, or nothing that may be written
		if err := s.confirm(ctx, term); err != nil {
			return nil, err
		}
		g.metrics.answered(c, seen)
		return refusals, asError(groupAnswer(r.Group, seen))
	case open:
		cmd.Verified = false
	default:
		if err := g.join(ctx, s, r); err != nil {
			return nil, err
		}
	}
	_, err = g.execute(ctx, s, c)
	return refusals, asError(err)
}

// join asks the transaction's coordinator. Its refusal is told as it is, but for the producer's epoch (T11); the commit did not
// happen, whatever became of the question.
func (g *Groups) join(ctx context.Context, s *groupShard, r TransactionalCommit) *Error {
	err := g.config.Transactions.JoinTransaction(ctx, Joining{TopicPartition: s.partition(), TransactionalID: r.TransactionalID, Producer: r.Producer, Version: r.Version})
	if err == nil {
		return nil
	}
	e := errorOf(err)
	told := *e
	told.Outcome, told.Coordinator = raftgroup.DidNotHappen, nil
	if e.Code == CodeProducerFenced {
		told.Code = CodeInvalidProducerEpoch
	}
	return &told
}

// refuseStranger says why a producer that nobody can have commits nothing: the transaction is not its own, or its epoch is not the present
// one. Questions to the coordinator do not carry such an epoch; the first one that there is serves as well, and to ask changes nothing
// under version 1.
func (g *Groups) refuseStranger(ctx context.Context, s *groupShard, r TransactionalCommit) *Error {
	if r.Producer.ID < 0 {
		return refused(CodeInvalidProducerIDMapping, "producer id %d is nobody's", r.Producer.ID)
	}
	r.Producer.Epoch, r.Version = 0, 1
	err := g.join(ctx, s, r)
	if err == nil || err.Code == CodeConcurrentTransactions || err.Code == CodeTransactionAbortable {
		err = refused(CodeInvalidProducerEpoch, "a negative epoch is no producer's")
	}
	return err
}

// WriteMarkers ends transactions in shards of groups that this broker leads, and says of each whether it did: nil, or an *Error (G25). When it
// returns without an error, the offsets are there for everyone (T28).
func (g *Groups) WriteMarkers(ctx context.Context, markers []Marker) []error {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	errs := make([]error, len(markers))
	for i, m := range markers {
		errs[i] = asError(g.writeMarker(ctx, m))
	}
	return errs
}

func (g *Groups) writeMarker(ctx context.Context, m Marker) *Error {
	s := g.host.find(KindGroups, m.Partition)
	if s == nil {
		return location{kind: KindGroups, Number: m.Partition, host: g.host}.elsewhere()
	}
	gs := g.shardOf(s)
	if gs == nil {
		return location{kind: KindGroups, Number: m.Partition, host: g.host}.elsewhere()
	}
	if m.Operator {
		var epoch record.Epoch
		var coordinatorEpoch int32
		gs.machine.read(func(s *group.State) { epoch, coordinatorEpoch = s.ProducerEpochs(m.ProducerID) })
		highest := int32(epoch)
		if m.Version >= 2 {
			highest++ // the end raises it
		}
		switch {
		case int32(m.Epoch) > highest:
			return refused(CodeInvalidProducerEpoch, "producer %d has epoch %d at %s, and no marker can have epoch %d (P20)", m.ProducerID, epoch, m.TopicPartition, m.Epoch)
		case m.CoordinatorEpoch > max(coordinatorEpoch, 0):
			return refused(CodeCoordinatorFenced, "producer %d: the latest coordinator at %s has epoch %d, and none has %d (P21)", m.ProducerID, m.TopicPartition, coordinatorEpoch, m.CoordinatorEpoch)
		}
	}
	_, err := g.execute(ctx, gs, &statev1.GroupCommand{Command: &statev1.GroupCommand_EndTransaction{EndTransaction: &statev1.EndTransactionOfOffsets{
		ProducerId: int64(m.ProducerID), ProducerEpoch: int32(m.Epoch), CoordinatorEpoch: m.CoordinatorEpoch, Commit: g.host.config.Sabotage.commits(m), Version: uint32(m.Version)}}})
	return err
}
