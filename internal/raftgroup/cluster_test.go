package raftgroup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal is a machine that remembers what it was given: the payload of every command, in order.
type journal struct {
	mu       sync.Mutex
	applied  record.Index
	last     record.Index // index of the last entry seen
	commands [][]byte
	indexes  []record.Index
	starts   []record.Term
	restores int
	// log, when set, is told the fate of every entry, as a partition does.
	log *recordlog.Log
	// drop forgets the commands.
	drop bool
	// before is called for each entry before it is applied.
	before func(e *Entry)
}

func (j *journal) Apply(entries []Entry) []any {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]any, len(entries))
	for i := range entries {
		e := &entries[i]
		if j.before != nil {
			j.before(e)
		}
		if e.Index <= j.last {
			panic(fmt.Sprintf("entry %d after %d", e.Index, j.last))
		}
		j.last, j.applied = e.Index, e.Index
		if e.Kind == KindLeaderStart {
			j.starts = append(j.starts, e.Term)
			continue
		}
		if !j.drop {
			j.commands = append(j.commands, bytes.Clone(e.Data))
			j.indexes = append(j.indexes, e.Index)
		}
		out[i] = len(j.commands)
		if j.log != nil {
			if err := j.log.Assign(e.Index, nil); err != nil {
				panic(err)
			}
		}
	}
	return out
}

func (j *journal) Applied() record.Index {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.applied
}

func (j *journal) Snapshot() (StateSnapshot, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := binary.BigEndian.AppendUint64(nil, uint64(j.applied))
	var layout []byte
	if j.log != nil {
		layout = j.log.Layout().AppendTo(nil)
	}
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(layout))), layout...)
	for i, c := range j.commands {
		b = binary.BigEndian.AppendUint64(b, uint64(j.indexes[i]))
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(c))), c...)
	}
	return journalSnapshot(b), nil
}

type journalSnapshot []byte

func (s journalSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	return int64(n), err
}
func (s journalSnapshot) Release() {}

func (j *journal) Restore(index record.Index, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	in := newReader(b)
	applied := record.Index(in.u64())
	layout := in.take(int(in.u32()))
	var commands [][]byte
	var indexes []record.Index
	for in.ok && len(in.b) > 0 {
		indexes = append(indexes, record.Index(in.u64()))
		commands = append(commands, bytes.Clone(in.take(int(in.u32()))))
	}
	if !in.ok || applied > index {
		return fmt.Errorf("journal snapshot of %d bytes", len(b))
	}
	if j.log != nil {
		y, err := recordlog.DecodeLayout(layout)
		if err != nil {
			return err
		}
		// Not under the mutex: it writes, and who waits for a mutex stops virtual time.
		if err := j.log.Restore(y, index); err != nil {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.restores++
	j.applied, j.last = applied, applied
	j.commands, j.indexes = commands, indexes
	return nil
}

// seen gives what has been applied.
func (j *journal) seen() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]string, len(j.commands))
	for i, c := range j.commands {
		out[i] = string(c)
	}
	return out
}

// node is one broker of a test cluster.
type node struct {
	id       int32
	name     string
	dir      string
	fs       vfs.FS
	host     *Host
	registry *prometheus.Registry
	replicas map[GroupID]*replica
}

type replica struct {
	group   *Group
	machine *journal
	log     *recordlog.Log
	events  chan LeadershipEvent
}

// cluster is some brokers on one network.
type cluster struct {
	t      *testing.T
	net    *testNet
	nodes  []*node
	config func(*Config)
	// records: groups keep their log in a record log instead of Bolt.
	records bool
	// control: groups keep their own record log.
	control bool
	group   func(n *node, c *GroupConfig)
	verbose bool
}

func newCluster(t *testing.T, size int, options ...func(*cluster)) *cluster {
	t.Helper()
	c := &cluster{t: t, net: newTestNet(), verbose: os.Getenv("RAFTGROUP_LOG") != ""}
	for _, o := range options {
		o(c)
	}
	for i := range size {
		n := &node{id: int32(i + 1), name: fmt.Sprintf("b%d", i+1), dir: t.TempDir(), fs: vfs.OS()}
		if c.records || c.control {
			n.fs = vfs.NewMem(uint64(i))
		}
		c.nodes = append(c.nodes, n)
		c.start(n)
	}
	t.Cleanup(c.close)
	return c
}

func withRecordLogs(c *cluster) { c.records = true }

func withControlLogs(c *cluster) { c.control = true }

// eachLog runs a test on both kinds of log.
func eachLog(t *testing.T, test func(t *testing.T, options ...func(*cluster))) {
	t.Run("bolt", func(t *testing.T) { test(t) })
	t.Run("recordlog", func(t *testing.T) { test(t, withRecordLogs) })
	t.Run("controllog", func(t *testing.T) { test(t, withControlLogs) })
}

func (c *cluster) start(n *node) {
	c.t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if c.verbose {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("broker", n.id)
	}
	n.registry = prometheus.NewRegistry()
	conf := Config{
		Broker: n.id, Dir: n.dir, FS: n.fs, Listener: c.net.listen(n.name),
		Dial:    func(ctx context.Context, addr string) (net.Conn, error) { return c.net.dial(ctx, n.name, addr) },
		Resolve: c.resolve, Logger: logger, Registerer: n.registry, NoSync: true, QueueLogs: true,
	}
	if c.config != nil {
		c.config(&conf)
	}
	var err error
	if n.host, err = NewHost(conf); err != nil {
		c.t.Fatalf("start broker %d: %v", n.id, err)
	}
	n.replicas = make(map[GroupID]*replica)
}

