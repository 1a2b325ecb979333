package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

const (
	// maxWaitingRequests bounds the changes that wait on this broker, its own and forwarded ones.
	maxWaitingRequests = 4096
	// attemptTimeout bounds one attempt at one broker, so that one that hangs is not waited for.
	attemptTimeout = 5 * time.Second
	// The pause between two attempts.
	firstRetry = 20 * time.Millisecond
	mostRetry  = 500 * time.Millisecond
)

// leaderHint is where the leader of the metadata group is said to be.
type leaderHint struct{ target peer.Target }

func (h *leaderHint) proto() *peerv1.Leader {
	if h == nil {
		return nil
	}
	return &peerv1.Leader{BrokerId: h.target.Broker, PeerAddress: h.target.Address}
}

// leaderHint is what our replica of the metadata group knows.
func (c *Cluster) leaderHint() *leaderHint {
	broker, _, ok := c.Controller()
	if !ok {
		return nil
	}
	if broker == c.config.Broker {
		return &leaderHint{peer.Target{Broker: broker, Address: c.config.peerAddress()}}
	}
	t, ok := c.PeerTarget(broker)
	if !ok {
		return nil
	}
	return &leaderHint{t}
}

// do has a change made, here if we lead the metadata group, else by whoever does. It asks again until
// the context ends, also when the outcome of an attempt is not known: each request is such that making
// it twice is like making it once, or says in "again" that it may have been made.
//
// Errors are *metadata.Error, when metadata refused it, and *Error.
func (c *Cluster) do(ctx context.Context, req *peerv1.ForwardRequest) (done *peerv1.Done, err error) {
	kind := kindOf(req)
	defer func() { c.metrics.requests.WithLabelValues(kind, codeOf(err)).Inc() }()
	select {
	case c.requests <- struct{}{}:
	default:
		return nil, &Error{Code: Throttled, Message: fmt.Sprintf("%d changes of metadata wait on this broker", maxWaitingRequests), Outcome: raftgroup.DidNotHappen}
	}
	c.metrics.waiting.Inc()
	defer func() { <-c.requests; c.metrics.waiting.Dec() }()
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return c.attempts(ctx, req)
}

// bounded gives a context without a deadline one, and ends it with Close.
func (c *Cluster) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	var cancel context.CancelFunc
	if _, ok := ctx.Deadline(); ok {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, c.config.RequestTimeout)
	}
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (c *Cluster) attempts(ctx context.Context, req *peerv1.ForwardRequest) (*peerv1.Done, error) {
	var route route
	var last error
	for pause := firstRetry; ; pause = min(2*pause, mostRetry) {
		known := c.machine.changed.wait()
		done, err := c.attempt(ctx, req, &route)
		if err == nil {
			return done, nil
		}
		var refusal *metadata.Error
		if errors.As(err, &refusal) {
			if req.Again {
				// The attempt whose outcome we do not know may still be on its way.
				err = &Error{Code: RequestTimedOut, Message: "sent twice; the second was refused: " + err.Error(), Outcome: raftgroup.MayHaveHappened, Cause: err}
			}
			return nil, err
		}
		last = err
		if OutcomeOf(err) == raftgroup.MayHaveHappened {
			req.Again = true
		}
		if ctx.Err() == nil && sleep(ctx, known, pause) {
			continue
		}
		if req.Again {
			return nil, &Error{Code: RequestTimedOut, Message: last.Error(), Outcome: raftgroup.MayHaveHappened, Cause: last}
		}
		return nil, gaveUp(ctx, last)
	}
}

// route remembers where to go on looking for the leader.
type route struct {
	hint *leaderHint // what the broker asked last said
	next int         // the next of those that might know
}

