package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/hashicorp/raft"
)

// errCovered ends the installation of a snapshot that this replica does not need.
var errCovered = errors.New("the log holds everything in the snapshot")

// installReader gives Raft the data of a snapshot that a leader sends, unless the log covers it. It
// is read on Raft's own goroutine, behind everything that the leader has sent before.
//
// A leader that has lost answers on their way, because a link broke or was silent for long, counts
// this replica further behind than it is, and sends it a snapshot of what it has. Raft would install
// that as any other: it would set the machine back to it and, as the log is monotonic, remove the
// entries behind it, of which some are applied, and some acknowledged to the leader, which may have
// counted them.
type installReader struct {
	engine  *engine
	request *raft.InstallSnapshotRequest
	stream  *snapshotStream
	begun   bool
	err     error
}

func (r *installReader) Read(p []byte) (int, error) {
	if !r.begun {
		r.begun = true
		switch covered, err := r.engine.covers(r.request.LastLogIndex, r.request.LastLogTerm); {
		case err != nil:
			// What cannot be read may be what a majority counts on: it is not cut, and this replica stops.
			r.err = err
			r.engine.fault(err)
			r.stream.fail(err)
		case covered:
			r.err = errCovered
			r.stream.fail(errCovered)
		}
	}
	if r.err != nil {
		return 0, r.err
	}
	return r.stream.Read(p)
}

var _ io.Reader = (*installReader)(nil)

// covers says whether the log up to an index of a term is the leader's: all up to there has been
// applied, or the entry is there, and then so are those before it.
func (e *engine) covers(index, term uint64) (bool, error) {
	if index <= e.raft.AppliedIndex() {
		return true, nil
	}
	var l raft.Log
	switch err := e.group.logs.GetLog(index, &l); {
	case errors.Is(err, raft.ErrLogNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for the last entry of a snapshot: %w", err)
	}
	return l.Term == term, nil
}

// answerInstall tells a leader what became of a snapshot that it has sent. One that was covered counts
// as installed: the leader goes on behind it.
func (e *engine) answerInstall(q *raft.InstallSnapshotRequest, r raft.RPCResponse, reply func(resp any, code uint16, err error)) {
	resp, _ := r.Response.(*raft.InstallSnapshotResponse)
	switch {
	case resp != nil && errors.Is(r.Error, errCovered):
		e.group.metrics().snapshots.WithLabelValues("unneeded").Inc()
		reply(&raft.InstallSnapshotResponse{Term: resp.Term, Success: true}, codeOK, nil)
	case resp != nil && r.Error == nil && resp.Success && e.afterInstall(q, func() { reply(resp, codeOK, nil) }):
		// It is answered then.
	default:
		reply(r.Response, codeOK, r.Error)
	}
}

// afterInstall looks at Raft after a snapshot was installed. If Raft still believes in a log that
// reaches at least as far as the snapshot, it would refuse everything the leader sends next and be
// sent the snapshot again, for ever: it counts from the log it had, which is gone. Opening it
// again is the cure; the answer to the leader waits for that.
func (e *engine) afterInstall(q *raft.InstallSnapshotRequest, answer func()) bool {
	last, err := strconv.ParseUint(e.raft.Stats()["last_log_index"], 10, 64)
	if err != nil || last < q.LastLogIndex {
		return false
	}
	e.group.logger.Info("log reached past the installed snapshot; opening raft again", "last_index", last, "snapshot_index", q.LastLogIndex)
	select {
	case e.group.reopens <- reopenRequest{engine: e, then: answer}:
		return true
	case <-e.stopping:
		return false
	}
}

// beginBehindSnapshot makes an append that begins at or below this replica's snapshot, where the log holds nothing any more, one that begins
// right behind it. Raft compares the entry before the first one, and does not find it, unless it is the very last: so a replica
// whose log begins behind an installed snapshot, with a tail that conflicts from there on, would refuse the append, be sent a
// snapshot, which covers nothing new, and refuse the append again, without a pause and for ever. There is nothing to compare: what a
// snapshot covers is committed, and whoever leads in a later term has it. (Raft looks at the term first.)
func (e *engine) beginBehindSnapshot(q *raft.AppendEntriesRequest) {
	newest := uint64(e.group.snapshots.newest())
	if q.PrevLogEntry == 0 || q.PrevLogEntry > newest {
		return
	}
	if first, err := e.group.logs.FirstIndex(); err != nil || first > 0 && first <= q.PrevLogEntry {
		return
	}
	for len(q.Entries) > 0 && q.Entries[0].Index <= newest {
		q.Entries = q.Entries[1:]
	}
	q.PrevLogEntry, q.PrevLogTerm = 0, 0
}
