package metadata

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// seeded gives a generator whose seed is printed; ONCELOG_SEED sets it.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("ONCELOG_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ONCELOG_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// longRun says for how long a random test goes on; ONCELOG_LONG=10m makes it longer.
func longRun(t *testing.T, otherwise time.Duration) time.Duration {
	t.Helper()
	if s := os.Getenv("ONCELOG_LONG"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return otherwise
}

// TestAgreesWithModel applies random commands to the machine and to the dumb model and compares every
// answer and every state. Beside that it goes on from restored snapshots, which must end in the same
// bytes as the replay (R6), watches that no id is given twice (I1), and that old images stay as they were.
func TestAgreesWithModel(t *testing.T) {
	rnd := seeded(t)
	commands := 0
	accepted, refused := map[string]int{}, map[string]int{}
	// However slow the machine: what the generator reaches is judged by commands, not by seconds.
	const least = 8000
	for end := time.Now().Add(longRun(t, 2*time.Second)); commands < least || time.Now().Before(end); {
		commands += randomRun(t, rnd, accepted, refused)
	}
	t.Logf("%d commands, changed %v, refused %v", commands, accepted, refused)
	if len(accepted) < 17 || len(refused) < 15 || accepted["AlterAccess"] < 10 || refused["AlterAccess"] < 10 {
		t.Errorf("%d kinds of commands changed something, %d were refused: the generator is too narrow", len(accepted), len(refused))
	}
}

func randomRun(t *testing.T, rnd *rand.Rand, accepted, refused map[string]int) int {
	t.Helper()
	g := &generator{r: rnd}
	s, m := NewState(), newModel()
	restored := NewState() // goes through snapshots
	ids := &idWatch{t: t, incarnations: map[uint64]string{}, groups: map[GroupID]string{}, left: map[uint64]bool{}}
	type kept struct {
		img   *Image
		bytes []byte
	}
	var old []kept
	n := 50 + rnd.IntN(300)
	prepared := g.prepare(t)
	for i := range n {
		index := uint64(i + 1 + i/7) // with gaps, as in a Raft log
		cmd := g.command(modelOf(s.Image()))
		if i < len(prepared) {
			cmd = prepared[i]
		}
		data, err := EncodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Apply(index, data)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := restored.Apply(index, data); err != nil || fmt.Sprint(r2.Err) != fmt.Sprint(r.Err) || r2.Changed != r.Changed || r2.ProducerIDs != r.ProducerIDs {
			t.Fatalf("restored state answers %+v, %v; the other %+v", r2, err, r)
		}
		code, pids := m.apply(index, cmd)
		if got := codeOf(r); got != code {
			t.Fatalf("%v:\nmachine says %q (%v), model says %q\n%v", cmd, got, r.Err, code, m)
		}
		kind := fmt.Sprintf("%T", cmd.Command)[len("*statev1.MetadataCommand_"):]
		if r.Err != nil {
			refused[kind]++
		} else if r.Changed {
			accepted[kind]++
		}
		img := s.Image()
		if got := modelOf(img); got.String() != m.String() || got.version != m.version {
			t.Fatalf("after %v\nmachine %d:\n%v\nmodel %d:\n%v", cmd, got.version, got, m.version, m)
		}
		if int64(r.ProducerIDs.Count) != pids {
			t.Fatalf("%d producer ids, model gives %d", r.ProducerIDs.Count, pids)
		}
		ids.see(img, r)
		checkImage(t, img)
		if rnd.IntN(20) == 0 {
			old = append(old, kept{img, snapshot(t, img)})
		}
		if rnd.IntN(10) == 0 {
			restored = StateOf(restore(t, snapshot(t, restored.Image())))
		}
	}
	if a, b := snapshot(t, s.Image()), snapshot(t, restored.Image()); !bytes.Equal(a, b) {
		t.Fatal("restore and replay end in different bytes")
	}
	for _, k := range old {
		if !bytes.Equal(snapshot(t, k.img), k.bytes) {
			t.Fatalf("the image of version %d has changed", k.img.Version())
		}
	}
	return n
}

func codeOf(r Result) Code {
	if r.Err != nil {
		return r.Err.Code
	}
	return ""
}

func snapshot(t testing.TB, img *Image) []byte {
	t.Helper()
	b, err := img.AppendSnapshot(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func restore(t testing.TB, b []byte) *Image {
	t.Helper()
	img, err := RestoreImage(b)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// idWatch notes every id ever given.
type idWatch struct {
	t            *testing.T
	incarnations map[uint64]string
	groups       map[GroupID]string
	left         map[uint64]bool
	nextPID      int64
}

func (w *idWatch) see(img *Image, r Result) {
	for _, t := range img.AllTopics() {
		for i, p := range t.Partitions {
			w.once(fmt.Sprintf("group %d", p.Group), w.groups[p.Group], fmt.Sprintf("%s/%d", t.ID, i), func(s string) { w.groups[p.Group] = s })
			is := func(broker int32, incarnation uint64) {
				w.once(fmt.Sprintf("incarnation %d", incarnation), w.incarnations[incarnation],
					fmt.Sprintf("%d on %d", p.Group, broker), func(s string) { w.incarnations[incarnation] = s })
			}
			for _, rep := range p.Replicas {
				is(rep.Broker, rep.Incarnation)
				if w.left[rep.Incarnation] {
					w.t.Fatalf("replica %d of group %d has left and is back", rep.Incarnation, p.Group)
				}
			}
			for _, l := range p.Leaving {
				is(l.Broker, l.Incarnation)
				w.left[l.Incarnation] = true
			}
		}
	}
	if n := r.ProducerIDs; n.Count > 0 {
		if int64(n.First) < w.nextPID {
			w.t.Fatalf("producer id %d given again", n.First)
		}
		w.nextPID = int64(n.First) + int64(n.Count)
	}
}

func (w *idWatch) once(what, was, is string, set func(string)) {
	if was != "" && was != is {
		w.t.Fatalf("%s was %s and is now %s", what, was, is)
	}
	set(is)
}

// checkImage checks what must hold of every image, and that all ways to find something agree.
func checkImage(t *testing.T, img *Image) {
	t.Helper()
	live, partitions := 0, 0
	for _, topic := range img.AllTopics() {
		if found, ok := img.TopicByID(topic.ID); !ok || found != topic {
			t.Fatalf("topic %s is not found by id", topic.Name)
		}
		if found, ok := img.Topic(topic.Name); !topic.Deleting && (!ok || found != topic) {
			t.Fatalf("topic %s is not found by name", topic.Name)
		}
		if !topic.Deleting {
			live++
		}
		if topic.Settings != resolve(topic.Configs, img.Defaults()) {
			t.Fatalf("topic %s has other settings than its configs", topic.Name)
		}
		for i := range topic.Partitions {
			p := &topic.Partitions[i]
			partitions++
			if found, number, ok := img.Group(p.Group); !ok || found != topic || number != int32(i) {
				t.Fatalf("group %d is not found", p.Group)
			}
			seen := map[int32]bool{}
			for _, r := range p.Replicas {
				if seen[r.Broker] {
					t.Fatalf("two replicas of %s/%d on broker %d", topic.Name, i, r.Broker)
				}
				seen[r.Broker] = true
				if _, ok := img.Broker(r.Broker); !ok && !r.Deleted {
					t.Fatalf("replica of %s/%d on unknown broker %d", topic.Name, i, r.Broker)
				}
			}
			if err := p.check(topic.Replication); err != nil {
				t.Fatalf("%s/%d: %v", topic.Name, i, err)
			}
		}
	}
	if live != len(img.Topics()) || partitions != img.Partitions() {
		t.Fatalf("%d topics, %d partitions; the indexes have %d and %d", live, partitions, len(img.Topics()), img.Partitions())
	}
}

// generator makes commands that often fit the state, and often just miss it.
type generator struct {
	r *rand.Rand
	// members: mostly commands that change members, on a cluster that has some.
	members bool
}

// prepare decides what a run is about, and gives the commands that it begins with.
func (g *generator) prepare(t *testing.T) (list []*statev1.MetadataCommand) {
	if g.members = g.chance(2); !g.members {
		return nil
	}
	for _, line := range []string{
		"init c", "broker 1 1", "broker 2 1", "broker 3 1", "broker 4 1", "broker 5 1", "broker 6 1",
		"create a id=1 on=1,2,3;2,3,4", "create b id=2 on=5", "create e id=3 on=1,2,3,4,5",
		"report 1 1 created=1000/1,1003/8", "report 2 1 created=1000/2,1001/4,1003/9", "report 3 1 created=1001/5,1003/10", "report 5 1 created=1002/7",
		"activate 1000 1001 1002 1003",
	} {
		list = append(list, parseCommand(t, line))
	}
	return list
}

func (g *generator) one(of ...string) string { return of[g.r.IntN(len(of))] }
func (g *generator) chance(n int) bool       { return g.r.IntN(n) == 0 }

func (g *generator) broker() int32 { return int32(1 + g.r.IntN(6)) }

func (g *generator) incarnation(m *model, broker int32) uint64 {
	if b, ok := m.brokers[broker]; ok && !g.chance(10) {
		return b.incarnation
	}
	return uint64(1 + g.r.IntN(3))
}

func (g *generator) topic(m *model) []byte {
	if len(m.topics) > 0 && !g.chance(6) {
		return []byte(sortedKeys(m.topics)[g.r.IntN(len(m.topics))])
	}
	return topicID(uint64(1 + g.r.IntN(12)))
}

func sortedKeys(m map[string]mTopic) []string {
	var keys []string
	for i := range 13 {
		if _, ok := m[string(topicID(uint64(i)))]; ok {
			keys = append(keys, string(topicID(uint64(i))))
		}
	}
	return keys
}

func (g *generator) placements(m *model, rf int) []*statev1.Placement {
	var out []*statev1.Placement
	known := slices.Sorted(maps.Keys(m.brokers))
	for len(known) < rf || g.chance(20) {
		known = append(known, g.broker())
	}
	for range g.r.IntN(4) {
		p := new(statev1.Placement)
		for _, i := range g.r.Perm(len(known))[:rf] {
			p.BrokerIds = append(p.BrokerIds, known[i])
		}
		if g.chance(15) && rf > 0 {
			p.BrokerIds[0] = p.BrokerIds[rf-1]
		}
		if g.chance(15) {
			p.BrokerIds = append(p.BrokerIds, 1)
		}
		out = append(out, p)
	}
	return out
}

func (g *generator) configs() (set []*statev1.ConfigValue, unset []string) {
	for range g.r.IntN(3) {
		set = append(set, &statev1.ConfigValue{Name: g.one("retention.ms", "retention.ms", "min.insync.replicas", "nosuch"), Value: g.one("1", "2", "3", "x")})
	}
	if g.chance(3) {
		unset = append(unset, g.one("retention.ms", "min.insync.replicas", "nosuch"))
	}
	return set, unset
}

func (g *generator) refs(m *model, broker int32) []*statev1.ReplicaRef {
	var out []*statev1.ReplicaRef
	for _, id := range sortedKeys(m.topics) {
		for _, p := range m.topics[id].partitions {
			for _, r := range p.replicas {
				if (r.broker == broker || g.chance(10)) && !g.chance(3) {
					out = append(out, &statev1.ReplicaRef{GroupId: p.group, Incarnation: r.incarnation})
				}
			}
			for _, l := range p.leaving {
				if (l.broker == broker || g.chance(10)) && !g.chance(3) {
					out = append(out, &statev1.ReplicaRef{GroupId: p.group, Incarnation: l.incarnation})
				}
			}
		}
	}
	return out
}

func (g *generator) command(m *model) *statev1.MetadataCommand {
	if g.chance(15) {
		return g.access(m)
	}
	b := g.broker()
	n := g.r.IntN(140)
	if g.members && !g.chance(8) {
		n = 100 + g.r.IntN(70)
	}
	switch {
	case n >= 140 || n < 82 && n >= 62:
		return g.report(m, b)
	case n >= 100:
		return g.change(m, b)
	case n < 3 || m.cluster == "" && !g.chance(3):
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_InitCluster{InitCluster: &statev1.InitCluster{ClusterId: g.one("c", "c", "d"), FeatureLevel: 1}}}
	case n < 25:
		lo := uint32(1 + g.r.IntN(2))
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_RegisterBroker{RegisterBroker: &statev1.RegisterBroker{ClusterId: g.one(m.cluster, m.cluster, "x"), ReplacesIncarnation: uint64(g.r.IntN(3)),
			Broker: &statev1.BrokerState{BrokerId: b, NodeIncarnation: g.incarnation(m, b), Rack: g.one("", "r1", "r2"), MinFeatureLevel: lo, MaxFeatureLevel: lo + uint32(g.r.IntN(3)),
				Listeners: []*statev1.Listener{{Name: PeerListener, Address: g.one("a:1", "a:2")}}}}}}
	case n < 26:
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_UnregisterBroker{UnregisterBroker: &statev1.UnregisterBroker{BrokerId: b, NodeIncarnation: g.incarnation(m, b)}}}
	case n < 29:
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_SetFeatureLevel{SetFeatureLevel: &statev1.SetFeatureLevel{Level: uint32(g.r.IntN(4)), ExpectedLevel: m.level}}}
	case n < 48:
		rf := []int{0, 1, 1, 2, 3, 3, 3, 5}[g.r.IntN(8)]
		c := &statev1.CreateTopic{TopicId: g.topic(m), Name: g.one("a", "b", "c.d", "c_d", "e", "f", "g", "h", "?"), Partitions: g.placements(m, rf)}
		if g.chance(2) {
			c.TopicId = topicID(uint64(1 + g.r.IntN(12)))
		}
		c.Configs, _ = g.configs()
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: c}}
	case n < 58:
		c := &statev1.AlterTopic{TopicId: g.topic(m), ExpectedPartitions: uint32(g.r.IntN(4))}
		if t, ok := m.topics[string(c.TopicId)]; ok && !g.chance(5) {
			c.ExpectedPartitions, c.AddPartitions = uint32(len(t.partitions)), g.placements(m, t.rf)
		}
		if len(c.AddPartitions) == 0 || g.chance(3) {
			c.SetConfigs, c.UnsetConfigs = g.configs()
		}
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AlterTopic{AlterTopic: c}}
	case n < 62:
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_DeleteTopic{DeleteTopic: &statev1.DeleteTopic{TopicId: g.topic(m)}}}
	case n < 90:
		c := new(statev1.ActivatePartitions)
		for _, ref := range g.refs(m, b) {
			c.GroupIds = append(c.GroupIds, ref.GroupId)
		}
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ActivatePartitions{ActivatePartitions: c}}
	case n < 95:
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AllocateProducerIds{AllocateProducerIds: &statev1.AllocateProducerIds{
			BrokerId: b, NodeIncarnation: g.incarnation(m, b), Count: []uint32{0, 1, 10, 1000, 1_000_001}[g.r.IntN(5)]}}}
	default:
		c := new(statev1.AlterDefaults)
		c.SetConfigs, c.UnsetConfigs = g.configs()
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AlterDefaults{AlterDefaults: c}}
	}
}

