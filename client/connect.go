package client

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/tlsout"
)

// Sizes of what may be in flight on a connection. An answer to a fetch may hold one batch above
// every limit (L14), so the message bound only keeps a broken broker from filling our memory.
const (
	maxMessageBytes   = 256 << 20
	streamWindowBytes = 8 << 20
	connWindowBytes   = 32 << 20
	socketBufferBytes = 128 << 10
)

// conns holds one gRPC connection per address. Each producer and consumer has its own, so that a
// connection which is given up, or full of fetched data, is nobody else's trouble.
type conns struct {
	cfg Config

	mu     sync.Mutex // guards what follows
	open   map[string]*grpc.ClientConn
	closed bool
}

func newConns(cfg Config) *conns {
	return &conns{cfg: cfg, open: make(map[string]*grpc.ClientConn)}
}

// get gives the connection to an address. It does not wait for it to be up.
func (c *conns) get(addr string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, refusal(ReasonClosed, "client is closed")
	}
	if cc := c.open[addr]; cc != nil {
		return cc, nil
	}
	cc, err := dial(c.cfg, addr)
	if err != nil {
		return nil, refusal(ReasonInvalidConfig, "address %q: %v", addr, err)
	}
	c.open[addr] = cc
	return cc, nil
}

// drop gives a connection up, so that the next get makes another. All calls on it fail. It does
// nothing when the connection is not the current one for the address.
func (c *conns) drop(addr string, cc *grpc.ClientConn) {
	c.mu.Lock()
	if c.open[addr] == cc {
		delete(c.open, addr)
	}
	c.mu.Unlock()
	_ = cc.Close() // it only reports that it was closed before
}

// hurry ends the wait of a connection that could not be made; the next attempt begins now.
func (c *conns) hurry(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cc := c.open[addr]; cc != nil {
		cc.ResetConnectBackoff()
	}
}

// close gives all connections up.
func (c *conns) close() {
	c.mu.Lock()
	open := c.open
	c.open, c.closed = nil, true
	c.mu.Unlock()
	for _, cc := range open {
		_ = cc.Close() // it only reports that it was closed before
	}
}

func (c *conns) log(addr string) (clientv1.LogServiceClient, *grpc.ClientConn, error) {
	cc, err := c.get(addr)
	if err != nil {
		return nil, nil, err
	}
	return clientv1.NewLogServiceClient(cc), cc, nil
}

func (c *conns) admin(addr string) (clientv1.AdminServiceClient, error) {
	cc, err := c.get(addr)
	if err != nil {
		return nil, err
	}
	return clientv1.NewAdminServiceClient(cc), nil
}

// gatheringTLS has what gRPC writes at once leave at once.
type gatheringTLS struct {
	credentials.TransportCredentials
}

// ClientHandshake is credentials.TransportCredentials'.
func (g gatheringTLS) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	below := tlsout.NewBelow(raw)
	conn, info, err := g.TransportCredentials.ClientHandshake(ctx, authority, below)
	if err != nil {
		return nil, nil, err
	}
	return below.Over(conn), info, nil
}

// Clone is credentials.TransportCredentials'.
func (g gatheringTLS) Clone() credentials.TransportCredentials {
	return gatheringTLS{g.TransportCredentials.Clone()}
}

func dial(cfg Config, addr string) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = gatheringTLS{credentials.NewTLS(cfg.TLS)}
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return cfg.Dialer(ctx, a) }),
		grpc.WithNoProxy(),
		grpc.WithUserAgent(cfg.ClientID),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // retries are decided here, where outcomes are known
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: cfg.ConnectTimeout,
		}),
		// Finds dead peers where nothing is in flight; requests have their own timeout. The
		// broker's enforcement policy allows a ping every 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithInitialWindowSize(streamWindowBytes),
		grpc.WithInitialConnWindowSize(connWindowBytes),
		grpc.WithReadBufferSize(socketBufferBytes),
		grpc.WithWriteBufferSize(socketBufferBytes),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(clientv1.Codec{}),
			grpc.MaxCallRecvMsgSize(maxMessageBytes),
			grpc.MaxCallSendMsgSize(maxMessageBytes),
		),
	}
	if cfg.SASL.User == "" {
		return grpc.NewClient("passthrough:///"+addr, options...)
	}
	proof := newLogin(cfg)
	cc, err := grpc.NewClient("passthrough:///"+addr, append(options, proof.options()...)...)
	proof.cc = cc
	return cc, err
}
