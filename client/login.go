package client

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"strings"
	"sync/atomic"
	"time"

	"github.com/xdg-go/scram"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// SASL mechanisms by which a client can prove a password. By the SCRAM mechanisms the password does not leave the client.
const (
	SCRAMSHA256 = "SCRAM-SHA-256"
	SCRAMSHA512 = "SCRAM-SHA-512"
	PLAIN       = "PLAIN"
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
// same one with another key, may be there.
type login struct {
	sasl    SASL
	timeout time.Duration
	cc      *grpc.ClientConn // set before the first call

	// made counts the connections that were made, and the tokens that were refused: a token is good for one number.
	made atomic.Int64

	// turn guards what follows; a context bounds the wait for it.
	turn  chan struct{}
	token string
	of    int64 // the number that token is good for
	renew time.Time
}

func newLogin(cfg Config) *login {
	return &login{sasl: cfg.SASL, timeout: cfg.RequestTimeout, turn: make(chan struct{}, 1)}
}

// GetRequestMetadata gives what a call shows.
func (l *login) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	for _, u := range uri {
		if strings.HasSuffix(u, clientv1.AuthService_ServiceDesc.ServiceName) {
			return nil, nil // the proof itself
		}
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	defer func() { <-l.turn }()
	if l.token == "" || l.of != l.made.Load() || time.Now().After(l.renew) {
		if err := l.prove(ctx); err != nil {
			return nil, err
		}
	}
	return map[string]string{"authorization": "Bearer " + l.token}, nil
}

// RequireTransportSecurity: SCRAM needs none, and who sends PLAIN without it has said so.
func (l *login) RequireTransportSecurity() bool { return false }

// forget lets the next call prove who we are anew.
func (l *login) forget() { l.made.Add(1) }

// prove runs one exchange. Held: turn.
func (l *login) prove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	stream, err := clientv1.NewAuthServiceClient(l.cc).Authenticate(ctx)
	if err != nil {
		return err
	}
	next, proven, err := l.steps()
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	var message []byte
	var of int64
	for first := true; ; first = false {
		if message, err = next(message); err != nil {
			return status.Error(codes.Unauthenticated, "the broker does not prove that it knows the password: "+err.Error())
		}
		req := &clientv1.AuthenticateRequest{Message: message}
		if first {
			req.Mechanism = l.sasl.Mechanism
		}
		// What Send knows of a failure is little; Recv says it.
		_ = stream.Send(req)
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if message = resp.GetMessage(); first {
			of = l.made.Load() // the connection is there
		}
		if resp.GetToken() == "" {
			continue
		}
		if l.sasl.Mechanism != PLAIN {
			if _, err := next(message); err != nil {
				return status.Error(codes.Unauthenticated, "the broker does not prove that it knows the password: "+err.Error())
			}
		}
		if !proven() { // it gives a token before it has signed anything
			return status.Error(codes.Unauthenticated, "the broker does not prove that it knows the password")
		}
		l.token, l.of = resp.GetToken(), of
		l.renew = time.Now().Add(time.Duration(resp.GetLifetimeMs()) * time.Millisecond * 8 / 10)
		return nil
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
	err := invoke(ctx, method, req, reply, cc, o...)
	if status.Code(err) != codes.Unauthenticated {
		return err
	}
	l.forget()
	return invoke(ctx, method, req, reply, cc, o...)
}

// TagRPC is stats.Handler's.
func (l *login) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC forgets a token that a stream was refused for.
func (l *login) HandleRPC(_ context.Context, s stats.RPCStats) {
	if end, ok := s.(*stats.End); ok && status.Code(end.Error) == codes.Unauthenticated {
		l.forget()
	}
}

// TagConn is stats.Handler's.
func (l *login) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn forgets the token when a connection is new.
func (l *login) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnBegin); ok {
		l.forget()
	}
}

// credentialOf makes what brokers keep of a password (RFC 5802, 3).
func credentialOf(user, password, mechanism string, iterations int) (*clientv1.UserCredential, error) {
	h, number := func() hash.Hash { return sha512.New() }, clientv1.ScramMechanism_SCRAM_MECHANISM_SHA_512
	switch mechanism {
	case SCRAMSHA256:
		h, number = sha256.New, clientv1.ScramMechanism_SCRAM_MECHANISM_SHA_256
	case SCRAMSHA512:
	default:
		return nil, invalid("Mechanism", "is %q, want %s or %s", mechanism, SCRAMSHA256, SCRAMSHA512)
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(h, password, salt, iterations, h().Size())
	if err != nil {
		return nil, invalid("Password", "cannot be hashed")
	}
	mac := func(text string) []byte {
		m := hmac.New(h, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	stored := h()
	stored.Write(mac("Client Key"))
	return &clientv1.UserCredential{User: user, Mechanism: number, Salt: salt, Iterations: uint32(iterations), StoredKey: stored.Sum(nil), ServerKey: mac("Server Key")}, nil
}
