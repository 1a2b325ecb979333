package raftgroup

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// pipeline keeps several requests under way to one follower. Raft takes the answers off Consumer
// in the order of the requests. The first one that fails ends the pipeline: Raft falls back to
// single requests and begins another.
type pipeline struct {
	transport *transport
	link      *link
	to        target
	slots     chan struct{} // a token for each request under way
	bytes     *budget
	ready     chan raft.AppendFuture
	closed    chan struct{}

	// mu guards what follows. Nothing blocks under it.
	mu     sync.Mutex
	queue  []*appendFuture // under way, oldest first
	told   told
	broken bool
	ended  bool
}

// told is the newest request that the follower has taken.
type told struct {
	last, commit uint64 // its last entry, and the commit index it carried
	at           time.Time
	changes      uint64 // of the pulse, before it was sent
}

// tellAgain is how long a follower that nothing is new for is not told anything. Raft tells it the commit index every CommitTimeout.
const tellAgain = 10 * time.Second

var errPipelineEnded = errors.New("pipeline has ended")

// appendFuture is one request of Raft's, sent as one or more frames. Guarded by the pipeline's mu
// until it is on ready.
type appendFuture struct {
	started time.Time
	req     *raft.AppendEntriesRequest
	resp    *raft.AppendEntriesResponse
	left    int // frames not answered
	unsent  bool
	changes uint64 // of the pulse, before it was sent
}

// Error is nil: what failed has an answer without success, which is what Raft looks at.
func (f *appendFuture) Error() error { return nil }

// Start is when the request was made.
func (f *appendFuture) Start() time.Time { return f.started }

// Request is what was asked.
func (f *appendFuture) Request() *raft.AppendEntriesRequest { return f.req }

// Response is the answer.
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }

// AppendEntriesPipeline begins a pipeline to a follower.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, _ raft.ServerAddress) (raft.AppendPipeline, error) {
	to, err := t.target(id)
	if err != nil {
		return nil, err
	}
	l, err := to.peer.bulk.get(to.id, t.engine.stopping)
	if err != nil {
		return nil, err
	}
	return &pipeline{
		transport: t, link: l, to: to,
		slots:  make(chan struct{}, maxPipelined),
		bytes:  newBudget(maxPipelinedBytes),
		ready:  make(chan raft.AppendFuture, 4*maxPipelined),
		closed: make(chan struct{}),
	}, nil
}

// AppendEntries sends a request; it waits while too much is under way.
func (p *pipeline) AppendEntries(q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &appendFuture{started: time.Now(), req: q, resp: resp, unsent: true, changes: p.to.pulse.changed()}
	select {
	case p.slots <- struct{}{}:
	case <-p.closed:
		return nil, errPipelineEnded
	case <-p.transport.engine.stopping:
		return nil, ErrStopped
	}
	if p.transport.engine.muted.Load() {
		return nil, errDiskStalled
	}
	p.mu.Lock()
	if p.broken || p.ended {
		p.mu.Unlock()
		return nil, errPipelineEnded
	}
	if p.isKnownLocked(f) {
		defer p.mu.Unlock()
		*resp = raft.AppendEntriesResponse{RPCHeader: p.transport.header(raft.ServerID(p.to.id)), Term: q.Term, LastLog: q.PrevLogEntry, Success: true}
		<-p.slots
		p.giveLocked(f)
		return f, nil
	}
	p.queue = append(p.queue, f)
	p.mu.Unlock()
	for rest := q.Entries; ; {
		var c *chunk
		var err error
		if c, rest, err = p.transport.nextChunk(q, rest); err == nil {
			err = p.send(f, c, len(rest) == 0)
		}
		if err != nil {
			p.fail()
			return nil, err
		}
		if len(rest) == 0 {
			return f, nil
		}
	}
}

// send sends one frame of a request.
func (p *pipeline) send(f *appendFuture, c *chunk, last bool) error {
	stopping := p.transport.engine.stopping
	if !p.bytes.Acquire(c.bytes, p.closed, stopping) {
		return errPipelineEnded
	}
	p.mu.Lock()
	if p.broken || p.ended {
		p.mu.Unlock()
		return errPipelineEnded
	}
	f.left++
	f.unsent = !last
	p.mu.Unlock()
	started := time.Now()
	through := uint64(0)
	if len(c.entries) > 0 {
		through = c.lastIndex()
	}
	_, err := p.transport.writeChunk(p.link, p.to, c, p.closed, func(a *frame, err error) {
		p.bytes.Release(c.bytes)
		p.answered(f, through, started, a, err)
	})
	return err
}

