package parity

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetch asks for one partition and tells the code, the marks and how many bytes came.
func (s *scene) fetch(addr, topic string, version int16, change func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition)) string {
	s.t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = version, -1, 100, 0, 1<<20, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.PartitionMaxBytes, p.CurrentLeaderEpoch = 1<<20, -1
	if change != nil {
		change(req, &p)
	}
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.Partitions = topic, []kmsg.FetchRequestTopicPartition{p}
	if version >= 13 {
		if m := s.metadata(s.seeds[0], topic); m.Topics[0].ErrorCode == 0 {
			t.TopicID = m.Topics[0].TopicID
		} else {
			t.TopicID = [16]byte{1, 2, 3}
		}
	}
	req.Topics = []kmsg.FetchRequestTopic{t}
	got, err := s.try(addr, req)
	if err != nil {
		return err.Error()
	}
	resp := got.(*kmsg.FetchResponse)
	if resp.ErrorCode != 0 || len(resp.Topics) == 0 {
		return fmt.Sprintf("request %s", code(resp.ErrorCode))
	}
	at := resp.Topics[0].Partitions[0]
	return fmt.Sprintf("%s high %d stable %d start %d data %v", code(at.ErrorCode), at.HighWatermark, at.LastStableOffset, at.LogStartOffset, len(at.RecordBatches) > 0)
}

// Fetches at the edges of a log, of what is not there, and of those who do not lead it (L12-L15).
func fetching(s *scene) {
	topic := s.topic("t", 1)
	leader := s.leader(topic, 0)
	for range 5 {
		s.produce(9, topic, "", plain(1))
	}
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = 2, 10_000
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: 2}}}}
	got := ask[*kmsg.DeleteRecordsResponse](s, leader, req).Topics[0].Partitions[0]
	s.note("delete records", "%s %d", code(got.ErrorCode), got.LowWatermark)
	for _, version := range []int16{4, 7, 11, 12, 13, 16} {
		for _, offset := range []int64{0, 1, 2, 4, 5, 6, -1} {
			said := s.fetch(leader, topic, version, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = offset })
			s.note(fmt.Sprintf("version %d, offset %d", version, offset), "%s", said)
		}
		s.note(fmt.Sprintf("version %d, unknown topic", version), "%s", s.fetch(leader, s.name+"-none", version, nil))
		s.note(fmt.Sprintf("version %d, unknown partition", version), "%s", s.fetch(leader, topic, version, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.Partition = 9 }))
	}
	s.note("leader epoch to come", "%s", s.fetch(leader, topic, 12, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) {
		p.FetchOffset, p.CurrentLeaderEpoch = 2, 1<<30
	}))
	s.note("one byte at most", "%s", s.fetch(leader, topic, 12, func(r *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) {
		p.FetchOffset, p.PartitionMaxBytes, r.MaxBytes = 2, 1, 1
	}))
	s.note("isolation level 2", "%s", s.fetch(leader, topic, 12, func(r *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset, r.IsolationLevel = 2, 2 }))
	s.note("session nobody knows", "%s", s.fetch(leader, topic, 12, func(r *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { r.SessionID, r.SessionEpoch = 12345, 1 }))
	s.note("session 0, epoch 1", "%s", s.fetch(leader, topic, 12, func(r *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { r.SessionEpoch = 1 }))
	for _, addr := range s.seeds {
		if addr != leader {
			s.note("version 4, one that does not lead", "%s", s.fetch(addr, topic, 4, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 2 }))
			break
		}
	}
}

