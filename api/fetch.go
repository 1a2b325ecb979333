package api

import (
	"context"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// Defaults of a FetchRequest's zero fields, and what it may at most have back.
const (
	defaultFetchWaitMS         = 500
	defaultFetchMinBytes       = 1
	defaultFetchMaxBytes       = 50 << 20
	defaultFetchPartitionBytes = 1 << 20
	// maxDecodedBytes bounds what a decoded answer holds, as the records' keys, values and headers;
	// the first partition with records gives at least one. Decoding costs memory many times over.
	maxDecodedBytes = 8 << 20
)

// Fetch reads from partitions, waiting for data as asked. Stored bytes are sent bytes, unless
// records in proto form are wanted.
func (s *service) Fetch(ctx context.Context, req *clientv1.FetchRequest) (*clientv1.FetchResponse, error) {
	ask, refusal := s.fetchRequest(req)
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	if ask.MaxWait > 0 {
		var end context.CancelFunc
		ctx, end = s.untilStop(ctx)
		defer end()
	}
	read := s.topics(s.rights(ctx), acl.Read)
	answer := &clientv1.FetchResponse{Partitions: make([]*clientv1.FetchedPartition, len(req.Partitions))}
	known := ask.Partitions[:0:0]
	places := make([]int, 0, len(req.Partitions))
	for i, q := range req.Partitions {
		f, refusal := fetchPartition(q)
		if refusal == nil {
			refusal = read.refuse(f.Topic)
		}
		if refusal != nil {
			answer.Partitions[i] = refusedFetch(q, refusal)
			continue
		}
		known = append(known, f)
		places = append(places, i)
	}
	if len(known) < len(req.Partitions) {
		ask.MaxWait = 0 // there is something to tell
	}
	ask.Partitions = known
	if !s.asking.TryAdd(int64(len(known))) {
		return nil, s.failed(refused(reasonBusy, "partitions", "", "fetches under way on this broker name %d partitions, as many as it allows", s.asking.Limit()))
	}
	defer s.asking.Add(-int64(len(known)))
	count, counted := ctx.Value(countKey{}).(*answerCount)
	if counted {
		ask.Room = count
	}
	found := s.c.Log.Fetch(ctx, ask)
	read.Renew() // it may have waited
	for i, f := range found {
		if refusal := read.refuse(f.Topic); refusal != nil {
			answer.Partitions[places[i]] = refusedFetch(req.Partitions[places[i]], refusal)
			continue
		}
		answer.Partitions[places[i]] = s.fetched(f)
		s.metrics.fetchBytes.Add(float64(f.Bytes))
	}
	if counted && count.full {
		return nil, s.failed(refused(reasonBusy, "", "", "too many answers are on their way to clients; the limits are %s", s.fetching.Bounds("limits.fetch_bytes")))
	}
	if req.Decode {
		s.decode(answer, req, ask)
	}
	return answer, nil
}

// fetchRequest checks a request and fills in defaults; its partitions are left out.
func (s *service) fetchRequest(req *clientv1.FetchRequest) (partition.FetchRequest, *clientv1.Error) {
	none := partition.FetchRequest{}
	committed, refusal := checkIsolation(req.IsolationLevel)
	if refusal != nil {
		return none, refusal
	}
	for _, c := range []struct {
		field       string
		v           int64
		least, most int64
	}{
		{"partitions", int64(len(req.Partitions)), 1, maxPartitions},
		{"max_wait_ms", int64(req.MaxWaitMs), 0, maxFetchWaitMS},
		{"min_bytes", int64(req.MinBytes), 0, defaultFetchMaxBytes},
		{"max_bytes", int64(req.MaxBytes), 0, 1<<31 - 1},
	} {
		if refusal := checkRange(c.field, c.v, c.least, c.most); refusal != nil {
			return none, refusal
		}
	}
	f := partition.FetchRequest{
		MaxWait:   time.Duration(orDefault(req.MaxWaitMs, defaultFetchWaitMS)) * time.Millisecond,
		MinBytes:  int(orDefault(req.MinBytes, defaultFetchMinBytes)),
		MaxBytes:  min(int(orDefault(req.MaxBytes, defaultFetchMaxBytes)), defaultFetchMaxBytes),
		Committed: committed,
	}
	if req.Decode {
		f.MaxBytes = min(f.MaxBytes, maxDecodedBytes)
	}
	f.MinBytes = min(f.MinBytes, f.MaxBytes)
	return f, nil
}

// fetchPartition checks one partition of a request.
func fetchPartition(q *clientv1.FetchPartition) (partition.FetchPartition, *clientv1.Error) {
	tp, refusal := checkPartition(q.GetTopic(), q.GetPartition())
	if refusal == nil {
		refusal = checkRange("max_bytes", int64(q.GetMaxBytes()), 0, 1<<31-1)
	}
	var topic partition.TopicID
	if refusal == nil {
		topic, refusal = topicIDOf(q.GetTopicId())
	}
	if refusal != nil {
		return partition.FetchPartition{}, refusal
	}
	f := partition.FetchPartition{TopicPartition: tp, TopicID: topic, Offset: record.Offset(q.GetOffset()),
		MaxBytes: int(orDefault(q.GetMaxBytes(), defaultFetchPartitionBytes)), LeaderEpoch: -1}
	if q.LeaderEpoch != nil {
		f.LeaderEpoch = max(*q.LeaderEpoch, -1)
	}
	return f, nil
}

func orDefault(v, to int32) int32 {
	if v == 0 {
		return to
	}
	return v
}

// fetched turns one partition's answer into its wire form.
func (s *service) fetched(f partition.FetchedPartition) *clientv1.FetchedPartition {
	p := &clientv1.FetchedPartition{
		Topic: f.Topic, Partition: f.Partition, Batches: f.Batches,
		HighWatermark: int64(f.HighWatermark), LastStableOffset: int64(f.LastStable), LogStartOffset: int64(f.LogStart),
	}
	if f.Err != nil {
		p.Error = s.ofPartition(f.TopicPartition, f.Err)
	}
	for _, a := range f.Aborted {
		p.Aborted = append(p.Aborted, &clientv1.AbortedTransaction{ProducerId: int64(a.ProducerID), FirstOffset: int64(a.First)})
	}
	return p
}

// refusedFetch is the answer for a partition that no domain was asked about.
func refusedFetch(q *clientv1.FetchPartition, refusal *clientv1.Error) *clientv1.FetchedPartition {
	return &clientv1.FetchedPartition{Topic: echo(q.GetTopic()), Partition: q.GetPartition(), Error: refusal,
		HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1}
}
