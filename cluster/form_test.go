package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
)

// formed makes sure that some brokers are one cluster, founded by some of them.
func (r *rig) formed(founders int, nodes ...*node) *metadata.Image {
	r.t.Helper()
	r.ready(nodes...)
	img := r.agree()
	var ids []int32
	for _, b := range img.Brokers() {
		ids = append(ids, b.ID)
	}
	for _, n := range nodes {
		if n.cluster.ClusterID() != img.ClusterID() || img.ClusterID() == "" {
			r.t.Fatalf("broker %d belongs to cluster %q, the metadata to %q", n.id, n.cluster.ClusterID(), img.ClusterID())
		}
		if !slices.Contains(ids, n.id) {
			r.t.Fatalf("broker %d is not registered: %v", n.id, ids)
		}
	}
	r.within(10*time.Second, "the founders to vote", func() bool {
		st, _ := r.controller().cluster.MetadataStatus()
		return len(st.Voters) == founders && len(st.Voters)+len(st.Learners) == len(img.Brokers())
	})
	return img
}

// TestFounding: 1, 3 and 5 brokers form one cluster, in whatever order they come up.
func TestFounding(t *testing.T) {
	for _, n := range []int32{1, 3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			onVirtualTime(t, func(r *rig) {
				r.found(n)
				var nodes []*node
				for id := n; id >= 1; id-- {
					nodes = append(nodes, r.start(id))
				}
				r.formed(int(n), nodes...)
			})
		})
	}
}

func TestAloneWithoutSeeds(t *testing.T) {
	onVirtualTime(t, func(r *rig) { r.formed(1, r.start(7)) })
}

// TestFounderIsLate: nothing begins before all founders are there, and whoever waits says for whom.
func TestFounderIsLate(t *testing.T) {
	for late := int32(1); late <= 3; late++ {
		onVirtualTime(t, func(r *rig) {
			r.found(3)
			var others []*node
			for id := int32(1); id <= 3; id++ {
				if id != late {
					others = append(others, r.start(id))
				}
			}
			r.notReady(30*time.Second, others...)
			r.logged("waiting for all seeds to answer; not yet: " + addressOf(late))
			if what := others[0].cluster.Waiting(); !strings.Contains(what, addressOf(late)) {
				t.Errorf("it waits for %q", what)
			}
			all := append(others, r.start(late))
			r.formed(3, all...)
			for _, n := range all {
				n.stop()
			}
			first := r.start(1)
			r.notReady(30*time.Second, first)
			if what := first.cluster.Waiting(); !strings.Contains(what, "of its voters, broker 1, 2, 3, a majority has to be up") {
				t.Errorf("it waits for %q", what)
			}
		})
	}
}

// TestFounderDiesInTheMiddle: a founder loses its power at each of the writes of its first start, comes
// back, and there is one cluster.
func TestFounderDiesInTheMiddle(t *testing.T) {
	for victim := int32(1); victim <= 2; victim++ { // 3 is as 2
		last := false
		for at := 1; !last; at += 2 {
			withSeed(t, uint64(at), func(r *rig) {
				r.found(3)
				died := make(chan struct{})
				var mu sync.Mutex
				changes := 0
				r.node(victim).disk.OnBefore(func(op vfs.Op) error {
					mu.Lock()
					defer mu.Unlock()
					if op.Kind.Changes() {
						changes++
					}
					if changes == at && op.Kind.Changes() {
						close(died)
					}
					if changes >= at && op.Kind.Changes() {
						return errDead
					}
					return nil
				})
				for id := int32(1); id <= 3; id++ {
					if err := r.node(id).start(); err != nil && (id != victim || !errors.Is(err, errDead)) {
						t.Fatal(err)
					}
				}
				select {
				case <-died:
				case <-time.After(30 * time.Second):
					last = true
				}
				r.nodes[victim].crash()
				r.formed(3, r.nodes[victim%3+1], r.nodes[(victim+1)%3+1], r.start(victim))
				if last && at < 8 {
					t.Fatalf("broker %d writes only %d times when it starts", victim, at)
				}
			})
		}
	}
}

