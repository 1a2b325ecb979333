package client

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// eager is a broker that knows no password and gives a token for the first message.
type eager struct {
	clientv1.UnimplementedAuthServiceServer
}

func (eager) Authenticate(stream clientv1.AuthService_AuthenticateServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	_, nonce, _ := strings.Cut(string(req.GetMessage()), "r=")
	return stream.Send(&clientv1.AuthenticateResponse{Message: []byte("r=" + nonce + "x,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096"), Token: "token", LifetimeMs: 60_000})
}

// A broker that cannot show that it knows the password is not believed, whatever token it gives.
func TestABrokerProvesItselfToo(t *testing.T) {
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	clientv1.RegisterAuthServiceServer(srv, eager{})
	go func() { _ = srv.Serve(lis) }()
	defer srv.Stop()
	cc, err := grpc.NewClient("passthrough:///broker", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for mechanism, believed := range map[string]bool{SCRAMSHA256: false, SCRAMSHA512: false, PLAIN: true} {
		l := newLogin(Config{SASL: SASL{User: "alice", Password: "secret", Mechanism: mechanism}, RequestTimeout: 10 * time.Second})
		l.cc = cc
		_, err := l.GetRequestMetadata(t.Context(), "https://broker/oncelog.client.v1.LogService")
		if (err == nil) != believed || err != nil && !strings.Contains(err.Error(), "does not prove") {
			t.Errorf("%s: %v", mechanism, err)
		}
	}
}

// gate is a broker that lets in whom it has given its newest token to.
type gate struct {
	clientv1.UnimplementedAuthServiceServer
	clientv1.UnimplementedAdminServiceServer
	proofs, calls atomic.Int64
	good          atomic.Int64 // the number of the token that is good
	wrong         atomic.Bool  // no password is right
	proving       chan struct{}
}

func (g *gate) Authenticate(stream clientv1.AuthService_AuthenticateServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if g.proving != nil {
		<-g.proving
	}
	n := g.proofs.Add(1)
	if g.wrong.Load() {
		return clientv1.ToStatus(&clientv1.Error{Reason: "SASL_AUTHENTICATION_FAILED", Message: "wrong", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}, codes.Unauthenticated, 0).Err()
	}
	g.good.Store(n)
	return stream.Send(&clientv1.AuthenticateResponse{Token: fmt.Sprint(n), LifetimeMs: 60_000})
}

func (g *gate) GetMetadata(ctx context.Context, _ *clientv1.GetMetadataRequest) (*clientv1.GetMetadataResponse, error) {
	g.calls.Add(1)
	if shown := grpcmetadata.ValueFromIncomingContext(ctx, "authorization"); len(shown) != 1 || shown[0] != fmt.Sprint("Bearer ", g.good.Load()) {
		return nil, status.Error(codes.Unauthenticated, "not that one")
	}
	return &clientv1.GetMetadataResponse{}, nil
}

// dialGate gives calls to a gate.
func dialGate(t *testing.T, g *gate) clientv1.AdminServiceClient {
	t.Helper()
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	clientv1.RegisterAuthServiceServer(srv, g)
	clientv1.RegisterAdminServiceServer(srv, g)
	go func() { _ = srv.Serve(lis) }()
	t.Cleanup(srv.Stop)
	l := newLogin(Config{SASL: SASL{User: "alice", Password: "secret", Mechanism: PLAIN}, RequestTimeout: 10 * time.Second})
	cc, err := grpc.NewClient("passthrough:///broker", append(l.options(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	l.cc = cc
	return clientv1.NewAdminServiceClient(cc)
}

// atOnce makes many calls and gives their errors.
func atOnce(ctx context.Context, c clientv1.AdminServiceClient, n int) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { _, errs[i] = c.GetMetadata(ctx, &clientv1.GetMetadataRequest{}) })
	}
	all.Wait()
	return errs
}

// However many calls need a token, or meet that theirs is good no more, one proof is given for all of them.
func TestOneProofForAllCalls(t *testing.T) {
	t.Parallel()
	g := new(gate)
	c := dialGate(t, g)
	for round := int64(1); round <= 3; round++ {
		for _, err := range atOnce(t.Context(), c, 50) {
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if got := g.proofs.Load(); got != round {
			t.Fatalf("round %d: %d proofs", round, got)
		}
		g.good.Store(-1) // the broker has another key
	}
}

// A wrong password fails the calls that wait for its proof together, and none of them tries again.
func TestAWrongPasswordIsTriedOnce(t *testing.T) {
	t.Parallel()
	g := &gate{proving: make(chan struct{})}
	g.wrong.Store(true)
	c := dialGate(t, g)
	canceled, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := c.GetMetadata(canceled, &clientv1.GetMetadataRequest{})
		first <- err
	}()
	others := make(chan []error)
	go func() { others <- atOnce(t.Context(), c, 20) }()
	cancel() // who began it does not end it for the others
	if err := <-first; status.Code(err) != codes.Canceled {
		t.Errorf("a call that was given up: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(g.proving) })
	for _, err := range <-others {
		if e := fromCall(err, "b"); e.Reason != "SASL_AUTHENTICATION_FAILED" || e.Outcome != NotWritten || e.Retriable {
			t.Errorf("%+v", e)
		}
	}
	// Those that came when it was done have one proof of their own.
	if got := g.proofs.Load(); got > 2 || g.calls.Load() != 0 {
		t.Errorf("%d proofs, %d calls", got, g.calls.Load())
	}
}

// What is wrong with a proof comes out as the broker said it, whatever gRPC thinks of its code.
func TestProofErrorsKeepTheirReason(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.InvalidArgument, codes.FailedPrecondition, codes.Unauthenticated, codes.ResourceExhausted} {
		said := clientv1.ToStatus(&clientv1.Error{Reason: "UNSUPPORTED_SASL_MECHANISM", Message: "m", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}, code, 0).Err()
		err := passable(said)
		if e := fromCall(err, "b"); e.Reason != "UNSUPPORTED_SASL_MECHANISM" || e.Outcome != NotWritten {
			t.Errorf("%v: %+v", code, e)
		}
		if got := status.Code(err); got != codes.Unauthenticated && got != codes.ResourceExhausted {
			t.Errorf("%v: passed on as %v", code, got)
		}
	}
}

// A token that is refused late is not the one that came since.
func TestALateRefusalForgetsNoNewToken(t *testing.T) {
	t.Parallel()
	l := newLogin(Config{})
	l.granted = granted{token: "new", renew: time.Now().Add(time.Hour)}
	old := "old"
	call := new(shown)
	call.token.Store(&old)
	end := &stats.End{Error: status.Error(codes.Unauthenticated, "")}
	l.HandleRPC(context.WithValue(t.Context(), shownKey{}, call), end)
	if l.token != "new" {
		t.Error("the new token is forgotten")
	}
	call.token.Store(&l.token)
	l.HandleRPC(context.WithValue(t.Context(), shownKey{}, call), end)
	if l.token != "" {
		t.Error("the token that was refused is kept")
	}
}
