package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// simDisk is the replicas of one broker, in memory: one of a group can be open at a time.
type simDisk struct {
	s       *simCluster
	broker  int32
	dirs    map[uint64]bool // by incarnation; false: damaged
	open    uint64          // incarnation; 0: none
	problem *partition.ReplicaSpec
}

func incarnationOf(spec partition.ReplicaSpec) uint64 { return refOf(spec).Incarnation }

func (d *simDisk) Create(spec partition.ReplicaSpec) error {
	d.dirs[incarnationOf(spec)] = true
	return nil
}

func (d *simDisk) Open(spec partition.ReplicaSpec) error {
	if d.open != 0 {
		d.s.t.Fatalf("broker %d opens replica %d beside %d\n%v", d.broker, incarnationOf(spec), d.open, d.s)
	}
	if !d.dirs[incarnationOf(spec)] {
		d.problem = &spec
		return errors.New("it is lost")
	}
	d.open, d.problem = incarnationOf(spec), nil
	return nil
}

func (d *simDisk) Configure(record.TopicPartition, partition.Config) {}

func (d *simDisk) CloseReplica(spec partition.ReplicaSpec, destroy bool) error {
	if d.open == incarnationOf(spec) {
		d.open = 0
	}
	if d.problem != nil && d.problem.Self == spec.Self {
		d.problem = nil
	}
	if destroy {
		delete(d.dirs, incarnationOf(spec))
	}
	return nil
}

func (d *simDisk) Lost() []metadata.ReplicaRef {
	if d.problem == nil {
		return nil
	}
	return []metadata.ReplicaRef{refOf(*d.problem)}
}

func (d *simDisk) report(r *statev1.ReportReplicas) error {
	r.BrokerId, r.NodeIncarnation = d.broker, 1
	d.s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: r}})
	return nil
}

func refsToProto(refs []metadata.ReplicaRef) (list []*statev1.ReplicaRef) {
	for _, r := range refs {
		list = append(list, &statev1.ReplicaRef{GroupId: uint64(r.Group), Incarnation: r.Incarnation})
	}
	return list
}

func (d *simDisk) ReportCreated(_ context.Context, refs []metadata.ReplicaRef) error {
	return d.report(&statev1.ReportReplicas{Created: refsToProto(refs)})
}
func (d *simDisk) ReportDeleted(_ context.Context, refs []metadata.ReplicaRef) error {
	return d.report(&statev1.ReportReplicas{Deleted: refsToProto(refs)})
}
func (d *simDisk) ReportLost(_ context.Context, refs []metadata.ReplicaRef) error {
	return d.report(&statev1.ReportReplicas{Lost: refsToProto(refs)})
}

// simCluster is some brokers and one partition: the real metadata and the real reconcilers, on disks and a group that only
// count. The group changes its members as raftgroup.Reshape does: only while a majority of its voters is open.
type simCluster struct {
	t       *testing.T
	state   *metadata.State
	index   uint64
	topic   []byte
	disks   map[int32]*simDisk
	brokers map[int32]*reconciler
	// members of the group, and whether they vote.
	members map[raftgroup.ServerID]bool
	damaged bool
}

const simBrokers = 4

func newSimCluster(t *testing.T) *simCluster {
	s := &simCluster{t: t, state: metadata.NewState(), topic: slices.Repeat([]byte{7}, 16), members: make(map[raftgroup.ServerID]bool),
		disks: make(map[int32]*simDisk), brokers: make(map[int32]*reconciler)}
	s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_InitCluster{InitCluster: &statev1.InitCluster{ClusterId: "c", FeatureLevel: 1}}})
	for id := int32(1); id <= simBrokers; id++ {
		s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_RegisterBroker{RegisterBroker: &statev1.RegisterBroker{
			ClusterId: "c", Broker: &statev1.BrokerState{BrokerId: id, NodeIncarnation: 1, MinFeatureLevel: 1, MaxFeatureLevel: 1,
				Listeners: []*statev1.Listener{{Name: metadata.PeerListener, Address: fmt.Sprintf("b%d:1", id)}}}}}})
		s.disks[id] = &simDisk{s: s, broker: id, dirs: make(map[uint64]bool)}
		s.start(id)
	}
	s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: &statev1.CreateTopic{
		Name: "t", TopicId: s.topic, Partitions: []*statev1.Placement{{BrokerIds: []int32{1, 2, 3}}}}}})
	for _, r := range s.partition().Replicas {
		s.members[raftgroup.MakeServerID(r.Broker, r.Incarnation)] = true
	}
	for range 2 {
		s.reconcileAll()
	}
	s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ActivatePartitions{
		ActivatePartitions: &statev1.ActivatePartitions{GroupIds: []uint64{uint64(s.partition().Group)}}}})
	return s
}

