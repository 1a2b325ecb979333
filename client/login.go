package client

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xdg-go/scram"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/sasl"
)

// SASL mechanisms by which a client can prove a password. By the SCRAM mechanisms the password does not leave the client.
const (
	SCRAMSHA256 = sasl.ScramSHA256
	SCRAMSHA512 = sasl.ScramSHA512
	PLAIN       = sasl.Plain
)

// SASL is how a client proves who it is.
type SASL struct {
	// User and Password are the proof. The zero value proves nothing.
	User, Password string
	// Mechanism is one of SCRAMSHA256, SCRAMSHA512 and PLAIN. Default SCRAMSHA512.
	Mechanism string
}

// String tells nothing of the password.
func (s SASL) String() string { return fmt.Sprintf("%s as %q", s.Mechanism, s.User) }

// GoString is String.
func (s SASL) GoString() string { return s.String() }

// login proves who we are to the broker at the other end of one connection, when it is first needed and when the proof wears out. It
// gives every call a token (credentials.PerRPCCredentials) and forgets it when the connection is made anew: another broker, or the
// same one with another key, may be there. However many calls need a token, one proof is under way at a time, and all have what came of it.
type login struct {
	sasl    SASL
	timeout time.Duration
	cc      *grpc.ClientConn // set before the first call

	// made counts the connections that were made: a token is good for one.
	made atomic.Int64

	// mu guards what follows.
	mu sync.Mutex
	granted
	// proving is under way; nil: nothing is.
	proving *proof
}

// granted is a token, the connection that it is good for, and when it is to be had anew.
type granted struct {
	token string
	of    int64
	renew time.Time
}

// proof is one exchange and what came of it, once it is done.
type proof struct {
	done  chan struct{}
	token string
	err   error
}

// shown is the token of one call, once it has one.
type shown struct{ token atomic.Pointer[string] }

type shownKey struct{}

func newLogin(cfg Config) *login {
	return &login{sasl: cfg.SASL, timeout: cfg.RequestTimeout}
}

// GetRequestMetadata gives what a call shows.
func (l *login) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	for _, u := range uri {
		if strings.HasSuffix(u, clientv1.AuthService_ServiceDesc.ServiceName) {
			return nil, nil // the proof itself
		}
	}
	token, err := l.current(ctx)
	if err != nil {
		return nil, passable(err)
	}
	if s, ok := ctx.Value(shownKey{}).(*shown); ok {
		s.token.Store(&token)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// passable is an error with a code that gRPC passes on from here: of those that it takes for bugs it would keep nothing but the text.
func passable(err error) error {
	switch st := status.Convert(err); st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.DataLoss:
		p := st.Proto()
		p.Code = int32(codes.Unauthenticated)
		return status.ErrorProto(p)
	}
	return err
}

// current gives a token that is good, as far as we know.
func (l *login) current(ctx context.Context) (string, error) {
	l.mu.Lock()
	if l.token != "" && l.of == l.made.Load() && time.Now().Before(l.renew) {
		defer l.mu.Unlock()
		return l.token, nil
	}
	p := l.proving
	if p == nil {
		p = &proof{done: make(chan struct{})}
		l.proving = p
		go l.run(p)
	}
	l.mu.Unlock()
	select {
	case <-p.done:
		return p.token, p.err
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	}
}

// run runs one exchange for all who wait for it. It ends with the connection, or after the timeout of a request.
func (l *login) run(p *proof) {
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	g, err := l.prove(ctx)
	p.token, p.err = g.token, err
	l.mu.Lock()
	if l.proving = nil; err == nil {
		l.granted = g
	}
	l.mu.Unlock()
	close(p.done)
}

// RequireTransportSecurity: SCRAM needs none, and who sends PLAIN without it has said so.
func (l *login) RequireTransportSecurity() bool { return false }

// forget lets the next call prove who we are anew, if it would show the token that was refused.
func (l *login) forget(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.token = ""
	}
}

