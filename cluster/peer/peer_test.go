package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
)

// method is one call of the RPC, with any request that it takes.
type method struct {
	name string
	call func(context.Context, *Client, Target) error
	from callers
}

var methods = []method{
	{"Hello", func(ctx context.Context, c *Client, to Target) error {
		_, err := c.Hello(ctx, to, &peerv1.HelloRequest{})
		return err
	}, fromAnyone},
	{"Form", func(ctx context.Context, c *Client, to Target) error {
		_, err := c.Form(ctx, to, &peerv1.FormRequest{})
		return err
	}, fromClusterless},
	{"Forward", func(ctx context.Context, c *Client, to Target) error {
		_, err := c.Forward(ctx, to, &peerv1.ForwardRequest{})
		return err
	}, fromCluster},
	{"ReportStatus", func(ctx context.Context, c *Client, to Target) error {
		_, err := c.ReportStatus(ctx, to, &peerv1.ReportStatusRequest{})
		return err
	}, fromCluster},
	{"PullEntries", func(ctx context.Context, c *Client, to Target) error {
		return c.PullEntries(ctx, to, PullRequest{Group: 1, From: 1, Through: 1}, nothing)
	}, fromMembers},
}

// answering makes the handler answer each method and note who called.
func (r *rig) answering(called func(method string, caller Identity) error) {
	h := r.handler
	h.hello = func(_ context.Context, c Identity, _ *peerv1.HelloRequest) (*peerv1.HelloResponse, error) {
		return &peerv1.HelloResponse{}, called("Hello", c)
	}
	h.form = func(_ context.Context, c Identity, _ *peerv1.FormRequest) (*peerv1.FormResponse, error) {
		return &peerv1.FormResponse{}, called("Form", c)
	}
	h.forward = func(_ context.Context, c Identity, _ *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
		return &peerv1.ForwardResponse{}, called("Forward", c)
	}
	h.status = func(_ context.Context, c Identity, _ *peerv1.ReportStatusRequest) (*peerv1.ReportStatusResponse, error) {
		return &peerv1.ReportStatusResponse{}, called("ReportStatus", c)
	}
	h.pull = func(_ context.Context, c Identity, r PullRequest, send func([]Entry) error) error {
		if err := called("PullEntries", c); err != nil {
			return err
		}
		for i := r.From; i <= r.Through; i++ {
			if err := send([]Entry{{Index: i, Term: 1}}); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestRequestsAndAnswersTravelWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx := r.context(time.Second)
		request := &peerv1.ForwardRequest{Again: true, Request: &peerv1.ForwardRequest_CreateTopic{CreateTopic: &peerv1.CreateTopic{Name: "t", Partitions: 3}}}
		answer := &peerv1.ForwardResponse{Response: &peerv1.ForwardResponse_Done{Done: &peerv1.Done{Index: 7}}}
		r.handler.forward = func(_ context.Context, caller Identity, got *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
			if caller != r.one || !proto.Equal(got, request) {
				t.Errorf("handler got %v from %v", got, caller)
			}
			return answer, nil
		}
		if got, err := r.client.Forward(ctx, to2, request); err != nil || !proto.Equal(got, answer) {
			t.Fatalf("answer %v, %v", got, err)
		}
		r.handler.pull = func(_ context.Context, caller Identity, got PullRequest, send func([]Entry) error) error {
			if caller != r.one || got != (PullRequest{Group: 5, Incarnation: 6, From: 7, Through: 7}) {
				t.Errorf("handler got %v from %v", got, caller)
			}
			return send([]Entry{{Index: 7}})
		}
		if err := r.client.PullEntries(ctx, to2, PullRequest{Group: 5, Incarnation: 6, From: 7, Through: 7}, nothing); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAdmission: who may call what, for every call. A refused call has not reached the handler and
// says so.
func TestAdmission(t *testing.T) {
	cases := []struct {
		name     string
		one, two Identity
		to       Target
		// reason of the refusal for calls within the cluster, for Form, and for Hello; empty: admitted.
		cluster, form, hello string
	}{
		{"one cluster", Identity{1, 11, "c"}, Identity{2, 22, "c"}, to2, "", "", ""},
		{"another cluster", Identity{1, 11, "d"}, Identity{2, 22, "c"}, to2, InconsistentCluster, InconsistentCluster, ""},
		{"caller without a cluster", Identity{1, 11, ""}, Identity{2, 22, "c"}, to2, InconsistentCluster, "", ""},
		{"callee without a cluster", Identity{1, 11, "c"}, Identity{2, 22, ""}, to2, InconsistentCluster, "", ""},
		{"nobody has a cluster", Identity{1, 11, ""}, Identity{2, 22, ""}, to2, "", "", ""},
		{"address taken over", Identity{1, 11, "c"}, Identity{3, 33, "c"}, to2, WrongBroker, WrongBroker, WrongBroker},
		{"whoever is there", Identity{1, 11, "c"}, Identity{3, 33, "c"}, At(address), "", "", ""},
		{"two brokers with one id", Identity{2, 11, "c"}, Identity{2, 22, "c"}, to2, DuplicateBroker, "", ""},
		{"itself", Identity{2, 22, "c"}, Identity{2, 22, "c"}, to2, "", "", ""},
	}
	for _, c := range cases {
		for _, m := range methods {
			t.Run(c.name+"/"+m.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t)
					r.are(c.one, c.two)
					reached := Identity{}
					r.answering(func(_ string, caller Identity) error { reached = caller; return nil })
					err := m.call(r.context(time.Second), r.client, c.to)
					reason := map[callers]string{fromMembers: c.cluster, fromCluster: c.cluster, fromClusterless: c.form, fromAnyone: c.hello}[m.from]
					if reason == "" {
						if err != nil || reached != c.one {
							t.Fatalf("error %v, reached by %v", err, reached)
						}
						return
					}
					want(t, err, reason, false)
					if reached != (Identity{}) {
						t.Fatal("the handler has been reached")
					}
				})
			})
		}
	}
}

