package client

import (
	"context"
	"maps"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// sendOffsets commits offsets in the open transaction. Sending them again does no harm; sending others does where an attempt before was not answered:
// of two offsets of a partition the one that is taken last counts, and they have no sequence that would tell which is the newer one.
func (t *transactions) sendOffsets(ctx context.Context, by GroupMember, offsets Offsets) *Error {
	if n := len(by.GroupID); n < 1 || n > 1024 {
		return invalid("GroupMember.GroupID", "has %d bytes, want 1 to 1024", n)
	}
	t.calls.Lock()
	defer t.calls.Unlock()
	t.mu.RLock()
	open, refused := t.phase == phaseOpen, t.wrongPhase("SendOffsets")
	t.mu.RUnlock()
	if !open {
		return refused
	}
	if err := t.mishap.Load().get(); err != nil || len(offsets) == 0 {
		return err
	}
	if err := t.mayBeReplaced(by.GroupID, offsets); err != nil {
		t.mishap.Load().note(err)
		return err
	}
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	t.touched.Store(true) // the group joins by the question, whatever the answer
	has := t.identity()
	req := &clientv1.CommitOffsetsInTransactionRequest{
		TransactionalId: t.id, ProducerId: int64(has.pid), ProducerEpoch: int32(has.epoch),
		GroupId: by.GroupID, Committer: committerOf(by), Offsets: offsetsToProto(by, offsets),
	}
	var refusals []*clientv1.RefusedOffset
	lost, err := t.groupCoordinator(by.GroupID).do(ctx, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewGroupServiceClient(cc).CommitOffsetsInTransaction(ctx, req)
		refusals = r.GetRefused()
		return err
	})
	if lost {
		t.noteUnanswered(by.GroupID, offsets)
	}
	if err == nil {
		err = firstRefused(refusals)
	}
	if err == nil {
		return nil
	}
	if lost {
		err.Outcome = Unknown
	}
	if !err.Retriable && err.Reason != ReasonCanceled || err.Reason == ReasonUnknownTopicID {
		e := *err
		e.Abortable = true
		e.Message = "the transaction has to be aborted: " + e.Message
		t.mishap.Load().note(&e)
		return &e
	}
	return err
}

// mayBeReplaced refuses offsets that an attempt before, with others, may yet replace.
func (t *transactions) mayBeReplaced(group string, offsets Offsets) *Error {
	for tp, o := range offsets {
		if late, ok := t.unanswered[group][tp]; ok && late != o {
			err := refusal(ReasonTransactionAbortable, "the transaction has to be aborted: offset %d was sent before without an answer, and may yet be taken in place of %d", late, o).at(tp)
			err.Abortable = true
			return err
		}
	}
	return nil
}

// noteUnanswered notes that an attempt to send offsets may still be taken, although a later one was answered. Held: calls.
func (t *transactions) noteUnanswered(group string, offsets Offsets) {
	if t.unanswered == nil {
		t.unanswered = make(map[string]Offsets)
	}
	if t.unanswered[group] == nil {
		t.unanswered[group] = make(Offsets, len(offsets))
	}
	maps.Copy(t.unanswered[group], offsets)
}

// maxGroupsKnown bounds the groups whose coordinators a producer remembers. Most have one.
const maxGroupsKnown = 100

// groupCoordinator finds the coordinator of a group. Held: calls.
func (t *transactions) groupCoordinator(id string) *coordinator {
	if k := t.groups[id]; k != nil {
		return k
	}
	if t.groups == nil || len(t.groups) >= maxGroupsKnown {
		t.groups = make(map[string]*coordinator)
	}
	k := &coordinator{c: t.p.c, conns: t.p.conns, kind: clientv1.CoordinatorType_COORDINATOR_TYPE_GROUP, key: id}
	t.groups[id] = k
	return k
}
