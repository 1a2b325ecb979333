package metadata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// sample is a state with something of everything.
func sample(t testing.TB) *Image {
	t.Helper()
	s := NewState()
	for i, line := range strings.Split(`init c
broker 1 11 max=2 rack=r1 listeners=peer@b1:9093,grpc@b1:9095
broker 2 22
broker 3 33
defaults retention.ms:5
create a on=1,2,3;3,1,2 min.insync.replicas:2
create b id=2 on=1
report 1 11 created=1000/1,1002/7
report 2 22 created=1000/2
activate 1000 1002
delete id=2
pids 2 22 1000
broker 4 44
create c id=3 on=1,2,3
report 1 11 created=1003/8
report 2 22 created=1003/9
report 3 33 created=1003/10
activate 1003
report 3 33 lost=1003/10
replace 1003/10
reassign id=3 0=4,3,2
drain 4 44`, "\n") {
		if out := applyLine(t, s, uint64(i+1), line); !strings.Contains(out, ": ok") && !strings.Contains(out, "producer") {
			t.Fatal(out)
		}
	}
	return s.Image()
}

func TestSnapshotRoundTrip(t *testing.T) {
	for _, img := range []*Image{emptyImage(), sample(t)} {
		b := snapshot(t, img)
		if again := snapshot(t, restore(t, b)); !bytes.Equal(again, b) {
			t.Fatal("other bytes after a round trip")
		}
		if got, want := describe(restore(t, b)), describe(img); got != want {
			t.Fatalf("restored\n%s\nnot\n%s", got, want)
		}
	}
}

// Every bit of a snapshot counts: one that is flipped is found.
func TestSnapshotDamage(t *testing.T) {
	b := snapshot(t, sample(t))
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if _, err := RestoreImage(c); !errors.Is(err, ErrBadSnapshot) && !errors.Is(err, ErrNewerSnapshot) {
				t.Fatalf("byte %d bit %d: %v", i, bit, err)
			}
		}
	}
	for n := range b {
		if _, err := RestoreImage(b[:n]); !errors.Is(err, ErrBadSnapshot) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, err := RestoreImage(append(bytes.Clone(b), 0)); !errors.Is(err, ErrBadSnapshot) {
		t.Fatal("a byte too many is not found:", err)
	}
}

func TestNewerSnapshotIsNamed(t *testing.T) {
	b := snapshot(t, sample(t))
	binary.BigEndian.PutUint16(b[4:], 2)
	_, err := RestoreImage(b)
	if !errors.Is(err, ErrNewerSnapshot) || !strings.Contains(err.Error(), "2") {
		t.Fatal(err)
	}
	unknown := seal(protowire.AppendVarint(protowire.AppendTag(body(snapshot(t, sample(t))), 99, protowire.VarintType), 1))
	if _, err := RestoreImage(unknown); !errors.Is(err, ErrNewerSnapshot) {
		t.Fatal(err)
	}
}

func body(snapshot []byte) []byte { return bytes.Clone(snapshot[statev1.FormatHeader:]) }

// seal puts a right header before a body.
func seal(body []byte) []byte {
	b := append(make([]byte, statev1.FormatHeader), body...)
	snapshotFormat.Seal(b)
	return b
}

