package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// ListedOffset is the answer to one look-up.
type ListedOffset struct {
	// Offset is record.NoOffset where there is no such record.
	Offset record.Offset
	// Timestamp of that record in ms since 1970, -1 for the ends.
	Timestamp   int64
	LeaderEpoch int32
	// Err is set where the partition's leader refused.
	Err error
}

// ListOffsets looks positions up, each at the leader of its partition. Positions made by At are
// refused: they are offsets already. With ReadCommitted the end is the last stable offset.
func (c *Client) ListOffsets(ctx context.Context, isolation Isolation, at map[record.TopicPartition]Position) (map[record.TopicPartition]ListedOffset, error) {
	level := clientv1.IsolationLevel_ISOLATION_LEVEL_READ_UNCOMMITTED
	if isolation == ReadCommitted {
		level = clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED
	}
	var mu sync.Mutex
	got := make(map[record.TopicPartition]ListedOffset, len(at))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for tp, pos := range at {
		if pos.kind == atOffset {
			return nil, invalid("Position", "is an offset; there is nothing to look up").at(tp)
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			l := c.listOne(ctx, level, tp, pos)
			mu.Lock()
			defer mu.Unlock()
			got[tp] = l
		})
	}
	wg.Wait()
	return got, nil
}

func (c *Client) listOne(ctx context.Context, level clientv1.IsolationLevel, tp record.TopicPartition, pos Position) ListedOffset {
	out := ListedOffset{Offset: record.NoOffset, Timestamp: -1, LeaderEpoch: -1}
	out.Err = c.atLeader(ctx, tp, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewLogServiceClient(cc).ListOffsets(ctx, &clientv1.ListOffsetsRequest{
			IsolationLevel: level,
			Partitions:     []*clientv1.ListOffsetsPartition{{Topic: tp.Topic, Partition: tp.Partition, TimestampMs: pos.timestamp()}},
		})
		if err != nil {
			return err
		}
		for _, l := range r.GetPartitions() {
			if e := fromProto(l.GetError()); e != nil {
				return e
			}
			out.Offset, out.Timestamp, out.LeaderEpoch = record.Offset(l.GetOffset()), l.GetTimestampMs(), l.GetLeaderEpoch()
		}
		return nil
	})
	return out
}

// DeleteRecords deletes the records of a partition below an offset, and gives the log start that
// holds then; record.NoOffset: all records that can be read. An offset below the log start changes
// nothing, so doing it again does no harm. Disk space is freed later, in whole segments.
//
// Errors: OFFSET_OUT_OF_RANGE beyond the high watermark, POLICY_VIOLATION where the topic is only
// compacted; outcome Unknown when the answer was lost.
func (c *Client) DeleteRecords(ctx context.Context, tp record.TopicPartition, before record.Offset) (record.Offset, error) {
	start := record.NoOffset
	err := c.atLeader(ctx, tp, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewAdminServiceClient(cc).DeleteRecords(ctx, &clientv1.DeleteRecordsRequest{
			Topic: tp.Topic, Partition: tp.Partition, BeforeOffset: (*int64)(&before)})
		start = record.Offset(r.GetLogStartOffset())
		return err
	})
	if err != nil {
		return record.NoOffset, err
	}
	return start, nil
}

// ProducerState is what a partition remembers of a producer.
type ProducerState struct {
	ID    record.ProducerID
	Epoch record.Epoch
	// LastSequence is -1 where only a marker is known.
	LastSequence record.Sequence
	// LastTimestamp in ms since 1970.
	LastTimestamp int64
	// CoordinatorEpoch of the last marker, -1: none.
	CoordinatorEpoch int32
	// TxnStart is where the open transaction begins; record.NoOffset: none is open.
	TxnStart record.Offset
	// Batches are the last five, oldest first: a retry of one of them is recognised.
	Batches []ProducerBatch
	// Refused is the first batch of this epoch that the partition's leader refused since it leads; nil: none.
	Refused *TransactionEvent
}

// ProducerBatch is one batch of the window.
type ProducerBatch struct {
	BaseSequence, LastSequence record.Sequence
	BaseOffset, LastOffset     record.Offset
	Timestamp                  int64
}