func (s *simCluster) apply(c *statev1.MetadataCommand) bool {
	data, err := metadata.EncodeCommand(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.index++
	r, err := s.state.Apply(s.index, data)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Err == nil
}

func (s *simCluster) partition() *metadata.Partition {
	return &s.state.Image().AllTopics()[0].Partitions[0]
}

// start is a broker that starts, with what is on its disk.
func (s *simCluster) start(id int32) {
	d := s.disks[id]
	d.open, d.problem = 0, nil
	s.brokers[id] = &reconciler{broker: id, host: d, reports: d, logger: slog.New(slog.DiscardHandler), parallel: 1, open: make(map[metadata.GroupID]opened)}
}

func (s *simCluster) reconcile(id int32) {
	r := s.brokers[id]
	r.apply(context.Background(), r.plan(s.state.Image()))
}

func (s *simCluster) reconcileAll() {
	for _, id := range slices.Sorted(maps.Keys(s.disks)) {
		s.reconcile(id)
	}
}

func (s *simCluster) isOpen(id raftgroup.ServerID) bool {
	broker, incarnation, _ := raftgroup.ParseServerID(id)
	return s.disks[broker].open == incarnation
}

// majority tells whether more than half of the voters are what is asked for.
func (s *simCluster) majority(are func(raftgroup.ServerID) bool) bool {
	voters, good := 0, 0
	for id, votes := range s.members {
		if votes {
			voters++
			if are(id) {
				good++
			}
		}
	}
	return 2*good > voters
}

// reshape has the group go on towards what the metadata wants.
func (s *simCluster) reshape() {
	p := s.partition()
	plan := planOf(p)
	for s.majority(s.isOpen) && s.change(plan) {
	}
	if !s.majority(s.isOpen) {
		return
	}
	news := &statev1.GroupMembers{GroupId: uint64(p.Group)}
	for _, r := range p.Replicas {
		id := raftgroup.MakeServerID(r.Broker, r.Incarnation)
		if _, member := s.members[id]; member && r.Joining && s.isOpen(id) {
			news.CaughtUp = append(news.CaughtUp, r.Incarnation)
		}
	}
	for _, l := range p.Leaving {
		if _, member := s.members[raftgroup.MakeServerID(l.Broker, l.Incarnation)]; !member && !l.Removed {
			news.Removed = append(news.Removed, l.Incarnation)
		}
	}
	s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportMembers{
		ReportMembers: &statev1.ReportMembers{BrokerId: 1, NodeIncarnation: 1, Groups: []*statev1.GroupMembers{news}}}})
}

// change makes the next change of members; false: there is none, or it has to wait.
func (s *simCluster) change(plan raftgroup.Plan) bool {
	for _, id := range slices.Concat(plan.Learners, plan.Voters) {
		if _, ok := s.members[id]; !ok {
			s.members[id] = false
			return true
		}
	}
	for _, id := range plan.Voters {
		if !s.members[id] && !s.isOpen(id) {
			return false
		}
	}
	for _, id := range plan.Voters {
		if !s.members[id] {
			s.members[id] = true
			return true
		}
	}
	for _, id := range plan.Leaving {
		if _, ok := s.members[id]; ok {
			delete(s.members, id)
			return true
		}
	}
	return false
}

// replace is what the controller does about lost replicas.
func (s *simCluster) replace() {
	var refs []metadata.ReplicaRef
	for _, r := range s.partition().Replicas {
		if r.Lost {
			refs = append(refs, metadata.ReplicaRef{Group: s.partition().Group, Incarnation: r.Incarnation})
		}
	}
	if len(refs) > 0 {
		s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReplaceReplicas{ReplaceReplicas: &statev1.ReplaceReplicas{Replicas: refsToProto(refs)}}})
	}
}

// reassign asks for other brokers. Nobody asks for fewer while something is damaged: what is left might be that.
func (s *simCluster) reassign(brokers ...int32) {
	if s.damaged && len(brokers) < 3 {
		return
	}
	s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: &statev1.ReassignPartitions{
		TopicId: s.topic, ReplicationFactor: uint32(len(brokers)), Partitions: []*statev1.Reassignment{{BrokerIds: brokers}}}}})
}

// damage has a broker lose a replica that its group can do without: one of three that vote, nothing else being on its way. (The metadata
// hears that a replica has caught up before its group has given it a vote.)
func (s *simCluster) damage(id int32) {
	p := s.partition()
	votes := 0
	for _, v := range s.members {
		if v {
			votes++
		}
	}
	if r, ok := p.Replica(id); ok && !s.damaged && !p.Changing() && len(p.Replicas) == 3 && len(s.members) == 3 && votes == 3 {
		s.disks[id].dirs[r.Incarnation], s.damaged = false, true
		s.start(id)
	}
}

