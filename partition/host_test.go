package partition

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// rig is a broker's replicas without a broker: one voter, so that what it proposes commits.
type rig struct {
	t    *testing.T
	disk *vfs.Mem
	dir  string
	raft *raftgroup.Host
	host *Host
	spec ReplicaSpec
	// level is the cluster's feature level, maxLevel the highest that the program knows; 0: any.
	level, maxLevel uint16
	// ahead is by how much the time of day is wrong.
	ahead time.Duration
	// coordinator answers for transaction coordinators; nil: there are none.
	coordinator *fakeCoordinator
	// configure changes how the host behaves; nil: nothing.
	configure func(*HostConfig)
}

var testTP = record.TopicPartition{Topic: "orders", Partition: 3}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, disk: vfs.NewMem(1), dir: t.TempDir()}
	self := raftgroup.MakeServerID(1, 7)
	r.spec = ReplicaSpec{TopicPartition: testTP, TopicID: TopicID{1}, Group: 1000, Self: self,
		Voters: []raftgroup.Server{{ID: self}}, Config: DefaultConfig()}
	t.Cleanup(func() { r.stop() })
	return r
}

// start opens the hosts and the replica, and waits until it is ready to lead.
func (r *rig) start() {
	r.t.Helper()
	r.startHosts()
	if err := r.host.Create(r.spec); err != nil {
		r.t.Fatal(err)
	}
	if err := r.host.Open(r.spec); err != nil {
		r.t.Fatal(err)
	}
	r.waitReady()
}

func (r *rig) startHosts() {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.raft, err = raftgroup.NewHost(raftgroup.Config{
		Broker: 1, Dir: r.dir, FS: r.disk, Listener: l,
		Dial:             func(ctx context.Context, addr string) (net.Conn, error) { return nil, net.ErrClosed },
		Resolve:          func(raftgroup.ServerID) (string, bool) { return "", false },
		HeartbeatTimeout: 50 * time.Millisecond,
		FeatureLevel:     func() uint16 { return r.level }, MaxFeatureLevel: r.maxLevel,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	c := HostConfig{Broker: 1, Dir: filepath.Join("/", "partitions"), FS: r.disk, Raft: r.raft,
		Wall: func() time.Time { return time.Now().Add(r.ahead) }}
	if r.coordinator != nil {
		c.Transactions = r.coordinator
	}
	if r.configure != nil {
		r.configure(&c)
	}
	r.host = NewHost(c)
}

func (r *rig) waitReady() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := r.host.leading(testTP); err == nil {
			return
		}
		waitTick(ctx)
	}
	r.t.Fatalf("replica does not lead: %+v", r.host.Groups())
}

// waitTick lets a polling loop breathe.
func waitTick(ctx context.Context) {
	timer := time.NewTimer(2 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (r *rig) stop() {
	if r.host == nil {
		return
	}
	if err := r.host.Close(); err != nil {
		r.t.Errorf("close host: %v", err)
	}
	if err := r.raft.Close(); err != nil {
		r.t.Errorf("close raft: %v", err)
	}
	r.host, r.raft = nil, nil
}

// batch makes n records of an idempotent producer.
func batch(pid record.ProducerID, epoch record.Epoch, seq record.Sequence, n int) record.Batch {
	b := record.NewBuilder(record.CodecNone)
	for i := range n {
		if err := b.Append(1000+int64(i), nil, fmt.Appendf(nil, "%d/%d/%d", pid, epoch, int(seq)+i), nil); err != nil {
			panic(err)
		}
	}
	return b.Finish(pid, epoch, seq, false)
}

// applied looks at what the replica has applied. It may go on applying meanwhile.
func applied[T any](r *rig, look func(*state) T) T {
	replica := r.host.replica(testTP)
	replica.mu.RLock()
	defer replica.mu.RUnlock()
	return look(&replica.state)
}

type outcome struct {
	ProduceResult
	err error
}

// send proposes without waiting.
func (r *rig) send(b record.Batch) chan outcome {
	ch := make(chan outcome, 2)
	r.host.Produce(ProduceRequest{TopicPartition: testTP, Batch: b}, func(res ProduceResult, err error) { ch <- outcome{res, err} })
	return ch
}

func (r *rig) produce(b record.Batch) outcome {
	r.t.Helper()
	select {
	case o := <-r.send(b):
		return o
	case <-time.After(20 * time.Second):
		r.t.Fatal("produce is not answered")
		return outcome{}
	}
}

func (r *rig) mustProduce(b record.Batch, base record.Offset) {
	r.t.Helper()
	if o := r.produce(b); o.err != nil || o.BaseOffset != base {
		r.t.Fatalf("produce: %+v, want base offset %d", o, base)
	}
}

// values reads all records from an offset on.
func (r *rig) values(from record.Offset) []string {
	r.t.Helper()
	var list []string
	for {
		f := r.host.Fetch(context.Background(), FetchRequest{MaxBytes: 1 << 20, Partitions: []FetchPartition{
			{TopicPartition: testTP, Offset: from, MaxBytes: 200, LeaderEpoch: -1}}})[0]
		if f.Err != nil {
			r.t.Fatalf("fetch at %d: %v", from, f.Err)
		}
		if f.Bytes == 0 {
			if from != f.HighWatermark {
				r.t.Fatalf("fetch at %d is empty, high watermark %d", from, f.HighWatermark)
			}
			return list
		}
		for _, run := range f.Batches {
			for len(run) > 0 {
				b, rest, err := record.Parse(run)
				if err != nil {
					r.t.Fatal(err)
				}
				run = rest
				records, err := b.Records(1 << 20)
				if err != nil {
					r.t.Fatal(err)
				}
				for records.Next() {
					if rec := records.Record(); rec.Offset >= from {
						list = append(list, string(rec.Value))
						from = rec.Offset + 1
					}
				}
				if err := records.Err(); err != nil {
					r.t.Fatal(err)
				}
				records.Close()
			}
		}
	}
}

func codeOf(err error) Code {
	if e, ok := err.(*Error); ok {
		return e.Code
	}
	return ""
}

// Nothing is written to what is left of a deleted topic, nor read from it: its name may be another topic's by now, whose producers would
// be told that their records are kept (G27 says the same of offsets).
func TestDeletedTopicTakesNothing(t *testing.T) {
	r := newRig(t)
	var gone atomic.Uint64
	r.configure = func(c *HostConfig) { c.Gone = func(g raftgroup.GroupID) bool { return uint64(g) == gone.Load() } }
	r.start()
	r.mustProduce(batch(1, 0, 0, 1), 0)
	gone.Store(uint64(r.spec.Group))
	if o := r.produce(batch(1, 0, 1, 1)); codeOf(o.err) != CodeNotLeader {
		t.Fatalf("the deleted topic takes a record: %+v", o)
	}
	if f := r.fetchAt(0); f.Err == nil {
		t.Fatalf("the deleted topic is read: %+v", f)
	}
	if _, err := r.host.Limits(testTP); err == nil {
		t.Fatal("the deleted topic has limits")
	}

	// The one that has the name now is open beside it.
	next := r.spec
	next.TopicID, next.Group = TopicID{2}, r.spec.Group+1
	if err := errors.Join(r.host.Create(next), r.host.Open(next)); err != nil {
		t.Fatal(err)
	}
	r.waitReady()
	r.mustProduce(batch(1, 0, 0, 1), 0)
	if err := r.host.CloseReplica(r.spec, true); err != nil {
		t.Fatal(err)
	}
	r.mustProduce(batch(1, 0, 1, 1), 1)
}
