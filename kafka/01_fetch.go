package kafka

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// Epochs of fetch sessions that have meanings of their own (KIP-227).
const (
	sessionNone  = -1 // a full fetch that wants no session
	sessionBegin = 0  // a full fetch that wants a session
)

// fetching is one fetch under way.
type fetching struct {
	c    *conn
	r    *request
	req  *kmsg.FetchRequest
	resp *kmsg.FetchResponse
	a    *answer
	// session is what the fetch belongs to; nil: none. Its mu is held.
	session *session
	// incremental: only partitions about which there is something to tell are in the answer.
	incremental bool
	topics      frontdoor.Permits
	leaders     leaders
	room        fetchRoom
}

// fetch reads from partitions, waiting for data as asked. Stored bytes are sent bytes.
func (c *conn) fetch(r *request) *answer {
	req := r.msg.(*kmsg.FetchRequest)
	f := &fetching{c: c, r: r, req: req, resp: req.ResponseKind().(*kmsg.FetchResponse), topics: c.topics(r, acl.Read), leaders: leaders{c: c}}
	f.a = &answer{response: f.resp}
	f.room = fetchRoom{c: c}
	f.a.written = f.room.giveAll
	partitions, reason := f.partitions()
	if f.session != nil {
		defer f.session.mu.Unlock()
	}
	if reason != "" {
		f.resp.ErrorCode = c.refuse(r, reason)
		return f.a
	}
	if f.session != nil {
		f.resp.SessionID = f.session.id
	}
	f.run(partitions)
	return f.a
}

// partitions gives what is to be read: what the request names, or what its session holds after the request's changes. A session that
// it gives is locked.
func (f *fetching) partitions() (list []*asked, reason string) {
	named, count := f.named()
	switch {
	case count > frontdoor.MaxPartitions:
		return nil, frontdoor.ReasonInvalidRequest
	case f.req.Version < 7:
		return named, ""
	case f.req.SessionEpoch == sessionNone || f.req.SessionEpoch == sessionBegin:
		if f.req.SessionID != 0 {
			f.c.sessions.end(f.req.SessionID)
		}
		if f.req.SessionEpoch == sessionBegin && len(named) > 0 && f.remembers(named) {
			if s := f.c.sessions.begin(named, f.req.Version >= 13); s != nil {
				s.mu.Lock()
				f.session = s
			}
		}
		return named, ""
	}
	return f.continued(named)
}

// continued finds the session that the fetch continues, and changes it as asked.
func (f *fetching) continued(named []*asked) (list []*asked, reason string) {
	s := f.c.sessions.find(f.req.SessionID)
	if s == nil {
		return nil, "FETCH_SESSION_ID_NOT_FOUND"
	}
	s.mu.Lock()
	switch {
	case s.epoch != f.req.SessionEpoch:
		s.mu.Unlock()
		return nil, "INVALID_FETCH_SESSION_EPOCH"
	case s.byTopicID != (f.req.Version >= 13):
		s.mu.Unlock()
		return nil, "FETCH_SESSION_TOPIC_ID_ERROR"
	}
	f.session, f.incremental = s, true
	if !f.remembers(named) {
		f.c.sessions.end(s.id)
		return nil, "FETCH_SESSION_ID_NOT_FOUND"
	}
	for _, t := range f.req.ForgottenTopics {
		for _, p := range t.Partitions {
			s.drop(askedKey{t.Topic, t.TopicID, p})
		}
	}
	for _, a := range named {
		s.put(a)
	}
	if len(s.byKey) > frontdoor.MaxPartitions || !f.c.sessions.recount(s) {
		f.c.sessions.end(s.id)
		return nil, "FETCH_SESSION_ID_NOT_FOUND"
	}
	s.nextEpoch()
	return s.all(), ""
}

// remembers says whether a session may hold what a request names: it would keep names that are longer than any topic's, one for each of
// its partitions.
func (f *fetching) remembers(named []*asked) bool {
	return !slices.ContainsFunc(named, func(a *asked) bool { return len(a.topic) > metadata.MaxTopicNameLength })
}

