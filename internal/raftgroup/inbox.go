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
	rpcs    chan raft.RPC // what Raft consumes
	waiting chan waitingRPC
	stop    <-chan struct{}

	// mu makes the order in rpcs and waiting the same, and guards bytes and closed. Nothing blocks
	// under it: both channels hold maxInbox.
	mu     sync.Mutex
	bytes  int64
	closed bool
}

type waitingRPC struct {
	answer chan raft.RPCResponse
	bytes  int64
	cmd    any
	reply  func(resp any, code uint16, err error)
}

const (
	// maxInbox bounds the requests that wait for one group; honest leaders keep
	// maxPipelined there, and one may have followed another.
	maxInbox      = 128
	maxInboxBytes = 64 << 20
)

func newInbox(stop <-chan struct{}) *inbox {
	return &inbox{rpcs: make(chan raft.RPC, maxInbox+1), waiting: make(chan waitingRPC, maxInbox), stop: stop}
}

// put queues a request; reply is called exactly once, unless the code is not codeOK.
func (b *inbox) put(cmd any, reader io.Reader, bytes int64, reply func(resp any, code uint16, err error)) uint16 {
	answer := make(chan raft.RPCResponse, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return codeUnavailable
	case b.bytes > 0 && b.bytes+bytes > maxInboxBytes:
		return codeBusy
	}
	select {
	case b.waiting <- waitingRPC{answer: answer, bytes: bytes, cmd: cmd, reply: reply}:
	default:
		return codeBusy
	}
	b.bytes += bytes
	// There is room: rpcs holds no more than waiting does, and the one the responder waits for.
	b.rpcs <- raft.RPC{Command: cmd, Reader: reader, RespChan: answer}
	return codeOK
}

// respond passes answers on until the inbox is stopped, then answers what is left. installed answers
// for snapshots. hold is given the answers to appends that Raft has taken; it calls reply when they
// may go, or may not.
func (b *inbox) respond(installed func(q *raft.InstallSnapshotRequest, r raft.RPCResponse, reply func(resp any, code uint16, err error)),
	hold func(last uint64, resp *raft.AppendEntriesResponse, reply func(code uint16))) {
	for {
		select {
		case w := <-b.waiting:
			select {
			case r := <-w.answer:
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
				b.close()
				w.reply(nil, codeUnavailable, nil)
			}
		case <-b.stop:
			b.close()
			for {
				select {
				case w := <-b.waiting:
					w.reply(nil, codeUnavailable, nil)
				default:
					return
				}
			}
		}
	}
}

func (b *inbox) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
}

func (b *inbox) done(bytes int64) {
	b.mu.Lock()
	b.bytes -= bytes
	b.mu.Unlock()
}