func (c *cluster) resolve(id ServerID) (string, bool) {
	broker, _, err := ParseServerID(id)
	if err != nil || int(broker) > len(c.nodes) || broker < 1 {
		return "", false
	}
	return c.nodes[broker-1].name, true
}

// stop ends a broker as a killed process does: its port is closed and nothing more leaves it.
func (c *cluster) stop(n *node) {
	c.t.Helper()
	if n.host == nil {
		return
	}
	c.net.change(func() { delete(c.net.listeners, n.name) })
	c.net.reset(n.name)
	if err := n.host.Close(); err != nil {
		c.t.Errorf("close broker %d: %v", n.id, err)
	}
	for _, r := range n.replicas {
		if r.log != nil {
			_ = r.log.Close()
		}
	}
	n.host, n.replicas = nil, nil
}

func (c *cluster) close() {
	c.net.change(func() { clear(c.net.cut) })
	for _, n := range c.nodes {
		c.stop(n)
	}
}

// open opens a group on a broker.
func (c *cluster) open(n *node, id GroupID, self ServerID, bootstrap []Server) (*replica, error) {
	dir := filepath.Join(n.dir, fmt.Sprintf("group-%d", id))
	if err := errors.Join(os.MkdirAll(dir, 0o750), n.fs.MkdirAll(dir)); err != nil {
		return nil, err
	}
	r := &replica{machine: &journal{}, events: make(chan LeadershipEvent, 1000)}
	gc := GroupConfig{
		ID: id, Name: fmt.Sprintf("group %d", id), Self: self, Dir: dir, Machine: r.machine, Bootstrap: bootstrap,
		RecordLog: c.control, OnLeadership: func(e LeadershipEvent) { r.events <- e },
	}
	if c.records {
		at, err := n.host.LatestSnapshot(dir)
		if err != nil {
			return nil, err
		}
		r.log, err = recordlog.Open(recordlog.Options{FS: n.fs, Dir: filepath.Join(dir, "log"), SnapshotIndex: at})
		if err != nil {
			return nil, err
		}
		r.machine.log, gc.Log = r.log, r.log
	}
	if c.group != nil {
		c.group(n, &gc)
	}
	var err error
	if r.group, err = n.host.Open(gc); err != nil {
		if r.log != nil {
			_ = r.log.Close()
		}
		return nil, err
	}
	n.replicas[id] = r
	return r, nil
}

func (c *cluster) mustOpen(n *node, id GroupID, self ServerID, bootstrap []Server) *replica {
	c.t.Helper()
	r, err := c.open(n, id, self, bootstrap)
	if err != nil {
		c.t.Fatalf("open group %d on broker %d: %v", id, n.id, err)
	}
	return r
}

// members are the first n brokers, incarnation 1.
func members(n int) []Server {
	var list []Server
	for i := range n {
		list = append(list, Server{ID: MakeServerID(int32(i+1), 1)})
	}
	return list
}

// openAll opens a group on all brokers; which one is first in it differs from group to group.
func (c *cluster) openAll(id GroupID) {
	c.t.Helper()
	list := members(len(c.nodes))
	first := int(id) % len(list)
	for _, n := range c.nodes {
		c.mustOpen(n, id, MakeServerID(n.id, 1), append(list[first:len(list):len(list)], list[:first]...))
	}
}

// restart starts a stopped broker again, with its groups.
func (c *cluster) restart(n *node, ids ...GroupID) {
	c.t.Helper()
	c.start(n)
	for _, id := range ids {
		c.mustOpen(n, id, MakeServerID(n.id, 1), members(len(c.nodes)))
	}
}

// until waits for a condition on virtual or real time.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; {
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leader waits for a ready leader of a group among the given brokers, all by default.
func (c *cluster) leader(id GroupID, among ...*node) (*node, *replica) {
	c.t.Helper()
	if len(among) == 0 {
		among = c.nodes
	}
	var at *node
	until(c.t, fmt.Sprintf("a leader of group %d", id), func() bool {
		for _, n := range among {
			if n.host == nil || n.replicas[id] == nil {
				continue
			}
			if _, ok := n.replicas[id].group.IsReady(); ok {
				at = n
				return true
			}
		}
		return false
	})
	return at, at.replicas[id]
}

func (c *cluster) others(n *node) []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(m *node) bool { return m == n })
}

func names(nodes []*node) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.name)
	}
	return list
}

// propose proposes and fails the test on an error.
func (r *replica) propose(t *testing.T, what string) {
	t.Helper()
	if _, err := r.group.Propose(t.Context(), Command{Data: []byte(what)}); err != nil {
		t.Fatalf("propose %.40q: %v", what, err)
	}
}

// agree waits until all running replicas of a group have applied the same, at least those commands.
func (c *cluster) agree(id GroupID, want []string) {
	c.t.Helper()
	until(c.t, fmt.Sprintf("group %d to agree on %d commands", id, len(want)), func() bool {
		var first []string
		for _, n := range c.nodes {
			if n.host == nil || n.replicas[id] == nil {
				continue
			}
			got := n.replicas[id].machine.seen()
			if first == nil {
				first = got
			}
			if !slices.Equal(got, first) || !contains(got, want) {
				return false
			}
		}
		return true
	})
}

// contains says whether want is a subsequence of got.
func contains(got, want []string) bool {
	for _, g := range got {
		if len(want) > 0 && g == want[0] {
			want = want[1:]
		}
	}
	return len(want) == 0
}

// value reads a counter or gauge.
func value(m prometheus.Metric) float64 {
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		panic(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}

func wantNotLeader(t *testing.T, err error) {
	t.Helper()
	var e *NotLeaderError
	if !errors.As(err, &e) || OutcomeOf(err) != DidNotHappen {
		t.Errorf("got %v, want a NotLeaderError that did not happen", err)
	}
}
