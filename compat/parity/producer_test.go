package parity

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/record"
)

// Sequences of an idempotent producer: what is a duplicate, what is a gap (P5-P7, P10).
func idempotence(s *scene) {
	topic := s.topic("t", 1)
	pid, epoch, _ := s.initProducer(4, s.name, 60_000, -1, -1)
	send := func(step string, seq int32, n int) {
		s.note(step, "%s", s.produce(11, topic, "", batch{pid: pid, epoch: epoch, seq: seq, n: n}))
	}
	for i := range int32(6) {
		send(fmt.Sprintf("batch %d", i), 2*i, 2)
	}
	for i := range int32(6) {
		send(fmt.Sprintf("batch %d again", i), 2*i, 2)
	}
	send("overlaps the end of the last", 11, 2)
	send("begins as the last and is longer", 10, 3)
	send("part of the last", 10, 1)
	send("leaves a gap", 13, 1)
	send("goes on", 12, 1)
	send("long ago", 0, 1)
}

// Sequences begin anywhere where nothing is known, and go on with 0 after the highest (P11, P13).
func wrap(s *scene) {
	topic := s.topic("t", 1)
	pid, epoch, _ := s.initProducer(4, s.name, 60_000, -1, -1)
	send := func(step string, seq int32, n int) {
		s.note(step, "%s", s.produce(11, topic, "", batch{pid: pid, epoch: epoch, seq: seq, n: n}))
	}
	send("begins near the end", 2147483645, 2)
	send("straddles the end", 2147483647, 3)
	send("straddles it, again", 2147483647, 3)
	send("begins at 0 instead", 0, 1)
	send("goes on after it", 2, 1)
	other, _, _ := s.initProducer(4, s.name+"-2", 60_000, -1, -1)
	s.note("ends at the end", "%s", s.produce(11, topic, "", batch{pid: other, epoch: 0, seq: 2147483646, n: 2}))
	s.note("and 0 comes next", "%s", s.produce(11, topic, "", batch{pid: other, epoch: 0, seq: 0, n: 1}))
}

// Epochs that a producer raises by itself (P9, P12).
func epochs(s *scene) {
	topic := s.topic("t", 1)
	pid, _, _ := s.initProducer(4, s.name, 60_000, -1, -1)
	send := func(step string, epoch int16, seq int32) {
		s.note(step, "%s", s.produce(11, topic, "", batch{pid: pid, epoch: epoch, seq: seq, n: 1}))
	}
	send("epoch 1 begins in the middle", 1, 7)
	send("epoch 2 does not begin at 0", 2, 1)
	send("epoch 2 begins at 0", 2, 0)
	send("epoch 2 goes on", 2, 1)
	send("epoch 1 is over", 1, 8)
	send("epoch 1, a duplicate once", 1, 7)
	send("epoch 5", 5, 0)
	send("epoch -1", -1, 0)
}

