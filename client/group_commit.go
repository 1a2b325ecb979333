package client

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// Offsets are how far a group has come: for each partition the next offset to be read.
type Offsets map[record.TopicPartition]record.Offset

// committer commits a group's offsets, one commit after the other, so that none is overtaken by an older one. What is asked for while
// one is under way goes out as the next one, together. Its methods may be called from many goroutines.
type committer struct {
	c           *Client
	coordinator *coordinator

	wg sync.WaitGroup

	mu     sync.Mutex // guards what follows
	next   []*commit  // one for each epoch of the member
	busy   bool
	closed bool
}

// commit is one commit, of whoever asked for it. by is the member as it was then: an epoch that it got later, with which partitions went to
// others, must not cover for it (G20).
type commit struct {
	by      GroupMember
	offsets Offsets
	done    []func(error)
}

// begin asks for a commit; done is called once, when it is known what came of it.
func (m *committer) begin(ctx context.Context, by GroupMember, offsets Offsets, done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		go done(refusal(ReasonClosed, "consumer is closed")) // not under mu
		return
	}
	if n := len(m.next); n == 0 || m.next[n-1].by != by {
		m.next = append(m.next, &commit{by: by, offsets: make(Offsets)})
	}
	last := m.next[len(m.next)-1]
	maps.Copy(last.offsets, offsets)
	last.done = append(last.done, done)
	if !m.busy {
		m.busy = true
		m.wg.Go(func() { m.run(ctx) }) // until nobody waits
	}
}

// close takes no more commits, and waits for those that were asked for. Their context has ended.
func (m *committer) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.wg.Wait()
}

// run commits until nobody waits. ctx ends with the consumer.
func (m *committer) run(ctx context.Context) {
	for {
		m.mu.Lock()
		if m.busy = len(m.next) > 0; !m.busy {
			m.mu.Unlock()
			return
		}
		c := m.next[0]
		m.next = slices.Delete(m.next, 0, 1)
		m.mu.Unlock()
		err := commitOffsets(ctx, m.c, m.coordinator, c.by, c.offsets)
		for _, done := range c.done {
			done(err)
		}
	}
}

// commitOffsets commits offsets of a group, for a member or, if its epoch is below 0, for nobody in particular.
func commitOffsets(ctx context.Context, c *Client, k *coordinator, by GroupMember, offsets Offsets) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	req := &clientv1.CommitOffsetsRequest{GroupId: by.GroupID, Committer: committerOf(by), Offsets: offsetsToProto(by, offsets)}
	var refused []*clientv1.RefusedOffset
	lost, err := k.do(ctx, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewGroupServiceClient(cc).CommitOffsets(ctx, req)
		refused = r.GetRefused()
		return err
	})
	if err != nil {
		if lost {
			err.Outcome = Unknown
		}
		return err
	}
	return asError(firstRefused(refused))
}

func committerOf(m GroupMember) *clientv1.Committer {
	if m.Epoch < 0 {
		return nil
	}
	return &clientv1.Committer{MemberId: m.MemberID, InstanceId: m.InstanceID, MemberEpoch: m.Epoch}
}

func offsetsToProto(by GroupMember, offsets Offsets) []*clientv1.OffsetToCommit {
	list := slices.Collect(maps.Keys(offsets))
	sortPartitions(list)
	out := make([]*clientv1.OffsetToCommit, len(list))
	for i, tp := range list {
		out[i] = &clientv1.OffsetToCommit{Topic: tp.Topic, Partition: tp.Partition, Offset: int64(offsets[tp]), TopicId: by.topicID(tp.Topic)}
	}
	return out
}

// firstRefused is the error of the first offset that was not committed.
func firstRefused(list []*clientv1.RefusedOffset) *Error {
	if len(list) == 0 {
		return nil
	}
	r := list[0]
	return fromProto(r.GetError()).at(record.TopicPartition{Topic: r.GetTopic(), Partition: r.GetPartition()})
}

// CommittedOffset is an offset that a group has committed.
type CommittedOffset struct {
	record.TopicPartition
	// Offset is the next one to be read; record.NoOffset: none is committed.
	Offset    record.Offset
	Metadata  string
	Committed time.Time
	// Unstable: an open transaction may yet change it, and it is not given.
	Unstable bool
}

// fetchOffsets asks for committed offsets; wanted nil: all that the group has. stable: those that a transaction may change are Unstable.
func fetchOffsets(ctx context.Context, k *coordinator, id string, wanted []record.TopicPartition, stable bool) ([]CommittedOffset, error) {
	req := &clientv1.FetchOffsetsRequest{GroupId: id, RequireStable: stable, Topics: topicPartitions(wanted)}
	var list []CommittedOffset
	_, err := k.do(ctx, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewGroupServiceClient(cc).FetchOffsets(ctx, req)
		if err != nil {
			return err
		}
		list = nil
		for _, o := range r.GetOffsets() {
			c := CommittedOffset{TopicPartition: record.TopicPartition{Topic: o.GetTopic(), Partition: o.GetPartition()},
				Offset: record.Offset(o.GetOffset()), Metadata: o.GetMetadata(), Unstable: o.GetUnstable()}
			if c.Offset >= 0 {
				c.Committed = time.UnixMilli(o.GetCommittedMs())
			} else {
				c.Offset = record.NoOffset
			}
			list = append(list, c)
		}
		return nil
	})
	slices.SortFunc(list, func(a, b CommittedOffset) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return list, asError(err)
}

func topicPartitions(list []record.TopicPartition) []*clientv1.TopicPartitions {
	sorted := slices.Clone(list)
	sortPartitions(sorted)
	var out []*clientv1.TopicPartitions
	for _, tp := range sorted {
		if n := len(out); n == 0 || out[n-1].Topic != tp.Topic {
			out = append(out, &clientv1.TopicPartitions{Topic: tp.Topic})
		}
		last := out[len(out)-1]
		last.Partitions = append(last.Partitions, tp.Partition)
	}
	return out
}
