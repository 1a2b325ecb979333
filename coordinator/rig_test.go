package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/memnet"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// rig is some brokers with one transaction shard and one for groups, and nothing else, on virtual time.
type rig struct {
	t       *testing.T
	net     *memnet.Network
	dir     string
	brokers []*testBroker
	change  func(*TransactionsConfig)
	// groups changes the configuration of the group coordinator. Nil: there is none.
	groups func(*GroupsConfig)

	mu   sync.Mutex
	next record.ProducerID
	// ahead is by how much the time of day of all brokers is wrong.
	ahead time.Duration
	// markers says what comes of each marker; nil: written. written has those that were.
	markers func(Marker) MarkerResult
	written []Marker
	// topics are those of the cluster; topicsVersion counts their changes. joins says what comes of a question; nil: yes.
	topics        []Topic
	topicsVersion uint64
	topicsChanged chan struct{}
	joins         func(Joining) error
	// confirms is what Confirm does; nil: nothing.
	confirms func() error
	joined   []Joining
	// log is what the brokers have logged.
	log logged
}

// logged keeps a log. It may be written to and read at once.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// lines gives those that hold a text.
func (l *logged) lines(with string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, with) {
			found = append(found, line)
		}
	}
	return found
}

type testBroker struct {
	rig *rig
	id  int32
	// disk has the logs and snapshots.
	disk   vfs.FS
	raft   *raftgroup.Host
	host   *Host
	txns   *Transactions
	groups *Groups
}

// testGroup is the Raft group of the first kind; those of the others follow.
const testGroup raftgroup.GroupID = 1000

