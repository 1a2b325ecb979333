package txn

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/machinetest"
)

// sample is a shard with something of everything.
func sample(t testing.TB) *State {
	t.Helper()
	p := newPlayer(t)
	for line := range strings.SplitSeq(`limits 50 40 100
init a timeout=500 by=app@10.0.0.1:5
add a 100/0 t/1,t/0,s/7
init b
add b 101/0 t/2 tv=1
end b 101/0 commit tv=1
init c
note c 102/0 t/3 OUT_OF_ORDER_SEQUENCE_NUMBER 5 7
end c 102/0 abort
init d
add d 103/0 t/5
abort d 103/0 operator by=brokerctl@10.0.0.9:1
complete d
init e
init f
add f 105/0 x/0`, "\n") {
		if out := p.run("apply", line); !strings.Contains(out, "NONE") {
			t.Fatal(out)
		}
	}
	exhausted := *p.s.Find("e")
	exhausted.Epoch = lastEpoch
	p.s.replace(p.s.Find("e"), &exhausted, 99)
	p.index = 100
	for line := range strings.SplitSeq("add e 104/32766 t/9\nend e 104/32766 commit", "\n") {
		if out := p.run("apply", line); !strings.Contains(out, "NONE") {
			t.Fatal(out)
		}
	}
	return p.s
}