// TestFoundingUnderFaults: founders come up when they like, lose power, links and connections; in the
// end there is one cluster with all of them.
func TestFoundingUnderFaults(t *testing.T) {
	for seed := range seeds(15) {
		withSeed(t, seed, func(r *rig) {
			n := []int32{1, 3, 5}[seed%3]
			r.found(n)
			for range 12 + r.rng.IntN(12) {
				time.Sleep(time.Duration(r.rng.IntN(1500)) * time.Millisecond)
				id := 1 + r.rng.Int32N(n)
				other := hostOf(1 + r.rng.Int32N(n))
				switch c := r.node(id); {
				case c.cluster == nil:
					r.start(id)
				case r.rng.IntN(2) == 0:
					c.crash()
				case other == c.host:
				case r.rng.IntN(2) == 0:
					r.net.Cut(c.host, other)
				default:
					r.net.Heal(c.host, other)
				}
			}
			r.net.HealAll()
			var nodes []*node
			for id := int32(1); id <= n; id++ {
				if r.node(id).cluster == nil {
					r.start(id)
				}
				nodes = append(nodes, r.node(id))
			}
			r.formed(int(n), nodes...)
		})
	}
}

// TestTwoBrokersWithOneID: before there is a cluster neither can know who is right, and both give up.
func TestTwoBrokersWithOneID(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		r.seeds = []string{"b1:9093", "b9:9093"}
		a := r.start(1)
		b := r.start(9, func(n *node) { n.change = func(c *Config) { c.Broker = 1 } })
		for _, n := range []*node{a, b} {
			if err := r.fails(n); !strings.Contains(err.Error(), "two brokers have the id 1") {
				t.Fatal(err)
			}
		}
	})
}

// TestSecondBrokerWithAnID is refused by a cluster whose first is alive, and does it no harm.
func TestSecondBrokerWithAnID(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, b, c := r.three()
		for _, seeds := range [][]string{r.seeds, {addressOf(1)}} {
			d := r.start(9, func(n *node) { n.seeds, n.change = seeds, func(c *Config) { c.Broker = 2 } })
			err := r.fails(d)
			if !errors.Is(err, &metadata.Error{Code: metadata.DuplicateBrokerRegistration}) && !strings.Contains(err.Error(), "two brokers have the id 2") {
				t.Fatal(err)
			}
			d.stop()
		}
		b.kill()
		r.start(2)
		r.formed(3, a, b, c)
	})
}

// TestFounderWipedBeforeTheCluster: its promise went with the directory, so it promises itself anew, or
// the cluster begins without it and takes it in.
func TestFounderWipedBeforeTheCluster(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		r.found(3)
		a, c := r.start(1), r.start(3)
		r.notReady(5*time.Second, a, c)
		c.crash()
		c.wipe()
		r.formed(3, a, r.start(2), r.start(3))
	})
}

// TestJoining: brokers that are not seeds join what exists, and wait for what does not exist yet.
func TestJoining(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		r.found(3)
		early := r.start(5)
		r.notReady(10*time.Second, early)
		a, b, c := r.start(1), r.start(2), r.start(3)
		r.ready(early)
		r.formed(3, a, b, c, early, r.start(4))
		// It finds the others when the seeds have gone, too.
		for _, n := range r.running() {
			n.stop()
		}
		r.start(4, func(n *node) { n.seeds = []string{"b77:9093"} })
		r.start(5, func(n *node) { n.seeds = []string{"b77:9093"} })
		r.formed(3, r.start(2), r.start(3), r.nodes[4], r.nodes[5], r.start(1))
	})
}

// TestForeignData: a directory of one cluster in another one is refused, and so is one of another
// broker, of a newer format, damaged, or without its identity.
func TestForeignData(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a := r.start(1)
		r.formed(1, a)
		a.stop()
		b := r.start(2)
		r.formed(1, b)
		r.start(1, func(n *node) { n.seeds = []string{addressOf(2)} })
		if err := r.fails(a); !errors.Is(err, ErrForeignData) || !strings.Contains(err.Error(), b.cluster.ClusterID()) {
			t.Fatal(err)
		}
		a.stop()
		a.change = func(c *Config) { c.Broker = 4 }
		if err := a.start(); !errors.Is(err, ErrForeignData) || !strings.Contains(err.Error(), "broker 1") {
			t.Fatal(err)
		}
		a.change = nil
		name := a.dir() + "/cluster/" + IdentityFile
		good, err := vfs.ReadFile(a.disk, name)
		if err != nil {
			t.Fatal(err)
		}
		put := func(b []byte) error {
			if err := vfs.WriteFileAtomic(a.disk, name, b); err != nil {
				t.Fatal(err)
			}
			return a.start()
		}
		for i := range good {
			bad := slices.Clone(good)
			bad[i] ^= 1
			if err := put(bad); err == nil {
				t.Fatalf("started with byte %d changed", i)
			}
			if err := put(good[:i]); err == nil {
				t.Fatalf("started with %d bytes", i)
			}
		}
		newer := slices.Clone(good)
		newer[5]++
		if err := put(newer); !errors.Is(err, ErrForeignData) || !strings.Contains(err.Error(), "format 2") {
			t.Fatal(err)
		}
		if err := a.disk.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := a.start(); !errors.Is(err, ErrForeignData) {
			t.Fatal(err)
		}
		a.cluster = nil
	})
}