func newRig(t *testing.T, n int, change func(*TransactionsConfig), groups func(*GroupsConfig)) *rig {
	t.Helper()
	r := &rig{t: t, net: memnet.New(), dir: t.TempDir(), next: 100, change: change, groups: groups, topicsChanged: make(chan struct{})}
	for i := range n {
		r.brokers = append(r.brokers, &testBroker{rig: r, id: int32(i), disk: vfs.NewMem(uint64(i))})
	}
	for _, b := range r.brokers {
		b.start()
		for _, spec := range b.specs() {
			if err := b.host.Create(spec); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, b := range r.brokers {
		b.open()
	}
	return r
}

// close stops what runs; it comes before the end of the bubble.
func (r *rig) close() {
	for _, b := range r.brokers {
		b.stop()
	}
}

func (b *testBroker) name() string { return fmt.Sprintf("b%d", b.id) }

func (b *testBroker) start() {
	t := b.rig.t
	t.Helper()
	l, err := b.rig.net.Listen(b.name() + ":1")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(b.rig.dir, b.name())
	b.raft, err = raftgroup.NewHost(raftgroup.Config{
		Broker: b.id, Dir: mkdir(t, filepath.Join(dir, "raft")), FS: b.disk, Listener: l, QueueLogs: true,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) { return b.rig.net.Dial(ctx, b.name(), addr) },
		Resolve: func(id raftgroup.ServerID) (string, bool) {
			broker, _, err := raftgroup.ParseServerID(id)
			return fmt.Sprintf("b%d:1", broker), err == nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	shards := filepath.Join(dir, "coordinators")
	if err := b.disk.MkdirAll(shards); err != nil {
		t.Fatal(err)
	}
	b.host = NewHost(HostConfig{Broker: b.id, Dir: shards, FS: b.disk, Raft: b.raft, Directory: b, Wall: b.rig.wall,
		Logger: slog.New(slog.NewTextHandler(&b.rig.log, nil))})
	config := TransactionsConfig{Host: b.host, Markers: b.rig, ProducerIDs: b.rig}
	if b.rig.change != nil {
		b.rig.change(&config)
	}
	b.txns = NewTransactions(config)
	if b.rig.groups != nil {
		config := GroupsConfig{Host: b.host, Topics: b.rig, Transactions: b.rig}
		b.rig.groups(&config)
		b.groups = NewGroups(config)
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := newDir(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (b *testBroker) specs() []Spec {
	kinds := []Kind{KindTransactions}
	if b.rig.groups != nil {
		kinds = append(kinds, KindGroups)
	}
	var specs []Spec
	for _, k := range kinds {
		at := uint64(k - KindTransactions)
		s := Spec{Kind: k, TopicID: [16]byte{byte(k)}, Group: testGroup + raftgroup.GroupID(at), Self: raftgroup.MakeServerID(b.id, uint64(b.id)+10+100*at)}
		for _, other := range b.rig.brokers {
			s.Voters = append(s.Voters, raftgroup.Server{ID: raftgroup.MakeServerID(other.id, uint64(other.id)+10+100*at)})
		}
		specs = append(specs, s)
	}
	return specs
}

func (b *testBroker) open() {
	b.rig.t.Helper()
	for _, spec := range b.specs() {
		if err := b.host.Open(spec); err != nil {
			b.rig.t.Fatal(err)
		}
	}
}

// stop ends the broker, as its death does.
func (b *testBroker) stop() {
	if b.host == nil {
		return
	}
	b.rig.net.Drop(b.name())
	if err := b.host.Close(); err != nil {
		b.rig.t.Errorf("close host: %v", err)
	}
	if err := b.raft.Close(); err != nil {
		b.rig.t.Errorf("close raft: %v", err)
	}
	b.host, b.raft, b.txns, b.groups = nil, nil, nil, nil
}

// Shards, Create and Leader are the directory: one shard, and whoever is ready leads it.
func (b *testBroker) Shards(Kind) int { return 1 }

func (b *testBroker) Create(context.Context, Kind) error { return nil }

func (b *testBroker) Leader(k Kind, number int32) (int32, bool) {
	for _, other := range b.rig.brokers {
		if other.host == nil {
			continue
		}
		if s := other.host.find(k, number); s != nil {
			if _, ok := s.group.IsReady(); ok {
				return other.id, true
			}
		}
	}
	return -1, false
}

// NextProducerID counts (ProducerIDs).
func (r *rig) NextProducerID(context.Context) (record.ProducerID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	return r.next - 1, nil
}

// Write does with markers what the test wants (Markers).
func (r *rig) Write(ctx context.Context, markers []Marker) []MarkerResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	results := make([]MarkerResult, len(markers))
	for i, m := range markers {
		results[i].State = MarkerWritten
		if r.markers != nil {
			results[i] = r.markers(m)
		}
		if results[i].State == MarkerWritten {
			r.written = append(r.written, m)
		}
	}
	return results
}

// wall is the brokers' time of day.
func (r *rig) wall() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.ahead)
}

func (r *rig) setClock(ahead time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead = ahead
}

// onMarker sets what comes of markers from now on.
func (r *rig) onMarker(f func(Marker) MarkerResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.markers = f
}

func (r *rig) takeWritten() []Marker {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.written
	r.written = nil
	return list
}

// leader waits for a broker that leads and is ready, and was not excluded.
func (r *rig) leader(not ...*testBroker) *testBroker { return r.leaderOf(KindTransactions, not...) }

func (r *rig) leaderOf(k Kind, not ...*testBroker) *testBroker {
	r.t.Helper()
	for range 3000 {
	next:
		for _, b := range r.brokers {
			for _, x := range not {
				if b == x {
					continue next
				}
			}
			if b.host == nil {
				continue
			}
			if s := b.host.find(k, 0); s != nil {
				if _, ok := s.group.IsReady(); ok {
					return b
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatal("nobody leads the shard")
	return nil
}

func (r *rig) mustInit(b *testBroker, id string, p Producer) Producer {
	r.t.Helper()
	got, err := b.txns.InitProducer(context.Background(), InitRequest{TransactionalID: id, Producer: p, Timeout: time.Minute})
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

func (r *rig) mustAdd(b *testBroker, id string, p Producer, partitions ...int32) {
	r.t.Helper()
	if err := b.txns.AddPartitions(context.Background(), AddRequest{TransactionalID: id, Producer: p, Partitions: testPartitions(partitions...), Version: 2}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) mustEnd(b *testBroker, id string, p Producer, commit bool) Producer {
	r.t.Helper()
	got, err := b.txns.EndTransaction(context.Background(), EndRequest{TransactionalID: id, Producer: p, Commit: commit, Version: 2})
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

func testPartitions(numbers ...int32) []record.TopicPartition {
	var list []record.TopicPartition
	for _, n := range numbers {
		list = append(list, record.TopicPartition{Topic: "orders", Partition: n})
	}
	return list
}

// awaitState waits until the id is in a state on a broker.
func (r *rig) awaitState(b *testBroker, id string, want txn.Status) *txn.Transaction {
	r.t.Helper()
	var last *txn.Transaction
	for range 9000 {
		if t, err := b.txns.Describe(context.Background(), id); err == nil {
			if last = t; t.Status == want {
				return t
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("%s is not %v but %+v", id, want, last)
	return nil
}