// TestEncodingIsStable: the bytes of this release are those of the releases before. A file here is never changed; a
// new format gets a new one.
func TestEncodingIsStable(t *testing.T) {
	b := snapshot(t, sample(t))
	machinetest.Golden(t, filepath.Join("testdata", "format", "snapshot-1.hex"), b)
	s, err := Restore(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range sample(t).All() {
		if got := s.Find(tr.ID); showAll(got) != showAll(tr) {
			t.Errorf("restored %s, want %s", showAll(got), showAll(tr))
		}
	}
	if s.Limits() != (Limits{50, 40, 100}) || s.OpenLen() != 4 || s.OpenPartitions() != 6 {
		t.Errorf("limits %+v, %d open, %d partitions", s.Limits(), s.OpenLen(), s.OpenPartitions())
	}
}

func TestSnapshotDamage(t *testing.T) {
	machinetest.Damage(t, snapshotFormat, snapshot(t, sample(t)), func(b []byte) error { _, err := Restore(b); return err })
}

// A snapshot whose checksum is right can still hold what no machine ever wrote.
func TestRestoreChecksInvariants(t *testing.T) {
	one := func(f func(*statev1.TransactionalIdState)) func(*statev1.TransactionShardState) {
		return func(p *statev1.TransactionShardState) { f(p.Ids[0]) } // a: Ongoing
	}
	for what, change := range map[string]func(*statev1.TransactionShardState){
		"no limits":      func(p *statev1.TransactionShardState) { p.Limits = nil },
		"a limit of 0":   func(p *statev1.TransactionShardState) { p.Limits.MaxIds = 0 },
		"out of order":   func(p *statev1.TransactionShardState) { p.Ids[0], p.Ids[1] = p.Ids[1], p.Ids[0] },
		"twice":          func(p *statev1.TransactionShardState) { p.Ids[1] = p.Ids[0] },
		"no id":          one(func(p *statev1.TransactionalIdState) { p.TransactionalId = "" }),
		"long id":        one(func(p *statev1.TransactionalIdState) { p.TransactionalId = strings.Repeat("x", MaxIDLength+1) }),
		"no version":     one(func(p *statev1.TransactionalIdState) { p.Version = 0 }),
		"no status":      one(func(p *statev1.TransactionalIdState) { p.Status = 0 }),
		"unknown status": one(func(p *statev1.TransactionalIdState) { p.Status = 7 }),
		"producer id":    one(func(p *statev1.TransactionalIdState) { p.ProducerId = -1 }),
		"previous id":    one(func(p *statev1.TransactionalIdState) { p.PreviousProducerId = 7 }),
		"next id":        one(func(p *statev1.TransactionalIdState) { p.NextProducerId = 7 }),
		"epoch":          one(func(p *statev1.TransactionalIdState) { p.ProducerEpoch = 32768 }),
		"no epoch":       one(func(p *statev1.TransactionalIdState) { p.ProducerEpoch = -1 }),
		"fencing epoch":  one(func(p *statev1.TransactionalIdState) { p.ProducerEpoch = 32767 }),
		"last epoch":     one(func(p *statev1.TransactionalIdState) { p.LastEpoch = 32767 }),
		"timeout":        one(func(p *statev1.TransactionalIdState) { p.TimeoutMs = 0 }),
		"client version": one(func(p *statev1.TransactionalIdState) { p.ClientVersion = 3 }),
		"no start":       one(func(p *statev1.TransactionalIdState) { p.StartMs = -1 }),
		"idle, partitions": one(func(p *statev1.TransactionalIdState) {
			p.Status = statev1.TransactionStatus_TRANSACTION_STATUS_COMPLETE_ABORT
		}),
		"topics unsorted": one(func(p *statev1.TransactionalIdState) {
			p.Partitions[0], p.Partitions[1] = p.Partitions[1], p.Partitions[0]
		}),
		"no numbers":        one(func(p *statev1.TransactionalIdState) { p.Partitions[0].Partitions = nil }),
		"negative number":   one(func(p *statev1.TransactionalIdState) { p.Partitions[0].Partitions[0] = -1 }),
		"numbers unsorted":  one(func(p *statev1.TransactionalIdState) { p.Partitions[1].Partitions = []int32{1, 0} }),
		"event kind":        one(func(p *statev1.TransactionalIdState) { p.History[0].Kind = 6 }),
		"event producer":    one(func(p *statev1.TransactionalIdState) { p.History[0].ProducerEpoch = -2 }),
		"event batch":       one(func(p *statev1.TransactionalIdState) { p.History[0].Refused = &statev1.RefusedBatch{} }),
		"too much history":  one(func(p *statev1.TransactionalIdState) { p.History = make([]*statev1.TransactionEvent, 17) }),
		"ending of nothing": func(p *statev1.TransactionShardState) { p.Ids[1].Partitions = nil },
		"no next id":        func(p *statev1.TransactionShardState) { p.Ids[4].NextProducerId = -1 },
	} {
		p := new(statev1.TransactionShardState)
		if err := snapshotFormat.Read(snapshot(t, sample(t)), p); err != nil {
			t.Fatal(err)
		}
		change(p)
		b, err := snapshotFormat.Append(nil, p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(b); !errors.Is(err, statev1.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzRestore(f *testing.F) {
	f.Add(snapshot(f, New())[statev1.FormatHeader:])
	f.Add(snapshot(f, sample(f))[statev1.FormatHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append(make([]byte, statev1.FormatHeader), body...)
		snapshotFormat.Seal(b)
		s, err := Restore(b)
		if !machinetest.Fuzzed(t, err) {
			return
		}
		again, err := Restore(snapshot(t, s))
		if err != nil || !bytes.Equal(snapshot(t, again), snapshot(t, s)) {
			t.Fatalf("not stable: %v", err)
		}
	})
}

// FuzzApply: no bytes in the log may panic the machine. It says that it cannot go on, and changes nothing.
func FuzzApply(f *testing.F) {
	p := newPlayer(f)
	for _, line := range []string{"init a", "init a 100/1", "add a 100/0 t/0", "end a 100/0 commit", "complete a", "abort a 100/0 timeout",
		"note a 100/0 t/0 X 0 0", "expire a cutoff=9", "limits 1 2 3"} {
		b, err := EncodeCommand(p.parse(strings.Fields(line)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := sample(t)
		before := snapshot(t, s)
		r, err := s.Apply(1000, 5, b)
		after := snapshot(t, s)
		if (err != nil || r.Code == Stale) && !bytes.Equal(before, after) {
			t.Fatal("a command that was not taken has changed something")
		}
		if _, err := Restore(after); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCommandsAreChecked(t *testing.T) {
	p := newPlayer(t)
	c := func(line string, change func(*statev1.TransactionCommand)) *statev1.TransactionCommand {
		c := p.parse(strings.Fields(line))
		change(c)
		return c
	}
	for what, cmd := range map[string]*statev1.TransactionCommand{
		"nothing":         {TransactionalId: "a"},
		"no id":           c("init a", func(c *statev1.TransactionCommand) { c.TransactionalId = "" }),
		"long id":         c("init a", func(c *statev1.TransactionCommand) { c.TransactionalId = strings.Repeat("x", MaxIDLength+1) }),
		"not UTF-8":       c("init a", func(c *statev1.TransactionCommand) { c.TransactionalId = "\xff" }),
		"long client":     c("init a by=x@y", func(c *statev1.TransactionCommand) { c.Client.ClientId = strings.Repeat("x", 256) }),
		"timeout":         c("init a timeout=0", func(*statev1.TransactionCommand) {}),
		"half a producer": c("init a", func(c *statev1.TransactionCommand) { c.GetInit().ProducerId = 5 }),
		"server version":  c("init a tv=0", func(*statev1.TransactionCommand) {}),
		"fresh id":        c("init a", func(c *statev1.TransactionCommand) { c.GetInit().FreshProducerId = -2 }),
		"add: epoch":      c("add a 1/0 t/0", func(c *statev1.TransactionCommand) { c.GetAdd().ProducerEpoch = 32768 }),
		"add: version":    c("add a 1/0 t/0 tv=3", func(*statev1.TransactionCommand) {}),
		"add: topic":      c("add a 1/0 t/0", func(c *statev1.TransactionCommand) { c.GetAdd().Partitions[0].Topic = "" }),
		"add: twice":      c("add a 1/0 t/0", func(c *statev1.TransactionCommand) { c.GetAdd().Partitions[0].Partitions = []int32{0, 0} }),
		"add: too many": c("add a 1/0 t/0", func(c *statev1.TransactionCommand) {
			for i := range int32(MaxAdded) {
				c.GetAdd().Partitions[0].Partitions = append(c.GetAdd().Partitions[0].Partitions, i+1)
			}
		}),
		"end: producer": c("end a 1/0 commit", func(c *statev1.TransactionCommand) { c.GetEnd().ProducerId = -1 }),
		"abort: reason": c("abort a 1/0 operator", func(c *statev1.TransactionCommand) { c.GetAbort().Reason = 0 }),
		"note: code":    c("note a 1/0 t/0 X 1 2", func(c *statev1.TransactionCommand) { c.GetNote().Code = "" }),
		"note: number":  c("note a 1/0 t/0 X 1 2", func(c *statev1.TransactionCommand) { c.GetNote().Partition = -1 }),
		"note: -2":      c("note a 1/0 t/0 X 1 2", func(c *statev1.TransactionCommand) { c.GetNote().ExpectedSequence = -2 }),
		"expire: many": c("expire a", func(c *statev1.TransactionCommand) {
			c.GetExpire().Ids = make([]*statev1.ExpiredId, MaxExpired+1)
		}),
		"expire: id": c("expire a", func(c *statev1.TransactionCommand) { c.GetExpire().Ids[0].TransactionalId = "" }),
		"limits":     c("limits 0 1 1", func(*statev1.TransactionCommand) {}),
	} {
		if _, err := EncodeCommand(cmd); !errors.Is(err, ErrInvalidCommand) {
			t.Errorf("%s: encoded with %v", what, err)
		}
		b, err := proto.Marshal(cmd)
		if err != nil {
			continue // what is not UTF-8 cannot even be written
		}
		if _, err := New().Apply(1, 1, b); !errors.Is(err, ErrInvalidCommand) && !errors.Is(err, statev1.ErrNewer) {
			t.Errorf("%s: applied with %v", what, err)
		}
	}
	if _, err := New().Apply(1, 1, machinetest.UnknownField()); !errors.Is(err, statev1.ErrNewer) {
		t.Error(err)
	}
}