// A snapshot whose checksum is right can still hold what no machine ever wrote.
func TestRestoreChecksInvariants(t *testing.T) {
	change := map[string]func(p *statev1.MetadataState){
		"no cluster":              func(p *statev1.MetadataState) { p.ClusterId = "" },
		"long cluster id":         func(p *statev1.MetadataState) { p.ClusterId = strings.Repeat("x", 65) },
		"level 0":                 func(p *statev1.MetadataState) { p.FeatureLevel = 0 },
		"level nobody has":        func(p *statev1.MetadataState) { p.FeatureLevel = 3 },
		"level too large":         func(p *statev1.MetadataState) { p.FeatureLevel = 1 << 16 },
		"group id ahead":          func(p *statev1.MetadataState) { p.NextGroupId = 1002 },
		"group allocator low":     func(p *statev1.MetadataState) { p.NextGroupId = 0 },
		"incarnation ahead":       func(p *statev1.MetadataState) { p.NextIncarnation = 7 },
		"negative producer id":    func(p *statev1.MetadataState) { p.NextProducerId = -1 },
		"brokers unsorted":        func(p *statev1.MetadataState) { p.Brokers[0], p.Brokers[1] = p.Brokers[1], p.Brokers[0] },
		"broker twice":            func(p *statev1.MetadataState) { p.Brokers[1] = p.Brokers[0] },
		"broker without address":  func(p *statev1.MetadataState) { p.Brokers[0].Listeners = nil },
		"replica on nobody":       func(p *statev1.MetadataState) { p.Brokers = p.Brokers[:2] },
		"topics unsorted":         func(p *statev1.MetadataState) { p.Topics[0], p.Topics[1] = p.Topics[1], p.Topics[0] },
		"topic twice":             func(p *statev1.MetadataState) { p.Topics[1] = p.Topics[0] },
		"topic id short":          func(p *statev1.MetadataState) { p.Topics[0].TopicId = p.Topics[0].TopicId[:15] },
		"topic name":              func(p *statev1.MetadataState) { p.Topics[0].Name = "?" },
		"no partitions":           func(p *statev1.MetadataState) { p.Topics[0].Partitions = nil },
		"two replicas":            func(p *statev1.MetadataState) { cut(p.Topics[0].Partitions, 2) },
		"one replica less":        func(p *statev1.MetadataState) { cut(p.Topics[0].Partitions[:1], 1) },
		"group twice":             func(p *statev1.MetadataState) { p.Topics[0].Partitions[1].GroupId = 1000 },
		"incarnation twice":       func(p *statev1.MetadataState) { p.Topics[0].Partitions[1].Replicas[0].Incarnation = 1 },
		"two on one broker":       func(p *statev1.MetadataState) { p.Topics[0].Partitions[0].Replicas[0].BrokerId = 2 },
		"no phase":                func(p *statev1.MetadataState) { p.Topics[0].Partitions[0].Phase = 0 },
		"phase 4":                 func(p *statev1.MetadataState) { p.Topics[0].Partitions[0].Phase = 4 },
		"deleting in a live one":  func(p *statev1.MetadataState) { p.Topics[0].Partitions[0].Phase = 3 },
		"active in a deleted one": func(p *statev1.MetadataState) { p.Topics[1].Partitions[0].Phase = 2 },
		"deleted replica":         func(p *statev1.MetadataState) { p.Topics[0].Partitions[0].Replicas[0].Deleted = true },
		"all deleted":             func(p *statev1.MetadataState) { p.Topics[1].Partitions[0].Replicas[0].Deleted = true },
		"active, not created":     func(p *statev1.MetadataState) { p.Topics[0].Partitions[1].Phase = 2 },
		"deleted one joins":       func(p *statev1.MetadataState) { p.Topics[1].Partitions[0].Replicas[0].Joining = true },
		"no voters":               func(p *statev1.MetadataState) { p.Topics[0].Partitions[1].Replicas = nil },
		"added for nothing":       func(p *statev1.MetadataState) { p.Topics[0].Partitions[0].Replicas[0].Added = true },
		"joins while creating":    func(p *statev1.MetadataState) { p.Topics[0].Partitions[1].Replicas[0].Joining = true },
		"target nobody holds":     func(p *statev1.MetadataState) { p.Topics[2].Partitions[0].Target[0] = 5 },
		"target twice":            func(p *statev1.MetadataState) { p.Topics[2].Partitions[0].Target[0] = 2 },
		"target too short":        func(p *statev1.MetadataState) { t := p.Topics[2].Partitions[0]; t.Target = t.Target[:2] },
		"target while creating":   func(p *statev1.MetadataState) { p.Topics[0].Partitions[1].Target = []int32{3, 1, 2} },
		"leaving twice":           func(p *statev1.MetadataState) { p.Topics[2].Partitions[0].Leaving[0].Incarnation = 8 },
		"leaving nobody":          func(p *statev1.MetadataState) { p.Topics[2].Partitions[0].Leaving[0].BrokerId = 9 },
		"leaving a deleted one": func(p *statev1.MetadataState) {
			p.Topics[1].Partitions[0].Leaving = []*statev1.LeavingReplica{{BrokerId: 1, Incarnation: 11}}
		},
		"too many leave": func(p *statev1.MetadataState) {
			for i := range uint64(MaxLeaving) {
				p.NextIncarnation++
				p.Topics[2].Partitions[0].Leaving = append(p.Topics[2].Partitions[0].Leaving, &statev1.LeavingReplica{BrokerId: 1, Incarnation: 13 + i})
			}
		},
		"replication factor 2":  func(p *statev1.MetadataState) { p.Topics[0].ReplicationFactor = 2 },
		"unknown config":        func(p *statev1.MetadataState) { p.Topics[0].Configs[0].Name = "nosuch" },
		"config not canonical":  func(p *statev1.MetadataState) { p.Topics[0].Configs[0].Value = "02" },
		"config above majority": func(p *statev1.MetadataState) { p.Topics[0].Configs[0].Value = "3" },
		"config twice": func(p *statev1.MetadataState) {
			p.Topics[0].Configs = append(p.Topics[0].Configs, p.Topics[0].Configs[0])
		},
		"default of a topic": func(p *statev1.MetadataState) { p.Defaults[0].Name, p.Defaults[0].Value = "flush.policy", "fsync" },
		"names collide": func(p *statev1.MetadataState) {
			c := proto.CloneOf(p.Topics[0])
			c.TopicId, c.Partitions = topicID(9), p.Topics[0].Partitions[1:]
			p.Topics[0].Partitions = p.Topics[0].Partitions[:1]
			p.Topics[0].Name, c.Name = "x.y", "x_y"
			p.Topics = append(p.Topics, c)
		},
	}
	good := body(snapshot(t, sample(t)))
	if _, err := RestoreImage(seal(good)); err != nil {
		t.Fatal(err)
	}
	for name, f := range change {
		p := new(statev1.MetadataState)
		if err := proto.Unmarshal(good, p); err != nil {
			t.Fatal(err)
		}
		f(p)
		b, err := proto.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := RestoreImage(seal(b)); !errors.Is(err, ErrBadSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func cut(partitions []*statev1.PartitionState, n int) {
	for _, p := range partitions {
		p.Replicas = p.Replicas[:len(p.Replicas)-1]
		if n == 2 {
			p.Replicas = p.Replicas[:2]
		}
	}
}

// What a newer program wrote stops the replica: it does not know what the others do with it.
func TestNewerCommandStops(t *testing.T) {
	field := func(b []byte, n protowire.Number) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), 1)
	}
	known, err := EncodeCommand(parseCommand(t, "init c"))
	if err != nil {
		t.Fatal(err)
	}
	inner, err := proto.Marshal(&statev1.InitCluster{ClusterId: "c", FeatureLevel: 1})
	if err != nil {
		t.Fatal(err)
	}
	inner = field(inner, 77)
	for name, data := range map[string][]byte{
		"nothing":                    {},
		"another command":            field(nil, 99),
		"a field beside the command": field(bytes.Clone(known), 99),
		"a field in the command":     protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), inner),
	} {
		if _, err := NewState().Apply(1, data); !errors.Is(err, ErrUnknownCommand) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewState().Apply(1, []byte{0xff}); err == nil {
		t.Error("rubbish is applied")
	}
	if _, err := NewState().Apply(1, make([]byte, MaxCommandBytes+1)); err == nil {
		t.Error("a command of any size is applied")
	}
}

