package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// ClientConfig is what a Client needs.
type ClientConfig struct {
	// Self is who we are, asked at each call.
	Self func() Identity
	// Since is an index of the metadata at which we were registered; 0, or nil: not known.
	Since func() uint64
	// Dial connects to a peer address, and makes TLS where it is configured.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

const (
	// maxConns bounds the connections that are kept. It is above the brokers a cluster can have.
	maxConns = 1100
	// A broker that comes back is found again within about a second.
	firstBackoff   = 100 * time.Millisecond
	mostBackoff    = time.Second
	connectTimeout = 2 * time.Second
)

// Client calls other brokers. It keeps one connection for each address. Its methods may be called
// concurrently; their errors are *Error.
type Client struct {
	c ClientConfig

	// mu guards conns, clock and closed. Nothing is called while it is held.
	mu     sync.Mutex
	conns  map[string]*conn
	clock  uint64
	closed bool
}

type conn struct {
	grpc  *grpc.ClientConn
	calls int    // under way
	used  uint64 // clock at the last call
}

// NewClient makes a client without connections.
func NewClient(c ClientConfig) *Client {
	return &Client{c: c, conns: make(map[string]*conn)}
}

// Close ends all calls and connections.
func (c *Client) Close() {
	c.mu.Lock()
	conns := c.conns
	c.conns, c.closed = nil, true
	c.mu.Unlock()
	for _, cn := range conns {
		_ = cn.grpc.Close() // it has no error but that it is closed
	}
}

// Hello asks who is at an address.
func (c *Client) Hello(ctx context.Context, to Target, req *peerv1.HelloRequest) (*peerv1.HelloResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.Hello, req)
}

// Form asks a broker to belong to the cluster that is being formed.
func (c *Client) Form(ctx context.Context, to Target, req *peerv1.FormRequest) (*peerv1.FormResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.Form, req)
}

// Forward asks the leader of the metadata group for a change.
func (c *Client) Forward(ctx context.Context, to Target, req *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.Forward, req)
}

// ReportStatus tells a peer what we lead.
func (c *Client) ReportStatus(ctx context.Context, to Target, req *peerv1.ReportStatusRequest) (*peerv1.ReportStatusResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.ReportStatus, req)
}

// PullEntries asks for entries and gives them to yield in order, some at a time, which may keep them.
// Where the sender's log begins above the first that is asked for, they begin there. It returns nil when
// all have been given. After an error it can be called again for those that yield
// has not had.
func (c *Client) PullEntries(ctx context.Context, to Target, req PullRequest, yield func([]Entry) error) error {
	cn, err := c.conn(to)
	if err != nil {
		return err
	}
	defer c.release(cn)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, sent := withSent(c.outgoing(ctx, to))
	stream, err := peerv1.NewPeerServiceClient(cn.grpc).PullEntries(ctx, &peerv1.PullEntriesRequest{
		GroupId: req.Group, Incarnation: req.Incarnation, FromIndex: uint64(req.From), ThroughIndex: uint64(req.Through),
	})
	if err != nil {
		return callError(to, err, sent)
	}
	r := entryReader{next: req.From, through: req.Through}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if err := r.done(); err != nil {
				return &Error{Reason: Malformed, Message: fmt.Sprintf("%v: %v", to, err), MayHaveHappened: true}
			}
			return nil
		}
		if err != nil {
			return callError(to, err, sent)
		}
		entries, err := r.read(m)
		if err != nil {
			return &Error{Reason: Malformed, Message: fmt.Sprintf("%v: %v", to, err), MayHaveHappened: true}
		}
		if len(entries) == 0 {
			continue
		}
		if err := yield(entries); err != nil {
			return err
		}
	}
}

