package client

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

const (
	// hedgeAfter is how long one broker is given to answer a question that any broker can answer,
	// before the next is asked as well. A paused broker keeps its connections open and says nothing.
	hedgeAfter = 300 * time.Millisecond
	// unknownTopicGrace is how long a topic may be unknown before a caller is told: the broker that
	// was asked may be behind the one that created it.
	unknownTopicGrace = 3 * time.Second
)

// view is what a client knows of the cluster. It is immutable once published.
type view struct {
	version    uint64
	clusterID  string
	controller int32
	brokers    map[int32]string // addresses
	topics     map[string]*topicView
}

// topicView is what is known of one topic: its partitions, or why there are none.
type topicView struct {
	id    string
	err   *Error
	parts []partView
}

// partView says who leads a partition. leader -1: nobody is known to.
type partView struct {
	leader int32
	epoch  int32
}

// leaderOf gives the leader of a partition and its address; ok is false while there is none.
func (v *view) leaderOf(tp record.TopicPartition) (broker int32, addr string, epoch int32, ok bool) {
	t := v.topics[tp.Topic]
	if t == nil || int(tp.Partition) >= len(t.parts) || tp.Partition < 0 {
		return -1, "", -1, false
	}
	p := t.parts[tp.Partition]
	addr = v.brokers[p.leader]
	return p.leader, addr, p.epoch, p.leader >= 0 && addr != ""
}

// metadata keeps the view fresh: on demand, by hints in answers, and by age.
type metadata struct {
	c    *Client
	view atomic.Pointer[view]
	kick chan struct{} // capacity 1: a refresh is wanted

	mu      sync.Mutex          // guards what follows, and every publication of a view
	wanted  map[string]struct{} // topics somebody uses
	changed chan struct{}       // closed and replaced with every published view
	rounds  uint64              // refreshes that have ended, well or not
	lastErr error               // of the last refresh, nil when it went well
}

func newMetadata(c *Client) *metadata {
	m := &metadata{c: c, kick: make(chan struct{}, 1), wanted: make(map[string]struct{}), changed: make(chan struct{})}
	m.view.Store(&view{controller: -1, brokers: map[int32]string{}, topics: map[string]*topicView{}})
	return m
}

// refresh asks for a new view soon. It never blocks; requests are merged and spaced.
func (m *metadata) refresh() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// watch gives the view and a channel that is closed when a newer one is there, or when a refresh
// has failed.
func (m *metadata) watch() (*view, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view.Load(), m.changed
}

// run refreshes until the client ends. It owns the pace: at least RetryBackoff between rounds.
func (m *metadata) run() {
	failures := 0
	for {
		age := time.NewTimer(m.c.cfg.MetadataMaxAge)
		select {
		case <-m.kick:
		case <-age.C:
			if m.idle() {
				continue // nobody uses anything: stay quiet
			}
		case <-m.c.ctx.Done():
			age.Stop()
			return
		}
		age.Stop()
		err := m.round()
		if err != nil {
			failures++
			m.refresh() // somebody wanted it and has not got it
			m.c.log.Debug("metadata refresh failed", "err", err)
		} else {
			failures = 0
		}
		if !sleep(m.c.ctx, m.c.backoff(max(failures, 1))) {
			return
		}
	}
}

func (m *metadata) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.wanted) == 0
}

// noTopics asks about brokers only: an empty list would mean all topics, and no topic has this name.
var noTopics = []string{""}

// round asks once and publishes what it learned.
func (m *metadata) round() error {
	m.mu.Lock()
	names := slices.Sorted(maps.Keys(m.wanted))
	m.mu.Unlock()
	if len(names) == 0 {
		names = noTopics
	}
	resp, err := m.ask(m.c.ctx, names)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rounds++
	m.lastErr = err
	if err != nil {
		m.wake()
		return err
	}
	m.publish(m.merge(m.view.Load(), resp))
	return nil
}

