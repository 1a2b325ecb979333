// Package netproxy carries TCP between real processes and breaks it on purpose: each direction between two of them can be cut,
// delayed and slowed on its own, and connections can be reset. Each process is reached by an address of the Network's, which
// is what the others are told.
//
// What is cut is held, not lost, as a network holds it: TCP sends again what got lost, so that whoever is cut off for a while
// gets all of it late, unless the connection is reset meanwhile.
package netproxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Rule is what becomes of the bytes from one process to another. The zero value lets them pass.
type Rule struct {
	// Cut holds everything.
	Cut bool
	// Delay is added to the way of everything, and up to Jitter more, which differs from one piece to the next. Order is
	// kept.
	Delay, Jitter time.Duration
	// BytesPerSecond bounds what each connection carries; 0: as fast as it goes.
	BytesPerSecond int
}

// Stats count what was done to connections and bytes, to see whether a fault has bitten.
type Stats struct {
	// Held are bytes, or beginnings of connections, that a cut has held up; Delayed and Slowed are bytes.
	Held, Delayed, Slowed int64
	// Reset are connections.
	Reset int64
}

// Network is a set of processes, by number, and what is wrong between them. Its methods may be called from many goroutines.
type Network struct {
	// who tells which process has made a connection; false: none of ours.
	who func(*net.TCPConn) (int32, bool)
	// random gives numbers from 0 to below 1, for Jitter.
	random func() float64

	held, delayed, slowed, resets atomic.Int64

	// mu guards what follows.
	mu      sync.Mutex
	doors   map[int32]*door
	rules   map[pair]Rule
	conns   map[*conn]struct{}
	changed chan struct{} // closed when rules change
	closed  bool
	running sync.WaitGroup
}

type pair struct{ from, to int32 }

// door is where a process is reached.
type door struct {
	address, target string
	listener        net.Listener // nil: refuses, as a process that does not run
}

// New makes a network. who tells which process has made a connection, random gives numbers from 0 to below 1.
func New(who func(*net.TCPConn) (int32, bool), random func() float64) *Network {
	return &Network{who: who, random: random, doors: make(map[int32]*door), rules: make(map[pair]Rule), conns: make(map[*conn]struct{}), changed: make(chan struct{})}
}

// Add makes address the way to a process that listens at target. Nobody gets through before Up.
func (n *Network) Add(id int32, address, target string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.doors[id] = &door{address: address, target: target}
}

// Up opens the way to a process, Down closes it: connections are refused then, as those to a process that does not run.
func (n *Network) Up(id int32) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.doors[id]
	if d == nil || d.listener != nil || n.closed {
		return nil
	}
	l, err := net.Listen("tcp", d.address)
	if err != nil {
		return fmt.Errorf("the way to %d: %w", id, err)
	}
	d.listener = l
	n.running.Go(func() { n.accept(id, l, d.target) })
	return nil
}

// Down is the end of Up.
func (n *Network) Down(id int32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.doors[id]; d != nil && d.listener != nil {
		_ = d.listener.Close() // it listens no more, whatever it says
		d.listener = nil
	}
}

// Set says what becomes of the bytes from one process to another, on connections that exist and on new ones.
func (n *Network) Set(from, to int32, r Rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules[pair{from, to}] = r
	n.wake()
}

// SetFrom is Set for all that a process sends to the others, SetTo for all that it gets from them.
func (n *Network) SetFrom(id int32, r Rule) {
	n.setAll(func(other int32) pair { return pair{id, other} }, id, r)
}

// SetTo is the other direction of SetFrom.
func (n *Network) SetTo(id int32, r Rule) {
	n.setAll(func(other int32) pair { return pair{other, id} }, id, r)
}

func (n *Network) setAll(of func(other int32) pair, id int32, r Rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range n.doors {
		if other != id {
			n.rules[of(other)] = r
		}
	}
	n.wake()
}

// HealAll takes all rules back. What was held goes on.
func (n *Network) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.rules)
	n.wake()
}

// wake tells those that wait. mu is held.
func (n *Network) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Reset breaks all connections of a process, and says how many. What they held is lost.
func (n *Network) Reset(id int32) int {
	n.mu.Lock()
	var broken []*conn
	for c := range n.conns {
		if c.from == id || c.to == id {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, c := range broken {
		c.reset()
	}
	n.resets.Add(int64(len(broken)))
	return len(broken)
}

// Stats counts since New.
func (n *Network) Stats() Stats {
	return Stats{Held: n.held.Load(), Delayed: n.delayed.Load(), Slowed: n.slowed.Load(), Reset: n.resets.Load()}
}

// Close closes all ways and connections, and waits.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	for _, d := range n.doors {
		if d.listener != nil {
			_ = d.listener.Close()
			d.listener = nil
		}
	}
	for c := range n.conns {
		c.reset()
	}
	n.mu.Unlock()
	n.running.Wait()
}

// rule gives the rule of a direction, and what is closed when it may be another.
func (n *Network) rule(p pair) (Rule, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rules[p], n.changed
}

func (n *Network) accept(to int32, l net.Listener, target string) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // as when there are no file descriptors: others give some back
			continue
		}
		n.running.Go(func() { n.carry(c.(*net.TCPConn), to, target) })
	}
}

// carry carries one connection until it ends. A connection begins when neither direction is cut.
func (n *Network) carry(client *net.TCPConn, to int32, target string) {
	from, ok := n.who(client)
	if !ok {
		_ = client.Close() // a stranger, or one that has gone already
		return
	}
	c := &conn{network: n, from: from, to: to, client: client, gone: make(chan struct{})}
	if !n.enter(c) {
		return
	}
	defer n.leave(c)
	for {
		there, changed := n.rule(pair{from, to})
		back, _ := n.rule(pair{to, from})
		if !there.Cut && !back.Cut {
			break
		}
		n.held.Add(1)
		select {
		case <-changed:
		case <-c.gone:
			return
		}
	}
	server, err := net.Dial("tcp", target)
	if err != nil || !c.connect(server.(*net.TCPConn)) {
		c.reset()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.pump(pair{from, to}, client, c.server) })
	both.Go(func() { c.pump(pair{to, from}, c.server, client) })
	both.Wait()
}

func (n *Network) enter(c *conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		_ = c.client.Close()
		return false
	}
	n.conns[c] = struct{}{}
	return true
}

func (n *Network) leave(c *conn) {
	n.mu.Lock()
	delete(n.conns, c)
	n.mu.Unlock()
	c.close(false)
}
