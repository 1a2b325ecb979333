package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// voters are those of the metadata group, as the controller has them.
func (r *rig) voters() []raftgroup.ServerID {
	r.t.Helper()
	return (*r.controller().cluster.group.Load()).Status().Voters
}

// TestWipedFounder: a founder that lost its directory is not who it was. The others hear nothing of it for a while; then it
// is taken in under a new incarnation, which gets a vote in the place of the old one. The old directory is refused for ever.
func TestWipedFounder(t *testing.T) {
	for _, id := range []int32{1, 3} {
		onVirtualTime(t, func(r *rig) {
			r.three()
			lost := r.node(id)
			before, disk, wiped := lost.cluster.node.Load().server(), lost.disk, lost.wiped
			lost.crash()
			lost.wipe()
			began := time.Now()
			r.ready(r.start(id))
			if took := time.Since(began); took < rejoinSilence*3*time.Second/2 {
				t.Errorf("it was taken in after %v: the broker that had its id may have been restarting", took)
			}
			now := lost.cluster.node.Load().server()
			if now == before {
				t.Fatal("it has the incarnation of the directory that was lost")
			}
			r.within(time.Minute, "its vote", func() bool {
				v := r.voters()
				return len(v) == 3 && slices.Contains(v, now) && !slices.Contains(v, before)
			})
			r.agree()

			// The old directory turns up again.
			lost.stop()
			lost.disk, lost.wiped = disk.KillClone(), wiped
			if err := r.fails(r.start(id)); !errors.Is(err, &metadata.Error{Code: metadata.DuplicateBrokerRegistration}) {
				t.Fatalf("the old directory: %v", err)
			}
		})
	}
}

// TestReplacedWhileCutOff: a broker that was cut off for long, and in whose place a new directory was registered, has no Raft
// connection with those who know, and ends when it learns of it.
func TestReplacedWhileCutOff(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, b, c := r.three()
		r.net.Isolate(c.host, a.host, b.host, hostOf(9))
		d := r.start(9, func(n *node) {
			n.seeds, n.change = []string{addressOf(1), addressOf(2)}, func(c *Config) { c.Broker = 3 }
		})
		r.ready(d)
		r.net.HealAll()
		if err := r.fails(c); !errors.Is(err, &metadata.Error{Code: metadata.DuplicateBrokerRegistration}) {
			t.Fatal(err)
		}
		r.logged("in whose place another was registered")
	})
}

// TestMemberWithoutMetadata: a directory that says it is a member's and lacks the metadata is refused; it would vote twice.
func TestMemberWithoutMetadata(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		_, _, c := r.three()
		r.within(time.Minute, "it to be a member", func() bool { return c.cluster.node.Load().membership == member })
		c.stop()
		if err := c.disk.RemoveAll(c.dir() + "/cluster/" + metadataDir); err != nil {
			t.Fatal(err)
		}
		if err := c.start(); !errors.Is(err, ErrForeignData) || !strings.Contains(err.Error(), "remove the whole data directory") {
			t.Fatal(err)
		}
	})
}

// TestMemberWithEmptyMetadata: so is one whose metadata directory is empty, with the terms and votes or without them: it would
// answer as a member that has forgotten everything. It is refused each time it is started.
func TestMemberWithEmptyMetadata(t *testing.T) {
	for _, stable := range []bool{true, false} {
		onVirtualTime(t, func(r *rig) {
			_, _, c := r.three()
			r.within(time.Minute, "it to be a member", func() bool { return c.cluster.node.Load().membership == member })
			c.stop()
			dir := filepath.Join(c.dir(), "cluster", metadataDir)
			err := errors.Join(os.RemoveAll(dir), c.disk.RemoveAll(dir), c.disk.MkdirAll(dir))
			if !stable {
				err = errors.Join(err, os.RemoveAll(filepath.Join(c.dir(), "raft")))
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := r.fails(r.start(3)); !errors.Is(err, ErrForeignData) || !strings.Contains(err.Error(), "remove the whole data directory") {
					t.Fatal(err)
				}
				c.stop()
			}
			r.agree()
		})
	}
}