// prove runs one exchange.
func (l *login) prove(ctx context.Context) (granted, error) {
	none := granted{}
	stream, err := clientv1.NewAuthServiceClient(l.cc).Authenticate(ctx)
	if err != nil {
		return none, err
	}
	next, proven, err := l.steps()
	if err != nil {
		return none, status.Error(codes.Unauthenticated, err.Error())
	}
	var message []byte
	var of int64
	for first := true; ; first = false {
		if message, err = next(message); err != nil {
			return none, status.Error(codes.Unauthenticated, "the broker does not prove that it knows the password: "+err.Error())
		}
		req := &clientv1.AuthenticateRequest{Message: message}
		if first {
			req.Mechanism = l.sasl.Mechanism
		}
		// What Send knows of a failure is little; Recv says it.
		_ = stream.Send(req)
		resp, err := stream.Recv()
		if err != nil {
			return none, err
		}
		if message = resp.GetMessage(); first {
			of = l.made.Load() // the connection is there
		}
		if resp.GetToken() == "" {
			continue
		}
		if l.sasl.Mechanism != PLAIN {
			if _, err := next(message); err != nil {
				return none, status.Error(codes.Unauthenticated, "the broker does not prove that it knows the password: "+err.Error())
			}
		}
		if !proven() { // it gives a token before it has signed anything
			return none, status.Error(codes.Unauthenticated, "the broker does not prove that it knows the password")
		}
		good := time.Duration(resp.GetLifetimeMs()) * time.Millisecond
		return granted{resp.GetToken(), of, time.Now().Add(good * 8 / 10)}, nil
	}
}

// steps gives what the client says after each of the server's messages, and whether the broker has proven itself too; PLAIN has no such proof.
func (l *login) steps() (next func(message []byte) ([]byte, error), proven func() bool, err error) {
	var generator scram.HashGeneratorFcn
	switch l.sasl.Mechanism {
	case PLAIN:
		return func([]byte) ([]byte, error) { return []byte("\x00" + l.sasl.User + "\x00" + l.sasl.Password), nil }, func() bool { return true }, nil
	case SCRAMSHA256:
		generator = scram.SHA256
	default:
		generator = scram.SHA512
	}
	// As it is: brokers and credentialOf hash the password as it was given, as Kafka does.
	c, err := generator.NewClientUnprepped(l.sasl.User, l.sasl.Password, "")
	if err != nil {
		return nil, nil, fmt.Errorf("user or password holds what no password may hold")
	}
	conv := c.NewConversation()
	return func(message []byte) ([]byte, error) {
		out, err := conv.Step(string(message))
		return []byte(out), err
	}, conv.Valid, nil
}

// options are what a connection needs to prove who we are.
func (l *login) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithPerRPCCredentials(l),
		grpc.WithStatsHandler(l),
		grpc.WithUnaryInterceptor(l.unary),
	}
}

// unary tries a call that was refused for its token once more, with a new one: the broker did nothing.
func (l *login) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	s := new(shown)
	ctx = context.WithValue(ctx, shownKey{}, s)
	err := invoke(ctx, method, req, reply, cc, o...)
	token := s.token.Load()
	if status.Code(err) != codes.Unauthenticated || token == nil { // without a token, the proof has failed
		return err
	}
	l.forget(*token)
	return invoke(ctx, method, req, reply, cc, o...)
}

// TagRPC lets a call keep the token that it shows.
func (l *login) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if ctx.Value(shownKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, shownKey{}, new(shown))
}

// HandleRPC forgets a token that a stream was refused for.
func (l *login) HandleRPC(ctx context.Context, s stats.RPCStats) {
	end, ok := s.(*stats.End)
	if !ok || status.Code(end.Error) != codes.Unauthenticated {
		return
	}
	if call, ok := ctx.Value(shownKey{}).(*shown); ok {
		if token := call.token.Load(); token != nil {
			l.forget(*token)
		}
	}
}

// TagConn is stats.Handler's.
func (l *login) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn has no token be good for a connection that is new.
func (l *login) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnBegin); ok {
		l.made.Add(1)
	}
}

// credentialOf makes what brokers keep of a password.
func credentialOf(user, password, mechanism string, iterations int) (*clientv1.UserCredential, error) {
	number := clientv1.ScramMechanism_SCRAM_MECHANISM_SHA_512
	switch mechanism {
	case SCRAMSHA256:
		number = clientv1.ScramMechanism_SCRAM_MECHANISM_SHA_256
	case SCRAMSHA512:
	default:
		return nil, invalid("Mechanism", "is %q, want %s or %s", mechanism, SCRAMSHA256, SCRAMSHA512)
	}
	c, err := sasl.Derive(mechanism, password, sasl.NewSalt(), iterations)
	if err != nil {
		return nil, invalid("Password", "cannot be hashed")
	}
	return &clientv1.UserCredential{User: user, Mechanism: number, Salt: c.Salt, Iterations: uint32(c.Iterations), StoredKey: c.StoredKey, ServerKey: c.ServerKey}, nil
}
