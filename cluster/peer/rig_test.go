package peer

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/internal/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Handler of functions; one that is not set fails the test when it is reached.
type fake struct {
	t       *testing.T
	hello   func(context.Context, Identity, *peerv1.HelloRequest) (*peerv1.HelloResponse, error)
	form    func(context.Context, Identity, *peerv1.FormRequest) (*peerv1.FormResponse, error)
	forward func(context.Context, Identity, *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error)
	status  func(context.Context, Identity, *peerv1.ReportStatusRequest) (*peerv1.ReportStatusResponse, error)
	pull    func(context.Context, Identity, PullRequest, func([]Entry) error) error
	join    func(context.Context, Identity, *peerv1.JoinTransactionRequest) (*peerv1.JoinTransactionResponse, error)
	note    func(context.Context, Identity, *peerv1.NoteRefusalRequest) (*peerv1.NoteRefusalResponse, error)
	markers func(context.Context, Identity, *peerv1.WriteMarkersRequest) (*peerv1.WriteMarkersResponse, error)
	hand    func(context.Context, Identity, *peerv1.TransferLeadershipRequest) (*peerv1.TransferLeadershipResponse, error)
	quorum  func(context.Context, Identity, *peerv1.DescribeQuorumRequest) (*peerv1.DescribeQuorumResponse, error)
}

var errNotExpected = errors.New("the handler has been reached")

func (f *fake) Hello(ctx context.Context, caller Identity, r *peerv1.HelloRequest) (*peerv1.HelloResponse, error) {
	if f.hello == nil {
		f.t.Error("Hello was reached")
		return nil, errNotExpected
	}
	return f.hello(ctx, caller, r)
}

func (f *fake) Form(ctx context.Context, caller Identity, r *peerv1.FormRequest) (*peerv1.FormResponse, error) {
	if f.form == nil {
		f.t.Error("Form was reached")
		return nil, errNotExpected
	}
	return f.form(ctx, caller, r)
}

func (f *fake) Forward(ctx context.Context, caller Identity, r *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
	if f.forward == nil {
		f.t.Error("Forward was reached")
		return nil, errNotExpected
	}
	return f.forward(ctx, caller, r)
}

func (f *fake) ReportStatus(ctx context.Context, caller Identity, r *peerv1.ReportStatusRequest) (*peerv1.ReportStatusResponse, error) {
	if f.status == nil {
		f.t.Error("ReportStatus was reached")
		return nil, errNotExpected
	}
	return f.status(ctx, caller, r)
}

func (f *fake) PullEntries(ctx context.Context, caller Identity, r PullRequest, send func([]Entry) error) error {
	if f.pull == nil {
		f.t.Error("PullEntries was reached")
		return errNotExpected
	}
	return f.pull(ctx, caller, r, send)
}

func (f *fake) JoinTransaction(ctx context.Context, caller Identity, r *peerv1.JoinTransactionRequest) (*peerv1.JoinTransactionResponse, error) {
	if f.join == nil {
		f.t.Error("JoinTransaction was reached")
		return nil, errNotExpected
	}
	return f.join(ctx, caller, r)
}

func (f *fake) NoteRefusal(ctx context.Context, caller Identity, r *peerv1.NoteRefusalRequest) (*peerv1.NoteRefusalResponse, error) {
	if f.note == nil {
		f.t.Error("NoteRefusal was reached")
		return nil, errNotExpected
	}
	return f.note(ctx, caller, r)
}

func (f *fake) WriteMarkers(ctx context.Context, caller Identity, r *peerv1.WriteMarkersRequest) (*peerv1.WriteMarkersResponse, error) {
	if f.markers == nil {
		f.t.Error("WriteMarkers was reached")
		return nil, errNotExpected
	}
	return f.markers(ctx, caller, r)
}

func (f *fake) TransferLeadership(ctx context.Context, caller Identity, r *peerv1.TransferLeadershipRequest) (*peerv1.TransferLeadershipResponse, error) {
	if f.hand == nil {
		f.t.Error("TransferLeadership was reached")
		return nil, errNotExpected
	}
	return f.hand(ctx, caller, r)
}