// TestReplacedCallers: one whose directory was replaced may ask who it is, and nothing of what members ask of each other.
func TestReplacedCallers(t *testing.T) {
	for _, m := range methods {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.are(Identity{1, replacedIncarnation, "c"}, r.two)
			reached := false
			r.answering(func(string, Identity) error { reached = true; return nil })
			err := m.call(r.context(time.Second), r.client, to2)
			if m.from == fromMembers {
				want(t, err, DuplicateBroker, false)
			} else if err != nil {
				t.Errorf("%s: %v", m.name, err)
			}
			if reached == (m.from == fromMembers) {
				t.Errorf("%s: the handler was reached: %t", m.name, reached)
			}
		})
	}
}

// TestCallersSayWhoTheyAre: a call without the caller's identity, or with a malformed one, is refused.
func TestCallersSayWhoTheyAre(t *testing.T) {
	good := []string{keyBroker, "1", keyIncarnation, "b", keyCluster, "c"}
	cases := map[string][]string{
		"nothing":          nil,
		"no broker":        good[2:],
		"negative broker":  {keyBroker, "-1", keyIncarnation, "b", keyCluster, "c"},
		"broker too large": {keyBroker, "2147483648", keyIncarnation, "b", keyCluster, "c"},
		"two brokers":      append([]string{keyBroker, "2"}, good...),
		"no incarnation":   {keyBroker, "1", keyCluster, "c"},
		"incarnation 0":    {keyBroker, "1", keyIncarnation, "0", keyCluster, "c"},
		"not hexadecimal":  {keyBroker, "1", keyIncarnation, "xyz", keyCluster, "c"},
		"meant for -2":     append([]string{keyTo, "-2"}, good...),
		"meant for text":   append([]string{keyTo, "two"}, good...),
	}
	for name, pairs := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return r.net.Dial(ctx, "x", a) }))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				ctx := metadata.AppendToOutgoingContext(r.context(time.Second), pairs...)
				_, err = peerv1.NewPeerServiceClient(conn).Hello(ctx, &peerv1.HelloRequest{})
				if status.Code(err) != codes.InvalidArgument {
					t.Fatalf("error %v", err)
				}
			})
		})
	}
}

// TestFailureOfAHandler may have happened, whatever error the handler gives: also one that it was
// itself given by another peer that refused it.
func TestFailureOfAHandler(t *testing.T) {
	refused := refusal(codes.FailedPrecondition, InconsistentCluster, "from another peer")
	for _, given := range []error{errors.New("disk"), context.Canceled, refused, fmt.Errorf("asked another: %w", refused), status.Error(codes.Unavailable, "x")} {
		for _, m := range methods {
			t.Run(m.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t)
					r.answering(func(string, Identity) error { return given })
					err := m.call(r.context(time.Second), r.client, to2)
					want(t, err, Failed, true)
					if !strings.Contains(err.Error(), given.Error()) {
						t.Fatalf("error %v, want %v in it", err, given)
					}
				})
			})
		}
	}
}

// TestOversized: a request that no peer takes is refused here; an answer that is too large comes after
// the deed.
func TestOversized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx := r.context(time.Second)
		big := &peerv1.Failure{Message: strings.Repeat("x", maxMessageBytes)}
		_, err := r.client.Form(ctx, to2, &peerv1.FormRequest{ClusterId: big.Message})
		want(t, err, TooLarge, false)
		r.handler.forward = func(context.Context, Identity, *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
			return &peerv1.ForwardResponse{Response: &peerv1.ForwardResponse_Failure{Failure: big}}, nil
		}
		_, err = r.client.Forward(ctx, to2, &peerv1.ForwardRequest{})
		want(t, err, Unreachable, true)
		// The connection still works.
		r.answering(func(string, Identity) error { return nil })
		if _, err := r.client.Hello(ctx, to2, &peerv1.HelloRequest{}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLargestRequest: what the client lets pass the server takes.
func TestLargestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answering(func(string, Identity) error { return nil })
		req := &peerv1.FormRequest{ClusterId: strings.Repeat("x", maxMessageBytes-16)}
		req.ClusterId += strings.Repeat("x", maxMessageBytes-proto.Size(req))
		if n := proto.Size(req); n != maxMessageBytes {
			t.Fatalf("request of %d bytes", n)
		}
		if _, err := r.client.Form(r.context(time.Minute), to2, req); err != nil {
			t.Fatal(err)
		}
	})
}

// Brokers of another cluster may call as often as they like: the log says it once in a second.
func TestRefusedPeersDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var log strings.Builder
		r.server.c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		r.one.ClusterID = strings.Repeat("other", 100)
		call := func() {
			if _, err := r.client.Forward(t.Context(), to2, &peerv1.ForwardRequest{}); err == nil {
				t.Fatal("a broker of another cluster is admitted")
			}
		}
		began := time.Now()
		for range 50 {
			call()
		}
		if passed := time.Since(began); passed > 0 {
			t.Fatalf("the test shows nothing: it took %s", passed)
		}
		time.Sleep(time.Second)
		call()
		r.close()
		if n := strings.Count(log.String(), "refused a peer"); n != 2 || !strings.Contains(log.String(), "unreported=49") || log.Len() > 1000 {
			t.Errorf("%d lines about 51 calls:\n%s", n, log.String())
		}
	})
}
