package api

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// Authenticate runs one SASL exchange and ends with a token.
func (s *service) Authenticate(stream clientv1.AuthService_AuthenticateServer) error {
	mechanisms := s.c.Guard.Mechanisms("grpc", s.listener)
	if len(mechanisms) == 0 {
		return s.failed(refused(frontdoor.ReasonSaslState, "", "", "this listener demands no authentication"))
	}
	ctx, cancel := context.WithTimeout(stream.Context(), frontdoor.LoginTime)
	defer cancel()
	from, _, _ := origin(ctx)
	leave, ok := s.c.Guard.Enter(from)
	if !ok {
		return s.failed(refused(reasonBusy, "", "", "too many clients authenticate at once: %d on this broker, and %d from one address, are allowed", frontdoor.MaxLogins, frontdoor.MaxLoginsPerAddress))
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