// named reads the partitions of the request.
func (f *fetching) named() (list []*asked, count int) {
	for i := range f.req.Topics {
		count += len(f.req.Topics[i].Partitions)
	}
	if count > frontdoor.MaxPartitions {
		return nil, count
	}
	list = make([]*asked, 0, count)
	for i := range f.req.Topics {
		t := &f.req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			a := &asked{askedKey: askedKey{t.Topic, t.TopicID, p.Partition}, current: -1, lastFetched: -1,
				offset: record.Offset(p.FetchOffset), maxBytes: max(p.PartitionMaxBytes, 0)}
			if f.req.Version >= 9 {
				a.current = p.CurrentLeaderEpoch
			}
			if f.req.Version >= 12 {
				a.lastFetched = p.LastFetchedEpoch
			}
			list = append(list, a)
		}
	}
	return list, count
}

// run reads and fills the answer.
func (f *fetching) run(list []*asked) {
	answers := make([]kmsg.FetchResponseTopicPartition, len(list))
	ask := partition.FetchRequest{
		MaxWait:   time.Duration(min(max(f.req.MaxWaitMillis, 0), frontdoor.MaxFetchWaitMS)) * time.Millisecond,
		MinBytes:  int(max(f.req.MinBytes, 0)),
		MaxBytes:  min(int(max(f.req.MaxBytes, 0)), frontdoor.MaxFetchBytes),
		Committed: f.req.IsolationLevel == 1,
		Room:      &f.room,
	}
	ask.MinBytes = min(ask.MinBytes, ask.MaxBytes)
	places := make([]int, 0, len(list))
	tps := make([]record.TopicPartition, len(list))
	for i, a := range list {
		answers[i] = f.empty(a.partition)
		tp, done := f.prepare(a, &answers[i])
		tps[i] = tp
		if done {
			ask.MaxWait = 0 // there is something to tell
			continue
		}
		ask.Partitions = append(ask.Partitions, partition.FetchPartition{TopicPartition: tp, Offset: a.offset, MaxBytes: int(a.maxBytes), LeaderEpoch: a.current})
		places = append(places, i)
	}
	n := int64(len(ask.Partitions))
	if n > 0 {
		if f.c.asking.TryAdd(n) {
			got := f.c.c.Log.Fetch(f.c.waiting, ask)
			f.topics.Renew() // it may have waited for long
			for k, fetched := range got {
				f.fetched(&answers[places[k]], fetched)
			}
			f.c.asking.Add(-n)
		} else {
			for _, i := range places {
				answers[i].ErrorCode = f.c.refuse(f.r, frontdoor.ReasonNotLeader) // all clients come again a moment later
			}
		}
	}
	f.put(list, answers)
	for _, b := range f.leaders.seen {
		f.resp.Brokers = append(f.resp.Brokers, kmsg.FetchResponseBroker{NodeID: b.id, Host: b.host, Port: b.port, Rack: b.rack})
	}
}

func (f *fetching) empty(number int32) kmsg.FetchResponseTopicPartition {
	p := kmsg.NewFetchResponseTopicPartition()
	p.Partition, p.HighWatermark, p.LastStableOffset, p.LogStartOffset, p.RecordBatches = number, -1, -1, -1, []byte{}
	return p
}

// prepare names the partition and looks for what can be said without reading; done: that is the answer.
func (f *fetching) prepare(a *asked, at *kmsg.FetchResponseTopicPartition) (tp record.TopicPartition, done bool) {
	tp = record.TopicPartition{Topic: a.topic, Partition: a.partition}
	if f.req.Version >= 13 {
		t, ok := topicByID(f.c.c.Cluster.Image(), a.topicID)
		if !ok {
			at.ErrorCode = f.c.refuse(f.r, "UNKNOWN_TOPIC_ID")
			return tp, true
		}
		tp.Topic = t.Name
	}
	if !f.topics.Allow(tp.Topic) {
		at.ErrorCode = f.c.denied(f.r, acl.Topic)
		return tp, true
	}
	if a.lastFetched < 0 {
		return tp, false
	}
	epoch, end, err := f.c.c.Log.EpochEnd(f.c.waiting, tp, a.current, a.lastFetched)
	switch {
	case err != nil:
		f.failed(at, tp, err)
		return tp, true
	case epoch < 0 || end < 0:
		at.ErrorCode = f.c.refuse(f.r, "OFFSET_OUT_OF_RANGE")
		return tp, true
	case epoch < a.lastFetched || end < a.offset:
		at.DivergingEpoch.Epoch, at.DivergingEpoch.EndOffset = epoch, int64(end) // L22
		return tp, true
	}
	return tp, false
}

