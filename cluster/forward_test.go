package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/mux"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// scripted is a peer whose answers a test decides, one after the other.
type scripted struct {
	*Cluster // never called: what is not scripted panics
	mu       sync.Mutex
	answers  []func(context.Context, *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error)
	asked    []bool // whether each request said "again"
}

func (s *scripted) Forward(ctx context.Context, _ peer.Identity, req *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
	s.mu.Lock()
	s.asked = append(s.asked, req.GetAgain())
	if len(s.answers) == 0 {
		s.mu.Unlock()
		return nil, errors.New("asked too often")
	}
	answer := s.answers[0]
	s.answers = s.answers[1:]
	s.mu.Unlock()
	return answer(ctx, req)
}

func (s *scripted) Hello(context.Context, peer.Identity, *peerv1.HelloRequest) (*peerv1.HelloResponse, error) {
	return nil, errors.New("not now")
}

type answerFunc = func(context.Context, *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error)

func says(resp *peerv1.ForwardResponse) answerFunc {
	return func(context.Context, *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) { return resp, nil }
}

func done(index uint64) answerFunc {
	return says(&peerv1.ForwardResponse{Response: &peerv1.ForwardResponse_Done{Done: &peerv1.Done{Index: index}}})
}

func fails(err error) answerFunc { return says(failureOf(err)) }

var (
	taken     = &metadata.Error{Code: metadata.TopicAlreadyExists, Message: "topic exists", Field: "name", Limit: "1"}
	elsewhere = &Error{Code: NotController, Message: "not me", Outcome: raftgroup.DidNotHappen}
	uncertain = &Error{Code: RequestTimedOut, Message: "who knows", Outcome: raftgroup.MayHaveHappened}
)

func toBroker(id int32) *Error {
	e := *elsewhere
	e.leader = &leaderHint{peer.Target{Broker: id, Address: addressOf(id)}}
	return &e
}

// hangs answers when the caller has given up.
func hangs(ctx context.Context, _ *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// breaks loses the connection and the answer with it.
func (r *rig) breaks(id int32) answerFunc {
	return func(ctx context.Context, req *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
		go r.net.ResetConns(hostOf(1), hostOf(id))
		return hangs(ctx, req)
	}
}

// script runs a peer with answers at a broker's address.
func (r *rig) script(id int32, answers ...answerFunc) *scripted {
	r.t.Helper()
	s := &scripted{answers: answers}
	l, err := r.net.Listen(addressOf(id))
	if err != nil {
		r.t.Fatal(err)
	}
	m := mux.New(l, mux.Config{})
	server := peer.NewServer(peer.ServerConfig{Self: func() peer.Identity { return peer.Identity{Broker: id, Incarnation: uint64(id) * 10} }, Handler: handler{answers: s}})
	served := make(chan error, 1)
	go func() { served <- server.Serve(m.Peer()) }()
	r.t.Cleanup(func() {
		server.Close()
		if err := errors.Join(m.Close(), <-served); err != nil {
			r.t.Error(err)
		}
	})
	return s
}

// asker is a broker without a cluster whose seeds are scripted. Only do is of interest.
func (r *rig) asker(seeds ...int32) *Cluster {
	r.t.Helper()
	for _, id := range seeds {
		r.seeds = append(r.seeds, addressOf(id))
	}
	return r.start(1).cluster
}

func confirmRequest() *peerv1.ForwardRequest {
	return &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_Confirm{Confirm: &peerv1.Confirm{}}}
}

// TestOutcomesOfForwarding is the table of what a caller is told.
func TestOutcomesOfForwarding(t *testing.T) {
	one := func(list ...answerFunc) []answerFunc { return list }
	cases := []struct {
		name     string
		two, six []answerFunc
		// breaking: the connection to broker 2 breaks at the first request.
		breaking bool
		within   time.Duration
		code     metadata.Code // empty: done
		outcome  raftgroup.Outcome
		again    string // of the requests to broker 2
	}{
		{"done", one(done(7)), nil, false, time.Second, "", 0, "[false]"},
		{"leader named", one(fails(toBroker(6))), one(done(7)), false, time.Second, "", 0, "[false]"},
		{"nobody leads at first", one(fails(elsewhere), fails(elsewhere), done(7)), nil, false, time.Second, "", 0, "[false false false]"},
		{"named leader knows nothing", one(fails(toBroker(6)), done(7)), one(fails(elsewhere)), false, time.Second, "", 0, "[false false]"},
		{"refused", one(fails(taken)), nil, false, time.Second, metadata.TopicAlreadyExists, raftgroup.DidNotHappen, "[false]"},
		{"uncertain, then done", one(fails(uncertain), done(7)), nil, false, time.Second, "", 0, "[false true]"},
		{"uncertain, then refused", one(fails(uncertain), fails(taken)), nil, false, time.Second, RequestTimedOut, raftgroup.MayHaveHappened, "[false true]"},
		{"handler failed, then done", one(says(nil), done(7)), nil, false, time.Second, "", 0, "[false true]"},
		{"empty answer, then done", one(says(&peerv1.ForwardResponse{}), done(7)), nil, false, time.Second, "", 0, "[false true]"},
		{"uncertain to the end", one(fails(uncertain), fails(elsewhere), fails(elsewhere)), nil, false, 100 * time.Millisecond, RequestTimedOut, raftgroup.MayHaveHappened, "[false true true]"},
		{"connection breaks", one(done(7)), nil, true, 5 * time.Second, "", 0, "[false true]"},
		{"one that hangs is not waited for", one(hangs, done(7)), nil, false, 2 * attemptTimeout, "", 0, "[false true]"},
		{"hangs to the end", one(hangs), nil, false, time.Second, RequestTimedOut, raftgroup.MayHaveHappened, "[false]"},
		{"nobody leads", one(fails(elsewhere), fails(elsewhere), fails(elsewhere)), nil, false, 100 * time.Millisecond, NotController, raftgroup.DidNotHappen, "[false false false]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			onVirtualTime(t, func(r *rig) {
				if c.breaking {
					c.two = append(one(r.breaks(2)), c.two...)
				}
				two := r.script(2, c.two...)
				r.script(6, c.six...)
				cl := r.asker(2)
				got, err := cl.do(r.context(c.within), confirmRequest())
				two.mu.Lock()
				asked := fmt.Sprint(two.asked)
				two.mu.Unlock()
				if asked != c.again {
					t.Errorf("asked %s, want %s", asked, c.again)
				}
				if c.code == "" {
					if err != nil || got.GetIndex() != 7 {
						t.Fatalf("%v, %v", got, err)
					}
					return
				}
				if !errors.Is(err, &metadata.Error{Code: c.code}) && !errors.Is(err, &Error{Code: c.code}) {
					t.Fatalf("error %v, want %s", err, c.code)
				}
				if o := OutcomeOf(err); o != c.outcome {
					t.Fatalf("%v: %v, want %v", err, o, c.outcome)
				}
				if c.code == metadata.TopicAlreadyExists && fmt.Sprintf("%#v", err) != fmt.Sprintf("%#v", taken) {
					t.Fatalf("%#v, want %#v", err, taken)
				}
			})
		})
	}
}

