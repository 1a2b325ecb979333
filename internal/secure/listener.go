package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/oncelog/oncelog/internal/firstbytes"
	"github.com/oncelog/oncelog/internal/tlsout"
)

// ListenerConfig says how connections begin.
type ListenerConfig struct {
	// Port names the port, for logs and metrics.
	Port string
	// TLS is demanded of every connection; nil: none is spoken.
	TLS *tls.Config
	// Mapping makes names of clients' certificates; nil: DEFAULT.
	Mapping *Mapping
	// HTTP2 turns away who does not begin as an HTTP/2 client does, and says in the log what it seems to be.
	HTTP2 bool
	// Timeout bounds the handshake and the wait for the first bytes, together. Default 10 s.
	Timeout time.Duration
	// MaxPending bounds the connections that have not finished their handshake, MaxPendingPerAddress those from one address.
	// More are closed. Defaults 256 and 64.
	MaxPending, MaxPendingPerAddress int

	Logger  *slog.Logger
	Metrics *Metrics
}

// Conn is a connection whose TLS handshake is done.
type Conn struct {
	*tls.Conn
	out *tlsout.Conn
	// User is the name that the client's certificate stands for; empty: it has shown none.
	User string
}

// Write writes p with as few system calls as possible.
func (c *Conn) Write(p []byte) (int, error) { return c.out.Write(p) }

// WriteBuffers writes buffers as one; small neighbours share a TLS record.
func (c *Conn) WriteBuffers(v *net.Buffers) error { return c.out.WriteBuffers(v) }

// Close closes the connection.
func (c *Conn) Close() error { return c.out.Close() }

// Listener gives connections that have begun as they should. Handshakes run beside each other, so that a slow one holds nobody up.
type Listener struct {
	net.Listener
	c     ListenerConfig
	told  firstbytes.Throttle
	ready chan accepted

	closed chan struct{}
	once   sync.Once
	owned  sync.WaitGroup

	// mu guards what follows.
	mu      sync.Mutex
	pending map[net.Conn]string // to the address it came from
	from    map[string]int
}

type accepted struct {
	conn net.Conn
	err  error
}

// Listen wraps a listener, which belongs to the Listener from then on.
func Listen(base net.Listener, c ListenerConfig) *Listener {
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 256
	}
	if c.MaxPendingPerAddress <= 0 {
		c.MaxPendingPerAddress = 64
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Mapping == nil {
		c.Mapping = &Mapping{rules: []mappingRule{{}}}
	}
	l := &Listener{Listener: base, c: c, ready: make(chan accepted), closed: make(chan struct{}),
		pending: make(map[net.Conn]string), from: make(map[string]int)}
	l.owned.Go(l.accept)
	return l
}

// Accept gives the next connection that has begun well.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close stops accepting, cuts what is in its handshake, and waits.
func (l *Listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.closed)
		err = l.Listener.Close()
		l.mu.Lock()
		for conn := range l.pending {
			_ = conn.Close() // it is over
		}
		l.mu.Unlock()
		l.owned.Wait()
	})
	return err
}

func (l *Listener) accept() {
	for {
		conn, err := l.Listener.Accept()
		if err == nil {
			l.admit(conn)
			continue
		}
		select {
		case l.ready <- accepted{err: err}:
		case <-l.closed:
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// admit begins a connection in a goroutine of its own, within the bounds.
func (l *Listener) admit(conn net.Conn) {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		host = conn.RemoteAddr().String()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		_ = conn.Close() // nothing was said on it
		return
	default:
	}
	if len(l.pending) >= l.c.MaxPending || l.from[host] >= l.c.MaxPendingPerAddress {
		l.refuse(conn, "overload", "too many handshakes under way", "pending", len(l.pending), "from_address", l.from[host])
		return
	}
	l.pending[conn] = host
	l.from[host]++
	l.c.Metrics.began(l.c.Port, 1)
	l.owned.Go(func() {
		begun := l.begin(conn)
		l.mu.Lock()
		delete(l.pending, conn)
		if l.from[host]--; l.from[host] == 0 {
			delete(l.from, host)
		}
		l.mu.Unlock()
		l.c.Metrics.began(l.c.Port, -1)
		if begun == nil {
			return
		}
		select {
		case l.ready <- accepted{conn: begun}:
			l.c.Metrics.ended(l.c.Port, "accepted")
		case <-l.closed:
			_ = begun.Close() // nobody takes it any more
		}
	})
}

// begin does the handshake and looks at the first bytes; nil: the connection has been refused.
func (l *Listener) begin(raw net.Conn) net.Conn {
	deadline := time.Now().Add(l.c.Timeout)
	_ = raw.SetDeadline(deadline) // a connection that cannot be told this is broken
	conn := raw
	if l.c.TLS != nil {
		secured, err := l.handshake(raw, deadline)
		if err != nil {
			return nil
		}
		conn = secured
	}
	if l.c.HTTP2 {
		var prefix [4]byte
		if n, err := io.ReadFull(conn, prefix[:]); err != nil {
			l.refuse(conn, "silent", "it sent nothing that says what it is", "bytes", n, "err", err)
			return nil
		}
		if what := firstbytes.Guess(prefix); what != firstbytes.HTTP2 {
			l.refuse(conn, "protocol", "it "+what.String()+"; this port speaks gRPC", "first_bytes", strconv.Quote(string(prefix[:])))
			return nil
		}
		conn = firstbytes.Replay(conn, prefix[:])
	}
	_ = conn.SetDeadline(time.Time{}) // as above
	return conn
}

func (l *Listener) handshake(raw net.Conn, deadline time.Time) (*Conn, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	below := tlsout.NewBelow(raw)
	c := &Conn{Conn: tls.Server(below, l.c.TLS)}
	c.out = below.Over(c.Conn)
	err := c.HandshakeContext(ctx)
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil {
		what := firstbytes.Guess([4]byte(plain.RecordHeader[:4]))
		l.refuse(raw, "plain", "it "+what.String()+" without TLS, which this port demands", "err", err)
		return nil, err
	}
	if err != nil {
		l.refuse(raw, "tls", "the TLS handshake failed", "err", err)
		return nil, err
	}
	if certs := c.ConnectionState().PeerCertificates; len(certs) > 0 {
		subject, err := subjectOf(certs[0].RawSubject)
		if err == nil {
			c.User, err = l.c.Mapping.Name(subject)
		}
		if err != nil {
			l.refuse(c, "principal", "its certificate names nobody", "subject", subject, "err", err)
			return nil, err
		}
	}
	return c, nil
}

// refuse closes a connection, counts it, and says so at most once in a second.
func (l *Listener) refuse(conn net.Conn, result, what string, args ...any) {
	l.c.Metrics.ended(l.c.Port, result)
	if unreported, ok := l.told.Allow(time.Now()); ok {
		args = append([]any{"port", l.c.Port, "client", conn.RemoteAddr().String(), "reason", what, "unreported", unreported}, args...)
		l.c.Logger.Warn("connection refused", args...)
	}
	_ = conn.Close() // it is over
}

// Of gives the TLS connection that lies in a connection, and false where there is none.
func Of(conn net.Conn) (*Conn, bool) {
	for {
		switch c := conn.(type) {
		case *Conn:
			return c, true
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil, false
		}
	}
}
