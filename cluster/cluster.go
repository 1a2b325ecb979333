// Package cluster agrees on which brokers, topics and placements exist, and does the controller's
// work on the one broker that leads.
//
// What is agreed is the metadata group's state (package metadata): every broker holds the image of
// it. Changes can be asked of any broker; they are carried to the leader of the group, which decides
// placement, proposes, and answers what came of it. Who leads which partition is not agreed but told:
// brokers say it to each other several times a second, and nothing is written for it.
//
// DESIGN.md tells how a cluster is formed and joined, and what is rejected.
package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// Config is what a broker's end of the cluster needs.
type Config struct {
	// Broker is this broker's id, at least 0, unique in the cluster.
	Broker int32
	// Dir holds the node's identity and the metadata group. Its parent exists.
	Dir string
	// FS holds Dir; nil: the real disk.
	FS vfs.FS
	// Listeners are the addresses that this broker advertises, by name; metadata.PeerListener must be
	// among them. They may change from one start to the next.
	Listeners []metadata.Listener
	// Rack is where this broker stands; empty: not told.
	Rack string
	// Version of the program, for people.
	Version string
	// MaxReplicas is how many replicas this broker takes; 0: no bound.
	MaxReplicas int
	// MinLevel and MaxLevel are the feature levels this program applies at; 0: those of package metadata.
	MinLevel, MaxLevel uint16

	// Seeds are the peer addresses of the brokers that found the cluster. If this broker's own is not
	// among them, it joins what they found. Empty: it founds a cluster alone, unless it belongs to one.
	Seeds []string
	// Dial connects to a peer address and chooses the peer RPC. It makes TLS where it is configured.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// StatusInterval is how often peers are told that we live and what we lead. Default 200 ms.
	StatusInterval time.Duration
	// DeadAfter is how long a broker is not heard before what it said is forgotten. Default 3 s.
	DeadAfter time.Duration
	// RequestTimeout bounds a change whose context has no deadline. Default 30 s.
	RequestTimeout time.Duration
	// ProducerIDBlock is how many producer ids are fetched at once, 1 to 1,000,000. Default 1000.
	ProducerIDBlock int
	// ProducerIDWait bounds how long NextProducerID waits for a block. Default 1 s.
	ProducerIDWait time.Duration

	// Rand gives ids; nil: crypto/rand.
	Rand io.Reader
	// Logger and Registerer default to none.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (c *Config) setDefaults() {
	setDefault(&c.FS, vfs.OS())
	setDefault(&c.MinLevel, metadata.BaseLevel)
	setDefault(&c.MaxLevel, metadata.CurrentLevel)
	setDefault(&c.StatusInterval, 200*time.Millisecond)
	setDefault(&c.DeadAfter, 3*time.Second)
	setDefault(&c.RequestTimeout, 30*time.Second)
	setDefault(&c.ProducerIDBlock, 1000)
	setDefault(&c.ProducerIDWait, time.Second)
	setDefault(&c.Rand, rand.Reader)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate names the field that is wrong.
func (c *Config) Validate() error {
	switch {
	case c.Broker < 0:
		return fmt.Errorf("cluster: Broker %d is negative", c.Broker)
	case c.Dir == "":
		return errors.New("cluster: Dir is empty")
	case c.Dial == nil:
		return errors.New("cluster: Dial is nil")
	case c.peerAddress() == "":
		return fmt.Errorf("cluster: Listeners hold no %q address", metadata.PeerListener)
	case c.MinLevel > c.MaxLevel:
		return fmt.Errorf("cluster: MinLevel %d is above MaxLevel %d", c.MinLevel, c.MaxLevel)
	case c.ProducerIDBlock < 1 || c.ProducerIDBlock > metadata.MaxProducerIDBlock:
		return fmt.Errorf("cluster: ProducerIDBlock %d is not in 1 to %d", c.ProducerIDBlock, metadata.MaxProducerIDBlock)
	case c.MaxReplicas < 0 || int64(c.MaxReplicas) > 1<<31-1:
		return fmt.Errorf("cluster: MaxReplicas %d is out of range", c.MaxReplicas)
	case c.DeadAfter < 2*c.StatusInterval:
		return fmt.Errorf("cluster: DeadAfter %v is below twice StatusInterval %v", c.DeadAfter, c.StatusInterval)
	}
	return nil
}

func (c *Config) peerAddress() string {
	for _, l := range c.Listeners {
		if l.Name == metadata.PeerListener {
			return l.Address
		}
	}
	return ""
}

// group is what the service uses of a *raftgroup.Group.
type group interface {
	Propose(ctx context.Context, c raftgroup.Command) (any, error)
	Leader() (raftgroup.ServerID, record.Term)
	IsReady() (record.Term, bool)
	ConfirmTerm(ctx context.Context, term record.Term) error
	Reshape(ctx context.Context, p raftgroup.Plan) (raftgroup.Shape, error)
	TransferLeadership(ctx context.Context, to raftgroup.ServerID) error
	Status() raftgroup.Status
	Members() (raftgroup.Status, []raftgroup.Member, error)
	Close() error
}

var _ group = (*raftgroup.Group)(nil)

// Cluster is one broker's end of the cluster. Its methods may be called from any goroutine.
//
// The order of a broker's start: New, so that there is an identity; then the peer server, which
// answers with the Cluster's handlers, and the raftgroup.Host, which resolves addresses with it; then
// Start. Close comes before either of them is closed.
type Cluster struct {
	config  Config
	logger  *slog.Logger
	metrics *metrics
	client  *peer.Client

	machine *machine
	book    *addressBook
	leaders *leaders
	ids     *producerIDs
	// admin is held by the one change of topics that the controller is deciding: the next one sees
	// what came of it.
	admin chan struct{}
	// requests bounds the changes that wait here.
	requests chan struct{}

	// node is what the identity file holds. mu orders its changes; the file is written under it.
	mu   sync.Mutex
	node atomic.Pointer[identity]
	// joining is the cluster this broker is about to register with.
	joining atomic.Pointer[string]
	// begun says that the metadata group has applied entries here, by begunFile. openGroup touches it, and then followImage.
	begun bool
	// taken is when this broker was first told that its id is another's. Only findCluster touches it.
	taken time.Time
	// doubts holds a token when another broker has said that this one's id is another's.
	doubts chan struct{}
	// formed wakes the join loop when another broker has formed a cluster with us.
	formed signal

	// waits is what findCluster waits for, in words.
	waits atomic.Pointer[string]
	// group is set once it is open; then opened is closed.
	group  atomic.Pointer[group]
	opened chan struct{}
	// listening is since when the others can tell this broker that they live, unix ns; 0: not yet.
	listening atomic.Int64
	// registered is the index of this start's registration; 0: not registered yet.
	registered atomic.Uint64

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	owned  sync.WaitGroup // what Start started
	aside  sync.WaitGroup // what runs beside run
	// controllers are the terms in which this broker leads the metadata group.
	controllers sync.WaitGroup

	start  sync.Once
	ready  chan struct{}
	failed chan struct{}
	err    error // set before failed is closed
	// closeErr is what closing the group said; set before owned is done.
	closeErr error
}

// New reads the node's identity, or makes one. It starts nothing.
func New(c Config) (*Cluster, error) {
	c.setDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	node, err := openIdentity(c.FS, c.Dir, c.Broker, c.Rand)
	if err != nil {
		return nil, err
	}
	cl := &Cluster{
		config:   c,
		logger:   c.Logger,
		metrics:  newMetrics(c.Registerer),
		machine:  newMachine(),
		admin:    make(chan struct{}, 1),
		requests: make(chan struct{}, maxWaitingRequests),
		doubts:   make(chan struct{}, 1),
		opened:   make(chan struct{}),
		ready:    make(chan struct{}),
		failed:   make(chan struct{}),
	}
	cl.ctx, cl.cancel = context.WithCancel(context.Background())
	cl.node.Store(node)
	cl.book = openAddressBook(c.FS, filepath.Join(c.Dir, hintsFile), cl.logger)
	cl.leaders = newLeaders(c.Broker, c.DeadAfter)
	cl.ids = newProducerIDs()
	cl.client = peer.NewClient(peer.ClientConfig{Self: cl.Self, Since: func() uint64 { return cl.Node().Since }, Dial: c.Dial})
	return cl, nil
}

// Start begins to form or join the cluster and returns at once. The peer server must be serving.
// Ready and Failed tell how it went.
func (c *Cluster) Start(host *raftgroup.Host) {
	c.startWith(func(g raftgroup.GroupConfig) (group, error) { return host.Open(g) })
}

func (c *Cluster) startWith(open func(raftgroup.GroupConfig) (group, error)) {
	c.start.Do(func() {
		c.background(func() {
			if err := c.run(open); err != nil && c.ctx.Err() == nil {
				c.fail(err)
			}
		})
	})
}

// background runs f in a goroutine that Close waits for.
func (c *Cluster) background(f func()) {
	c.owned.Add(1)
	go func() {
		defer c.owned.Done()
		f()
	}()
}

// Ready is closed once this broker belongs to the cluster, is registered, and its image is no older
// than its registration.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Failed is closed when this broker cannot belong to the cluster as it is configured; Err says why.
func (c *Cluster) Failed() <-chan struct{} { return c.failed }

// Err is why Failed is closed.
func (c *Cluster) Err() error {
	select {
	case <-c.failed:
		return c.err
	default:
		return nil
	}
}

func (c *Cluster) fail(err error) {
	c.logger.Error("this broker cannot be part of the cluster", "err", err)
	c.err = err
	close(c.failed)
}

// Close stops what Start started, the metadata group included, and waits for it.
func (c *Cluster) Close() error {
	c.cancel()
	c.client.Close() // calls to peers end at once
	c.owned.Wait()
	return c.closeErr
}