// TestDecide is the table of what a round of questions leads to.
func TestDecide(t *testing.T) {
	const mineFormed, other = "X", "Y"
	none, forming, member := peerv1.Membership_MEMBERSHIP_NONE, peerv1.Membership_MEMBERSHIP_FORMING, peerv1.Membership_MEMBERSHIP_MEMBER
	node := func(id int32, m peerv1.Membership, cluster string) *peerv1.Node {
		return &peerv1.Node{BrokerId: id, NodeIncarnation: uint64(id) * 10, Membership: m, ClusterId: cluster, PeerAddress: addressOf(id), MinFeatureLevel: 1, MaxFeatureLevel: 4}
	}
	said := func(n *peerv1.Node) answer { return answer{seed: n.GetPeerAddress(), node: n} }
	silent := answer{seed: "b3:9093", err: errors.New("no answer")}
	levels := func(n *peerv1.Node, lo, hi uint32) *peerv1.Node {
		n.MinFeatureLevel, n.MaxFeatureLevel = lo, hi
		return n
	}
	again := func(n *peerv1.Node) *peerv1.Node { n.NodeIncarnation++; return n }
	one := node(1, none, "")
	two := node(2, none, "")
	cases := []struct {
		name    string
		self    *peerv1.Node
		answers []answer
		want    verdict
		text    string // in the reason or error
	}{
		{"all answer, lowest", one, []answer{said(one), said(two)}, form, ""},
		{"all answer, not lowest", two, []answer{said(one), said(two)}, wait, "broker 1 to form"},
		{"one is silent", one, []answer{said(one), said(two), silent}, wait, "b3:9093 (no answer)"},
		{"nobody but a member answers", one, []answer{silent, said(node(2, member, "X"))}, join, ""},
		{"promised to what exists", node(1, forming, "X"), []answer{said(node(2, member, "X")), silent}, join, ""},
		{"promised to another", node(1, forming, "Y"), []answer{said(node(2, member, "X"))}, failed, "promised to cluster Y"},
		{"two clusters", one, []answer{said(node(2, member, "X")), said(node(3, member, "Y"))}, failed, "two clusters"},
		{"goes on forming", node(1, forming, mineFormed), []answer{said(node(1, forming, "X")), said(node(2, forming, "X")), said(node(3, none, ""))}, form, ""},
		{"another is promised elsewhere", one, []answer{said(one), said(node(2, forming, other))}, wait, "cluster Y to be formed"},
		{"not a seed", node(4, none, ""), []answer{said(one), said(two)}, wait, "not among them"},
		{"not a seed, one is silent", node(4, none, ""), []answer{said(one), silent}, wait, "not yet: b3:9093"},
		{"one id twice", one, []answer{said(one), said(again(node(1, none, "")))}, failed, "two brokers have the id 1"},
		{"one id twice among others", node(4, none, ""), []answer{said(two), {seed: "x:1", node: again(node(2, none, ""))}}, failed, "two brokers have the id 2"},
		{"one broker at two seeds", one, []answer{said(one), {seed: "alias:1", node: one}, said(two)}, form, ""},
		{"versions apart", one, []answer{said(one), said(levels(node(2, none, ""), 5, 6))}, failed, "do not work together"},
		{"versions meet", one, []answer{said(one), said(levels(node(2, none, ""), 4, 6))}, form, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := decide(c.self, c.answers)
			text := d.reason
			if d.err != nil {
				text = d.err.Error()
			}
			if d.verdict != c.want || !strings.Contains(text, c.text) {
				t.Fatalf("verdict %d, %q", d.verdict, text)
			}
			if d.verdict == form && (len(d.founders) < 2 || d.founders[0].id != 1 || d.level == 0) {
				t.Fatalf("founders %v at level %d", d.founders, d.level)
			}
		})
	}
}