// done tells whether everything is as the metadata wants it.
func (s *simCluster) done() bool {
	p := s.partition()
	if p.Changing() || len(s.members) != len(p.Replicas) {
		return false
	}
	for _, r := range p.Replicas {
		if id := raftgroup.MakeServerID(r.Broker, r.Incarnation); r.Lost || !s.members[id] || !s.isOpen(id) {
			return false
		}
	}
	return true
}

// settle lets everybody go on, in turns, until all is done.
func (s *simCluster) settle() {
	s.t.Helper()
	for range 100 {
		s.reconcileAll()
		s.reshape()
		s.replace()
		if s.done() {
			s.damaged = false
			return
		}
	}
	s.t.Fatalf("the partition does not come to rest, has a majority: %v\n%v", s.majority(s.isOpen), s)
}

func (s *simCluster) String() string {
	out := fmt.Sprintf("%+v\nmembers %v\n", *s.partition(), s.members)
	for _, id := range slices.Sorted(maps.Keys(s.disks)) {
		out += fmt.Sprintf("broker %d: open %d, disk %v\n", id, s.disks[id].open, s.disks[id].dirs)
	}
	return out
}

// A replica that has not been removed from its group serves it, although its broker has been given another meanwhile: the
// group may have no majority without it.
func TestLeavingReplicaServesUntilItIsRemoved(t *testing.T) {
	for name, back := range map[string][]int32{"shrunk and grown": {1, 2, 3}, "moved and back": {1, 2, 4}} {
		t.Run(name, func(t *testing.T) {
			s := newSimCluster(t)
			s.settle()
			s.reassign(1)
			s.reassign(back...)
			s.reconcileAll()
			if !s.majority(s.isOpen) {
				t.Fatalf("the group has no majority\n%v", s)
			}
			s.settle()
		})
	}
}

// One that has been lost does not keep its successor waiting, even where nobody but its disk remembers that.
func TestLostReplicaGivesWay(t *testing.T) {
	s := newSimCluster(t)
	s.settle()
	s.damage(2)
	s.reconcile(2)
	s.reassign(1, 3, 4) // it leaves, lost
	for range 3 {
		s.reconcile(4)
		for _, r := range s.partition().Replicas {
			if r.Broker == 4 && r.Created {
				s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportMembers{ReportMembers: &statev1.ReportMembers{
					BrokerId: 1, NodeIncarnation: 1, Groups: []*statev1.GroupMembers{{GroupId: uint64(s.partition().Group), CaughtUp: []uint64{r.Incarnation}}}}}})
			}
		}
	}
	s.reassign(1, 2, 3) // before the group has removed it
	s.start(2)
	for range 3 {
		s.reconcile(2)
	}
	if r, _ := s.partition().Replica(2); !r.Created || s.disks[2].open != r.Incarnation {
		t.Fatalf("broker 2 has not begun its new replica\n%v", s)
	}
	s.settle()
}

// TestPartitionComesToRest has brokers, group and controller act in any order while a partition is reassigned, its brokers
// start again and one of its replicas is lost: whatever came before, a majority can always be open, and all comes to rest.
func TestPartitionComesToRest(t *testing.T) {
	seed := rand.Uint64()
	if v := os.Getenv("ONCELOG_SEED"); v != "" {
		if _, err := fmt.Sscan(v, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ONCELOG_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 400 {
		s := newSimCluster(t)
		for range 3 {
			for range rnd.IntN(40) {
				id := int32(1 + rnd.IntN(simBrokers))
				switch rnd.IntN(12) {
				case 0, 1:
					var brokers []int32
					for _, i := range rnd.Perm(simBrokers)[:[]int{1, 3, 3}[rnd.IntN(3)]] {
						brokers = append(brokers, int32(i+1))
					}
					s.reassign(brokers...)
				case 2:
					s.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_CancelReassignments{CancelReassignments: &statev1.CancelReassignments{TopicId: s.topic}}})
				case 3:
					s.start(id)
				case 4:
					s.damage(id)
				case 5:
					s.replace()
				case 6, 7:
					s.reshape()
				default:
					s.reconcile(id)
				}
			}
			s.settle()
		}
	}
}

// TestReplacedDirectoryTakesNothing: an image that has another directory in the place of this one's names that one's replicas, and
// nothing of it is made, opened or removed here.
func TestReplacedDirectoryTakesNothing(t *testing.T) {
	s := newSimCluster(t)
	s.start(1)
	r, theirs := s.brokers[1], false
	r.replaced = func(*metadata.Image) bool { return theirs }
	if w := r.plan(s.state.Image()); len(w.open) == 0 {
		t.Fatal("its own replica is not opened")
	}
	theirs = true
	if w := r.plan(s.state.Image()); len(w.open)+len(w.create)+len(w.remove)+len(w.stop)+len(w.lost) > 0 {
		t.Fatalf("of the other's is done %+v", w)
	}
}
