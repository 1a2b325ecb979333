package raftgroup

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// inbox passes requests of peers to Raft and its answers back. Raft deals with them one after
// another, so that one responder waits for the answers in order. put never waits: what a session
// reads for one group must not hold up the others.
type inbox struct {
	rpcs chan raft.RPC // what Raft consumes
	wake chan struct{} // has a token when waiting has become non-empty
	stop <-chan struct{}
	room Allowance // nil: not bounded over all groups

	// mu makes the order in rpcs and waiting the same, and guards what follows. Nothing blocks under it.
	mu      sync.Mutex
	waiting []waitingRPC // oldest first
	handed  int          // how many of them have been put into rpcs
	bytes   int64
	closed  bool
}

type waitingRPC struct {
	answer chan raft.RPCResponse
	bytes  int64
	cmd    any
	reader io.Reader
	reply  func(resp any, code uint16, err error)
}

const (
	// maxInbox bounds the requests that wait for one group; honest leaders keep
	// maxPipelined there, and one may have followed another.
	maxInbox      = 128
	maxInboxBytes = 64 << 20
	// handedRPCs is how many of them Raft finds ready. An idle group should not hold room for more.
	handedRPCs = 8
)

func newInbox(stop <-chan struct{}, room Allowance) *inbox {
	return &inbox{rpcs: make(chan raft.RPC, handedRPCs), wake: make(chan struct{}, 1), stop: stop, room: room}
}

// put queues a request; reply is called exactly once, unless the code is not codeOK.
func (b *inbox) put(cmd any, reader io.Reader, bytes int64, reply func(resp any, code uint16, err error)) uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return codeUnavailable
	case len(b.waiting) >= maxInbox || b.bytes > 0 && b.bytes+bytes > maxInboxBytes:
		return codeBusy
	case b.room != nil && bytes > 0 && !b.room.TryAcquire(bytes):
		return codeBusy
	}
	b.bytes += bytes
	b.waiting = append(b.waiting, waitingRPC{answer: make(chan raft.RPCResponse, 1), bytes: bytes, cmd: cmd, reader: reader, reply: reply})
	b.handLocked()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return codeOK
}

// handLocked gives Raft what it has room for. It is called again after each answer: Raft has taken what it answers.
func (b *inbox) handLocked() {
	for b.handed < len(b.waiting) {
		w := &b.waiting[b.handed]
		select {
		case b.rpcs <- raft.RPC{Command: w.cmd, Reader: w.reader, RespChan: w.answer}:
			b.handed++
		default:
			return
		}
	}
}

// oldest gives the request that Raft answers next.
func (b *inbox) oldest() (waitingRPC, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		return waitingRPC{}, false
	}
	return b.waiting[0], true
}

// answered takes the oldest request out.
func (b *inbox) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[0] = waitingRPC{}
	b.handed--
	if b.waiting = b.waiting[1:]; len(b.waiting) == 0 {
		b.waiting = nil
	}
	b.handLocked()
}

// respond passes answers on until the inbox is stopped, then answers what is left. installed answers
// for snapshots. hold is given the answers to appends that Raft has taken; it calls reply when they
// may go, or may not.
func (b *inbox) respond(installed func(q *raft.InstallSnapshotRequest, r raft.RPCResponse, reply func(resp any, code uint16, err error)),
	hold func(last uint64, resp *raft.AppendEntriesResponse, reply func(code uint16))) {
	for {
		w, ok := b.oldest()
		if !ok {
			select {
			case <-b.wake:
				continue
			case <-b.stop:
				b.end()
				return
			}
		}
		select {
		case r := <-w.answer:
			b.answered()
			if last, resp := lastAppended(w.cmd, r); last > 0 {
				hold(last, resp, func(code uint16) {
					b.done(w.bytes)
					w.reply(resp, code, nil)
				})
				continue
			}
			b.done(w.bytes)
			if q, ok := w.cmd.(*raft.InstallSnapshotRequest); ok {
				installed(q, r, w.reply)
				continue
			}
			w.reply(r.Response, codeOK, r.Error)
		case <-b.stop:
			b.end()
			return
		}
	}
}

// end answers what is left.
func (b *inbox) end() {
	b.mu.Lock()
	b.closed = true
	left := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	for _, w := range left {
		b.done(w.bytes)
		w.reply(nil, codeUnavailable, nil)
	}
}

func (b *inbox) done(bytes int64) {
	b.mu.Lock()
	b.bytes -= bytes
	b.mu.Unlock()
	b.give(bytes)
}

func (b *inbox) give(bytes int64) {
	if b.room != nil && bytes > 0 {
		b.room.Release(bytes)
	}
}
