// Package kafka serves the Kafka protocol: one connection loop, one file per API key, one table of errors.
//
// It decodes a request with kmsg, checks what can be checked without knowing the state of a partition, calls one of the
// domains through the interfaces in domains.go, and encodes the answer. Which keys and versions there are stands in keys.go;
// the files with the handlers are named by number and name of the key. What a client is told when something fails is the
// table of package frontdoor, by the rules of errors.go.
//
// # A connection
//
// Requests of one connection are begun in the order in which they came, one at a time up to its proposal, and answered in that
// order (A5): that keeps the batches of an idempotent producer, of which five may be in flight, in sequence. A produce
// request is done with once it is proposed, and the next one begins while it waits for its commit. Everything else is answered
// before the next request begins, as in Kafka; a request that waits makes nobody wait but those behind it on its own connection.
// A connection has one goroutine that reads; while there is something to do one that works and one that writes (conn.go).
package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/internal/frontdoor"
)

// Config is what a Server needs. The domains must be given; zero limits mean their defaults.
type Config struct {
	Log          Log
	Replicas     Replicas
	Cluster      Cluster
	Transactions Transactions
	Coordinators Coordinators
	Groups       Groups
	Markers      Markers

	// Guard decides who may come in and what they may do; nil: everybody may do everything.
	Guard *frontdoor.Guard
	// Shared is what all clients together may hold, by whatever door they come; nil: nobody shares, and all its limits are
	// the defaults. A connection whose request finds no room in Producing is not read further until there is,
	// and closed after FrameTimeout.
	Shared *frontdoor.Shared
	// MaxMessageBytes is the largest batch that any topic can allow. Default 8 MiB.
	MaxMessageBytes int
	// MaxRequestBytes is the largest produce request; a connection that announces a larger one is closed. All other requests
	// are bounded by maxPlainBytes. Default 100 MiB, as Kafka's socket.request.max.bytes.
	MaxRequestBytes int
	// Settings are what others decide by, for what describes the configuration.
	Settings Settings
	// Disk tells the room that the disk of the data directory has, in bytes, as of a moment ago; a total of 0, or nil: not known.
	Disk func() (free, total int64)
	// IdleTimeout is after how long without a request a connection is closed. Default 10 minutes, as Kafka's connections.max.idle.ms.
	IdleTimeout time.Duration
	// FrameTimeout is how long a request may take from its first byte to its last. Default 30 seconds.
	FrameTimeout time.Duration
	// WriteTimeout is how long a client may take none of an answer's bytes. Default 30 seconds.
	WriteTimeout time.Duration

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxMessageBytes, 8<<20)
	setDefault(&c.MaxRequestBytes, 100<<20)
	setDefault(&c.IdleTimeout, 10*time.Minute)
	setDefault(&c.FrameTimeout, 30*time.Second)
	setDefault(&c.WriteTimeout, 30*time.Second)
	if c.Shared == nil {
		c.Shared = frontdoor.NewShared(frontdoor.Limits{})
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// Validate names the field that is missing or out of range.
func (c Config) Validate() error {
	switch {
	case c.Log == nil || c.Replicas == nil:
		return errors.New("kafka: Log or Replicas is missing")
	case c.Cluster == nil:
		return errors.New("kafka: Cluster is missing")
	case c.Transactions == nil || c.Coordinators == nil || c.Groups == nil || c.Markers == nil:
		return errors.New("kafka: Transactions, Coordinators, Groups or Markers is missing")
	case c.MaxMessageBytes < 0 || c.MaxRequestBytes < 0 || c.MaxRequestBytes > 1<<30:
		return errors.New("kafka: MaxMessageBytes and MaxRequestBytes must not be negative, nor MaxRequestBytes above 1 GiB")
	case c.IdleTimeout < 0 || c.FrameTimeout < 0 || c.WriteTimeout < 0:
		return errors.New("kafka: timeouts must not be negative")
	}
	return nil
}

// Server serves the protocol on any number of listeners. Its methods may be called from many goroutines.
type Server struct {
	c       Config
	logger  *slog.Logger
	metrics *metrics

	// reading counts the bytes of requests from when they are read until they are done with, fetching those of fetch
	// answers from before they are read until they are written, asking the partitions that fetches name.
	reading, fetching, asking *frontdoor.Budget
	sessions                  *sessions
	closings                  *frontdoor.Closings

	// stopping ends when Stop is called: no new requests are read, and waits end.
	stopping context.Context
	stop     context.CancelFunc

	// mu guards what follows and is held for no call.
	mu        sync.Mutex
	listeners []net.Listener
	conns     map[*conn]struct{}
	// decoding is held while a large request that is not to produce is decoded.
	decoding sync.Mutex
	// owned are the goroutines of connections.
	owned sync.WaitGroup
}

// New makes a Server that listens nowhere yet.
func New(c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	s := &Server{c: c, logger: c.Logger, metrics: newMetrics(c.Registerer), conns: make(map[*conn]struct{})}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.reading = c.Shared.Producing.Share(s.metrics.readingBytes)
	s.fetching = c.Shared.Fetching.Share(s.metrics.fetchingBytes)
	s.asking = c.Shared.Asking.Share(s.metrics.fetchPartitions)
	s.sessions = newSessions(s.metrics)
	s.closings = frontdoor.NewClosings(s.logger, s.metrics.closedUntold)
	return s, nil
}

// ErrStopped is returned by Serve after Stop.
var ErrStopped = errors.New("kafka: the server has been stopped")

// acceptPause is how long a listener rests that could not accept, as when the process has no more file descriptors.
const acceptPause = 20 * time.Millisecond

// Serve accepts connections on l until Stop; l is closed then. Clients are told the addresses that brokers advertise under the
// name advertised. It returns ErrStopped, or why l failed.
func (s *Server) Serve(advertised string, l net.Listener) error {
	l = s.c.Shared.Connections.Limited(l, s.metrics.connections, s.metrics.connectionsRefused)
	s.mu.Lock()
	if s.stopping.Err() != nil {
		s.mu.Unlock()
		return errors.Join(ErrStopped, l.Close())
	}
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	for {
		accepted, err := l.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case s.stopping.Err() != nil:
			if err == nil {
				_ = accepted.Close() // nothing was said on it
			}
			return ErrStopped
		case errors.As(err, &temporary) && temporary.Temporary():
			s.logger.Warn("cannot accept a connection", "listener", advertised, "err", err)
			select {
			case <-time.After(acceptPause):
			case <-s.stopping.Done():
			}
			continue
		case err != nil:
			return fmt.Errorf("serve Kafka as %q: %w", advertised, err)
		}
		s.adopt(advertised, accepted)
	}
}

// adopt starts a connection, unless the server stops.
func (s *Server) adopt(advertised string, accepted net.Conn) {
	c := newConn(s, advertised, accepted)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Err() != nil {
		c.cut()
		return
	}
	s.conns[c] = struct{}{}
	s.owned.Go(func() {
		c.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	})
}

// Stop ends the service: listeners close, waits end with what there is, no more requests are read, and connections close once
// everything that was read is answered. When ctx ends first, connections are cut; what is under way then is not cancelled in the
// domains. It returns after every goroutine of the server has ended, with ctx's error if it had to cut.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stop()
	for _, l := range s.listeners {
		_ = l.Close() // no more connections come in, whatever it says
	}
	for c := range s.conns {
		c.finish()
	}
	s.mu.Unlock()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.owned.Wait()
	}()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	<-drained
	return ctx.Err()
}
