// Package mux lets every Raft group and the peer RPC share one port.
//
// The first four bytes of a connection choose who serves it: "OLR1" (written by Dialer.Raft) the
// Raft transport, "PRI " (how every HTTP/2 client begins) the peer RPC over gRPC. TLS, when
// configured, lies below. Whoever else connects, such as a Kafka or a web client that took the
// wrong port, is told so where it can understand it, logged, counted and disconnected.
package mux

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/internal/firstbytes"
)

const (
	// raftPrefix opens a Raft connection; its last byte is the version of this choice, not of
	// what is spoken afterwards.
	raftPrefix = "OLR1"
	// http2Prefix begins the HTTP/2 client preface (RFC 9113, 3.4).
	http2Prefix = "PRI "

	prefixSize = 4
)

// Config says how to listen.
type Config struct {
	// TLS, when set, is demanded of every connection. For mTLS it holds ClientCAs and
	// tls.RequireAndVerifyClientCert.
	TLS *tls.Config
	// Timeout bounds the TLS handshake and the wait for the first bytes, together. Default 5 s.
	Timeout time.Duration
	// MaxPending bounds the connections that have not said yet what they are. Default 256.
	MaxPending int
	// Logger and Registerer default to none.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Mux accepts connections and sorts them to its two listeners.
type Mux struct {
	base    net.Listener
	config  Config
	logger  *slog.Logger
	metrics *metrics
	told    firstbytes.Throttle

	raft, peer *listener

	slots  chan struct{} // one token for each pending connection
	closed chan struct{}
	owned  sync.WaitGroup

	// mu guards pending: the connections to cut on Close. Nothing blocks under it.
	mu      sync.Mutex
	pending map[net.Conn]struct{}
}

// New starts to accept from base, which belongs to the Mux from then on.
func New(base net.Listener, c Config) *Mux {
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 256
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Mux{
		base:    base,
		config:  c,
		logger:  c.Logger,
		metrics: newMetrics(c.Registerer),
		raft:    newListener(base.Addr()),
		peer:    newListener(base.Addr()),
		slots:   make(chan struct{}, c.MaxPending),
		closed:  make(chan struct{}),
		pending: make(map[net.Conn]struct{}),
	}
	m.owned.Add(1)
	go m.accept()
	return m
}

// Raft gives the listener for raftgroup.Config.Listener.
func (m *Mux) Raft() net.Listener { return m.raft }

// Peer gives the listener for the gRPC server of the peer RPC. TLS has been dealt with.
func (m *Mux) Peer() net.Listener { return m.peer }

// Addr is where the mux listens.
func (m *Mux) Addr() net.Addr { return m.base.Addr() }

// Close stops accepting, cuts the connections nobody has taken yet and waits for all goroutines.
// Connections taken from the two listeners live on; their owners close them.
func (m *Mux) Close() error {
	m.mu.Lock()
	select {
	case <-m.closed:
		m.mu.Unlock()
		m.owned.Wait()
		return nil
	default:
	}
	close(m.closed)
	for c := range m.pending {
		_ = c.Close()
	}
	m.mu.Unlock()
	err := m.base.Close()
	m.owned.Wait()
	m.raft.shut(net.ErrClosed)
	m.peer.shut(net.ErrClosed)
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// accept takes connections until the base listener ends. A full process (no more file
// descriptors) passes; so it waits and tries again.
func (m *Mux) accept() {
	defer m.owned.Done()
	const minDelay, maxDelay = 5 * time.Millisecond, time.Second
	delay := minDelay
	for {
		conn, err := m.base.Accept()
		if err == nil {
			delay = minDelay
			m.admit(conn)
			continue
		}
		select {
		case <-m.closed:
			return
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			m.raft.shut(err)
			m.peer.shut(err)
			return
		}
		m.metrics.acceptErrors.Inc()
		m.logger.Error("peer port does not accept", "err", err)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-m.closed:
			timer.Stop()
			return
		}
		delay = min(2*delay, maxDelay)
	}
}

// admit sorts one connection in a goroutine of its own, if not too many are being sorted.
func (m *Mux) admit(conn net.Conn) {
	select {
	case m.slots <- struct{}{}:
	default:
		m.metrics.rejected.WithLabelValues("overload").Inc()
		_ = conn.Close()
		return
	}
	m.mu.Lock()
	select {
	case <-m.closed:
		m.mu.Unlock()
		<-m.slots
		_ = conn.Close()
		return
	default:
	}
	m.pending[conn] = struct{}{}
	m.owned.Add(1)
	m.mu.Unlock()
	go func() {
		defer m.owned.Done()
		m.sort(conn)
		m.mu.Lock()
		delete(m.pending, conn)
		m.mu.Unlock()
		<-m.slots
	}()
}
