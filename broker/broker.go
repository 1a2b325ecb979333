// Package broker assembles one broker and is the only place where partition,
// coordinator and cluster meet. It decides nothing.
package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
)

// Options are what a program or a test puts around a broker. The zero value is
// that of a program: real network, a registry of its own, logs dropped.
type Options struct {
	// Logger takes what an operator would ask about afterwards.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: a registry of this broker alone.
	Registerer prometheus.Registerer
	// Listen opens every listener, with the addresses of the Config. Nil: net.Listen.
	Listen func(network, address string) (net.Listener, error)
	// Dial connects to peers. Nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Broker is one broker, from New to the end of Run.
type Broker struct {
	cfg   Config
	ready chan struct{}
}

var errNotAssembled = errors.New("this build holds no broker yet")

// New checks the configuration and takes hold of the data directory.
func New(cfg Config, _ Options) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Broker{cfg: cfg, ready: make(chan struct{})}, errNotAssembled
}

// Run serves until the context ends.
func (b *Broker) Run(context.Context) error { return errNotAssembled }

// Ready is closed once the broker serves clients.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// GRPCAddr is the address the first gRPC listener accepts on.
func (b *Broker) GRPCAddr() string { return b.cfg.GRPC[DefaultListener].Listen }

// HTTPAddr is the address the HTTP listener accepts on.
func (b *Broker) HTTPAddr() string { return b.cfg.HTTP.Listen }

// Close lets go of what New took hold of. It is enough after a Run that returned.
func (b *Broker) Close() error { return nil }
