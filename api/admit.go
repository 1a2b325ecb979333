package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
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

// Bounds of a connection on which nobody has proven who it is, where that is demanded.
const (
	// maxUnprovenCalls are those under way, of calls that answer whoever asks.
	maxUnprovenCalls = 16
	// maxUnprovenBytes may arrive since the oldest of them began; gRPC would keep of each call as much as its window and the largest request allow. It
	// is enough for thousands of pings of a client that watches the health.
	maxUnprovenBytes = 128 << 10
)

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
	if a, ok := info.(arrival); ok {
		info, conn = a.AuthInfo, a.conn
	}
	if s, ok := info.(secure.AuthInfo); ok {
		user = s.User
	}
	return p.Addr, user, conn
}

// arrivals are the credentials of a listener where who comes in has to prove who it is: they count what a connection sends until then.
type arrivals struct {
	credentials.TransportCredentials
	cut prometheus.Counter
}

func newArrivals(inner credentials.TransportCredentials, cut prometheus.Counter) arrivals {
	if inner == nil {
		inner = insecure.NewCredentials()
	}
	return arrivals{inner, cut}
}

// ServerHandshake is credentials.TransportCredentials'.
func (a arrivals) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := a.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		return conn, info, err
	}
	c := &unproven{Conn: conn, cut: a.cut}
	return c, arrival{info, c}, nil
}

// Clone is credentials.TransportCredentials'.
func (a arrivals) Clone() credentials.TransportCredentials {
	return arrivals{a.TransportCredentials.Clone(), a.cut}
}

// arrival is what a call can learn of its connection.
type arrival struct {
	credentials.AuthInfo
	conn *unproven
}

// unproven is a connection that is cut if it sends too much before anybody has proven who it is. What arrived before the calls that are under
// way is not kept, and does not count. A nil one may do everything.
type unproven struct {
	net.Conn
	cut    prometheus.Counter
	proven atomic.Bool

	// mu guards what follows.
	mu sync.Mutex
	// arrived is how many bytes have come, calls are those under way that answer whoever asks, the oldest first.
	arrived int64
	calls   []*openCall
}

// openCall is a call of who has proven nothing.
type openCall struct {
	conn  *unproven
	since int64 // bytes that had arrived when it began
}

var errUnproven = errors.New("api: too much was sent before authentication")

// Read is net.Conn's.
func (c *unproven) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.proven.Load() && c.isTooMuch(n) {
		c.cut.Inc()
		return 0, errUnproven
	}
	return n, err
}

func (c *unproven) isTooMuch(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrived += int64(n)
	return len(c.calls) > 0 && c.arrived-c.calls[0].since > maxUnprovenBytes
}

// prove takes the bounds away.
func (c *unproven) prove() {
	if c != nil {
		c.proven.Store(true)
	}
}

// begin counts a call; not ok: there are too many.
func (c *unproven) begin() (call *openCall, ok bool) {
	if c == nil || c.proven.Load() {
		return nil, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) == maxUnprovenCalls {
		return nil, false
	}
	call = &openCall{c, c.arrived}
	c.calls = append(c.calls, call)
	return call, true
}

// ended notices the end of a call that was counted.
func ended(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); !ok {
		return
	}
	call, _ := ctx.Value(openKey{}).(*openCall)
	if call == nil {
		return
	}
	c := call.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.calls, call); i >= 0 {
		c.calls = slices.Delete(c.calls, i, i+1)
	}
}
