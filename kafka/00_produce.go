package kafka

import (
	"bytes"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// producing is one produce request under way.
type producing struct {
	c    *conn
	r    *request
	req  *kmsg.ProduceRequest
	resp *kmsg.ProduceResponse
	done chan struct{}
	// left counts the batches that have no outcome yet, and one for the handler itself.
	left atomic.Int32
	// leaders of failed partitions are collected when everything has its outcome; hints are by place.
	hints []hinted
	// failed: some batch has failed.
	failed atomic.Bool
	answer *answer
}

// hinted is one batch's place in the answer, and who leads its partition instead.
type hinted struct {
	at     *kmsg.ProduceResponseTopicPartition
	leader *partition.Leader
}

// produce proposes every batch of a request, in order, and answers when all have their outcome. Batches of version 2 to 0 of the
// format come with versions that are not served. Differing from Kafka: acks 1 is answered as acks all is (R12), and a batch that
// finds the broker's queues full is NOT_ENOUGH_REPLICAS, which means that it did not happen.
func (c *conn) produce(r *request) *answer {
	req := r.msg.(*kmsg.ProduceRequest)
	p := &producing{c: c, r: r, req: req, resp: req.ResponseKind().(*kmsg.ProduceResponse), done: make(chan struct{})}
	p.answer = &answer{request: r, done: p.done, response: p.resp}
	p.left.Store(1)
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	p.hints = make([]hinted, n)
	reason := c.refuseWhole(r, req)
	n = 0
	topics := c.topics(r, acl.Write)
	p.resp.Topics = make([]kmsg.ProduceResponseTopic, len(req.Topics))
	for i := range req.Topics {
		from, to := &req.Topics[i], &p.resp.Topics[i]
		to.Topic, to.TopicID = from.Topic, from.TopicID
		refused := reason
		if refused == "" && !topics.Allow(from.Topic) {
			refused = frontdoor.ReasonTopicDenied
		}
		to.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(from.Partitions))
		for j := range from.Partitions {
			at := &to.Partitions[j]
			*at = kmsg.NewProduceResponseTopicPartition()
			at.Partition, at.BaseOffset, at.LogAppendTime, at.LogStartOffset = from.Partitions[j].Partition, -1, -1, -1
			p.hints[n].at = at
			p.batch(&p.hints[n], record.TopicPartition{Topic: from.Topic, Partition: at.Partition}, from.Partitions[j].Records, refused)
			from.Partitions[j].Records = nil // the log's now
			n++
		}
	}
	p.finish()
	return p.answer
}

// refuseWhole gives the reason for which a whole request is refused; empty: none.
func (c *conn) refuseWhole(r *request, req *kmsg.ProduceRequest) string {
	if req.Acks < -1 || req.Acks > 1 {
		return frontdoor.ReasonInvalidAcks
	}
	id := textOf(req.TransactionID)
	var pid record.ProducerID
	var epoch record.Epoch
	first := true
	for i := range req.Topics {
		for _, q := range req.Topics[i].Partitions {
			if len(q.Records) < record.HeaderSize {
				continue
			}
			b := record.Batch(q.Records)
			if !b.Attributes().Transactional() {
				continue
			}
			if id == "" || first && !c.may(r, acl.Write, acl.TransactionalID, id) {
				return frontdoor.ReasonTxnUnauthorised // P31
			}
			if !first && (pid != b.ProducerID() || epoch != b.ProducerEpoch()) {
				return "INVALID_PRODUCER_ID_MAPPING" // P31
			}
			first, pid, epoch = false, b.ProducerID(), b.ProducerEpoch()
		}
	}
	return ""
}