// answered takes the answer to one frame, on the link's reader. through is the last entry in it, 0:
// there is none. Answers of a healthy follower come in order.
func (p *pipeline) answered(f *appendFuture, through uint64, started time.Time, a *frame, err error) {
	var resp raft.AppendEntriesResponse
	if err == nil {
		err = answerError(a)
	}
	if err == nil {
		err = decodeAppendAck(a.body, &resp)
	}
	p.transport.host.metrics.rpc(frameAppend, started, err)
	if err != nil || !resp.Success || resp.Term > f.req.Term {
		p.refused(f, resp)
		return
	}
	// The follower has it on disk. Raft may count that once this replica has, too.
	p.transport.engine.group.logs.awaitDurable(through, func(err error) {
		if err != nil {
			p.fail()
			return
		}
		p.accepted(f, resp)
	})
}

// refused takes an answer that ends the pipeline.
func (p *pipeline) refused(f *appendFuture, resp raft.AppendEntriesResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken || p.ended {
		return
	}
	*f.resp = resp
	f.resp.Success = false
	p.breakLocked(f)
}

// accepted counts a frame as stored, here and by the follower, and passes on the requests that are
// complete.
func (p *pipeline) accepted(f *appendFuture, resp raft.AppendEntriesResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken || p.ended {
		return
	}
	f.left--
	if f.left > 0 || f.unsent {
		return
	}
	*f.resp = resp
	for len(p.queue) > 0 && p.queue[0].left == 0 && !p.queue[0].unsent {
		if !p.passLocked(p.queue[0]) {
			return
		}
		p.queue[0] = nil // Raft gives each request room for all the entries it may hold.
		if p.queue = p.queue[1:]; len(p.queue) == 0 {
			p.queue = nil
		}
		<-p.slots
	}
}

// passLocked gives Raft a finished request. Raft keeps up with what it has under way; if it does
// not, it has left.
func (p *pipeline) passLocked(f *appendFuture) bool {
	p.transport.engine.progress.note(p.to.id, f.req)
	p.told = told{last: lastOf(f.req), commit: f.req.LeaderCommitIndex, at: f.started, changes: f.changes}
	return p.giveLocked(f)
}

func (p *pipeline) giveLocked(f *appendFuture) bool {
	select {
	case p.ready <- f:
		return true
	default:
		p.endLocked()
		return false
	}
}

// isKnownLocked says whether a request holds nothing but what the follower was told, and knows still. Raft sends such a request for each
// idle follower at every CommitTimeout; its heartbeats say as much. A follower of an older version, which does not say when its Raft was
// opened again, is told each time.
func (p *pipeline) isKnownLocked(f *appendFuture) bool {
	q := f.req
	if !p.link.saysFresh || len(q.Entries) > 0 || len(p.queue) > 0 || q.PrevLogEntry == 0 || q.PrevLogEntry != p.told.last || q.LeaderCommitIndex != p.told.commit ||
		f.started.Sub(p.told.at) >= tellAgain {
		return false
	}
	select {
	case <-p.link.closed:
		return false
	default:
	}
	return p.to.pulse.knows(q.Term, p.told.changes, f.started)
}

// lastOf is the last entry that a request proves.
func lastOf(q *raft.AppendEntriesRequest) uint64 {
	if n := len(q.Entries); n > 0 {
		return q.Entries[n-1].Index
	}
	return q.PrevLogEntry
}

// breakLocked gives Raft one failed request, so that it leaves the pipeline. One only: Raft
// takes every answer, even a failed one, for a sign of life of the follower.
func (p *pipeline) breakLocked(f *appendFuture) {
	p.broken = true
	p.queue = nil
	select {
	case p.ready <- f:
	default:
	}
	p.endLocked()
}

// fail ends the pipeline from the sending side.
func (p *pipeline) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = nil
	p.endLocked()
}

func (p *pipeline) endLocked() {
	if !p.ended {
		p.ended = true
		close(p.closed)
	}
}

// Consumer gives the answers.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.ready }

// Close ends the pipeline. Requests under way go on, their answers are dropped.
func (p *pipeline) Close() error {
	p.fail()
	return nil
}
