// Package broker assembles one broker and is the only place where partition, coordinator and
// cluster meet. It decides nothing.
package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition"
)

// Options are what a program or a test puts around a broker. The zero value is
// that of a program: real network, real disk, a registry of its own, logs dropped.
type Options struct {
	// Logger takes what an operator would ask about afterwards.
	Logger *slog.Logger
	// Registry takes the metrics and answers /metrics. Nil: one of this broker alone.
	Registry *prometheus.Registry
	// Listen opens every listener, with the addresses of the Config. Nil: net.Listen.
	Listen func(network, address string) (net.Listener, error)
	// Dial connects to peers. Nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// FS holds the record logs and state snapshots. Nil: the real disk.
	FS vfs.FS
	// Wall gives the time of day. Nil: time.Now.
	Wall func() time.Time
	// NoSync leaves all other files unsynced: terms, votes, the metadata log, the broker's identity.
	// They are on the real disk in any case. It is for simulations, which never cut its power.
	NoSync bool
	// BoltFlush is called, where NoSync spares it, in place of each flush of terms and votes. Nil: nothing is.
	BoltFlush func()
	// Sabotage plants bugs, for tests that prove that they would be noticed.
	Sabotage Sabotage
}

// Sabotage plants bugs in the parts of a broker. Only tests set it.
type Sabotage struct {
	Partition   partition.Sabotage
	Coordinator coordinator.Sabotage
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.FS == nil {
		o.FS = vfs.OS()
	}
}

// local is the real disk, for what is never in Options.FS.
func (o *Options) local() vfs.FS {
	if o.NoSync {
		return vfs.WithoutSync(vfs.OS())
	}
	return vfs.OS()
}

// Broker is one broker, from New to the end of Run and Close.
type Broker struct {
	cfg     Config
	options Options
	logger  *slog.Logger
	lock    io.Closer

	peerListener net.Listener
	httpListener net.Listener
	grpc         map[string]net.Listener
	kafka        map[string]net.Listener

	// certificates are loaded by New and renewed while Run runs.
	certificates certificates
	// auditing is the file of the audit log; nil: there is none.
	auditing atomic.Pointer[auditFile]

	ready  chan struct{}
	health atomic.Pointer[health] // nil before Run

	// mu guards closed and running.
	mu      sync.Mutex
	closed  bool
	running bool
	// stopped is closed when Run has returned.
	stopped chan struct{}
	cancel  context.CancelCauseFunc
	ctx     context.Context
}

// errClosed ends a Run whose broker is closed under it.
var errClosed = errors.New("broker is closed")

