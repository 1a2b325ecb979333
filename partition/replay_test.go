package partition

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// TestRestoreEqualsReplay holds R6: after random commands of every kind, a state that was restored from a snapshot
// and caught up from the log is, byte for byte, the one that the whole log makes, and the one that was never
// stopped.
func TestRestoreEqualsReplay(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := newRig(t)
			r.start()
			c := &chance{rig: r, rng: rand.New(rand.NewPCG(seed, 6)), next: make(map[record.ProducerID]record.Sequence)}
			c.steps(80)
			if err := r.host.replica(testTP).group.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.steps(60)
			// What every new leader would propose, if it were not so.
			c.propose([]byte{commandVersion, cmdSettings}, settings{maxProducers: firstMaxProducers, minIdle: minIdleMS}.encode())
			live, values := r.encoded(), r.values(r.host.replica(testTP).bounds.Load().start)
			for _, way := range []string{"restored", "replayed"} {
				r.stop()
				if way == "replayed" {
					r.dropSnapshots()
				}
				state, got := r.offline()
				if !bytes.Equal(state, live) {
					t.Errorf("read offline, the %s state differs from the live one: %d bytes, %d bytes", way, len(state), len(live))
				}
				if fmt.Sprint(got) != fmt.Sprint(values) {
					t.Errorf("read offline, %s: %d records, %d when live", way, len(got), len(values))
				}
				r.start()
				if got := r.encoded(); !bytes.Equal(got, live) {
					t.Errorf("the %s state differs from the live one: %d bytes, %d bytes", way, len(got), len(live))
				}
				if got := r.values(r.host.replica(testTP).bounds.Load().start); fmt.Sprint(got) != fmt.Sprint(values) {
					t.Errorf("%s: %d records, %d when live", way, len(got), len(values))
				}
			}
		})
	}
}

// chance does random things to a partition.
type chance struct {
	*rig
	rng  *rand.Rand
	next map[record.ProducerID]record.Sequence
}

func (c *chance) steps(n int) {
	c.t.Helper()
	replica := c.host.replica(testTP)
	for range n {
		id := record.ProducerID(c.rng.IntN(6))
		switch c.rng.IntN(12) {
		case 0: // out of order, or again
			c.produce(batch(id, 0, record.Sequence(c.rng.IntN(20)), 1+c.rng.IntN(2)))
		case 1: // a zombie, or a raised epoch
			c.produce(batch(id, record.Epoch(c.rng.IntN(3)), 0, 1))
		case 2:
			c.propose([]byte{commandVersion, cmdAdvanceStart}, encodeOffset(record.Offset(c.rng.Int64N(int64(replica.bounds.Load().highWatermark+2)))))
		case 3:
			c.propose([]byte{commandVersion, cmdExpireProducers},
				encodeExpire(time.Now().UnixMilli(), replica.bounds.Load().highWatermark, []producer.Expirable{{ProducerID: id}}))
		case 4:
			c.propose([]byte{commandVersion, cmdSettings}, settings{maxProducers: uint32(2 + c.rng.IntN(6))}.encode())
		case 5:
			m := record.Marker{ProducerID: id + 100, Epoch: record.Epoch(c.rng.IntN(3)), CoordinatorEpoch: int32(c.rng.IntN(3)), Commit: c.rng.IntN(2) == 0, Timestamp: 5000}
			c.propose(metaOfMarker(int8(1+c.rng.IntN(2))), record.ControlBatch(m))
		case 6: // part of a transaction
			b := record.NewBuilder(record.CodecNone)
			if err := b.Append(1000, nil, []byte("txn"), nil); err != nil {
				c.t.Fatal(err)
			}
			last := applied(c.rig, func(s *state) record.Offset { return s.producers.LastMarker(id + 100) })
			c.propose(metaOfAppend(producer.Knew{Verified: true, Version: 1, Marker: last, LowestSequence: record.NoSequence}),
				b.Finish(id+100, record.Epoch(c.rng.IntN(3)), record.Sequence(c.rng.IntN(3)), true))
		default:
			n := 1 + c.rng.IntN(3)
			if o := c.produce(batch(id+10, 0, c.next[id], n)); o.err == nil {
				c.next[id] = c.next[id].Add(int32(n))
			}
		}
	}
}

// encoded is the state as a snapshot holds it, without where in the log it is: starting adds a leader-start.
func (r *rig) encoded() []byte {
	r.t.Helper()
	replica := r.host.replica(testTP)
	s, err := replica.Snapshot()
	if err != nil {
		r.t.Fatal(err)
	}
	defer s.Release()
	return encodedState(s.(*stateSnapshot).state)
}

func encodedState(st state) []byte {
	b := st.settings.encode()
	b = append(b, fmt.Sprint(st.level, st.start, st.next, st.epochBase)...)
	b = st.producers.AppendTo(b)
	if n := len(st.epochs.entries); n > 0 { // where epochs began, but for those that the restarts began
		for _, e := range st.epochs.entries {
			if e.start < st.next {
				b = append(b, fmt.Sprint(e)...)
			}
		}
	}
	return b
}

// offline gives the state and the values that Replay finds in the replica's directory.
func (r *rig) offline() (state []byte, values []string) {
	r.t.Helper()
	dir := filepath.Join("/", "partitions", "1000-7")
	snapshots, err := raftgroup.SnapshotsOnDisk(r.disk, dir)
	if err != nil {
		r.t.Fatal(err)
	}
	var begin []byte
	n := recordlog.Inspector{FS: r.disk, Dir: LogDir(dir)}
	if len(snapshots) > 0 {
		n.Snapshot = snapshots[0].Index
		if begin, err = raftgroup.StateOnDisk(r.disk, dir, snapshots[0].Name); err != nil {
			r.t.Fatal(err)
		}
	}
	p, err := NewReplay(begin)
	if err != nil {
		r.t.Fatal(err)
	}
	type value struct {
		record.Offset
		text string
	}
	var found []value
	n.Frame = func(_ recordlog.SegmentFile, f recordlog.Frame) error {
		c, err := p.Next(&f.Entry)
		for _, b := range c.Batches {
			if b.Verdict != "written" {
				continue
			}
			records, err := b.Batch.Records(1 << 20)
			if err != nil {
				return err
			}
			for i := record.Offset(0); records.Next(); i++ {
				found = append(found, value{b.Base + i, string(records.Record().Value)})
			}
			records.Close()
		}
		return err
	}
	log, err := n.Inspect()
	if err != nil || len(log.Damage) > 0 || log.Torn != nil {
		r.t.Fatalf("inspection: %v, %v, %v", err, log.Damage, log.Torn)
	}
	for _, v := range found {
		if v.Offset >= p.state.start {
			values = append(values, v.text)
		}
	}
	return encodedState(p.state), values
}

// dropSnapshots takes the state snapshots away; the log holds everything.
func (r *rig) dropSnapshots() {
	r.t.Helper()
	dir := filepath.Join("/", "partitions", "1000-7", "snapshots")
	names, err := r.disk.List(dir)
	if err != nil || len(names) == 0 {
		r.t.Fatalf("snapshots %v, %v", names, err)
	}
	for _, n := range names {
		if err := r.disk.Remove(filepath.Join(dir, n)); err != nil {
			r.t.Fatal(err)
		}
	}
}