// Batches that are not what they should be (P28, P29).
func batches(s *scene) {
	topic := s.topic("t", 1)
	small := s.topic("small", 1, "max.message.bytes", "200")
	segment := s.topic("segment", 1, "segment.bytes", "1048576", "max.message.bytes", "4000000")
	compacted := s.topic("compacted", 1, "cleanup.policy", "compact")
	arrival := s.topic("arrival", 1, "message.timestamp.type", "LogAppendTime")
	trailing := s.topic("trailing", 1)
	late := s.topic("late", 1, "message.timestamp.after.max.ms", "1000", "message.timestamp.before.max.ms", "1000")
	good := plain(2)
	with := func(change func(*batch)) batch { b := good; change(&b); return b }
	for _, c := range []struct {
		step, topic string
		b           batch
	}{
		{"good", topic, good},
		{"base offset 5", topic, with(func(b *batch) { b.broken = put64(atBaseOffset, 5) })},
		{"CRC", topic, with(func(b *batch) { b.broken = put32(atCRC, 1) })},
		{"magic 3", topic, with(func(b *batch) { b.broken = put8(atMagic, 3) })},
		{"magic 1", topic, with(func(b *batch) { b.broken = put8(atMagic, 1) })},
		{"magic 0", topic, with(func(b *batch) { b.broken = put8(atMagic, 0) })},
		{"count is not that of the offsets", topic, with(func(b *batch) { b.spoil = put32(atRecordCount, 3) })},
		{"last offset delta is not that of the count", topic, with(func(b *batch) { b.spoil = put32(atLastDelta, 0) })},
		{"count 0", topic, with(func(b *batch) {
			b.spoil = func(raw []byte) { put32(atRecordCount, 0)(raw); put32(atLastDelta, -1)(raw) }
		})},
		{"control batch", topic, with(func(b *batch) { b.spoil = put16(atAttributes, 0x20) })},
		{"odd attribute bits", topic, with(func(b *batch) { b.spoil = put16(atAttributes, 0x480) })},
		{"log append time from a client", topic, with(func(b *batch) { b.spoil = put16(atAttributes, 0x8) })},
		{"log append time from a client, of such a topic", arrival, with(func(b *batch) { b.spoil = put16(atAttributes, 0x8) })},
		{"negative sequence with a producer id", topic, with(func(b *batch) { b.pid, b.epoch = 1<<40, 0 })},
		{"above max.message.bytes", small, plain(100)},
		{"no key, compacted", compacted, good},
		{"a year old", late, with(func(b *batch) { b.at = time.Now().Add(-8760 * time.Hour).UnixMilli() })},
		{"of tomorrow", late, with(func(b *batch) { b.at = time.Now().Add(24 * time.Hour).UnixMilli() })},
		{"of tomorrow, no limit", topic, with(func(b *batch) { b.at = time.Now().Add(30 * time.Minute).UnixMilli() })},
		{"gzip", topic, with(func(b *batch) { b.codec = record.CodecGzip })},
		{"zstd", topic, with(func(b *batch) { b.codec = record.CodecZstd })},
	} {
		s.note(c.step, "%s", s.produce(9, c.topic, "", c.b))
	}
	s.note("zstd, version 6", "%s", s.produce(6, topic, "", with(func(b *batch) { b.codec = record.CodecZstd })))
	s.note("empty", "%s", s.produceRaw(9, -1, topic, "", []byte{}))
	s.note("short", "%s", s.produceRaw(9, -1, topic, "", good.bytes(s.t)[:40]))
	s.note("two batches", "%s", s.produceRaw(9, -1, topic, "", append(good.bytes(s.t), good.bytes(s.t)...)))
	s.note("trailing bytes", "%s", s.produceRaw(9, -1, trailing, "", append(good.bytes(s.t), 1, 2, 3)))
	s.note("acks 2", "%s", s.produceRaw(9, 2, topic, "", good.bytes(s.t)))
	s.note("acks 1", "%s", s.produceRaw(9, 1, topic, "", good.bytes(s.t)))
	s.note("transactional, no id", "%s", s.produce(9, topic, "", with(func(b *batch) { b.pid, b.epoch, b.seq, b.txn = 1<<40, 0, 0, true })))
	big := with(func(b *batch) { b.n = 1 })
	raw := big.bytes(s.t)
	s.note("good, of a topic with small segments", "%s", s.produceRaw(9, -1, segment, "", raw))
	_, first, _ := s.offset(topic, 0, -2, false)
	_, end, _ := s.offset(topic, 0, -1, false)
	s.note("ends", "%d %d", first, end)
}

