package mux

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/oncelog/oncelog/internal/tlsout"
)

// Dialer connects to the mux of another broker.
type Dialer struct {
	// Dial makes the connection; nil: TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// TLS, when set, gives what is spoken on it, anew for each connection. An empty ServerName is taken from the address.
	TLS func() *tls.Config
	// Timeout bounds dialing and handshake where the context does not end earlier. Default 5 s.
	Timeout time.Duration
}

// Raft connects to the Raft side. It fits raftgroup.Config.Dial.
func (d Dialer) Raft(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := d.Peer(ctx, addr)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetWriteDeadline(deadline)
	} else {
		_ = conn.SetWriteDeadline(time.Now().Add(d.timeout()))
	}
	if _, err := io.WriteString(conn, raftPrefix); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("choose the raft side of %s: %w", addr, err)
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// Peer connects to the side of the peer RPC, which an HTTP/2 client finds by its own preface. It
// fits grpc.WithContextDialer, together with insecure transport credentials: TLS is done here.
func (d Dialer) Peer(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout())
	defer cancel()
	dial := d.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	conn, err := dial(ctx, addr)
	if err != nil || d.TLS == nil {
		return conn, err
	}
	config := d.TLS()
	if config.ServerName == "" && !config.InsecureSkipVerify {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		config = config.Clone()
		config.ServerName = host
	}
	below := tlsout.NewBelow(conn)
	secure := tls.Client(below, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("tls handshake with %s: %w", addr, err)
	}
	return below.Over(secure), nil
}

func (d Dialer) timeout() time.Duration {
	if d.Timeout > 0 {
		return d.Timeout
	}
	return 5 * time.Second
}
