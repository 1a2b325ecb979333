package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/memnet"
	"github.com/oncelog/oncelog/internal/mux"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a cluster of real brokers' ends (raftgroup on Bolt files, gRPC) over a network in memory, on
// virtual time. The identity, the hints and the snapshots are on disks in memory, which can crash.
type rig struct {
	t     *testing.T
	net   *memnet.Network
	dir   string
	seeds []string
	nodes map[int32]*node
	// rng decides what a crash loses.
	rng *rand.Rand
	log *testLog
}

// node is one broker, running or not.
type node struct {
	r       *rig
	id      int32
	host    string
	address string
	seeds   []string
	change  func(*Config)
	disk    *vfs.Mem
	// wiped counts the disks that were lost: each has paths of its own.
	wiped int

	cluster *Cluster
	mux     *mux.Mux
	server  *peer.Server
	raft    *raftgroup.Host
	served  chan error
}

// onVirtualTime runs a test in a bubble with a rig.
func onVirtualTime(t *testing.T, f func(r *rig)) {
	t.Helper()
	withSeed(t, 1, f)
}

// withSeed is onVirtualTime with a seed for the crashes, and for the test's own use.
func withSeed(t *testing.T, seed uint64, f func(r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, net: memnet.New(), dir: dir, nodes: make(map[int32]*node), rng: rand.New(rand.NewPCG(seed, 0)), log: &testLog{t: t}}
		defer func() {
			r.net.HealAll()
			for _, n := range r.nodes {
				n.stop()
			}
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		}()
		f(r)
	})
}

// seeds is how many seeds a test runs with: n, or what ONCELOG_CLUSTER_SEEDS says.
func seeds(n uint64) uint64 {
	if s, err := strconv.ParseUint(os.Getenv("ONCELOG_CLUSTER_SEEDS"), 10, 32); err == nil {
		return s
	}
	return n
}

func hostOf(id int32) string    { return fmt.Sprintf("b%d", id) }
func addressOf(id int32) string { return hostOf(id) + ":9093" }

// found makes brokers 1 to n the seeds.
func (r *rig) found(n int32) {
	for id := int32(1); id <= n; id++ {
		r.seeds = append(r.seeds, addressOf(id))
	}
}

// node gives a broker, which may not have been started yet.
func (r *rig) node(id int32) *node {
	n := r.nodes[id]
	if n == nil {
		n = &node{r: r, id: id, host: hostOf(id), address: addressOf(id), seeds: r.seeds}
		n.format()
		r.nodes[id] = n
	}
	return n
}

// start runs a broker on its disk, which is new if it is the first time.
func (r *rig) start(id int32, change ...func(*node)) *node {
	r.t.Helper()
	n := r.node(id)
	for _, c := range change {
		c(n)
	}
	if err := n.start(); err != nil {
		r.t.Fatalf("start broker %d: %v", id, err)
	}
	return n
}

// format gives the node an empty disk.
func (n *node) format() {
	n.disk = vfs.NewMem(n.r.rng.Uint64())
	for dir := n.dir(); ; dir = filepath.Dir(dir) {
		if err := errors.Join(n.disk.MkdirAll(dir), n.disk.SyncDir(filepath.Dir(dir))); err != nil {
			n.r.t.Fatal(err)
		}
		if dir == filepath.Dir(dir) {
			return
		}
	}
}

// wipe loses the node's disk. It does not run.
func (n *node) wipe() {
	n.wiped++
	n.format()
}

func (n *node) dir() string { return filepath.Join(n.r.dir, fmt.Sprintf("%d-%d", n.id, n.wiped)) }

// handler is a peer without entries and without transactions.
type handler struct {
	answers
	transactions
}

// transactions are not asked for here.
type transactions interface {
	JoinTransaction(context.Context, peer.Identity, *peerv1.JoinTransactionRequest) (*peerv1.JoinTransactionResponse, error)
	NoteRefusal(context.Context, peer.Identity, *peerv1.NoteRefusalRequest) (*peerv1.NoteRefusalResponse, error)
	WriteMarkers(context.Context, peer.Identity, *peerv1.WriteMarkersRequest) (*peerv1.WriteMarkersResponse, error)
	TransferLeadership(context.Context, peer.Identity, *peerv1.TransferLeadershipRequest) (*peerv1.TransferLeadershipResponse, error)
}