func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// batch proposes one batch, or says what is wrong with it. A reason refuses it unseen.
func (p *producing) batch(h *hinted, tp record.TopicPartition, records []byte, reason string) {
	p.left.Add(1)
	p.c.metrics.produceBytes.Add(float64(len(records)))
	if reason == "" {
		reason = p.refuseTopic(tp)
	}
	if reason != "" {
		p.refused(h, reason, "")
		return
	}
	limits, err := p.c.c.Log.Limits(tp)
	if err != nil {
		p.outcome(h, tp, partition.ProduceResult{LogStart: record.NoOffset}, err)
		return
	}
	limits.NoZstd = p.req.Version < 7
	valid, err := record.Validate(records, limits)
	if err != nil {
		p.outcome(h, tp, partition.ProduceResult{LogStart: p.c.c.Log.LogStart(tp)}, err)
		return
	}
	id := textOf(p.req.TransactionID)
	if reason, _, message := frontdoor.CheckTransactional(id, valid); reason != "" {
		p.refused(h, reason, message)
		return
	}
	ask := partition.ProduceRequest{TopicPartition: tp, Batch: p.owned(valid),
		Timeout: time.Duration(min(max(p.req.TimeoutMillis, 0), frontdoor.MaxTimeoutMS)) * time.Millisecond}
	if id != "" {
		ask.TransactionalID, ask.Version = id, 1
		if p.req.Version >= 12 { // T13
			ask.Version = 2
		}
	}
	p.c.c.Log.Produce(ask, func(result partition.ProduceResult, err error) { p.outcome(h, tp, result, err) })
}

// refuseTopic gives the reason for which nothing can be written to a topic of that name; empty: none.
func (p *producing) refuseTopic(tp record.TopicPartition) string {
	if metadata.CheckTopicName(tp.Topic) != nil {
		return frontdoor.ReasonUnknownTopic // there is none that is called so
	}
	if record.InternalTopic(tp.Topic) {
		return "INVALID_TOPIC_EXCEPTION"
	}
	return ""
}

// owned gives a batch that the log may keep. What it keeps must not hold on to much more: a small batch is copied out of a large
// request.
func (p *producing) owned(b record.Batch) record.Batch {
	if 2*len(b) >= len(p.r.frame) {
		return b
	}
	return bytes.Clone(b)
}

// refused ends a batch that the listener refuses: it did not happen.
func (p *producing) refused(h *hinted, reason, message string) {
	h.at.ErrorCode = p.c.refuse(p.r, reason)
	if message != "" {
		h.at.ErrorMessage = &message
	}
	p.failed.Store(true)
	p.finish()
}

// outcome ends a batch. It may be called from any goroutine.
func (p *producing) outcome(h *hinted, tp record.TopicPartition, result partition.ProduceResult, err error) {
	h.at.LogStartOffset = int64(result.LogStart)
	if err == nil {
		h.at.BaseOffset, h.at.LogAppendTime = int64(result.BaseOffset), result.LogAppendTime
		p.finish()
		return
	}
	f := p.c.partitionFailure(p.r, tp, err)
	h.at.ErrorCode, h.at.ErrorMessage = f.produceCode(p.req.Version), f.message
	if f.Record >= 0 {
		h.at.ErrorRecords = []kmsg.ProduceResponseTopicPartitionErrorRecord{{RelativeOffset: int32(f.Record), ErrorMessage: f.message}}
	}
	if f.Kind.Reason == frontdoor.ReasonNotLeader {
		h.leader = f.Leader
	}
	p.failed.Store(true)
	p.finish()
}

// finish counts one outcome; the last completes the answer.
func (p *producing) finish() {
	if p.left.Add(-1) > 0 {
		return
	}
	p.c.release(p.r)
	if p.req.Acks == 0 {
		// Nobody waits for an answer, but the end of the connection makes the client look who leads now (P32).
		p.answer.response = nil
		if p.failed.Load() {
			p.answer.close = "acks_none_failed"
		}
	} else if p.req.Version >= 10 {
		l := leaders{c: p.c}
		for _, h := range p.hints {
			if h.leader != nil {
				h.at.CurrentLeader.LeaderID, h.at.CurrentLeader.LeaderEpoch = l.hint(h.leader)
			}
		}
		for _, n := range l.seen {
			p.resp.Brokers = append(p.resp.Brokers, kmsg.ProduceResponseBroker{NodeID: n.id, Host: n.host, Port: n.port, Rack: n.rack})
		}
	}
	close(p.done)
}