// Topics that are not there (P33).
func unknownTopics(s *scene) {
	topic := s.topic("t", 1)
	leader := s.leader(topic, 0)
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, -1, 5000
	good := plain(1).bytes(s.t)
	for _, q := range []struct {
		topic     string
		partition int32
	}{{"none", 0}, {topic, 1}, {topic, -1}, {"a/b", 0}, {"__consumer_offsets", 0}, {"__transaction_state", 0}} {
		req.Topics = append(req.Topics, kmsg.ProduceRequestTopic{Topic: q.topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: q.partition, Records: good}}})
	}
	s.coordinator(kindGroup, "g") // so that the internal topics exist
	s.coordinator(kindTxn, "t")
	for _, t := range req.Topics {
		one := *req
		one.Topics = []kmsg.ProduceRequestTopic{t}
		got := ask[*kmsg.ProduceResponse](s, leader, &one).Topics[0].Partitions[0]
		said := code(got.ErrorCode)
		if got.ErrorCode == 6 { // which broker leads it is its own matter
			said = "INVALID_TOPIC_EXCEPTION"
		}
		s.note(fmt.Sprintf("produce to %s %d", t.Topic, t.Partitions[0].Partition), "%s", said)
	}
	for _, name := range []string{"none", "a/b", "", "..", string(make([]byte, 3)), longName(250)} {
		m := s.metadata(leader, name)
		s.note(fmt.Sprintf("metadata of %.8q", name), "%s", code(m.Topics[0].ErrorCode))
	}
	other := topic
	for _, addr := range s.seeds {
		if addr != leader {
			one := *req
			one.Topics = []kmsg.ProduceRequestTopic{{Topic: other, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: good}}}}
			got := ask[*kmsg.ProduceResponse](s, addr, &one).Topics[0].Partitions[0]
			s.note("produce to one that does not lead", "%s", code(got.ErrorCode))
			break
		}
	}
}

func longName(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'x'
	}
	return string(b)
}

// acks=0 is never answered; on an error the connection ends, so that the client asks for metadata (P32).
func acksZero(s *scene) {
	topic := s.topic("t", 1)
	leader := s.leader(topic, 0)
	send := func(name string) {
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis = 9, 0, 5000
		req.Topics = []kmsg.ProduceRequestTopic{{Topic: name, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: plain(1).bytes(s.t)}}}}
		if err := s.wireTo(leader).send(req); err != nil {
			s.t.Fatal(err)
		}
	}
	versions := kmsg.NewPtrApiVersionsRequest()
	versions.Version = 0
	send(topic)
	_, err := s.try(leader, versions)
	s.note("next answer after a good one", "%v", err)
	s.until("it to be written", func() bool { _, end, _ := s.offset(topic, 0, -1, false); return end == 1 })
	send("none")
	_, err = s.try(leader, versions)
	s.note("next answer after a bad one", "%v", err)
}

// Transactional data on a partition: who has to ask, and what markers do (P8, P14, P16, P24, T9).
func transactionalData(s *scene) {
	topic := s.topic("t", 1)
	pid, epoch := s.begin("a-" + s.name)
	send := func(step string, version int16, id string, b batch) {
		b.n = 1
		s.note(step, "%s", s.produce(version, topic, id, b))
	}
	id := "a-" + s.name
	send("TV1, not added", 11, id, batch{pid: pid, epoch: epoch, seq: 0, txn: true})
	send("TV1, not added, older version", 9, id, batch{pid: pid, epoch: epoch, seq: 0, txn: true})
	send("TV2, wrong id", 12, "wrong", batch{pid: pid, epoch: epoch, seq: 0, txn: true})
	send("TV2, wrong producer id", 12, id, batch{pid: pid + 1000, epoch: epoch, seq: 0, txn: true})
	send("TV2, wrong epoch", 12, id, batch{pid: pid, epoch: epoch + 1, seq: 0, txn: true})
	send("TV2, begins at 3", 12, id, batch{pid: pid, epoch: epoch, seq: 3, txn: true})
	send("TV2, begins at 0", 12, id, batch{pid: pid, epoch: epoch, seq: 0, txn: true})
	send("goes on", 12, id, batch{pid: pid, epoch: epoch, seq: 1, txn: true})
	send("outside of the transaction", 11, "", batch{pid: pid, epoch: epoch, seq: 2})
	send("open: a wrong id is not noticed", 12, "wrong", batch{pid: pid, epoch: epoch, seq: 2, txn: true})
	_, next, said := s.end(5, id, pid, epoch, true)
	s.note("commit", "%s", said)
	s.note("then", "%s", s.state(id))
	send("old epoch", 12, id, batch{pid: pid, epoch: epoch, seq: 3, txn: true})
	send("old epoch, a duplicate", 12, id, batch{pid: pid, epoch: epoch, seq: 2, txn: true})
	send("new epoch begins at 1", 12, id, batch{pid: pid, epoch: next, seq: 1, txn: true})
	send("new epoch begins at 0", 12, id, batch{pid: pid, epoch: next, seq: 0, txn: true})
	_, third, said := s.initProducer(4, id, 60_000, -1, -1)
	s.note("another instance", "%s", said)
	send("the fenced one", 12, id, batch{pid: pid, epoch: next, seq: 1, txn: true})
	send("the new one", 12, id, batch{pid: pid, epoch: third, seq: 0, txn: true})
	_, end, _ := s.offset(topic, 0, -1, false)
	s.note("end", "%d", end)
}

