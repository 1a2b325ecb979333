// Package api serves the gRPC API.
//
// It decodes a request, checks what can be checked without knowing the state of a partition, calls
// one of the domains through the interfaces in domains.go, and encodes the answer. It decides
// nothing that a client could not also learn elsewhere: who leads, what is a duplicate and what has
// been written are the domains' words, passed on with the outcome they came with (errors.go).
//
// A Server may have several listeners. Each tells its clients the addresses that brokers advertise
// under its own name; limits, metrics and health are shared.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// Config is what a Server needs. Log, Replicas, Cluster, Transactions, Groups, Coordinators, Health and Self must be given; zero
// limits mean their defaults.
type Config struct {
	Log          Log
	Replicas     Replicas
	Cluster      Cluster
	Transactions Transactions
	Groups       Groups
	Coordinators Coordinators
	Health       Health
	Self         Self

	// HTTPListener is the name under which brokers advertise their HTTP port; empty: metadata shows
	// no HTTP addresses.
	HTTPListener string
	// Guard decides who may come in and what they may do; nil: everybody may do everything.
	Guard *frontdoor.Guard
	// Credentials wrap each connection, such as with TLS; nil: plain.
	Credentials credentials.TransportCredentials
	// Reflection lets tools list the services.
	Reflection bool

	// MaxMessageBytes is the largest batch that any topic can allow. A request may be larger by
	// messageSlack; one that is larger still is not read, and ends its call with RESOURCE_EXHAUSTED.
	// Default 8 MiB, at most 64 MiB.
	MaxMessageBytes int
	// Shared is what all clients together may hold, by whatever door they come; nil: nobody shares, and all its limits are
	// the defaults. Above Producing requests are refused with BROKER_BUSY: did not happen, retry. Above Fetching a
	// fetch waits, and gives nothing if it has waited max_wait_ms. Above Receiving connections are not read. Above Asking a fetch is
	// refused with BROKER_BUSY.
	Shared *frontdoor.Shared
	// StreamRequests and StreamBytes bound what one Produce stream has under way; at the bound the
	// broker stops reading it. One larger request passes alone. Defaults 1,000 and 16 MiB.
	StreamRequests int
	StreamBytes    int64
	// MaxStreams bounds the calls under way on one connection. Default 1,000.
	MaxStreams uint32

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// messageSlack is what a request may hold beside its batch: names, ids and lengths.
const messageSlack = 64 << 10

// withDefaults fills in what was left at zero.
func (c Config) withDefaults() Config {
	setDefault(&c.MaxMessageBytes, 8<<20)
	setDefault(&c.StreamRequests, 1000)
	setDefault(&c.StreamBytes, 16<<20)
	if c.Shared == nil {
		c.Shared = frontdoor.NewShared(frontdoor.Limits{})
	}
	setDefault(&c.MaxStreams, 1000)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int | int64 | uint32](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// Validate names the field that is missing or out of range.
func (c Config) Validate() error {
	switch {
	case c.Log == nil:
		return errors.New("api: Log is missing")
	case c.Replicas == nil:
		return errors.New("api: Replicas is missing")
	case c.Cluster == nil:
		return errors.New("api: Cluster is missing")
	case c.Transactions == nil || c.Groups == nil || c.Coordinators == nil:
		return errors.New("api: Transactions, Groups or Coordinators is missing")
	case c.Health == nil:
		return errors.New("api: Health is missing")
	case c.Self == nil:
		return errors.New("api: Self is missing")
	case c.MaxMessageBytes < 0 || c.MaxMessageBytes > 64<<20:
		return fmt.Errorf("api: MaxMessageBytes is %d, want 1 to %d, or 0 for the default", c.MaxMessageBytes, 64<<20)
	case c.StreamBytes < 0 || c.StreamRequests < 0:
		return errors.New("api: StreamBytes and StreamRequests must not be negative")
	}
	return nil
}

// Server serves the API on any number of listeners. Its methods may be called from many goroutines.
type Server struct {
	c       Config
	logger  *slog.Logger
	metrics *metrics

	health *health.Server
	// fetching, receiving and producing count the bytes of answers, of requests that come, and of batches, asking the partitions of fetches,
	// against Config.Shared.
	fetching  *frontdoor.Budget
	receiving *frontdoor.Budget
	producing *frontdoor.Budget
	asking    *frontdoor.Budget
	receivers receivers
	closings  *frontdoor.Closings
	// decoding is held while a large request is decoded that is no batch.
	decoding sync.Mutex

	// stopping ends when Stop is called: no new requests are taken, and waits end.
	stopping context.Context
	stop     context.CancelFunc
	// owned are the goroutines that outlive a call or a Serve by a moment, and the health watch.
	owned sync.WaitGroup

	// mu guards servers and is held for no call.
	mu      sync.Mutex
	servers []*grpc.Server
}

// New makes a Server that listens nowhere yet.
func New(c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	s := &Server{c: c, logger: c.Logger, metrics: newMetrics(c.Registerer), health: health.NewServer()}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.fetching = c.Shared.Fetching.Share(s.metrics.fetchingBytes)
	s.closings = frontdoor.NewClosings(s.logger, s.metrics.cutUntold)
	s.receiving = c.Shared.Receiving.Share(s.metrics.receivingBytes)
	s.producing = c.Shared.Producing.Share(s.metrics.producingBytes)
	s.asking = c.Shared.Asking.Share(s.metrics.fetchPartitions)
	s.watchHealth()
	return s, nil
}

// ErrStopped is returned by Serve after Stop.
var ErrStopped = errors.New("api: the server has been stopped")

// Serve accepts connections on l until Stop; l is closed then. Clients are told the addresses that
// brokers advertise under the name listener. It returns ErrStopped, or why l failed.
func (s *Server) Serve(listener string, l net.Listener) error {
	g := s.newGRPC(listener)
	s.mu.Lock()
	if s.stopping.Err() != nil {
		s.mu.Unlock()
		return errors.Join(ErrStopped, l.Close())
	}
	s.servers = append(s.servers, g)
	s.mu.Unlock()
	err := g.Serve(s.c.Shared.Connections.Limited(l, s.metrics.connections, s.metrics.connectionsRefused))
	if s.stopping.Err() != nil {
		return ErrStopped
	}
	return fmt.Errorf("serve gRPC on listener %q: %w", listener, err)
}

// newGRPC makes the gRPC server of one listener.
func (s *Server) newGRPC(listener string) *grpc.Server {
	g := grpc.NewServer(s.options(listener)...)
	svc := &service{Server: s, listener: listener}
	clientv1.RegisterLogServiceServer(g, svc)
	clientv1.RegisterTransactionServiceServer(g, svc)
	clientv1.RegisterGroupServiceServer(g, svc)
	clientv1.RegisterAdminServiceServer(g, svc)
	clientv1.RegisterAuthServiceServer(g, svc)
	healthpb.RegisterHealthServer(g, s.health)
	if s.c.Reflection {
		reflection.Register(g)
	}
	return g
}

// Stop ends the service: health turns to NOT_SERVING, listeners close, long polls return what they
// have, Produce streams take no more requests and end once all they took is answered. When ctx ends
// first, connections are cut; what is under way then is not cancelled in the domains. It returns
// after every goroutine of the server has ended, with ctx's error if it had to cut.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stop()
	servers := s.servers
	s.mu.Unlock()
	s.health.Shutdown()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		var all sync.WaitGroup
		for _, g := range servers {
			all.Go(g.GracefulStop)
		}
		all.Wait()
	}()
	var err error
	select {
	case <-drained:
	case <-ctx.Done():
		err = ctx.Err()
		for _, g := range servers {
			g.Stop()
		}
		<-drained
	}
	s.owned.Wait()
	return err
}

// service answers the calls that come in by one listener.
type service struct {
	clientv1.UnimplementedLogServiceServer
	clientv1.UnimplementedTransactionServiceServer
	clientv1.UnimplementedGroupServiceServer
	clientv1.UnimplementedAuthServiceServer
	clientv1.UnimplementedAdminServiceServer
	*Server
	listener string
}
