package parity

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId in all its forms (I1-I15).
func initProducerID(s *scene) {
	addr := s.coordinator(kindTxn, s.name)
	init := func(step string, version int16, id *string, timeout int32, pid int64, epoch int16) (int64, int16) {
		var resp *kmsg.InitProducerIDResponse
		c := s.settled(func() int16 {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = version, id, timeout, pid, epoch
			resp = ask[*kmsg.InitProducerIDResponse](s, addr, req)
			return resp.ErrorCode
		})
		if step != "" {
			s.note(step, "%s %s/%d", code(c), s.pid(resp.ProducerID), resp.ProducerEpoch)
		}
		return resp.ProducerID, resp.ProducerEpoch
	}
	id := &s.name
	init("no id", 4, nil, 1000, -1, -1)
	init("no id, timeout -1", 4, nil, -1, -1, -1)
	init("no id, a producer without an epoch", 4, nil, 1000, 5, -1)
	init("empty id", 4, ptr(""), 1000, -1, -1)
	init("timeout 0", 4, id, 0, -1, -1)
	init("timeout too long", 4, id, 900_001, -1, -1)
	init("longest timeout", 4, id, 900_000, -1, -1)
	pid, epoch := init("again", 4, id, 60_000, -1, -1)
	init("a producer without an epoch", 4, id, 60_000, pid, -1)
	init("an epoch without a producer", 4, id, 60_000, -1, epoch)
	_, next := init("own epoch: raised", 4, id, 60_000, pid, epoch)
	init("last epoch: the answer again", 4, id, 60_000, pid, epoch)
	init("an epoch before", 4, id, 60_000, pid, epoch-1)
	init("an epoch before, old version", 3, id, 60_000, pid, epoch-1)
	init("an epoch to come", 4, id, 60_000, pid, next+1)
	init("another producer", 4, id, 60_000, pid+100_000, next)
	init("a new instance", 4, id, 60_000, -1, -1)
	init("last epoch, after a new instance", 4, id, 60_000, pid, next)
	fresh := s.name + "-fresh"
	addr = s.coordinator(kindTxn, fresh)
	init("a new id with a producer", 4, &fresh, 60_000, 77, 5)
}

// InitProducerId while a transaction is open aborts it (I12).
func initWhileOpen(s *scene) {
	topic := s.topic("t", 1)
	for _, version := range []int16{1, 2} {
		id := fmt.Sprintf("%s-%d", s.name, version)
		step := func(what string) string { return fmt.Sprintf("TV%d: %s", version, what) }
		pid, epoch := s.begin(id)
		write := func(what string, e int16) {
			if version == 1 {
				s.note(step(what+", add"), "%s", s.add(3, id, pid, e, topic))
				s.note(step(what), "%s", s.produce(11, topic, id, batch{pid: pid, epoch: e, seq: 0, n: 1, txn: true}))
				return
			}
			s.note(step(what), "%s", s.produce(12, topic, id, batch{pid: pid, epoch: e, seq: 0, n: 1, txn: true}))
		}
		write("write", epoch)
		_, e, said := s.initProducer(4, id, 60_000, -1, -1)
		s.note(step("a new instance"), "%s", said)
		write("the new one writes", e)
		_, _, said = s.initProducer(4, id, 60_000, pid, e)
		s.note(step("the same, with its epoch"), "%s", said)
		s.note(step("log"), "%s", s.log(topic, true))
	}
}