type answers interface {
	Hello(context.Context, peer.Identity, *peerv1.HelloRequest) (*peerv1.HelloResponse, error)
	Form(context.Context, peer.Identity, *peerv1.FormRequest) (*peerv1.FormResponse, error)
	Forward(context.Context, peer.Identity, *peerv1.ForwardRequest) (*peerv1.ForwardResponse, error)
	ReportStatus(context.Context, peer.Identity, *peerv1.ReportStatusRequest) (*peerv1.ReportStatusResponse, error)
	DescribeQuorum(context.Context, peer.Identity, *peerv1.DescribeQuorumRequest) (*peerv1.DescribeQuorumResponse, error)
}

func (handler) SumEntries(context.Context, peer.Identity, *peerv1.SumEntriesRequest) (*peerv1.SumEntriesResponse, error) {
	return nil, errors.New("no entries here")
}

func (handler) CondemnReplica(context.Context, peer.Identity, *peerv1.CondemnReplicaRequest) (*peerv1.CondemnReplicaResponse, error) {
	return nil, errors.New("no replicas here")
}

func (handler) PullEntries(context.Context, peer.Identity, peer.PullRequest, func([]peer.Entry) error) error {
	return errors.New("no entries here")
}

func (n *node) start() error {
	for _, d := range []string{"raft", filepath.Join("cluster", metadataDir)} {
		if err := os.MkdirAll(filepath.Join(n.dir(), d), 0o755); err != nil { // for the Bolt files
			return err
		}
	}
	dialer := mux.Dialer{Dial: func(ctx context.Context, a string) (net.Conn, error) { return n.r.net.Dial(ctx, n.host, a) }}
	c := Config{
		Broker: n.id, Dir: filepath.Join(n.dir(), "cluster"), FS: n.disk,
		Listeners: []metadata.Listener{{Name: metadata.PeerListener, Address: n.address}},
		Seeds:     n.seeds, Dial: dialer.Peer, Version: "test", Logger: n.r.log.logger(n.id),
	}
	if n.change != nil {
		n.change(&c)
	}
	var err error
	if n.cluster, err = New(c); err != nil {
		return err
	}
	l, err := n.r.net.Listen(n.address)
	if err != nil {
		return err
	}
	n.mux = mux.New(l, mux.Config{})
	n.server = peer.NewServer(peer.ServerConfig{Self: n.cluster.Self, Handler: handler{answers: n.cluster}, Logger: c.Logger})
	n.served = make(chan error, 1)
	server, listener := n.server, n.mux.Peer()
	go func() { n.served <- server.Serve(listener) }()
	n.raft, err = raftgroup.NewHost(raftgroup.Config{
		Broker: c.Broker, Dir: filepath.Join(n.dir(), "raft"), FS: n.disk, Listener: n.mux.Raft(), Dial: dialer.Raft,
		Resolve: n.cluster.Resolve, ClusterID: n.cluster.ClusterID, Node: n.cluster.Node, Replaced: n.cluster.Replaced, OnReplaced: n.cluster.Doubt, FeatureLevel: n.cluster.FeatureLevel, Logger: c.Logger,
	})
	if err != nil {
		return err
	}
	n.cluster.Start(n.raft)
	return nil
}

// stop ends a broker in good order, if it runs.
func (n *node) stop() {
	if n.cluster == nil {
		return
	}
	for _, err := range n.end() {
		n.r.t.Errorf("stop broker %d: %v", n.id, err)
	}
}

func (n *node) end() (errs []error) {
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	note(n.cluster.Close())
	note(n.raft.Close())
	n.server.Close()
	note(n.mux.Close())
	note(<-n.served)
	n.cluster = nil
	return errs
}

var errDead = errors.New("the machine has lost its power")

// kill ends a broker as SIGKILL does, crash as a power cut: what it did not sync is lost or kept as
// the seed decides.
func (n *node) kill()  { n.die(n.disk.KillClone()) }
func (n *node) crash() { n.die(n.disk.CrashClone(n.r.rng)) }

