package client

import (
	"context"
	"slices"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// Fetch long-polls, as brokers do.
func (b *fakeBroker) Fetch(ctx context.Context, req *clientv1.FetchRequest) (*clientv1.FetchResponse, error) {
	b.c.mu.Lock()
	for _, fp := range req.Partitions {
		if p := b.c.find(fp.Topic, fp.Partition); p != nil {
			p.fetches++
		}
	}
	b.c.mu.Unlock()
	deadline := time.After(time.Duration(req.MaxWaitMs) * time.Millisecond)
	committed := req.IsolationLevel == clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED
	for {
		b.host.wait()
		resp := &clientv1.FetchResponse{}
		b.c.mu.Lock()
		bytes, failed := 0, false
		var changed <-chan struct{}
		for _, fp := range req.Partitions {
			got, n, more := b.read(fp, committed, int(req.MaxBytes)-bytes)
			bytes += n
			failed = failed || got.Error != nil
			if more != nil && (changed == nil || len(req.Partitions) == 1) {
				changed = more
			}
			resp.Partitions = append(resp.Partitions, got)
		}
		b.c.mu.Unlock()
		if bytes >= int(req.MinBytes) || failed {
			return resp, nil
		}
		var poll <-chan time.Time
		if len(req.Partitions) > 1 {
			poll = time.After(5 * time.Millisecond) // cheaper than waiting for several
		}
		select {
		case <-changed:
		case <-poll:
		case <-deadline:
			return resp, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// read takes batches of one partition. Needs the cluster's lock.
func (b *fakeBroker) read(fp *clientv1.FetchPartition, committed bool, room int) (*clientv1.FetchedPartition, int, <-chan struct{}) {
	out := &clientv1.FetchedPartition{Topic: fp.Topic, Partition: fp.Partition, HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1}
	p := b.c.find(fp.Topic, fp.Partition)
	if p == nil {
		out.Error = &clientv1.Error{Reason: ReasonUnknownTopicOrPartition, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
		return out, 0, nil
	}
	if fp.TopicId != "" && fp.TopicId != b.c.topics[fp.Topic].id {
		out.Error = &clientv1.Error{Reason: ReasonUnknownTopicID, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: true}
		return out, 0, nil
	}
	if p.leader != b.id {
		out.Error = b.notLeader(p)
		return out, 0, nil
	}
	if fp.LeaderEpoch != nil && *fp.LeaderEpoch < p.epoch {
		out.Error = &clientv1.Error{Reason: ReasonFencedLeaderEpoch, Retriable: true, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
		return out, 0, nil
	}
	end, stable := p.log.end, p.log.end
	if p.stable >= 0 {
		stable = p.stable
	}
	out.HighWatermark, out.LastStableOffset, out.LogStartOffset = int64(end), int64(stable), int64(p.start)
	from := record.Offset(fp.Offset)
	if from < p.start || from > end {
		out.Error = &clientv1.Error{Reason: ReasonOffsetOutOfRange, Message: "log has other offsets", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
		return out, 0, nil
	}
	limit := end
	if committed {
		limit = stable
		out.Aborted = p.aborted
	}
	room = min(room, int(fp.MaxBytes))
	n := 0
	for _, batch := range p.batches {
		last := batch.BaseOffset() + record.Offset(batch.LastOffsetDelta())
		if last < from || last >= limit {
			continue
		}
		if n > 0 && n+len(batch) > room {
			break
		}
		out.Batches = append(out.Batches, slices.Clone(batch))
		n += len(batch)
	}
	return out, n, p.changed
}

func (b *fakeBroker) ListOffsets(ctx context.Context, req *clientv1.ListOffsetsRequest) (*clientv1.ListOffsetsResponse, error) {
	b.host.wait()
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	resp := &clientv1.ListOffsetsResponse{}
	for _, lp := range req.Partitions {
		out := &clientv1.ListedOffset{Topic: lp.Topic, Partition: lp.Partition, Offset: -1, TimestampMs: -1, LeaderEpoch: -1}
		resp.Partitions = append(resp.Partitions, out)
		p := b.c.find(lp.Topic, lp.Partition)
		switch {
		case p == nil:
			out.Error = &clientv1.Error{Reason: ReasonUnknownTopicOrPartition, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
			continue
		case p.leader != b.id:
			out.Error = b.notLeader(p)
			continue
		}
		out.LeaderEpoch = p.epoch
		switch lp.TimestampMs {
		case timestampLatest:
			out.Offset = int64(p.log.end)
			if req.IsolationLevel == clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED && p.stable >= 0 {
				out.Offset = int64(p.stable)
			}
		case timestampEarliest:
			out.Offset = int64(p.start)
		default:
			for _, batch := range p.batches {
				if f, ok, err := batch.FirstAtOrAfter(lp.TimestampMs, p.start, 0); err == nil && ok {
					out.Offset, out.TimestampMs = int64(f.Offset), f.Timestamp
					break
				}
			}
		}
	}
	return resp, nil
}