func (f *fake) SumEntries(context.Context, Identity, *peerv1.SumEntriesRequest) (*peerv1.SumEntriesResponse, error) {
	return &peerv1.SumEntriesResponse{Sha256: make([]byte, 32), Sound: true}, nil
}

func (f *fake) CondemnReplica(context.Context, Identity, *peerv1.CondemnReplicaRequest) (*peerv1.CondemnReplicaResponse, error) {
	return &peerv1.CondemnReplicaResponse{}, nil
}

func (f *fake) DescribeQuorum(ctx context.Context, caller Identity, r *peerv1.DescribeQuorumRequest) (*peerv1.DescribeQuorumResponse, error) {
	if f.quorum == nil {
		f.t.Error("DescribeQuorum was reached")
		return nil, errNotExpected
	}
	return f.quorum(ctx, caller, r)
}

// rig has one server, broker 2 at "b2:9093", and one client, broker 1.
type rig struct {
	t       *testing.T
	net     *memnet.Network
	handler *fake
	client  *Client
	server  *Server
	served  chan error
	// mu guards who the two are.
	mu       sync.Mutex
	one, two Identity
	serverUp bool
	// ended counts the handlers of holding that have returned.
	ended atomic.Int64
}

const address = "b2:9093"

var to2 = Target{Broker: 2, Address: address}

// replacedIncarnation is that of a directory in whose place another was registered.
const replacedIncarnation = 99

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, net: memnet.New(), handler: &fake{t: t}, one: Identity{1, 11, "c"}, two: Identity{2, 22, "c"}}
	r.client = NewClient(ClientConfig{
		Self:  func() Identity { r.mu.Lock(); defer r.mu.Unlock(); return r.one },
		Since: func() uint64 { return 7 },
		Dial:  func(ctx context.Context, a string) (net.Conn, error) { return r.net.Dial(ctx, "b1", a) },
	})
	r.serve()
	t.Cleanup(r.close)
	return r
}

// serve starts the server.
func (r *rig) serve() {
	r.t.Helper()
	l, err := r.net.Listen(address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = NewServer(ServerConfig{
		Self:    func() Identity { r.mu.Lock(); defer r.mu.Unlock(); return r.two },
		Handler: r.handler,
		Replaced: func(caller Identity, since uint64) bool {
			if since != 7 {
				r.t.Errorf("broker %d says that it was registered at %d", caller.Broker, since)
			}
			return caller.Incarnation == replacedIncarnation
		},
	})
	r.served, r.serverUp = make(chan error, 1), true
	server, served := r.server, r.served
	go func() { served <- server.Serve(l) }()
}

// die ends the server as a SIGKILL would: its connections break.
func (r *rig) die() {
	r.t.Helper()
	r.net.Drop("b2")
	r.stop()
}

func (r *rig) stop() {
	r.t.Helper()
	if !r.serverUp {
		return
	}
	r.serverUp = false
	r.server.Close()
	if err := <-r.served; err != nil {
		r.t.Errorf("serve: %v", err)
	}
}

func (r *rig) close() {
	r.net.HealAll()
	r.client.Close()
	r.stop()
}

func (r *rig) are(one, two Identity) {
	r.mu.Lock()
	r.one, r.two = one, two
	r.mu.Unlock()
}

func (r *rig) context(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	r.t.Cleanup(cancel)
	return ctx
}

// want fails the test unless err is an *Error with the reason and the outcome.
func want(t *testing.T, err error, reason string, mayHaveHappened bool) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != reason || e.MayHaveHappened != mayHaveHappened {
		t.Fatalf("error %v, want %s, may have happened: %v", describe(err), reason, mayHaveHappened)
	}
}

func describe(err error) any {
	var e *Error
	if errors.As(err, &e) {
		return struct {
			Reason, Message string
			MayHaveHappened bool
		}{e.Reason, e.Message, e.MayHaveHappened}
	}
	return err
}

// nothing is a pull that gives no entries away.
func nothing([]Entry) error { return nil }