// New checks the configuration, takes hold of the data directory and opens the listeners. Nothing
// is served before Run.
func New(cfg Config, options Options) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	options.setDefaults()
	b := &Broker{
		cfg:     cfg,
		options: options,
		logger:  options.Logger,
		grpc:    make(map[string]net.Listener),
		kafka:   make(map[string]net.Listener),
		ready:   make(chan struct{}),
		stopped: make(chan struct{}),
	}
	b.ctx, b.cancel = context.WithCancelCause(context.Background())
	if err := b.loadCertificates(); err != nil {
		return nil, err
	}
	if err := b.open(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// open takes hold of what no two brokers can have at once.
func (b *Broker) open() error {
	var err error
	disk := b.options.local()
	if err = disk.MkdirAll(b.cfg.DataDir); err != nil {
		return fmt.Errorf("data_dir %s: %w", b.cfg.DataDir, err)
	}
	if err = disk.SyncDir(filepath.Dir(b.cfg.DataDir)); err != nil {
		return fmt.Errorf("data_dir %s: %w", b.cfg.DataDir, err)
	}
	if b.lock, err = disk.Lock(b.cfg.DataDir); err != nil {
		return fmt.Errorf("data_dir %s: %w; is another broker running on it?", b.cfg.DataDir, err)
	}
	if err = b.checkWhole(); err != nil {
		return err
	}
	for _, sub := range []string{"raft", "partitions", "coordinators"} {
		if err = disk.MkdirAll(filepath.Join(b.cfg.DataDir, sub)); err != nil {
			return fmt.Errorf("data_dir %s: %w", b.cfg.DataDir, err)
		}
	}
	if err = disk.SyncDir(b.cfg.DataDir); err != nil {
		return fmt.Errorf("data_dir %s: %w", b.cfg.DataDir, err)
	}
	listen := func(key, address string) (net.Listener, error) {
		l, err := b.options.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		return l, nil
	}
	if b.peerListener, err = listen("peer.listen", b.cfg.Peer.Listen); err != nil {
		return err
	}
	for name, l := range b.cfg.GRPC {
		if b.grpc[name], err = listen("grpc."+name+".listen", l.Listen); err != nil {
			return err
		}
	}
	for name, l := range b.cfg.Kafka {
		if b.kafka[name], err = listen("kafka."+name+".listen", l.Listen); err != nil {
			return err
		}
	}
	b.httpListener, err = listen("http.listen", b.cfg.HTTP.Listen)
	return err
}

// checkWhole refuses a directory that has lost the part which says whose it is, and nothing else. Under a new identity the broker
// could found another cluster beside the records and votes of the one before. A directory without any of it is a new one.
func (b *Broker) checkWhole() error {
	local, dir := b.options.local(), b.cfg.DataDir
	found, err := vfs.Exists(local, filepath.Join(dir, "cluster", cluster.IdentityFile))
	if err != nil || found {
		return err
	}
	for _, x := range []struct {
		fsys vfs.FS
		sub  string
	}{{local, "raft"}, {b.options.FS, "partitions"}, {b.options.FS, "coordinators"}} {
		names, err := x.fsys.List(filepath.Join(dir, x.sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("data_dir %s: %w", dir, err)
		}
		if len(names) > 0 {
			return fmt.Errorf("%w: %s has %s/%s of a broker, and no cluster/%s that says of which; is a part of it not mounted? If it is gone, remove the whole data directory, and the broker is rebuilt from the others",
				cluster.ErrForeignData, dir, x.sub, names[0], cluster.IdentityFile)
		}
	}
	return nil
}

// Run serves until ctx ends, then drains: it hands over what it leads and answers what it has
// taken, within shutdown_timeout. It returns early with an error when the broker cannot go on.
func (b *Broker) Run(ctx context.Context) error {
	b.mu.Lock()
	if b.closed || b.running {
		b.mu.Unlock()
		return errClosed
	}
	b.running = true
	b.mu.Unlock()
	defer close(b.stopped)
	defer func() {
		if a := b.auditing.Load(); a != nil {
			_ = a.close() // every line has been written
		}
	}()
	p, err := b.assemble()
	if err != nil {
		return errors.Join(err, p.stop())
	}
	err = p.serve(ctx, b.ctx, b.ready)
	if err == nil && b.ctx.Err() == nil {
		p.drain()
	}
	return errors.Join(err, p.stop())
}

// Ready is closed once the broker serves clients.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// NotReady tells what keeps the broker from being ready now; none: it is.
func (b *Broker) NotReady() []string {
	if h := b.health.Load(); h != nil {
		return h.reasons()
	}
	return []string{"not started"}
}

// GRPCAddr is the address that the gRPC listener of a name accepts on; empty: the default one.
func (b *Broker) GRPCAddr(name ...string) string {
	n := DefaultListener
	if len(name) > 0 {
		n = name[0]
	}
	if l := b.grpc[n]; l != nil {
		return l.Addr().String()
	}
	return ""
}

// KafkaAddr is the address that the Kafka listener of a name accepts on; empty: the default one.
func (b *Broker) KafkaAddr(name ...string) string {
	n := DefaultListener
	if len(name) > 0 {
		n = name[0]
	}
	if l := b.kafka[n]; l != nil {
		return l.Addr().String()
	}
	return ""
}

// HTTPAddr is the address the HTTP listener accepts on.
func (b *Broker) HTTPAddr() string { return b.httpListener.Addr().String() }

// Close ends Run at once, without draining, waits for it, and lets go of what New took hold of.
func (b *Broker) Close() error {
	b.mu.Lock()
	closed, running := b.closed, b.running
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	b.cancel(errClosed)
	if running {
		<-b.stopped
	}
	var errs []error
	for _, l := range append([]net.Listener{b.peerListener, b.httpListener}, b.listeners()...) {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if b.lock != nil {
		errs = append(errs, b.lock.Close())
	}
	return errors.Join(errs...)
}

func (b *Broker) listeners() []net.Listener {
	return slices.AppendSeq(slices.Collect(maps.Values(b.grpc)), maps.Values(b.kafka))
}