// attempt makes one attempt, here or at one other broker.
func (c *Cluster) attempt(ctx context.Context, req *peerv1.ForwardRequest, r *route) (*peerv1.Done, error) {
	if g := c.group.Load(); g != nil {
		if _, ready := (*g).IsReady(); ready {
			return c.execute(ctx, c.Self(), req)
		}
		if hint := c.leaderHint(); hint != nil {
			r.hint = hint
		}
	}
	to, ok := r.take(c)
	if !ok {
		return nil, notController(nil, "no leader of the metadata group is known")
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	resp, err := c.client.Forward(ctx, to, req)
	if err != nil {
		var e *peer.Error
		if errors.As(err, &e) && e.Reason == peer.TooLarge {
			return nil, &metadata.Error{Code: metadata.PolicyViolation, Message: e.Message}
		}
		if errors.As(err, &e) && !e.MayHaveHappened {
			return nil, &Error{Code: NotController, Message: err.Error(), Outcome: raftgroup.DidNotHappen, Cause: err}
		}
		return nil, &Error{Code: RequestTimedOut, Message: err.Error(), Outcome: raftgroup.MayHaveHappened, Cause: err}
	}
	if f := resp.GetFailure(); f != nil {
		if l := f.GetLeader(); l != nil && l.GetPeerAddress() != "" && l.GetBrokerId() != to.Broker {
			r.hint = &leaderHint{peer.Target{Broker: l.GetBrokerId(), Address: l.GetPeerAddress()}}
		}
		return nil, errorFromProto(f)
	}
	if resp.GetDone() == nil {
		return nil, &Error{Code: RequestTimedOut, Message: to.String() + " answered nothing", Outcome: raftgroup.MayHaveHappened}
	}
	return resp.GetDone(), nil
}

// take gives whom to ask: the leader if somebody said who it is, which is believed once, else each
// broker we know of in turn.
func (r *route) take(c *Cluster) (peer.Target, bool) {
	if h := r.hint; h != nil && h.target.Broker != c.config.Broker {
		r.hint = nil
		return h.target, true
	}
	r.hint = nil
	var candidates []peer.Target
	for _, e := range c.book.all() {
		if e.Broker == c.config.Broker {
			continue
		}
		if t, ok := c.PeerTarget(e.Broker); ok {
			candidates = append(candidates, t)
		}
	}
	for _, s := range c.config.Seeds {
		if s != c.config.peerAddress() {
			candidates = append(candidates, peer.At(s))
		}
	}
	if len(candidates) == 0 {
		return peer.Target{}, false
	}
	r.next++
	return candidates[r.next%len(candidates)], true
}

// Forward makes a change for another broker, if we lead the metadata group (peer.Handler).
func (c *Cluster) Forward(ctx context.Context, caller peer.Identity, req *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
	select {
	case c.requests <- struct{}{}:
	default:
		return failureOf(&Error{Code: Throttled, Message: fmt.Sprintf("%d changes of metadata wait on broker %d", maxWaitingRequests, c.config.Broker), Outcome: raftgroup.DidNotHappen}), nil
	}
	c.metrics.waiting.Inc()
	defer func() { <-c.requests; c.metrics.waiting.Dec() }()
	if b, ok := c.Image().Broker(caller.Broker); ok && b.Incarnation == caller.Incarnation {
		c.leaders.heard(caller.Broker, time.Now())
	}
	done, err := c.execute(ctx, caller, req)
	if err != nil {
		return failureOf(err), nil
	}
	return &peerv1.ForwardResponse{Response: &peerv1.ForwardResponse_Done{Done: done}}, nil
}

func failureOf(err error) *peerv1.ForwardResponse {
	return &peerv1.ForwardResponse{Response: &peerv1.ForwardResponse_Failure{Failure: errorToProto(err)}}
}

// errorToProto keeps the reason and the outcome of an error on its way to the broker that asked.
func errorToProto(err error) *peerv1.Failure {
	var refusal *metadata.Error
	if errors.As(err, &refusal) {
		return &peerv1.Failure{Code: string(refusal.Code), Message: refusal.Message, Field: refusal.Field, Limit: refusal.Limit, Refused: true}
	}
	f := &peerv1.Failure{Code: string(RequestTimedOut), Message: err.Error(), MayHaveHappened: OutcomeOf(err) == raftgroup.MayHaveHappened}
	var e *Error
	if errors.As(err, &e) {
		f.Code, f.Message, f.Leader = string(e.Code), e.Message, e.leader.proto()
	}
	return f
}

func errorFromProto(f *peerv1.Failure) error {
	if f.GetRefused() {
		return &metadata.Error{Code: metadata.Code(f.GetCode()), Message: f.GetMessage(), Field: f.GetField(), Limit: f.GetLimit()}
	}
	outcome := raftgroup.DidNotHappen
	if f.GetMayHaveHappened() {
		outcome = raftgroup.MayHaveHappened
	}
	return &Error{Code: metadata.Code(f.GetCode()), Message: f.GetMessage(), Outcome: outcome}
}

// kindOf names a request for the metrics.
func kindOf(req *peerv1.ForwardRequest) string {
	switch req.GetRequest().(type) {
	case *peerv1.ForwardRequest_CreateTopic:
		return "create_topic"
	case *peerv1.ForwardRequest_AlterTopic:
		return "alter_topic"
	case *peerv1.ForwardRequest_DeleteTopic:
		return "delete_topic"
	case *peerv1.ForwardRequest_RegisterBroker:
		return "register_broker"
	case *peerv1.ForwardRequest_UnregisterBroker:
		return "unregister_broker"
	case *peerv1.ForwardRequest_SetFeatureLevel:
		return "set_feature_level"
	case *peerv1.ForwardRequest_ReportReplicas:
		return "report_replicas"
	case *peerv1.ForwardRequest_AllocateProducerIds:
		return "allocate_producer_ids"
	case *peerv1.ForwardRequest_AlterAccess:
		return "alter_access"
	case *peerv1.ForwardRequest_AlterDefaults:
		return "alter_defaults"
	case *peerv1.ForwardRequest_Confirm:
		return "confirm"
	case *peerv1.ForwardRequest_ReassignPartitions:
		return "reassign_partitions"
	case *peerv1.ForwardRequest_CancelReassignments:
		return "cancel_reassignments"
	case *peerv1.ForwardRequest_ReportMembers:
		return "report_members"
	case *peerv1.ForwardRequest_SetDraining:
		return "set_draining"
	default:
		return "unknown"
	}
}

func codeOf(err error) string {
	var refusal *metadata.Error
	var e *Error
	switch {
	case err == nil:
		return "OK"
	case errors.As(err, &refusal):
		return string(refusal.Code)
	case errors.As(err, &e):
		return string(e.Code)
	default:
		return "UNKNOWN_SERVER_ERROR"
	}
}
