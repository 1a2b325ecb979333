package api

import (
	"context"
	"sync"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// parallelLookUps is how many partitions of one ListOffsets are asked at once: each may wait for a
// quorum round.
const parallelLookUps = 16

// ListOffsets finds offsets by time and the ends of partitions (L16-L20).
func (s *service) ListOffsets(ctx context.Context, req *clientv1.ListOffsetsRequest) (*clientv1.ListOffsetsResponse, error) {
	committed, refusal := checkIsolation(req.IsolationLevel)
	if refusal == nil {
		refusal = checkRange("partitions", int64(len(req.Partitions)), 1, maxPartitions)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	times := make(map[record.TopicPartition]int, len(req.Partitions))
	for _, q := range req.Partitions {
		times[record.TopicPartition{Topic: q.GetTopic(), Partition: q.GetPartition()}]++
	}
	seen := s.topics(s.rights(ctx), acl.Describe)
	answer := &clientv1.ListOffsetsResponse{Partitions: make([]*clientv1.ListedOffset, len(req.Partitions))}
	var all sync.WaitGroup
	slots := make(chan struct{}, parallelLookUps)
	for i, q := range req.Partitions {
		tp, refusal := checkPartition(q.GetTopic(), q.GetPartition())
		if refusal == nil && times[tp] > 1 {
			refusal = refused(reasonInvalidRequest, "partitions", "1", "%s is named %d times in one request (L18)", tp, times[tp])
		}
		if refusal == nil && q.GetTimestampMs() < partition.TimestampMax {
			refusal = refused(reasonInvalidRequest, "timestamp_ms", "-3",
				"timestamp_ms is %d, want ms since 1970, -1 latest, -2 earliest or -3 largest timestamp", q.GetTimestampMs())
		}
		if refusal == nil {
			refusal = seen.refuse(tp.Topic)
		}
		if refusal != nil {
			answer.Partitions[i] = notListed(q, refusal)
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			defer func() {
				if r := recover(); r != nil {
					_ = s.panicked(clientv1.LogService_ListOffsets_FullMethodName, r) // logged and counted there
					answer.Partitions[i] = notListed(q, refused(reasonUnknown, "", "", "the broker failed on this request; see its log"))
				}
			}()
			found, err := s.c.Log.ListOffsets(ctx, tp, q.GetTimestampMs(), committed)
			if err != nil {
				answer.Partitions[i] = notListed(q, s.ofPartition(tp, err))
				return
			}
			answer.Partitions[i] = &clientv1.ListedOffset{Topic: tp.Topic, Partition: tp.Partition,
				Offset: int64(found.Offset), TimestampMs: found.Timestamp, LeaderEpoch: found.LeaderEpoch}
		})
	}
	all.Wait()
	return answer, nil
}

func notListed(q *clientv1.ListOffsetsPartition, e *clientv1.Error) *clientv1.ListedOffset {
	return &clientv1.ListedOffset{Topic: echo(q.GetTopic()), Partition: q.GetPartition(), Error: e, Offset: -1, TimestampMs: -1, LeaderEpoch: -1}
}