// AddPartitionsToTxn (T5, T6).
func addPartitions(s *scene) {
	topic, other := s.topic("t", 1), s.topic("u", 1)
	id := s.name
	s.note("unknown id", "%s", s.add(3, id+"-none", 5, 0, topic))
	s.begin(id)
	pid, epoch := s.begin(id) // so that there is an epoch before
	s.note("empty id", "%s", s.add(3, "", pid, epoch, topic))
	s.note("another producer", "%s", s.add(3, id, pid+1, epoch, topic))
	s.note("an epoch before", "%s", s.add(3, id, pid, epoch-1, topic))
	s.note("an epoch to come", "%s", s.add(3, id, pid, epoch+1, topic))
	s.note("an epoch to come, version 1", "%s", s.add(1, id, pid, epoch+1, topic))
	s.note("a negative epoch", "%s", s.add(3, id, pid, -1, topic))
	s.note("a very negative epoch, version 1", "%s", s.add(1, id, pid, -7, topic))
	s.note("a negative producer", "%s", s.add(3, id, -1, epoch, topic))
	s.note("no producer", "%s", s.add(3, id, -1, -1, topic))
	s.note("no producer, unknown id", "%s", s.add(3, id+"-none", -1, -1, topic))
	s.note("an unknown topic", "%s", s.add(3, id, pid, epoch, topic, s.name+"-none"))
	s.note("an unknown topic and an empty id", "%s", s.add(3, "", pid, epoch, topic, s.name+"-none"))
	s.note("then it is", "%s", s.state(id))
	s.note("two", "%s", s.add(3, id, pid, epoch, topic, other))
	s.note("one of them again", "%s", s.add(3, id, pid, epoch, topic))
	s.note("then it is now", "%s", s.state(id))
	s.note("commit", "%s", third(s.end(3, id, pid, epoch, true)))
	s.state(id)
	s.note("none", "%s", s.add(3, id, pid, epoch))
	s.note("then", "%s", s.state(id))
}

// ending builds a transaction in a state and ends it; one row and column of the tables of T17 and T19.
func ending(s *scene, version int16) {
	topic := s.topic("t", 1)
	end := int16(3)
	if version == 2 {
		end = 5
	}
	for _, from := range []string{"Empty", "Ongoing", "CompleteCommit", "CompleteAbort"} {
		for _, commit := range []bool{true, false} {
			for _, which := range []string{"current", "before", "after"} {
				id := fmt.Sprintf("%s-%s-%v-%s", s.name, from, commit, which)
				s.begin(id)
				pid, epoch := s.begin(id) // so that there is an epoch before
				if from != "Empty" {
					if version == 1 {
						s.add(3, id, pid, epoch, topic)
					} else {
						s.produce(12, topic, id, batch{pid: pid, epoch: epoch, seq: 0, n: 1, txn: true})
					}
				}
				if from == "CompleteCommit" || from == "CompleteAbort" {
					p, e, _ := s.end(end, id, pid, epoch, from == "CompleteCommit")
					if version == 2 {
						pid, epoch = p, e
					}
				}
				if got := s.state(id); got != from && s.target == fake {
					continue // it has no such state
				} else if got != from {
					s.t.Fatalf("%s: state %s", id, got)
				}
				used := epoch
				switch which {
				case "before":
					used--
				case "after":
					used++
				}
				s.pids = nil
				step := fmt.Sprintf("%s, %s, epoch %s", from, map[bool]string{true: "commit", false: "abort"}[commit], which)
				said := third(s.end(end, id, pid, used, commit))
				s.note(step, "%s, then %s", said, s.state(id))
			}
		}
	}
}

func endVersion1(s *scene) { ending(s, 1) }
func endVersion2(s *scene) { ending(s, 2) }

// EndTxn of what is not there (T17, T19).
func endUnknown(s *scene) {
	id := s.name
	for _, version := range []int16{1, 3, 5} {
		step := func(what string) string { return fmt.Sprintf("version %d: %s", version, what) }
		s.note(step("unknown id"), "%s", third(s.end(version, id+"-none", 5, 0, true)))
		s.note(step("empty id"), "%s", third(s.end(version, "", 5, 0, true)))
		pid, epoch := s.begin(id)
		s.note(step("another producer"), "%s", third(s.end(version, id, pid+1000, epoch, true)))
		s.note(step("an epoch to come"), "%s", third(s.end(version, id, pid, epoch+3, false)))
		s.note(step("a negative epoch"), "%s", third(s.end(version, id, pid, -1, true)))
		s.note(step("a very negative epoch"), "%s", third(s.end(version, id, pid, -7, false)))
		s.note(step("no producer"), "%s", third(s.end(version, id, -1, -1, true)))
	}
}