func call[Req, Resp any](ctx context.Context, c *Client, to Target,
	method func(peerv1.PeerServiceClient, context.Context, *Req, ...grpc.CallOption) (*Resp, error), req *Req,
) (*Resp, error) {
	if n := proto.Size(any(req).(proto.Message)); n > maxMessageBytes {
		return nil, &Error{Reason: TooLarge, Message: fmt.Sprintf("%v: the request has %d bytes; at most %d are allowed", to, n, maxMessageBytes)}
	}
	cn, err := c.conn(to)
	if err != nil {
		return nil, err
	}
	defer c.release(cn)
	ctx, sent := withSent(c.outgoing(ctx, to))
	resp, err := method(peerv1.NewPeerServiceClient(cn.grpc), ctx, req)
	if err != nil {
		return nil, callError(to, err, sent)
	}
	return resp, nil
}

// outgoing says who calls whom.
func (c *Client) outgoing(ctx context.Context, to Target) context.Context {
	since := uint64(0)
	if c.c.Since != nil {
		since = c.c.Since()
	}
	return outgoing(ctx, c.c.Self(), since, to.Broker)
}

// conn finds or makes the connection to an address. release must follow.
func (c *Client) conn(to Target) (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &Error{Reason: Unreachable, Message: "this broker is stopping"}
	}
	cn := c.conns[to.Address]
	if cn == nil {
		if err := c.makeRoom(); err != nil {
			return nil, err
		}
		g, err := c.newConn(to.Address)
		if err != nil {
			return nil, &Error{Reason: Unreachable, Message: fmt.Sprintf("%v: %v", to, err), cause: err}
		}
		cn = &conn{grpc: g}
		c.conns[to.Address] = cn
	}
	c.clock++
	cn.calls++
	cn.used = c.clock
	return cn, nil
}

func (c *Client) release(cn *conn) {
	c.mu.Lock()
	cn.calls--
	c.mu.Unlock()
}

// makeRoom closes the connection that has not been used for longest, if there are too many.
func (c *Client) makeRoom() error {
	if len(c.conns) < maxConns {
		return nil
	}
	oldest := ""
	for a, cn := range c.conns {
		if cn.calls == 0 && (oldest == "" || cn.used < c.conns[oldest].used) {
			oldest = a
		}
	}
	if oldest == "" {
		return &Error{Reason: Unreachable, Message: fmt.Sprintf("%d connections to peers are in use, and no more are allowed", maxConns)}
	}
	g := c.conns[oldest].grpc
	delete(c.conns, oldest)
	_ = g.Close() // no call uses it
	return nil
}

// newConn does not connect yet; the first call does.
func (c *Client) newConn(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithContextDialer(c.c.Dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 1.5, Jitter: 0.2, MaxDelay: mostBackoff},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithStatsHandler(sentWatcher{}),
	)
}

// callError sorts what the transport says. A refusal that carries a reason has not reached the
// handler; neither has a call that never got as far as a connection.
func callError(to Target, err error, sent *atomic.Bool) *Error {
	st, _ := status.FromError(err)
	e := &Error{Reason: Unreachable, Message: fmt.Sprintf("%v: %s", to, st.Message()), MayHaveHappened: sent.Load(), cause: err}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			e.Reason, e.MayHaveHappened = info.GetReason(), false
			return e
		}
	}
	if isHandlerError(st) {
		e.Reason = Failed
	}
	return e
}

type sentKey struct{}

// withSent gives a context in which the flag is set once the call is on a connection.
func withSent(ctx context.Context) (context.Context, *atomic.Bool) {
	flag := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, flag), flag
}

// sentWatcher sets the flag of withSent.
type sentWatcher struct{}

func (sentWatcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentWatcher) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); ok {
		if flag, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
			flag.Store(true)
		}
	}
}

func (sentWatcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sentWatcher) HandleConn(context.Context, stats.ConnStats) {}

// isHandlerError tells the failure of a handler from that of the transport, which never says Unknown.
func isHandlerError(st *status.Status) bool { return st.Code() == codes.Unknown }