// know makes sure that some brokers are known besides the bootstrap list, if one can be asked.
func (m *metadata) know(ctx context.Context) {
	if len(m.view.Load().brokers) > 0 {
		return
	}
	if resp, err := m.ask(ctx, noTopics); err == nil {
		m.learn(resp)
	}
}

// learn takes in an answer to somebody else's question.
func (m *metadata) learn(resp *clientv1.GetMetadataResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publish(m.merge(m.view.Load(), resp))
}

// publish makes a view current. Needs mu.
func (m *metadata) publish(v *view) {
	v.version = m.view.Load().version + 1
	m.view.Store(v)
	m.wake()
}

func (m *metadata) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// ask puts the question to brokers one after the other, the next after a failure or hedgeAfter,
// and takes the first good answer.
func (m *metadata) ask(ctx context.Context, topics []string) (*clientv1.GetMetadataResponse, error) {
	var resp *clientv1.GetMetadataResponse
	err := m.anyBroker(ctx, func(ctx context.Context, addr string) (func(), error) {
		admin, err := m.c.conns.admin(addr)
		if err != nil {
			return nil, err
		}
		r, err := admin.GetMetadata(ctx, &clientv1.GetMetadataRequest{Topics: topics})
		if err != nil {
			return nil, err
		}
		return func() { resp = r }, nil
	})
	return resp, err
}

