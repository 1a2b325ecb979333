package raftgroup

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

// The way of a command: ProposeAsync admits it under the current term and queues it; the proposer
// goroutine hands it to Raft, in the order of the calls, keeping fewer outstanding than Raft sends
// at once; Raft orders, stores and replicates it; the machine applies it; the completer goroutine
// tells the caller, in the same order.

// Command is one command to be replicated.
type Command struct {
	// Meta travels beside the payload, at most 64 KiB. Data is the payload. Both belong to the
	// group from the call on.
	Meta, Data []byte
	// AppendTime is the leader's clock in ms since 1970 (R5).
	AppendTime int64
	// Term is the leadership the command was computed in; if another leadership orders it, it does
	// not happen. 0: the one at the time of the call.
	Term record.Term
}

// maxOutstanding is how many commands are handed to Raft and not resolved. Raft's pipeline sends
// at most maxAppendEntries for one trigger and lets the rest wait for CommitTimeout.
const maxOutstanding = maxAppendEntries - 24

// Small commands that come while others are under way travel in groups. While maxGroups are under way, the queue waits for the end of one,
// or for gatherBytes: what Raft does for each group (an append to each follower, its answer, a commit) costs more than what it does for
// each command. A command that comes alone, and a large one, does not wait.
const (
	maxGroups   = 2
	gatherBytes = 16 << 10
)

// proposal is a command on its way.
type proposal struct {
	command Command
	kind    Kind
	done    func(any, error)
	size    int64
	future  raft.ApplyFuture
	handed  bool // in Raft's hands, maybe
	last    bool // of its group
	err     error
}

// proposals is a group's queue of commands.
type proposals struct {
	group *Group
	// wake has a token when the oldest command may go out (goesLocked) and could not before.
	wake chan struct{}
	// sent passes from the proposer to the completer, and is made with them: replicas that never lead need none. It holds all that may be
	// outstanding and what failed before it was.
	sent chan *proposal

	start sync.Once

	// mu guards what follows. Nothing blocks under it.
	mu          sync.Mutex
	queue       []*proposal
	queuedBytes int64
	outstanding int
	outBytes    int64
	groups      int // handed over, at least in part, and not resolved
	rest        int // of the queue, what belongs to the group that is being handed over
	transfers   int // under way: Raft refuses commands meanwhile
	afterwards  []func()
	closed      bool
	refusals    []refusalCall
	refusing    bool
}

type refusalCall struct {
	done func(any, error)
	err  error
}

func newProposals(g *Group) *proposals {
	return &proposals{
		group: g,
		wake:  make(chan struct{}, 1),
	}
}

// Propose replicates a command and waits for its result: what StateMachine.Apply gave for it
// here. OutcomeOf sorts the errors. When ctx ends first, the command may have happened.
func (g *Group) Propose(ctx context.Context, c Command) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, &refusedError{err}
	}
	type result struct {
		v   any
		err error
	}
	got := make(chan result, 1)
	g.ProposeAsync(c, func(v any, err error) { got <- result{v, err} })
	select {
	case r := <-got:
		return r.v, r.err
	case <-ctx.Done():
		return nil, &UncertainError{ctx.Err()}
	}
}

// ProposeAsync replicates a command. Calls from one goroutine become entries in their order. done
// is called exactly once, never from within the call; results come in the order of the calls, from
// one goroutine, and done holds up the next result while it runs. Refusals (ErrBusy, NotLeaderError
// and the like at the time of the call) may overtake them.
func (g *Group) ProposeAsync(c Command, done func(result any, err error)) {
	q := g.proposals
	p := &proposal{command: c, kind: KindCommand, done: done, size: int64(len(c.Meta) + len(c.Data) + envelopeSize)}
	if err := q.admit(p); err != nil {
		g.metrics().outcome(err)
		g.AfterHandover(func() {
			var notLeader *NotLeaderError
			if errors.As(err, &notLeader) {
				err = g.notLeader() // it may be known by now who leads
			}
			q.refuse(done, err)
		})
	}
}