// TestNobodyThere: without anyone to ask it did not happen, and it ends with its context, or with Close.
func TestNobodyThere(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		cl := r.asker(2)
		for _, end := range []func() (context.Context, context.CancelFunc){
			func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(context.Background(), time.Second)
			},
			func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			},
			func() (context.Context, context.CancelFunc) { // Close; it is the last one.
				time.AfterFunc(time.Second, func() { r.nodes[1].stop() })
				return context.WithCancel(context.Background())
			},
		} {
			ctx, cancel := end()
			start := time.Now()
			_, err := cl.do(ctx, confirmRequest())
			cancel()
			if !errors.Is(err, &Error{Code: NotController}) || OutcomeOf(err) != raftgroup.DidNotHappen {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 1100*time.Millisecond {
				t.Fatalf("it took %v", took)
			}
		}
		synctest.Wait()
	})
}

// TestWaitingChangesAreBounded on the broker that is asked, and on the one that decides.
func TestWaitingChangesAreBounded(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		cl := r.asker(2)
		for range maxWaitingRequests {
			cl.requests <- struct{}{}
		}
		_, err := cl.do(r.context(time.Second), confirmRequest())
		if !errors.Is(err, &Error{Code: Throttled}) || OutcomeOf(err) != raftgroup.DidNotHappen {
			t.Fatal(err)
		}
		resp, err := cl.Forward(r.context(time.Second), peer.Identity{Broker: 3, Incarnation: 3}, confirmRequest())
		if err != nil || resp.GetFailure().GetCode() != string(Throttled) || resp.GetFailure().GetMayHaveHappened() {
			t.Fatalf("%v, %v", resp, err)
		}
		<-cl.requests
		if _, err := cl.do(r.context(time.Millisecond), confirmRequest()); errors.Is(err, &Error{Code: Throttled}) {
			t.Fatal(err)
		}
	})
}

// TestOversizedChange is refused at once, on whichever broker it is asked.
func TestOversizedChange(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, b, c := r.three()
		for _, n := range []*node{a, b, c} {
			for _, size := range []int{metadata.MaxCommandBytes, 9 << 20} {
				start := time.Now()
				err := n.cluster.AlterDefaults(r.context(time.Minute), map[string]string{"retention.ms": strings.Repeat("1", size)}, nil, false)
				if !errors.Is(err, &metadata.Error{Code: metadata.PolicyViolation}) || time.Since(start) > time.Second {
					t.Fatalf("broker %d: %.200v after %v", n.id, err, time.Since(start))
				}
			}
		}
	})
}

// TestNobodySpeaksForAnother: a broker registers, reports and takes producer ids for itself alone.
func TestNobodySpeaksForAnother(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, b, _ := r.three()
		lead := r.controller()
		other := a
		if lead == a {
			other = b
		}
		for _, req := range []*peerv1.ForwardRequest{
			registerRequest(lead.cluster.ClusterID(), &metadata.Broker{ID: lead.id, Incarnation: lead.cluster.Self().Incarnation}, false),
			reportRequest(lead), allocateRequest(lead),
		} {
			resp, err := lead.cluster.Forward(r.context(time.Second), other.cluster.Self(), req)
			if err != nil || resp.GetFailure().GetCode() != string(metadata.InvalidRequest) || !strings.Contains(resp.GetFailure().GetMessage(), "in the name of") {
				t.Fatalf("%v, %v", resp, err)
			}
		}
		// A request of a later version is answered, not guessed at.
		resp, err := lead.cluster.Forward(r.context(time.Second), other.cluster.Self(), &peerv1.ForwardRequest{})
		if err != nil || resp.GetFailure().GetCode() != string(metadata.UnsupportedVersion) {
			t.Fatalf("%v, %v", resp, err)
		}
	})
}