// addresses lists whom to ask: known brokers in random order, then the bootstrap list.
func (m *metadata) addresses() []string {
	v := m.view.Load()
	addrs := make([]string, 0, len(v.brokers)+len(m.c.cfg.Bootstrap))
	for _, a := range v.brokers {
		addrs = append(addrs, a)
	}
	slices.Sort(addrs)
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	for _, a := range m.c.cfg.Bootstrap {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// anyBroker runs a question that every broker can answer: call is tried on one address after
// another, overlapping when one is slow. The first that succeeds wins, and only its take function
// runs. All calls have returned when anyBroker does.
func (m *metadata) anyBroker(ctx context.Context, call func(context.Context, string) (take func(), err error)) error {
	ctx, cancel := context.WithTimeout(ctx, m.c.cfg.RequestTimeout)
	type answer struct {
		addr string
		take func()
		err  error
	}
	addrs := m.addresses()
	answers := make(chan answer, len(addrs))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	asked, open := 0, 0
	ask := func() {
		addr := addrs[asked]
		asked++
		open++
		wg.Go(func() {
			take, err := call(ctx, addr)
			answers <- answer{addr, take, err}
		})
	}
	ask()
	hedge := time.NewTicker(hedgeAfter)
	defer hedge.Stop()
	var last *Error
	for {
		select {
		case a := <-answers:
			open--
			if a.err == nil {
				a.take()
				return nil
			}
			e := fromCall(a.err, a.addr)
			if e.Reason != ReasonNetwork && !e.Retriable {
				return e // a broker has answered, and the others would say the same
			}
			if last == nil || e.Reason != ReasonNetwork {
				last = e // what a broker says tells more than that another is out of reach
			}
			if asked < len(addrs) {
				ask()
			} else if open == 0 {
				return last
			}
		case <-hedge.C:
			if asked < len(addrs) {
				ask()
			}
		case <-ctx.Done():
			if last == nil {
				last = &Error{Reason: ReasonNetwork, Message: "no broker has answered", Retriable: true, Outcome: Unknown, cause: ctx.Err()}
			}
			return last
		}
	}
}

// merge makes the next view of an answer. Leader epochs only rise: an answer from a broker that is
// behind does not undo what a leader's own hint said (L24), unless the topic is another one.
func (m *metadata) merge(old *view, resp *clientv1.GetMetadataResponse) *view {
	v := &view{
		clusterID: resp.GetClusterId(), controller: resp.GetControllerId(),
		brokers: make(map[int32]string, len(resp.GetBrokers())), topics: maps.Clone(old.topics),
	}
	for _, b := range resp.GetBrokers() {
		if b.GetAddress() != "" {
			v.brokers[b.GetBrokerId()] = b.GetAddress()
		}
	}
	for _, t := range resp.GetTopics() {
		if _, ok := m.wanted[t.GetName()]; !ok {
			continue
		}
		v.topics[t.GetName()] = mergeTopic(old.topics[t.GetName()], t)
	}
	return v
}

func mergeTopic(old *topicView, t *clientv1.Topic) *topicView {
	next := &topicView{id: t.GetTopicId(), err: fromProto(t.GetError())}
	if next.err != nil {
		next.err.TopicPartition = record.TopicPartition{Topic: t.GetName(), Partition: -1}
		return next
	}
	next.parts = make([]partView, 0, len(t.GetPartitions()))
	for _, p := range t.GetPartitions() {
		n := int(p.GetPartition())
		if n < 0 || n > maxPartitions {
			continue
		}
		for len(next.parts) <= n {
			next.parts = append(next.parts, partView{leader: -1, epoch: -1})
		}
		next.parts[n] = partView{leader: p.GetLeader(), epoch: p.GetLeaderEpoch()}
		if old != nil && old.id == next.id && n < len(old.parts) && old.parts[n].epoch > p.GetLeaderEpoch() {
			next.parts[n] = old.parts[n]
		}
	}
	return next
}

// maxPartitions bounds what an answer can make us allocate.
const maxPartitions = 1 << 20

// hint takes in what a broker said of a partition's leader when it was asked in vain. It reports
// whether that was news.
func (m *metadata) hint(tp record.TopicPartition, l *Leader) bool {
	if l == nil || l.Broker < 0 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.view.Load()
	t := old.topics[tp.Topic]
	if t == nil || int(tp.Partition) >= len(t.parts) || t.parts[tp.Partition].epoch >= l.Epoch {
		return false
	}
	addr := old.brokers[l.Broker]
	if l.Address != "" {
		addr = l.Address
	}
	if addr == "" {
		return false
	}
	v := *old
	v.brokers = maps.Clone(old.brokers)
	v.brokers[l.Broker] = addr
	v.topics = maps.Clone(old.topics)
	next := *t
	next.parts = slices.Clone(t.parts)
	next.parts[tp.Partition] = partView{leader: l.Broker, epoch: l.Epoch}
	v.topics[tp.Topic] = &next
	m.publish(&v)
	return true
}

// topic waits until a topic's partitions are known. A topic that does not exist is an error after
// unknownTopicGrace; ctx bounds the rest.
func (m *metadata) topic(ctx context.Context, name string) (*topicView, error) {
	if t := m.view.Load().topics[name]; t != nil && t.err == nil {
		return t, nil
	}
	m.mu.Lock()
	m.wanted[name] = struct{}{}
	since := m.rounds
	m.mu.Unlock()
	var unknownSince time.Time
	for {
		m.refresh()
		v, changed := m.watch()
		t := v.topics[name]
		if t != nil && t.err == nil && len(t.parts) > 0 {
			return t, nil
		}
		m.mu.Lock()
		rounds, lastErr := m.rounds, m.lastErr
		m.mu.Unlock()
		if t != nil && t.err != nil && rounds > since {
			if unknownSince.IsZero() {
				unknownSince = time.Now()
			}
			if !t.err.Retriable && t.err.Reason != ReasonUnknownTopicOrPartition || time.Since(unknownSince) >= unknownTopicGrace {
				m.forget(name)
				err := *t.err
				err.Outcome = NotWritten
				return nil, &err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			err := canceled(ctx, NotWritten, "waiting for metadata of topic "+name)
			if lastErr != nil {
				err.Message += "; last answer: " + lastErr.Error()
			}
			return nil, err
		case <-m.c.ctx.Done():
			return nil, refusal(ReasonClosed, "client is closed")
		}
	}
}

// forget stops asking about a topic that does not exist.
func (m *metadata) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.view.Load().topics[name]; t != nil && t.err == nil {
		return // it has come to be
	}
	delete(m.wanted, name)
	v := *m.view.Load()
	v.topics = maps.Clone(v.topics)
	delete(v.topics, name)
	m.publish(&v)
}