// AfterHandover calls f once leadership is no longer being handed over: at once, or from another goroutine. Who refuses something because this
// replica does not lead can say then who does.
func (g *Group) AfterHandover(f func()) {
	q := g.proposals
	q.mu.Lock()
	if q.transfers > 0 {
		q.afterwards = append(q.afterwards, f)
		q.mu.Unlock()
		return
	}
	q.mu.Unlock()
	f()
}

// admit queues a proposal or says why not.
func (q *proposals) admit(p *proposal) error {
	g := q.group
	h := &g.host.config
	if len(p.command.Meta) > maxMetaBytes || p.size > int64(h.MaxEntryBytes) {
		return ErrTooLarge
	}
	q.start.Do(func() {
		q.sent = make(chan *proposal, maxAppendEntries)
		g.goroutine(q.propose)
		g.goroutine(q.complete)
	})
	l := g.lead.Load()
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed || g.halted.Load():
		return ErrStopped
	case p.kind == KindLeaderStart:
		// Comes before all else of its term.
	case l == nil || !l.ready.Load() || p.command.Term != 0 && p.command.Term != l.term:
		return g.notLeader()
	case len(q.queue) >= h.MaxQueuedEntries || q.queuedBytes > 0 && q.queuedBytes+p.size > h.MaxQueuedBytes:
		return ErrBusy
	}
	if p.command.Term == 0 {
		p.command.Term = l.term
	}
	q.queue = append(q.queue, p)
	q.queuedBytes += p.size
	g.metrics().queuedBytes.Add(float64(p.size))
	if q.goesLocked() {
		signal(q.wake)
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// refuse tells a caller from another goroutine that its command was not even queued.
func (q *proposals) refuse(done func(any, error), err error) {
	q.mu.Lock()
	q.refusals = append(q.refusals, refusalCall{done, err})
	if q.refusing {
		q.mu.Unlock()
		return
	}
	q.refusing = true
	q.mu.Unlock()
	drain := func() {
		for {
			q.mu.Lock()
			list := q.refusals
			q.refusals = nil
			if len(list) == 0 {
				q.refusing = false
				q.mu.Unlock()
				return
			}
			q.mu.Unlock()
			for _, r := range list {
				r.done(nil, r.err)
			}
		}
	}
	if !q.group.host.background(drain) {
		// The host is closed; the caller must be told all the same.
		go drain()
	}
}

// close refuses further commands.
func (q *proposals) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
}

// propose hands commands to Raft until the group ends, then passes on what is left.
func (q *proposals) propose() {
	defer close(q.sent)
	for {
		p := q.next()
		if p == nil {
			return
		}
		if p.err == nil {
			q.hand(p)
		}
		q.sent <- p
	}
}

// next takes the oldest command, once it may go out; nil: the group has ended and the queue is empty.
func (q *proposals) next() *proposal {
	for {
		q.mu.Lock()
		ended := q.closed || q.group.halted.Load()
		if q.goesLocked() || ended && len(q.queue) > 0 {
			p := q.takeLocked()
			q.mu.Unlock()
			if ended {
				p.err = ErrStopped
			}
			q.group.metrics().queuedBytes.Sub(float64(p.size))
			return p
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil
		}
		select {
		case <-q.wake:
		case <-q.group.ended:
			// What is left fails; the queue is emptied first.
		}
	}
}

// pause keeps commands in the queue while leadership is handed over. When resume is called they go on, or their callers are told who leads:
// a refusal by Raft could say only that something is under way, and they would ask again and again.
func (q *proposals) pause() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.transfers++
}

func (q *proposals) resume() {
	q.mu.Lock()
	q.transfers--
	if q.goesLocked() {
		signal(q.wake)
	}
	var over []func()
	if q.transfers == 0 {
		over, q.afterwards = q.afterwards, nil
	}
	q.mu.Unlock()
	for _, f := range over {
		f()
	}
}