func (n *node) die(next *vfs.Mem) {
	n.disk.OnBefore(func(op vfs.Op) error {
		if op.Kind.Changes() {
			return errDead
		}
		return nil
	})
	n.disk = next
	n.r.net.Drop(n.host)
	n.r.net.Freeze(n.host) // Nothing of what it still does gets out.
	if n.cluster != nil {
		n.end()
	}
	n.r.net.Thaw(n.host)
}

// ready waits until brokers are ready.
func (r *rig) ready(nodes ...*node) {
	r.t.Helper()
	for _, n := range nodes {
		select {
		case <-n.cluster.Ready():
		case <-n.cluster.Failed():
			r.t.Fatalf("broker %d failed: %v", n.id, n.cluster.Err())
		case <-time.After(time.Minute):
			r.t.Fatalf("broker %d is not ready after a minute", n.id)
		}
	}
}

// fails waits until a broker has given up, and gives the reason.
func (r *rig) fails(n *node) error {
	r.t.Helper()
	select {
	case <-n.cluster.Failed():
	case <-time.After(time.Minute):
		r.t.Fatalf("broker %d has not given up after a minute", n.id)
	}
	return n.cluster.Err()
}

// notReady makes sure that a broker is still waiting after a time.
func (r *rig) notReady(d time.Duration, nodes ...*node) {
	r.t.Helper()
	time.Sleep(d)
	for _, n := range nodes {
		select {
		case <-n.cluster.Ready():
			r.t.Fatalf("broker %d is ready", n.id)
		case <-n.cluster.Failed():
			r.t.Fatalf("broker %d failed: %v", n.id, n.cluster.Err())
		default:
		}
	}
}

// three starts and forms a cluster of brokers 1 to 3.
func (r *rig) three() (a, b, c *node) {
	r.t.Helper()
	r.found(3)
	a, b, c = r.start(1), r.start(2), r.start(3)
	r.ready(a, b, c)
	return a, b, c
}

// running are the brokers that run, by id.
func (r *rig) running() []*node {
	var list []*node
	for _, n := range r.nodes {
		if n.cluster != nil {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *node) int { return int(a.id - b.id) })
	return list
}

// within waits for a condition that has no channel of its own.
func (r *rig) within(d time.Duration, what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(d); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// controller waits for the one broker that leads the metadata group.
func (r *rig) controller() *node {
	r.t.Helper()
	var lead *node
	r.within(time.Minute, "one controller", func() bool {
		lead = nil
		for _, n := range r.running() {
			if g := n.cluster.group.Load(); g != nil {
				if _, ready := (*g).IsReady(); ready {
					if lead != nil {
						return false
					}
					lead = n
				}
			}
		}
		return lead != nil
	})
	return lead
}

// agree waits until all running brokers hold the same image, byte for byte, which holds what was
// agreed before the call.
func (r *rig) agree() *metadata.Image {
	r.t.Helper()
	img, err := r.controller().cluster.Confirm(r.context(time.Minute))
	if err != nil {
		r.t.Fatal(err)
	}
	var all map[string][]int32
	r.within(time.Minute, "one image", func() bool {
		all = make(map[string][]int32)
		for _, n := range r.running() {
			b, err := n.cluster.Image().AppendSnapshot(nil)
			if err != nil {
				r.t.Fatal(err)
			}
			all[string(b)] = append(all[string(b)], n.id)
			img = n.cluster.Image()
		}
		return len(all) == 1
	})
	return img
}

func (r *rig) context(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	r.t.Cleanup(cancel)
	return ctx
}

// logged waits until some broker has logged a line that holds a text.
func (r *rig) logged(text string) {
	r.t.Helper()
	r.within(time.Minute, fmt.Sprintf("a log line with %q", text), func() bool { return r.log.holds(text) })
}

// testLog shows what brokers log when the test fails, or with -v, and remembers it.
type testLog struct {
	t  *testing.T
	mu sync.Mutex
	// lines is guarded by mu.
	lines []string
}

func (l *testLog) logger(id int32) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo})).With("node", id)
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := string(b[:len(b)-1])
	l.lines = append(l.lines, line)
	l.t.Logf("%s", line)
	return len(b), nil
}

func (l *testLog) holds(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lines, func(line string) bool { return strings.Contains(line, text) })
}