// What readers of committed data see of transactions that overlap (L5, L8-L10).
func readCommitted(s *scene) {
	topic := s.topic("t", 1)
	a, b := "a-"+s.name, "b-"+s.name
	pa, ea := s.begin(a)
	pb, eb := s.begin(b)
	s.pid(pa)
	s.pid(pb)
	write := func(step, id string, pid int64, epoch int16, seq int32) {
		s.note(step, "%s", s.produce(12, topic, id, batch{pid: pid, epoch: epoch, seq: seq, n: 1, txn: true}))
	}
	both := func(step string) {
		s.note(step+", all", "%s", s.log(topic, false))
		s.note(step+", committed", "%s", s.log(topic, true))
		for _, committed := range []bool{false, true} {
			c, latest, _ := s.offset(topic, 0, -1, committed)
			s.note(fmt.Sprintf("%s, latest, committed %v", step, committed), "%s %d", code(c), latest)
		}
	}
	s.note("plain", "%s", s.produce(11, topic, "", plain(1)))
	write("a begins", a, pa, ea, 0)
	write("b begins", b, pb, eb, 0)
	both("both open")
	_, eb, said := s.end(5, b, pb, eb, false)
	s.note("b aborts", "%s", said)
	s.state(b)
	both("b aborted")
	write("b begins again", b, pb, eb, 0)
	s.note("plain in between", "%s", s.produce(11, topic, "", plain(1)))
	_, _, said = s.end(5, a, pa, ea, true)
	s.note("a commits", "%s", said)
	s.state(a)
	both("a committed")
	_, _, said = s.end(5, b, pb, eb, true)
	s.note("b commits", "%s", said)
	s.state(b)
	both("all done")
}

// Markers from outside (T28, P20-P22).
func markers(s *scene) {
	topic := s.topic("t", 1)
	leader := s.leader(topic, 0)
	s.begin(s.name)
	pid, epoch := s.begin(s.name) // so that there is an epoch before
	s.pid(pid)
	write := func(step string, version int16, p int64, e int16, commit bool, coordinatorEpoch int32, topics ...string) {
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		req.Version = version
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.ProducerID, m.ProducerEpoch, m.Committed, m.CoordinatorEpoch = p, e, commit, coordinatorEpoch
		for _, name := range topics {
			m.Topics = append(m.Topics, kmsg.WriteTxnMarkersRequestMarkerTopic{Topic: name, Partitions: []int32{0}})
		}
		req.Markers = []kmsg.WriteTxnMarkersRequestMarker{m}
		resp, err := s.try(leader, req)
		if err != nil {
			s.note(step, "%v", err)
			return
		}
		said := ""
		for _, m := range resp.(*kmsg.WriteTxnMarkersResponse).Markers {
			for _, t := range m.Topics {
				said += " " + code(t.Partitions[0].ErrorCode)
			}
		}
		s.note(step, "%s", said)
	}
	s.note("data", "%s", s.produce(12, topic, s.name, batch{pid: pid, epoch: epoch, seq: 0, n: 1, txn: true}))
	write("an epoch before", 1, pid, epoch-1, false, 0, topic)
	write("abort", 1, pid, epoch, false, 7, topic)
	write("abort again", 1, pid, epoch, false, 7, topic)
	write("of an older coordinator", 1, pid, epoch, true, 6, topic)
	write("of a producer that nobody knows", 1, pid+500_000, 3, true, 0, topic)
	write("a topic that nobody knows", 1, pid, epoch, true, 8, topic, s.name+"-none")
	s.note("log", "%s", s.log(topic, true))
}