// failed enters why a partition could not be read.
func (f *fetching) failed(at *kmsg.FetchResponseTopicPartition, tp record.TopicPartition, err error) {
	e := f.c.partitionFailure(f.r, tp, err)
	at.ErrorCode = e.code
	if f.req.Version >= 16 && (e.Kind.Reason == frontdoor.ReasonNotLeader || e.Kind.Reason == "FENCED_LEADER_EPOCH") {
		at.CurrentLeader.LeaderID, at.CurrentLeader.LeaderEpoch = f.leaders.hint(e.Leader)
	}
}

// fetched turns what a partition gave into its wire form.
func (f *fetching) fetched(at *kmsg.FetchResponseTopicPartition, got partition.FetchedPartition) {
	if !f.topics.Allow(got.TopicPartition.Topic) {
		at.ErrorCode = f.c.denied(f.r, acl.Topic)
		return
	}
	if got.Err != nil {
		f.failed(at, got.TopicPartition, got.Err)
		return
	}
	at.HighWatermark, at.LastStableOffset, at.LogStartOffset = int64(got.HighWatermark), int64(got.LastStable), int64(got.LogStart)
	f.c.metrics.fetchBytes.Add(float64(got.Bytes))
	if got.Aborted != nil || f.req.IsolationLevel == 1 { // nil and empty differ on the wire (L10)
		at.AbortedTransactions = make([]kmsg.FetchResponseTopicPartitionAbortedTransaction, len(got.Aborted))
		for i, a := range got.Aborted {
			at.AbortedTransactions[i].ProducerID, at.AbortedTransactions[i].FirstOffset = int64(a.ProducerID), int64(a.First)
		}
	}
	at.RecordBatches = f.a.placed(got.Batches, got.Bytes)
}

// put enters the answers, in the order of the request, a topic's partitions together.
func (f *fetching) put(list []*asked, answers []kmsg.FetchResponseTopicPartition) {
	for i, a := range list {
		at := &answers[i]
		if f.session != nil {
			if !a.tell(at) && f.incremental {
				continue
			}
			if len(at.RecordBatches) > 0 {
				f.session.served(a.askedKey)
			}
		}
		if n := len(f.resp.Topics); n == 0 || f.resp.Topics[n-1].Topic != a.topic || f.resp.Topics[n-1].TopicID != a.topicID {
			t := kmsg.NewFetchResponseTopic()
			t.Topic, t.TopicID = a.topic, a.topicID
			f.resp.Topics = append(f.resp.Topics, t)
		}
		t := &f.resp.Topics[len(f.resp.Topics)-1]
		t.Partitions = append(t.Partitions, *at)
	}
}

// tell notes what the client is told of a partition; false: nothing that it does not know.
func (a *asked) tell(at *kmsg.FetchResponseTopicPartition) bool {
	h, l, s := record.Offset(at.HighWatermark), record.Offset(at.LastStableOffset), record.Offset(at.LogStartOffset)
	news := !a.told || len(at.RecordBatches) > 0 || at.ErrorCode != 0 || at.DivergingEpoch.EndOffset >= 0 ||
		h != a.highWatermark || l != a.lastStable || s != a.logStart
	// After an error the client is told again, even if nothing has changed.
	a.told = at.ErrorCode == 0 && at.DivergingEpoch.EndOffset < 0
	a.highWatermark, a.lastStable, a.logStart = h, l, s
	return news
}

// fetchRoom counts one answer against the budget of all fetches, from before it is read until it is written (partition.Room).
type fetchRoom struct {
	c     *conn
	taken int64
}

// Take takes room for an answer, at least for the largest batch there can be.
func (f *fetchRoom) Take(ctx context.Context, most int) int {
	least := min(int64(f.c.c.MaxMessageBytes), f.c.fetching.Limit())
	n := f.c.fetching.Take(ctx, least, int64(most), f.c.metrics.fetchesHeld.Inc)
	f.taken += n
	return int(n)
}

// Give gives back what was not used.
func (f *fetchRoom) Give(bytes int) {
	f.taken -= int64(bytes)
	f.c.fetching.Add(-int64(bytes))
}

func (f *fetchRoom) giveAll() { f.Give(int(f.taken)) }