// goesLocked says whether there is a command, room for it, and nothing that it waits for. Whoever makes it true wakes the proposer.
func (q *proposals) goesLocked() bool {
	return len(q.queue) > 0 && q.transfers == 0 && q.outstanding < maxOutstanding &&
		(q.outBytes == 0 || q.outBytes+q.queue[0].size <= q.group.host.config.MaxOutstandingBytes) && !q.gathersLocked()
}

// gathersLocked says whether the queue waits for more to come.
func (q *proposals) gathersLocked() bool {
	return q.rest == 0 && q.groups >= maxGroups && q.queuedBytes < gatherBytes && q.queue[0].kind == KindCommand
}

// takeLocked takes the oldest command out of the queue. With the first of a group, all that is queued then belongs to it.
func (q *proposals) takeLocked() *proposal {
	p := q.queue[0]
	if q.rest == 0 {
		q.rest = len(q.queue)
		q.groups++
	}
	q.rest--
	p.last = q.rest == 0
	q.queue[0] = nil
	q.queue = q.queue[1:]
	q.queuedBytes -= p.size
	q.outstanding++
	q.outBytes += p.size
	return p
}

// hand gives a command to Raft, if the term it was admitted in still stands.
func (q *proposals) hand(p *proposal) {
	g := q.group
	l := g.lead.Load()
	if l == nil || l.term != p.command.Term {
		p.err = g.notLeader()
		return
	}
	env := envelope{kind: p.kind, level: g.host.level(), admission: p.command.Term, appendTime: p.command.AppendTime, meta: p.command.Meta}
	// Timeout 0: no timer for each. Raft takes it at once, as its buffer holds all that may be
	// outstanding. If its leadership has changed by now, the entry lands in another term, and
	// apply refuses it everywhere.
	p.future = l.engine.raft.ApplyLog(raft.Log{Data: p.command.Data, Extensions: env.encode()}, 0)
	p.handed = endWith(p.future, l.engine.done)
	g.metrics().outstanding.Inc()
}

// complete tells the callers, in order, until the proposer has ended.
func (q *proposals) complete() {
	for p := range q.sent {
		v, err := q.resolve(p)
		q.mu.Lock()
		q.outstanding--
		q.outBytes -= p.size
		if p.last {
			q.groups--
		}
		goes := q.goesLocked()
		q.mu.Unlock()
		if goes {
			signal(q.wake)
		}
		q.group.metrics().outcome(err)
		p.done(v, err)
	}
}

// resolve waits for a command's end and sorts it (R2).
func (q *proposals) resolve(p *proposal) (any, error) {
	if p.err != nil {
		return nil, p.err
	}
	err := p.future.Error()
	q.group.metrics().outstanding.Dec()
	if err == nil {
		v := p.future.Response()
		if r, ok := v.(refusal); ok {
			return nil, r.err
		}
		return v, nil
	}
	return nil, q.group.sortError(err, p.handed)
}

// sortError says of an error of Raft's what it leaves behind. handed: Raft has taken the request.
func (g *Group) sortError(err error, handed bool) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return g.notLeader()
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrTransferring
	case errors.Is(err, raft.ErrEnqueueTimeout), nothingWritten(err), unwritable(err):
		return &refusedError{err}
	case !handed && errors.Is(err, raft.ErrRaftShutdown):
		return ErrStopped
	}
	// Leadership lost, Raft shut down, the log store's errors: the entry may be on some disk.
	return &UncertainError{err}
}

func (g *Group) notLeader() error {
	id, _ := g.Leader()
	return &NotLeaderError{Group: g.config.ID, Leader: id}
}

// refusedError is a cause that surely kept the command from happening.
type refusedError struct{ cause error }

func (e *refusedError) Error() string { return e.cause.Error() }

// Unwrap gives the cause.
func (e *refusedError) Unwrap() error { return e.cause }