// TestPromises: a broker promises itself once, on its disk, and only as who it is.
func TestPromises(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		r.seeds = []string{addressOf(8), addressOf(9)} // Nobody is there.
		n := r.start(1)
		me := n.cluster.Self()
		good := func() *peerv1.FormRequest {
			return &peerv1.FormRequest{ClusterId: "X", BrokerId: 8, ToBrokerId: 1, ToNodeIncarnation: me.Incarnation, FeatureLevel: 1}
		}
		ask := func(accepted bool, text string, change func(*peerv1.FormRequest)) {
			t.Helper()
			req := good()
			change(req)
			resp, err := n.cluster.Form(r.context(time.Second), peer.Identity{Broker: 8, Incarnation: 80}, req)
			if err != nil || resp.GetAccepted() != accepted || !strings.Contains(resp.GetReason(), text) {
				t.Fatalf("%v, %v", resp, err)
			}
		}
		ask(false, "node incarnation", func(q *peerv1.FormRequest) { q.ToNodeIncarnation++ })
		ask(false, "node incarnation", func(q *peerv1.FormRequest) { q.ToBrokerId = 2 })
		ask(false, "no sense", func(q *peerv1.FormRequest) { q.ClusterId = "" })
		ask(false, "no sense", func(q *peerv1.FormRequest) { q.ClusterId = strings.Repeat("x", 65) })
		ask(false, "no sense", func(q *peerv1.FormRequest) { q.BrokerId = 7 })
		ask(false, "feature levels", func(q *peerv1.FormRequest) { q.FeatureLevel = 99 })
		ask(true, "", func(*peerv1.FormRequest) {})
		ask(true, "", func(*peerv1.FormRequest) {})
		ask(false, "belongs to cluster X", func(q *peerv1.FormRequest) { q.ClusterId = "Y" })
		n.crash()
		n = r.start(1)
		ask(false, "belongs to cluster X", func(q *peerv1.FormRequest) { q.ClusterId = "Y" })
		ask(true, "", func(*peerv1.FormRequest) {})
	})
}

// TestIdentityTravels: what is written is read.
func TestIdentityTravels(t *testing.T) {
	for _, n := range []*identity{
		{broker: 0, incarnation: 1, membership: none, former: -1},
		{broker: 5, incarnation: 1 << 62, membership: forming, clusterID: "x", level: 3, former: 5, founders: []raftgroup.ServerID{"5/7", "6/8"}},
		{broker: 1<<31 - 1, incarnation: 9, membership: member, clusterID: strings.Repeat("x", metadata.MaxClusterIDLength), level: 1, former: -1},
	} {
		got, err := decodeIdentity(n.encode())
		if err != nil || fmt.Sprint(got) != fmt.Sprint(n) {
			t.Fatalf("%v, %v; want %v", got, err, n)
		}
	}
}

// TestSeedsDisagree: founders with different lists of seeds may wait for ever, but no broker founds two
// clusters, whatever the order and the crashes.
func TestSeedsDisagree(t *testing.T) {
	formed := 0
	for seed := range seeds(8) {
		withSeed(t, seed, func(r *rig) {
			r.found(5)
			for _, i := range r.rng.Perm(5) {
				id := int32(i + 1)
				r.start(id, func(n *node) {
					if id == 2 || id == 3 {
						n.seeds = []string{addressOf(2), addressOf(3)}
					}
				})
				if seed%2 == 0 {
					time.Sleep(time.Duration(r.rng.IntN(60)) * time.Millisecond)
				}
				if r.rng.IntN(6) == 0 {
					r.node(id).crash()
					r.start(id)
				}
			}
			time.Sleep(6 * time.Second)
			founded := make(map[int32]string)
			for _, n := range r.running() {
				st, open := n.cluster.MetadataStatus()
				if !open || n.cluster.Image().ClusterID() == "" {
					continue
				}
				formed++
				for _, v := range st.Voters {
					id, _, _ := raftgroup.ParseServerID(v)
					if was := founded[id]; was != "" && was != n.cluster.Image().ClusterID() {
						t.Fatalf("broker %d votes in clusters %s and %s", id, was, n.cluster.Image().ClusterID())
					}
					founded[id] = n.cluster.Image().ClusterID()
				}
			}
		})
	}
	if formed == 0 {
		t.Fatal("no cluster was ever formed")
	}
}
