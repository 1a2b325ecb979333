package raftgroup

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

// progress is how far the followers of a leader are, by what they acknowledged in its term.
type progress struct {
	// mu guards what follows. Nothing blocks under it.
	mu    sync.Mutex
	term  uint64
	match map[ServerID]uint64
	// commit is the highest commit index that followers were told of. heard is when a follower acknowledged anything last,
	// level when it last had all up to commit.
	commit       uint64
	heard, level map[ServerID]time.Time
	// marks are the commit index as it was at two moments at least markAge apart, the newer one last.
	marks [2]uint64
	since time.Time
}

// markAge is how long ago a follower must have had all that was committed then, to count as caught up.
const markAge = 200 * time.Millisecond

// note enters that a follower holds what a request proves.
func (p *progress) note(id ServerID, q *raft.AppendEntriesRequest) {
	last := lastOf(q)
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.Term < p.term || last == 0 {
		return
	}
	if q.Term > p.term {
		p.begin(q.Term)
	}
	p.match[id] = max(p.match[id], last)
	now := time.Now()
	p.heard[id], p.commit = now, max(p.commit, q.LeaderCommitIndex)
	if p.match[id] >= p.commit {
		p.level[id] = now
	}
}

// beat enters that a follower has acknowledged a heartbeat.
func (p *progress) beat(id ServerID, term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term != p.term {
		return // the first entry begins a term
	}
	now := time.Now()
	p.heard[id] = now
	if match := p.match[id]; match > 0 && match >= p.commit {
		p.level[id] = now
	}
}

// of is what is known of a follower in a term.
func (p *progress) of(id ServerID, term record.Term) (match uint64, heard, level time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term != uint64(term) {
		return 0, time.Time{}, time.Time{}
	}
	return p.match[id], p.heard[id], p.level[id]
}

func (p *progress) begin(term uint64) {
	p.term, p.match, p.marks, p.since = term, make(map[ServerID]uint64), [2]uint64{}, time.Time{}
	p.commit = 0
	p.heard, p.level = make(map[ServerID]time.Time), make(map[ServerID]time.Time)
}

// caughtUp tells whether a follower has had, in a term, all that was committed at least markAge ago, and has been heard
// lately: where nothing is written, one that is dead lacks nothing. It is asked again and again: the first answers are no.
func (p *progress) caughtUp(id ServerID, term record.Term, commit uint64, now time.Time, lately time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term != uint64(term) {
		p.begin(uint64(term))
	}
	if now.Sub(p.since) >= markAge {
		p.marks, p.since = [2]uint64{p.marks[1], commit}, now
	}
	return p.marks[0] > 0 && p.match[id] >= p.marks[0] && now.Sub(p.heard[id]) <= lately
}

// has tells whether a follower is known to hold an entry, by what it acknowledged in a term.
func (p *progress) has(id ServerID, term record.Term, index uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term == uint64(term) && p.match[id] >= index
}