// A TV1 producer keeps its epoch over transactions, and its sequences run on (P4, P13, P15).
func transactionsOfVersion1(s *scene) {
	topic := s.topic("t", 1)
	id := "a-" + s.name
	pid, epoch := s.begin(id)
	s.note("add", "%s", s.add(3, id, pid, epoch, topic))
	s.note("add again", "%s", s.add(3, id, pid, epoch, topic))
	s.note("begins at 5", "%s", s.produce(11, topic, id, batch{pid: pid, epoch: epoch, seq: 5, n: 2, txn: true}))
	_, _, said := s.end(3, id, pid, epoch, true)
	s.note("commit", "%s", said)
	s.note("then", "%s", s.state(id))
	s.note("commit again", "%s", third(s.end(3, id, pid, epoch, true)))
	s.note("abort then", "%s", third(s.end(3, id, pid, epoch, false)))
	s.note("a duplicate, not added", "%s", s.produce(11, topic, id, batch{pid: pid, epoch: epoch, seq: 5, n: 2, txn: true}))
	s.note("add to the next", "%s", s.add(3, id, pid, epoch, topic))
	s.note("a duplicate", "%s", s.produce(11, topic, id, batch{pid: pid, epoch: epoch, seq: 5, n: 2, txn: true}))
	s.note("runs on", "%s", s.produce(11, topic, id, batch{pid: pid, epoch: epoch, seq: 7, n: 1, txn: true}))
	s.note("abort", "%s", third(s.end(3, id, pid, epoch, false)))
	s.note("then it is", "%s", s.state(id))
	s.note("abort again", "%s", third(s.end(3, id, pid, epoch, false)))
	s.note("commit then", "%s", third(s.end(3, id, pid, epoch, true)))
}

func third(_ int64, _ int16, said string) string { return said }

// markersOf lists the batches of a partition: first offset, records, producer, and what a marker says.
func (s *scene) log(topic string, committed bool) string {
	s.t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 12, -1, 0, 0, 10<<20, -1
	if committed {
		req.IsolationLevel = 1
	}
	p := kmsg.NewFetchRequestTopicPartition()
	p.PartitionMaxBytes, p.CurrentLeaderEpoch = 10<<20, -1
	req.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	got := ask[*kmsg.FetchResponse](s, s.leader(topic, 0), req).Topics[0].Partitions[0]
	said := fmt.Sprintf("%s high %d stable %d start %d", code(got.ErrorCode), got.HighWatermark, got.LastStableOffset, got.LogStartOffset)
	for raw := got.RecordBatches; len(raw) >= batchHead; {
		size := 12 + int(binary.BigEndian.Uint32(raw[8:]))
		if size > len(raw) {
			break
		}
		said += fmt.Sprintf(" [%d+%d", int64(binary.BigEndian.Uint64(raw)), binary.BigEndian.Uint32(raw[atRecordCount:]))
		if pid := int64(binary.BigEndian.Uint64(raw[43:])); pid >= 0 {
			said += fmt.Sprintf(" %s/%d", s.pid(pid), int16(binary.BigEndian.Uint16(raw[51:])))
		}
		if binary.BigEndian.Uint16(raw[atAttributes:])&0x20 != 0 {
			said += map[byte]string{0: " abort", 1: " commit"}[raw[size-1-markerTail]]
		}
		said += "]"
		raw = raw[size:]
	}
	if got.AbortedTransactions != nil {
		said += " aborted"
		for _, a := range got.AbortedTransactions {
			said += fmt.Sprintf(" %s from %d", s.pid(a.ProducerID), a.FirstOffset)
		}
	}
	return said
}

// markerTail is what follows the type of a marker: the lengths of its value, version and coordinator epoch, and the count of headers.
const markerTail = 1 + 2 + 4 + 1