// Offsets by time and by name (L16, L17).
func listingOffsets(s *scene) {
	topic := s.topic("t", 1)
	look := func(step string, version int16, timestamp int64, change func(*kmsg.ListOffsetsRequest, *kmsg.ListOffsetsRequestTopicPartition)) {
		req := kmsg.NewPtrListOffsetsRequest()
		req.Version, req.ReplicaID, req.TimeoutMillis = version, -1, 1000
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Timestamp, p.CurrentLeaderEpoch = timestamp, -1
		if change != nil {
			change(req, &p)
		}
		req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
		resp, err := s.try(s.leader(topic, 0), req)
		if err != nil {
			s.note(step, "%v", err)
			return
		}
		got := resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
		s.note(step, "%s offset %d timestamp %d", code(got.ErrorCode), got.Offset, got.Timestamp)
	}
	all := func(when string, stamps ...int64) {
		for _, ts := range stamps {
			look(fmt.Sprintf("%s, %d", when, ts), 7, ts, nil)
		}
	}
	all("empty", -1, -2, -3, 0, 5)
	for _, at := range []int64{1000, 3000, 2000} {
		s.produce(9, topic, "", batch{pid: -1, epoch: -1, seq: -1, n: 2, at: at})
	}
	all("three batches", -1, -2, -3, 0, 999, 1000, 1001, 1002, 2000, 2001, 3000, 3001, 3002)
	for _, ts := range []int64{-3, -4, -5, -6, -7} {
		for _, version := range []int16{1, 6, 7, 8, 9, 10} {
			look(fmt.Sprintf("version %d, %d", version, ts), version, ts, nil)
		}
	}
	look("a partition that is not there", 7, -1, func(_ *kmsg.ListOffsetsRequest, p *kmsg.ListOffsetsRequestTopicPartition) { p.Partition = 4 })
	look("leader epoch to come", 7, -1, func(_ *kmsg.ListOffsetsRequest, p *kmsg.ListOffsetsRequestTopicPartition) {
		p.CurrentLeaderEpoch = 1 << 30
	})
	id := s.name
	pid, epoch := s.begin(id)
	s.produce(12, topic, id, batch{pid: pid, epoch: epoch, seq: 0, n: 1, txn: true, at: 9000})
	committed := func(r *kmsg.ListOffsetsRequest, _ *kmsg.ListOffsetsRequestTopicPartition) { r.IsolationLevel = 1 }
	for _, ts := range []int64{-1, -2, -3, 3001, 9000} {
		look(fmt.Sprintf("open transaction, committed, %d", ts), 7, ts, committed)
		look(fmt.Sprintf("open transaction, all, %d", ts), 7, ts, nil)
	}
	s.end(5, id, pid, epoch, true)
	s.state(id)
	look("committed, 9000", 7, 9000, committed)
	look("committed, latest", 7, -1, committed)
}

// DeleteRecords (L25).
func deletingRecords(s *scene) {
	topic := s.topic("t", 1)
	compacted := s.topic("compacted", 1, "cleanup.policy", "compact")
	for range 4 {
		s.produce(9, topic, "", plain(1))
	}
	remove := func(step, name string, partition int32, offset int64) {
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.Version, req.TimeoutMillis = 2, 10_000
		req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: name, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: offset}}}}
		addr := s.leader(topic, 0)
		if name == compacted {
			addr = s.leader(compacted, 0)
		}
		got := ask[*kmsg.DeleteRecordsResponse](s, addr, req).Topics[0].Partitions[0]
		s.note(step, "%s %d", code(got.ErrorCode), got.LowWatermark)
	}
	remove("before 2", topic, 0, 2)
	remove("before 1, again", topic, 0, 1)
	remove("before 9", topic, 0, 9)
	remove("before -2", topic, 0, -2)
	remove("all", topic, 0, -1)
	remove("no such partition", topic, 5, 1)
	remove("no such topic", s.name+"-none", 0, 1)
	remove("a compacted topic", compacted, 0, 0)
	s.note("log", "%s", s.log(topic, false))
}

// Where an epoch ends (L20, L21).
func leaderEpochs(s *scene) {
	topic := s.topic("t", 1)
	for range 3 {
		s.produce(9, topic, "", plain(1))
	}
	m := s.metadata(s.seeds[0], topic)
	now := m.Topics[0].Partitions[0].LeaderEpoch
	look := func(step string, partition, current, epoch int32) {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version, req.ReplicaID = 4, -1
		p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = partition, current, epoch
		req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}}}
		got := ask[*kmsg.OffsetForLeaderEpochResponse](s, s.leader(topic, 0), req).Topics[0].Partitions[0]
		epochSaid := fmt.Sprint(got.LeaderEpoch)
		if got.LeaderEpoch == now {
			epochSaid = "now"
		}
		s.note(step, "%s epoch %s ends %d", code(got.ErrorCode), epochSaid, got.EndOffset)
	}
	look("now", 0, now, now)
	look("now, unchecked", 0, -1, now)
	look("to come", 0, -1, now+5)
	look("asked with an epoch to come", 0, now+5, now)
	look("no epoch", 0, -1, -1)
	look("no such partition", 3, -1, now)
}
