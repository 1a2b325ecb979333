package raftgroup

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// registry is what brokers know of directories: which one has a broker's id, and as of which index.
type registry struct {
	mu      sync.Mutex
	current map[int32]uint64 // incarnation
	as      map[int32]uint64 // by the broker that looks
	doubts  map[int32]int
}

// known has brokers tell their directory, broker n as 10n, registered at index 10n.
func (r *registry) known(c *cluster) {
	c.config = func(conf *Config) {
		me := conf.Broker
		conf.Node = func() Node { return Node{Incarnation: uint64(10 * me), Since: uint64(10 * me)} }
		conf.Replaced = func(broker int32, n Node) bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.current[broker] != 0 && r.current[broker] != n.Incarnation && n.Since <= r.as[me]
		}
		conf.OnReplaced = func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.doubts[me]++
		}
	}
}

// A broker in whose place another directory was registered is cut off by those who know, told so, and not let in again. Whoever
// has older metadata takes it as it is.
func TestReplacedDirectoryIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &registry{current: map[int32]uint64{}, as: map[int32]uint64{}, doubts: map[int32]int{}}
		c := newCluster(t, 3, g.known)
		c.openAll(7)
		_, r := c.leader(7)
		r.propose(t, "before")
		c.agree(7, []string{"before"})
		old := c.nodes[1]
		with := func(n *node, broker int32) (open int) {
			n.host.mu.RLock()
			defer n.host.mu.RUnlock()
			for _, r := range n.host.wires {
				if r.broker == broker {
					open++
				}
			}
			return open
		}
		for _, n := range c.others(old) {
			if with(n, old.id) == 0 {
				t.Fatalf("broker %d knows of no connection with broker %d", n.id, old.id)
			}
		}
		g.mu.Lock()
		g.current[old.id] = 99
		g.as[1], g.as[3] = 100, 15 // broker 3's metadata end before the registration of the directory that it sees
		g.mu.Unlock()
		time.Sleep(5 * time.Second)
		if n := with(c.nodes[0], old.id); n != 0 {
			t.Errorf("broker 1 has %d connections with a directory that was replaced", n)
		}
		if with(c.nodes[2], old.id) == 0 {
			t.Error("broker 3, which cannot know, has none")
		}
		g.mu.Lock()
		if g.doubts[old.id] == 0 || len(g.doubts) != 1 {
			t.Errorf("told that they were replaced: %v", g.doubts)
		}
		g.as[3] = 100
		g.mu.Unlock()
		time.Sleep(5 * time.Second)
		if n := with(c.nodes[2], old.id); n != 0 {
			t.Errorf("broker 3 has %d connections with a directory that was replaced", n)
		}
		_, r = c.leader(7, c.others(old)...)
		r.propose(t, "after")
		if s := old.replicas[7].machine.seen(); len(s) != 1 {
			t.Errorf("the replaced one was sent %q", s)
		}
	})
}

// Connections of two directories of one broker id do not end each other: whoever cannot tell yet which one counts serves both.
func TestDirectoriesOfOneBrokerDoNotFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.nodes[0]
		sessions := func() int {
			n.host.mu.RLock()
			defer n.host.mu.RUnlock()
			return len(n.host.wires)
		}
		for incarnation := range uint64(3) { // 0 is an older broker
			for range 2 {
				h := goodHello(n, classControl)
				h.tail.node.Incarnation = incarnation
				conn, f := dialRaw(t, c, n, h)
				defer func() { _ = conn.Close() }()
				if f.code != codeOK {
					t.Fatalf("directory %d: code %d", incarnation, f.code)
				}
				synctest.Wait()
			}
			if got := sessions(); got != int(incarnation)+1 {
				t.Errorf("%d connections with %d directories", got, incarnation+1)
			}
		}
	})
}