func TestIndexesGrow(t *testing.T) {
	s := NewState()
	data, _ := EncodeCommand(parseCommand(t, "init c"))
	if _, err := s.Apply(5, data); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(5, data); err == nil {
		t.Fatal("an entry is applied twice")
	}
}

func TestTextThatIsNotUTF8IsRefused(t *testing.T) {
	_, err := EncodeCommand(parseCommand(t, `create "\xff" on=1`))
	if !errors.Is(err, &Error{Code: InvalidRequest}) {
		t.Fatal(err)
	}
}

func FuzzRestore(f *testing.F) {
	f.Add(snapshot(f, emptyImage())[statev1.FormatHeader:])
	f.Add(snapshot(f, sample(f))[statev1.FormatHeader:])
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := RestoreImage(seal(b))
		if err != nil {
			return
		}
		checkImage(t, img)
		again := snapshot(t, img)
		if twice := snapshot(t, restore(t, again)); !bytes.Equal(again, twice) {
			t.Fatal("what is restored does not restore to itself")
		}
	})
}

// FuzzApply: whatever is in the log, apply does not panic, and leaves a state that restores.
func FuzzApply(f *testing.F) {
	for _, line := range []string{"init c", "broker 3 33 max=2", "create t id=3 on=1,2,3 retention.ms:5", "alter have=2 add=1,2,3 -retention.ms", "delete",
		"report 3 33 created=1000/3", "activate 1001", "pids 1 11 5", "defaults segment.ms:5", "unregister 3 33", "level 2"} {
		b, err := EncodeCommand(parseCommand(f, line))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	img := sample(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		before := snapshot(t, img)
		s := StateOf(img)
		r, err := s.Apply(1000, data)
		if !bytes.Equal(snapshot(t, img), before) {
			t.Fatal("the image that was gone on from has changed")
		}
		after := snapshot(t, s.Image())
		if changed := !bytes.Equal(after, before); changed != (err == nil && r.Changed) || changed && r.Err != nil {
			t.Fatalf("changed %v; result %+v, %v", changed, r, err)
		}
		checkImage(t, restore(t, after))
	})
}