// TestMayRejoin: a new directory has to wait, and takes the place of none that is needed.
func TestMayRejoin(t *testing.T) {
	const needed = 9 * time.Second
	s := brokers(t, 0, make([]string, 3)...)
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: &statev1.CreateTopic{
		TopicId: append(make([]byte, 15), 2), Name: "whole", Partitions: []*statev1.Placement{{BrokerIds: []int32{1, 2, 3}}}}}})
	id := append(make([]byte, 15), 1)
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: &statev1.CreateTopic{
		TopicId: id, Name: "single", Partitions: []*statev1.Placement{{BrokerIds: []int32{3}}}}}})
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: &statev1.CreateTopic{
		TopicId: append(make([]byte, 15), 3), Name: record.GroupsTopic, Partitions: []*statev1.Placement{{BrokerIds: []int32{1}}}}}})
	for _, topic := range s.Image().AllTopics() {
		for _, p := range topic.Partitions {
			for _, rep := range p.Replicas {
				apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: &statev1.ReportReplicas{
					BrokerId: rep.Broker, NodeIncarnation: uint64(rep.Broker), Created: []*statev1.ReplicaRef{{GroupId: uint64(p.Group), Incarnation: rep.Incarnation}}}}})
			}
			apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ActivatePartitions{ActivatePartitions: &statev1.ActivatePartitions{GroupIds: []uint64{uint64(p.Group)}}}})
		}
	}
	ask := func(broker int32, silent time.Duration) *metadata.Error {
		b, ok := s.Image().Broker(broker)
		if !ok {
			t.Fatalf("no broker %d", broker)
		}
		return mayRejoin(s.Image(), b, silent, needed)
	}
	if err := ask(2, needed-1); err == nil || err.Code != metadata.DuplicateBrokerRegistration {
		t.Errorf("one that was just heard: %v", err)
	}
	if err := ask(2, needed); err != nil {
		t.Errorf("one whose groups have a majority without it: %v", err)
	}
	if err := ask(3, needed); err == nil || err.Code != metadata.ResourceInUse || !strings.Contains(err.Message, "single/0") || strings.Contains(err.Message, "whole/0") || !strings.Contains(err.Message, "delete these topics") {
		t.Errorf("one with the only replica of a partition: %v", err)
	}
	if err := ask(1, needed); err == nil || err.Code != metadata.ResourceInUse || strings.Contains(err.Message, "delete these topics") {
		t.Errorf("one with the only replica of what cannot be deleted: %v", err)
	}
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_DeleteTopic{DeleteTopic: &statev1.DeleteTopic{TopicId: id}}})
	if err := ask(3, needed); err != nil {
		t.Errorf("when that topic is deleted: %v", err)
	}
	// A second replica that is lost meanwhile.
	whole, _ := s.Image().Topic("whole")
	p := whole.Partitions[0]
	apply(t, s, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: &statev1.ReportReplicas{
		BrokerId: 1, NodeIncarnation: 1, Lost: []*statev1.ReplicaRef{{GroupId: uint64(p.Group), Incarnation: p.Replicas[0].Incarnation}}}}})
	if err := ask(2, needed); err == nil || !strings.Contains(err.Message, "whole/0") {
		t.Errorf("one of the last two whole replicas: %v", err)
	}
}

// TestReplacedByAge: metadata tells a directory that was replaced from one that it does not know yet by when each was registered.
func TestReplacedByAge(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, _, c := r.three()
		now := a.cluster.Image().Version()
		mine := c.cluster.Node()
		if mine.Since == 0 || mine.Since > now {
			t.Errorf("broker 3 says that it was registered at %d, the metadata end at %d", mine.Since, now)
		}
		for _, x := range []struct {
			broker int32
			n      raftgroup.Node
			want   bool
		}{
			{3, mine, false},
			{3, raftgroup.Node{Incarnation: mine.Incarnation + 1, Since: mine.Since}, true},
			{3, raftgroup.Node{Incarnation: mine.Incarnation + 1, Since: now + 1}, false},
			{3, raftgroup.Node{Incarnation: mine.Incarnation + 1}, false},
			{4, mine, false},
		} {
			if got := a.cluster.Replaced(x.broker, x.n); got != x.want {
				t.Errorf("broker %d, %+v: %t", x.broker, x.n, got)
			}
		}
	})
}