// DescribeProducers shows what a partition's leader remembers of these producers, or of all.
// truncated: there are more than it gave.
func (c *Client) DescribeProducers(ctx context.Context, tp record.TopicPartition, ids ...record.ProducerID) (states []ProducerState, truncated bool, err error) {
	req := &clientv1.DescribeProducersRequest{Topic: tp.Topic, Partition: tp.Partition}
	for _, id := range ids {
		req.ProducerIds = append(req.ProducerIds, int64(id))
	}
	var resp *clientv1.DescribeProducersResponse
	err = c.atLeader(ctx, tp, func(ctx context.Context, cc *grpc.ClientConn) error {
		var err error
		resp, err = clientv1.NewLogServiceClient(cc).DescribeProducers(ctx, req)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	for _, p := range resp.GetProducers() {
		s := ProducerState{
			ID: record.ProducerID(p.GetProducerId()), Epoch: record.Epoch(p.GetProducerEpoch()), LastSequence: record.Sequence(p.GetLastSequence()),
			LastTimestamp: p.GetLastTimestampMs(), CoordinatorEpoch: p.GetCoordinatorEpoch(), TxnStart: record.Offset(p.GetTxnStartOffset()),
		}
		if p.GetFirstRefused() != nil {
			e := eventOf(p.GetFirstRefused())
			s.Refused = &e
		}
		for _, b := range p.GetBatches() {
			s.Batches = append(s.Batches, ProducerBatch{
				BaseSequence: record.Sequence(b.GetBaseSequence()), LastSequence: record.Sequence(b.GetLastSequence()),
				BaseOffset: record.Offset(b.GetBaseOffset()), LastOffset: record.Offset(b.GetLastOffset()), Timestamp: b.GetTimestampMs(),
			})
		}
		states = append(states, s)
	}
	return states, resp.GetTruncated(), nil
}

// TransferLeadership asks a partition's leader to hand over to a broker, or with -1 to any. It
// returns when the leader has done so; metadata may take a moment to show it.
func (c *Client) TransferLeadership(ctx context.Context, tp record.TopicPartition, to int32) error {
	return c.atLeader(ctx, tp, func(ctx context.Context, cc *grpc.ClientConn) error {
		_, err := clientv1.NewAdminServiceClient(cc).TransferLeadership(ctx, &clientv1.TransferLeadershipRequest{
			Topic: tp.Topic, Partition: tp.Partition, ToBroker: &to,
		})
		return err
	})
}

// RaftGroup is one broker's view of a Raft group.
type RaftGroup struct {
	// Broker is who answered.
	Broker  int32
	GroupID uint64
	// Name is "metadata" or "topic/partition".
	Name string
	// Role: leader, follower, candidate, learner, stopped or quarantined.
	Role                                                            string
	Term                                                            uint64
	CommitIndex, AppliedIndex, FirstIndex, LastIndex, SnapshotIndex record.Index
	// Leader is "broker/incarnation"; empty: unknown.
	Leader           string
	Voters, Learners []string
	Ready            bool
	LogStart         record.Offset
	HighWatermark    record.Offset
	LastStable       record.Offset
	LogBytes         int64
	Producers        uint32
	// Problem says why a replica stopped or is quarantined.
	Problem string
	// Compaction is nil for a log that is not compacted.
	Compaction *Compaction
}

// Compaction is how far a replica's log is compacted.
type Compaction struct {
	// Agreed is below which it is to be, Horizon below which tombstones and transaction markers go, Compacted how far
	// this replica is.
	Agreed, Horizon, Compacted record.Offset
	// CleanBytes are compacted, DirtyBytes could be. At DirtyRatio of the latter the next pass is agreed; Due: it will be at the
	// leader's next look.
	CleanBytes, DirtyBytes int64
	DirtyRatio             float64
	Due                    bool
	// Done: this replica has done what was agreed.
	Done bool
	// Running: a pass is under way, and has read so many of about Total bytes.
	Running     bool
	Read, Total int64
	// LastEnded is when the last pass since the replica was opened ended, zero for none, LastTook how long it took;
	// it made LastWritten bytes of LastRead.
	LastEnded             time.Time
	LastTook              time.Duration
	LastRead, LastWritten int64
}

func compactionFromProto(p *clientv1.Compaction) *Compaction {
	if p == nil {
		return nil
	}
	c := &Compaction{Agreed: record.Offset(p.GetAgreedOffset()), Horizon: record.Offset(p.GetHorizonOffset()), Compacted: record.Offset(p.GetCompactedOffset()),
		CleanBytes: p.GetCleanBytes(), DirtyBytes: p.GetDirtyBytes(), DirtyRatio: p.GetDirtyRatio(), Due: p.GetDue(), Done: p.GetDone(),
		Running: p.GetRunning(), Read: p.GetReadBytes(), Total: p.GetTotalBytes()}
	if ms := p.GetLastEndedMs(); ms != 0 {
		c.LastEnded, c.LastTook = time.UnixMilli(ms), time.Duration(p.GetLastTookMs())*time.Millisecond
		c.LastRead, c.LastWritten = p.GetLastReadBytes(), p.GetLastWrittenBytes()
	}
	return c
}

// BrokerError is the failure of one broker out of several that were asked.
type BrokerError struct {
	Broker  int32
	Address string
	Err     error
}

// RaftGroups asks every broker for its Raft groups: all, or those of one topic. Brokers that do
// not answer are in failed. The error is that not even the list of brokers could be had.
func (c *Client) RaftGroups(ctx context.Context, topic string) (groups []RaftGroup, failed []BrokerError, err error) {
	var mu sync.Mutex
	failed, err = c.eachBroker(ctx, func(ctx context.Context, b Broker, cc *grpc.ClientConn) error {
		r, err := clientv1.NewAdminServiceClient(cc).ListRaftGroups(ctx, &clientv1.ListRaftGroupsRequest{Topic: topic})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, g := range r.GetGroups() {
			groups = append(groups, RaftGroup{
				Broker: b.ID, GroupID: g.GetGroupId(), Name: g.GetName(), Role: g.GetRole(), Term: g.GetTerm(),
				CommitIndex: record.Index(g.GetCommitIndex()), AppliedIndex: record.Index(g.GetAppliedIndex()),
				FirstIndex: record.Index(g.GetFirstIndex()), LastIndex: record.Index(g.GetLastIndex()), SnapshotIndex: record.Index(g.GetSnapshotIndex()),
				Leader: g.GetLeader(), Voters: g.GetVoters(), Learners: g.GetLearners(), Ready: g.GetReady(),
				LogStart: record.Offset(g.GetLogStartOffset()), HighWatermark: record.Offset(g.GetHighWatermark()),
				LastStable: record.Offset(g.GetLastStableOffset()), LogBytes: g.GetLogBytes(), Producers: g.GetProducers(), Problem: g.GetProblem(),
				Compaction: compactionFromProto(g.GetCompaction()),
			})
		}
		return nil
	})
	slices.SortFunc(groups, func(a, b RaftGroup) int {
		if a.GroupID != b.GroupID {
			return int(int64(a.GroupID) - int64(b.GroupID))
		}
		return int(a.Broker - b.Broker)
	})
	return groups, failed, err
}

// Checksum covers the stored records of one replica.
type Checksum struct {
	Broker int32
	// From and UpTo, exclusive, are the offsets that it covers.
	From, UpTo record.Offset
	CRC32C     uint32
	Batches    int64
}

// Checksums asks every replica of a partition for a checksum over its records up to an offset,
// exclusive; record.NoOffset: what each has. Replicas that agree on From and UpTo and differ in
// CRC32C hold different records.
func (c *Client) Checksums(ctx context.Context, tp record.TopicPartition, upTo record.Offset) (sums []Checksum, failed []BrokerError, err error) {
	m, err := c.Metadata(ctx, tp.Topic)
	if err != nil {
		return nil, nil, err
	}
	replicas, err := replicasOf(m, tp)
	if err != nil {
		return nil, nil, err
	}
	req := &clientv1.GetChecksumsRequest{Topic: tp.Topic, Partition: tp.Partition}
	if upTo >= 0 {
		req.UpTo = (*int64)(&upTo)
	}
	var mu sync.Mutex
	failed, err = c.eachBroker(ctx, func(ctx context.Context, b Broker, cc *grpc.ClientConn) error {
		if !slices.Contains(replicas, b.ID) {
			return nil
		}
		r, err := clientv1.NewAdminServiceClient(cc).GetChecksums(ctx, req)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		sums = append(sums, Checksum{Broker: b.ID, From: record.Offset(r.GetFrom()), UpTo: record.Offset(r.GetUpTo()), CRC32C: r.GetCrc32C(), Batches: r.GetBatches()})
		return nil
	})
	slices.SortFunc(sums, func(a, b Checksum) int { return int(a.Broker - b.Broker) })
	return sums, failed, err
}

func replicasOf(m Metadata, tp record.TopicPartition) ([]int32, error) {
	for _, t := range m.Topics {
		if t.Name != tp.Topic {
			continue
		}
		if t.Err != nil {
			return nil, t.Err
		}
		for _, p := range t.Partitions {
			if p.Partition == tp.Partition {
				return p.Replicas, nil
			}
		}
	}
	return nil, refusal(ReasonUnknownTopicOrPartition, "no such partition").at(tp)
}

// eachBroker asks every broker at once.
func (c *Client) eachBroker(ctx context.Context, call func(context.Context, Broker, *grpc.ClientConn) error) ([]BrokerError, error) {
	m, err := c.Metadata(ctx, noTopics...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.bounded(ctx, 0)
	defer cancel()
	var mu sync.Mutex
	var failed []BrokerError
	var wg sync.WaitGroup
	for _, b := range m.Brokers {
		wg.Go(func() {
			var err error
			if b.Address == "" {
				err = refusal(ReasonNetwork, "the broker advertises no gRPC address")
			} else if other := inPlaceOf(b, m.Brokers); other >= 0 {
				err = refusal(ReasonNetwork, "it is gone, and its address is that of broker %d", other)
			} else if cc, getErr := c.conns.get(b.Address); getErr != nil {
				err = getErr
			} else if err = call(ctx, b, cc); err != nil {
				err = fromCall(err, b.Address)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, BrokerError{Broker: b.ID, Address: b.Address, Err: err})
			}
		})
	}
	wg.Wait()
	slices.SortFunc(failed, func(a, b BrokerError) int { return int(a.Broker - b.Broker) })
	for _, f := range failed { // who may not ask one broker may ask none: that says nothing of how they are
		if e := (*Error)(nil); errors.As(f.Err, &e) && strings.HasSuffix(e.Reason, "_AUTHORIZATION_FAILED") {
			return nil, f.Err
		}
	}
	return failed, nil
}

// inPlaceOf gives the broker that lives where a dead one was, and would answer in its name; -1: there is none.
func inPlaceOf(b Broker, all []Broker) int32 {
	i := slices.IndexFunc(all, func(o Broker) bool { return o.ID != b.ID && o.Address == b.Address && o.Alive })
	if b.Alive || i < 0 {
		return -1
	}
	return all[i].ID
}

// WaitReady waits until every partition of a topic has a leader that answers.
func (c *Client) WaitReady(ctx context.Context, topic string) error {
	for n := 1; ; n++ {
		err := c.ready(ctx, topic)
		if err == nil {
			return nil
		}
		if !sleep(ctx, c.backoff(min(n, 2))) {
			e := canceled(ctx, NotWritten, "waiting until topic "+topic+" is ready")
			e.Message += "; last: " + err.Error()
			return e
		}
	}
}

func (c *Client) ready(ctx context.Context, topic string) error {
	m, err := c.Metadata(ctx, topic)
	if err != nil {
		return err
	}
	if len(m.Topics) != 1 || m.Topics[0].Err != nil || len(m.Topics[0].Partitions) == 0 {
		return refusal(ReasonUnknownTopicOrPartition, "topic %s is not there yet", topic)
	}
	addrs := make(map[int32]string, len(m.Brokers))
	for _, b := range m.Brokers {
		addrs[b.ID] = b.Address
	}
	ask := make(map[string]*clientv1.ListOffsetsRequest)
	for _, p := range m.Topics[0].Partitions {
		addr := addrs[p.Leader]
		if p.Leader < 0 || addr == "" {
			return refusal(ReasonLeaderNotAvailable, "no leader").at(record.TopicPartition{Topic: topic, Partition: p.Partition})
		}
		if ask[addr] == nil {
			ask[addr] = &clientv1.ListOffsetsRequest{}
		}
		ask[addr].Partitions = append(ask[addr].Partitions, &clientv1.ListOffsetsPartition{Topic: topic, Partition: p.Partition, TimestampMs: timestampEarliest})
	}
	ctx, cancel := c.bounded(ctx, 0)
	defer cancel()
	for addr, req := range ask {
		log, _, err := c.conns.log(addr)
		if err != nil {
			return err
		}
		r, err := log.ListOffsets(ctx, req)
		if err != nil {
			return fromCall(err, addr)
		}
		for _, l := range r.GetPartitions() {
			if e := fromProto(l.GetError()); e != nil {
				return e.at(record.TopicPartition{Topic: topic, Partition: l.GetPartition()})
			}
		}
	}
	return nil
}

// fromEvery asks every broker the same, again while that is worth it, and gives the answers in the order of
// the brokers. One that does not answer makes it fail: what it knows would be missing.
func fromEvery[R any](ctx context.Context, c *Client, ask func(context.Context, *grpc.ClientConn) (R, error)) ([]R, error) {
	m, err := c.Metadata(ctx, noTopics...)
	if err != nil {
		return nil, err
	}
	answers, errs := make([]R, len(m.Brokers)), make([]error, len(m.Brokers))
	var wg sync.WaitGroup
	for i, b := range m.Brokers {
		wg.Go(func() { answers[i], errs[i] = atBroker(ctx, c, b.Address, ask) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

func atBroker[R any](ctx context.Context, c *Client, addr string, ask func(context.Context, *grpc.ClientConn) (R, error)) (answer R, _ error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	for failures := 1; ; failures++ {
		cc, err := c.conns.get(addr)
		if err != nil {
			return answer, err
		}
		if answer, err = ask(ctx, cc); err == nil {
			return answer, nil
		}
		e := fromCall(err, addr)
		if !e.Retriable || !sleep(ctx, c.backoff(failures)) {
			return answer, e
		}
	}
}