// report makes what a broker says of its replicas.
func (g *generator) report(m *model, b int32) *statev1.MetadataCommand {
	c := &statev1.ReportReplicas{BrokerId: b, NodeIncarnation: g.incarnation(m, b), Created: g.refs(m, b), Deleted: g.refs(m, b)}
	if g.chance(6) {
		c.Lost = g.refs(m, b)
	}
	return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: c}}
}

// change makes the commands that change who holds what.
func (g *generator) change(m *model, b int32) *statev1.MetadataCommand {
	switch n := g.r.IntN(40); {
	case n < 14:
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: g.reassign(m)}}
	case n < 17:
		c := &statev1.CancelReassignments{TopicId: g.topic(m)}
		if g.chance(2) {
			c.Partitions = []uint32{uint32(g.r.IntN(3))}
		}
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CancelReassignments{CancelReassignments: c}}
	case n < 22:
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReplaceReplicas{ReplaceReplicas: &statev1.ReplaceReplicas{Replicas: g.refs(m, b)}}}
	case n < 37:
		c := &statev1.ReportMembers{BrokerId: b, NodeIncarnation: g.incarnation(m, b)}
		for _, id := range sortedKeys(m.topics) {
			for _, p := range m.topics[id].partitions {
				report := &statev1.GroupMembers{GroupId: p.group}
				for _, r := range p.replicas {
					if !g.chance(3) {
						report.CaughtUp = append(report.CaughtUp, r.incarnation)
					}
				}
				for _, l := range p.leaving {
					if !g.chance(3) {
						report.Removed = append(report.Removed, l.incarnation)
					}
				}
				if !g.chance(3) {
					c.Groups = append(c.Groups, report)
				}
			}
		}
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportMembers{ReportMembers: c}}
	default:
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_SetDraining{SetDraining: &statev1.SetDraining{
			BrokerId: b, NodeIncarnation: g.incarnation(m, b), Draining: g.chance(2)}}}
	}
}

func (g *generator) reassign(m *model) *statev1.ReassignPartitions {
	c := &statev1.ReassignPartitions{TopicId: g.topic(m)}
	t := m.topics[string(c.TopicId)]
	rf, every := t.rf, g.chance(3)
	if every && g.chance(2) {
		rf = []int{1, 2, 3, 3, 5}[g.r.IntN(5)]
		c.ReplicationFactor = uint32(rf)
	}
	for i := range len(t.partitions) + g.r.IntN(20)/19 {
		if !every && g.chance(2) {
			continue
		}
		for _, p := range g.placements(m, rf) {
			c.Partitions = append(c.Partitions, &statev1.Reassignment{Partition: uint32(i), BrokerIds: p.GetBrokerIds()})
			if !g.chance(30) {
				break
			}
		}
	}
	return c
}
