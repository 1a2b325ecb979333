package api

import (
	"context"
	"fmt"
	"net"
	"strings"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/secure"
)

// door is one listener: who comes in there has to prove who it is, or not.
type door struct {
	*Server
	listener string
}

// open are the calls that answer whoever asks.
var open = map[string]bool{
	clientv1.AuthService_Authenticate_FullMethodName: true,
	healthpb.Health_Check_FullMethodName:             true,
	healthpb.Health_Watch_FullMethodName:             true,
	healthpb.Health_List_FullMethodName:              true,
}

const bearer = "Bearer "

type (
	callerKey struct{}
	// openKey has the openCall of a call that counts as under way on its connection.
	openKey struct{}
)

// admit finds out who calls: whom a token stands for, else whom the client's certificate names, else nobody. Where a proof is demanded
// and missing, the call fails with UNAUTHENTICATED. That is so when the head of a call has come, before anything more is taken of it: of
// who has proven nothing no request is read. (tap.ServerInHandle: one goroutine of each connection calls it, and must not wait.)
func (d door) admit(ctx context.Context, info *tap.Info) (context.Context, error) {
	by := receiverOf(ctx)
	ctx, err := d.caller(ctx, info)
	if err != nil {
		by.turnAway()
		return nil, err
	}
	if call, _ := ctx.Value(openKey{}).(*openCall); call != nil {
		return ctx, nil // has bounds of its own, and takes nothing from those who have proven who they are
	}
	return by.begin(ctx, info.FullMethodName), nil
}

// caller gives the context of a call who calls.
func (d door) caller(ctx context.Context, info *tap.Info) (context.Context, error) {
	if d.c.Guard == nil {
		return ctx, nil
	}
	from, user, conn := origin(ctx)
	if shown := info.Header.Get("authorization"); len(shown) > 0 {
		token, ok := strings.CutPrefix(shown[0], bearer)
		holder, err := d.c.Guard.Holder(token, from)
		if !ok || err != nil {
			return nil, d.refuse(frontdoor.ReasonUnauthenticated, "what the call shows is no token of this broker, or has expired: authenticate again")
		}
		user = holder
		conn.prove()
	} else if mechanisms := d.c.Guard.Mechanisms("grpc", d.listener); len(mechanisms) > 0 {
		if !open[info.FullMethodName] {
			return nil, d.refuse(frontdoor.ReasonUnauthenticated, "this listener demands authentication (SASL "+strings.Join(mechanisms, ", ")+")")
		}
		call, ok := conn.begin()
		if !ok {
			return nil, d.refuse(reasonBusy, fmt.Sprintf("%d calls are under way on this connection, on which nobody has authenticated", maxUnprovenCalls))
		}
		ctx = context.WithValue(ctx, openKey{}, call)
	}
	if !d.c.Guard.Decides() {
		return ctx, nil // nobody will ask
	}
	return context.WithValue(ctx, callerKey{}, frontdoor.NewCaller("grpc", user, from)), nil
}

func (d door) refuse(reason, message string) error {
	d.metrics.turnedAway.Inc()
	return (&service{Server: d.Server}).failed(refused(reason, "", "", "%s", message))
}

// origin is where a call comes from, the user that its connection's certificate names, and the connection, where it has to be proven.
func origin(ctx context.Context) (from net.Addr, user string, conn *unproven) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return &net.TCPAddr{}, "", nil
	}
	info := p.AuthInfo
	if a, ok := info.(unprovenInfo); ok {
		info, conn = a.AuthInfo, a.conn
	}
	if r, ok := info.(received); ok {
		info = r.AuthInfo
	}
	if s, ok := info.(secure.AuthInfo); ok {
		user = s.User
	}
	return p.Addr, user, conn
}

// receiverOf is the connection that a call comes by.
func receiverOf(ctx context.Context) *receiver {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info := p.AuthInfo
	if a, ok := info.(unprovenInfo); ok {
		info = a.AuthInfo
	}
	r, _ := info.(received)
	return r.by
}
