package kafka

import (
	"container/list"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/oncelog/oncelog/record"
)

const (
	// maxSessions and maxSessionPartitions bound what all fetch sessions remember.
	maxSessions          = 1000
	maxSessionPartitions = 200_000
	// sessionRest is how long a session must have been unused before it makes room for another.
	sessionRest = 2 * time.Minute
)

// sessions are the fetch sessions of all connections (KIP-227). A client names only what changes between two fetches, and is told only
// of partitions about which there is something to tell. A session is a convenience: one that is forgotten costs its client one
// full fetch.
type sessions struct {
	metrics *metrics

	// mu guards what follows.
	mu         sync.Mutex
	byID       map[int32]*session
	order      *list.List // of *session, the longest unused first
	partitions int
}

// session is one client's set of partitions.
type session struct {
	id int32
	// mu is held for as long as a fetch of the session lasts: there is one at a time. Taken before sessions.mu.
	mu sync.Mutex
	// epoch is what the next fetch must carry.
	epoch int32
	// byTopicID: the client names topics by id, from version 13 on.
	byTopicID bool
	order     *list.List // of *asked, in the order in which they are read
	byKey     map[askedKey]*list.Element

	// element, used and counted are guarded by sessions.mu.
	element *list.Element
	used    time.Time
	counted int
}

// askedKey names a partition as the client does.
type askedKey struct {
	topic     string
	topicID   [16]byte
	partition int32
}

// asked is one partition of a fetch: what is asked and, in a session, what was last told.
type asked struct {
	askedKey
	current, lastFetched int32
	offset               record.Offset
	maxBytes             int32

	// told: highWatermark, lastStable and logStart are what the client has been told.
	told                                bool
	highWatermark, lastStable, logStart record.Offset
}

func newSessions(m *metrics) *sessions {
	return &sessions{metrics: m, byID: make(map[int32]*session), order: list.New()}
}

// begin makes a session for a full fetch; nil: there is no room.
func (s *sessions) begin(partitions []*asked, byTopicID bool) *session {
	fresh := &session{epoch: 1, byTopicID: byTopicID, order: list.New(), byKey: make(map[askedKey]*list.Element)}
	for _, a := range partitions {
		fresh.put(a)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.byID) >= maxSessions || s.partitions+len(fresh.byKey) > maxSessionPartitions {
		first := s.order.Front()
		if first == nil || time.Since(first.Value.(*session).used) < sessionRest {
			return nil
		}
		s.metrics.sessionsEvicted.Inc()
		s.removeLocked(first.Value.(*session))
	}
	for fresh.id == 0 || s.byID[fresh.id] != nil {
		fresh.id = rand.Int32N(1<<31-2) + 1
	}
	fresh.used, fresh.element = time.Now(), s.order.PushBack(fresh)
	s.byID[fresh.id] = fresh
	s.countLocked(fresh)
	s.metrics.fetchSessions.Set(float64(len(s.byID)))
	return fresh
}

// find gives a session that a fetch continues; nil: it is not remembered.
func (s *sessions) find(id int32) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.byID[id]
	if found != nil {
		found.used = time.Now()
		s.order.MoveToBack(found.element)
	}
	return found
}

// recount is told that a session's partitions have changed; false: there is no room for them, and the session is forgotten.
// Held: session.mu.
func (s *sessions) recount(of *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[of.id] != of {
		return true // forgotten meanwhile; the client hears it with its next fetch
	}
	s.countLocked(of)
	if s.partitions > maxSessionPartitions {
		s.metrics.sessionsEvicted.Inc()
		s.removeLocked(of)
		return false
	}
	return true
}

func (s *sessions) countLocked(of *session) {
	s.partitions += len(of.byKey) - of.counted
	of.counted = len(of.byKey)
}

// end forgets a session.
func (s *sessions) end(id int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of := s.byID[id]; of != nil {
		s.removeLocked(of)
	}
}

func (s *sessions) removeLocked(of *session) {
	delete(s.byID, of.id)
	s.order.Remove(of.element)
	s.partitions -= of.counted
	of.counted = 0
	s.metrics.fetchSessions.Set(float64(len(s.byID)))
}

// put adds a partition or changes what is asked of it.
func (s *session) put(a *asked) {
	if e := s.byKey[a.askedKey]; e != nil {
		have := e.Value.(*asked)
		have.current, have.lastFetched, have.offset, have.maxBytes = a.current, a.lastFetched, a.offset, a.maxBytes
		return
	}
	s.byKey[a.askedKey] = s.order.PushBack(a)
}

// drop takes a partition out.
func (s *session) drop(k askedKey) {
	if e := s.byKey[k]; e != nil {
		s.order.Remove(e)
		delete(s.byKey, k)
	}
}

// all gives the session's partitions, in the order in which they are to be read.
func (s *session) all() []*asked {
	out := make([]*asked, 0, len(s.byKey))
	for e := s.order.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(*asked))
	}
	return out
}

// served moves a partition that gave records behind the others, so that all get their turn.
func (s *session) served(k askedKey) {
	if e := s.byKey[k]; e != nil {
		s.order.MoveToBack(e)
	}
}

// nextEpoch follows Kafka: 0 and -1 have meanings of their own.
func (s *session) nextEpoch() {
	if s.epoch == 1<<31-1 {
		s.epoch = 1
		return
	}
	s.epoch++
}
