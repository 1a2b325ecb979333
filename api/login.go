package api

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/secure"
)

// door is one listener: who comes in there has to prove who it is, or not.
type door struct {
	*Server
	listener string
}

// open are the services that answer whoever asks.
var open = []string{"/" + clientv1.AuthService_ServiceDesc.ServiceName + "/", "/grpc.health.v1.Health/"}

const bearer = "Bearer "

type callerKey struct{}

// admit finds out who calls: whom a token stands for, else whom the client's certificate names, else nobody. Where a proof is demanded
// and missing, the call fails with UNAUTHENTICATED.
func (s door) admit(ctx context.Context, method string) (context.Context, error) {
	if s.c.Guard == nil {
		return ctx, nil
	}
	from, user := origin(ctx)
	if shown := metadata.ValueFromIncomingContext(ctx, "authorization"); len(shown) > 0 {
		token, ok := strings.CutPrefix(shown[0], bearer)
		holder, err := s.c.Guard.Holder(token, from)
		if !ok || err != nil {
			return nil, s.unauthenticated("what the call shows is no token of this broker, or has expired: authenticate again")
		}
		user = holder
	} else if mechanisms := s.c.Guard.Mechanisms("grpc", s.listener); len(mechanisms) > 0 {
		for _, free := range open {
			if strings.HasPrefix(method, free) {
				return ctx, nil
			}
		}
		return nil, s.unauthenticated("this listener demands authentication (SASL " + strings.Join(mechanisms, ", ") + ")")
	}
	return context.WithValue(ctx, callerKey{}, frontdoor.NewCaller("grpc", user, from)), nil
}

func (s door) unauthenticated(message string) error {
	return (&service{Server: s.Server}).failed(refused(frontdoor.ReasonUnauthenticated, "", "", "%s", message))
}

// origin is where a call comes from, and the user that its connection's certificate names.
func origin(ctx context.Context) (from net.Addr, user string) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return &net.TCPAddr{}, ""
	}
	if info, ok := p.AuthInfo.(secure.AuthInfo); ok {
		user = info.User
	}
	return p.Addr, user
}

// Authenticate runs one SASL exchange and ends with a token.
func (s *service) Authenticate(stream clientv1.AuthService_AuthenticateServer) error {
	mechanisms := s.c.Guard.Mechanisms("grpc", s.listener)
	if len(mechanisms) == 0 {
		return s.failed(refused(frontdoor.ReasonSaslState, "", "", "this listener demands no authentication"))
	}
	ctx, cancel := context.WithTimeout(stream.Context(), frontdoor.LoginTime)
	defer cancel()
	from, _ := origin(ctx)
	leave, ok := s.c.Guard.Enter(from)
	if !ok {
		return s.failed(refused(reasonBusy, "", "", "too many clients authenticate at once"))
	}
	defer leave()
	// Recv cannot be ended but by returning from here, so another goroutine sits in it, and takes no message more than are due.
	heard := make(chan saslMessage)
	s.owned.Go(func() {
		for {
			req, err := stream.Recv()
			select {
			case heard <- saslMessage{req, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	return s.exchange(ctx, stream, heard, from, mechanisms)
}

// saslMessage is what a client says, or why it says nothing more.
type saslMessage struct {
	req *clientv1.AuthenticateRequest
	err error
}

// exchange answers what is heard until the client is proven, or has failed.
func (s *service) exchange(ctx context.Context, stream clientv1.AuthService_AuthenticateServer, heard <-chan saslMessage, from net.Addr, mechanisms []string) error {
	var login *frontdoor.Login
	for {
		var m saslMessage
		select {
		case m = <-heard:
		case <-ctx.Done():
			return s.failed(refused(frontdoor.ReasonSaslFailed, "", "", "no proof within %v", frontdoor.LoginTime))
		}
		switch {
		case errors.Is(m.err, io.EOF):
			return nil // who hangs up in the middle has not failed
		case m.err != nil:
			return m.err
		}
		if login == nil {
			var err error
			if login, err = s.c.Guard.Begin("grpc", from, m.req.GetMechanism(), mechanisms); err != nil {
				return s.failed(refused(frontdoor.ReasonSaslMechanism, "mechanism", strings.Join(mechanisms, ", "), "%v", err))
			}
		}
		answer, _, done, err := login.Next(ctx, m.req.GetMessage())
		if err != nil {
			return s.failed(refused(frontdoor.ReasonSaslFailed, "", "", "wrong user, password or message"))
		}
		resp := &clientv1.AuthenticateResponse{Message: answer}
		if done {
			token, good := login.Token()
			resp.Token, resp.LifetimeMs = token, good.Milliseconds()
		}
		if err := stream.Send(resp); err != nil || done {
			return err
		}
	}
}
