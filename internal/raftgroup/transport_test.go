package raftgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// A message for another incarnation of a replica, or for a group that is not open, is refused, and
// the refusal is not what Raft takes for a granted pre-vote.
func TestWrongTargetIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.openAll(7)
		n, r := c.leader(7)
		other := c.others(n)[0]
		tr := r.group.engine.Load().transport
		for _, id := range []ServerID{MakeServerID(other.id, 2), MakeServerID(other.id, 0)} {
			err := tr.RequestPreVote(raft.ServerID(id), "", &raft.RequestPreVoteRequest{Term: 99}, &raft.RequestPreVoteResponse{})
			var remote *remoteError
			if !errors.As(err, &remote) || remote.code != codeWrongServer || strings.Contains(err.Error(), "unexpected command") {
				t.Errorf("pre-vote asked of %s: %v", id, err)
			}
			var resp raft.AppendEntriesResponse
			term, _ := r.group.IsReady()
			if err := tr.AppendEntries(raft.ServerID(id), "", &raft.AppendEntriesRequest{Term: uint64(term)}, &resp); err == nil {
				t.Errorf("heartbeat to %s was answered", id)
			}
			req := &raft.AppendEntriesRequest{Term: 99, PrevLogEntry: 1, PrevLogTerm: 1}
			if err := tr.AppendEntries(raft.ServerID(id), "", req, &resp); err == nil {
				t.Errorf("append to %s was answered", id)
			}
		}
		if got := value(other.host.metrics.wrongServer); got != 6 {
			t.Errorf("%v refusals are counted, want 6", got)
		}
		if term := other.replicas[7].group.Status().Term; term >= 99 {
			t.Errorf("a refused message raised the term to %d", term)
		}
		// Unknown group.
		tr.group = 8
		err := tr.RequestPreVote(raft.ServerID(MakeServerID(other.id, 1)), "", &raft.RequestPreVoteRequest{Term: 99}, &raft.RequestPreVoteResponse{})
		var remote *remoteError
		if !errors.As(err, &remote) || remote.code != codeUnknownGroup || strings.Contains(err.Error(), "unexpected command") {
			t.Errorf("pre-vote of an unknown group: %v", err)
		}
		size := int64(3)
		err = tr.InstallSnapshot(raft.ServerID(MakeServerID(other.id, 1)), "", &raft.InstallSnapshotRequest{
			SnapshotVersion: 1, Term: 99, LastLogIndex: 9, LastLogTerm: 9, Size: size,
			Configuration: raft.EncodeConfiguration(raft.Configuration{}),
		}, &raft.InstallSnapshotResponse{}, strings.NewReader("abc"))
		if !errors.As(err, &remote) || remote.code != codeUnknownGroup {
			t.Errorf("snapshot of an unknown group: %v", err)
		}
		tr.group = 7
		r.propose(t, "still well")
	})
}

// answerError never says what Raft takes for a granted pre-vote, whatever a peer sends.
func TestRemoteErrorText(t *testing.T) {
	err := answerError(&frame{code: codeFailed, body: []byte("unexpected command\xff")})
	if strings.Contains(err.Error(), "unexpected command") {
		t.Errorf("error is %q", err)
	}
	for code := range uint16(20) {
		if err := answerError(&frame{code: code}); code > 0 && strings.Contains(err.Error(), "unexpected command") {
			t.Errorf("error %d is %q", code, err)
		}
	}
}

// dialRaw opens a connection and says hello.
func dialRaw(t *testing.T, c *cluster, to *node, h hello) (net.Conn, *frame) {
	t.Helper()
	conn, err := c.net.dial(t.Context(), "raw", to.name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(appendFrame(nil, &frame{kind: frameHello, request: 5, body: appendHello(nil, h)})); err != nil {
		t.Fatal(err)
	}
	f, err := readFrame(bufio.NewReader(conn), maxFrameBytes)
	if err != nil {
		t.Fatal(err)
	}
	return conn, &f
}

func goodHello(to *node, c class) hello {
	return hello{minVersion: 1, maxVersion: 1, class: c, from: 9, to: to.id}
}

func TestHelloIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, func(c *cluster) {
			c.config = func(conf *Config) { conf.ClusterID = func() string { return "ours" } }
		})
		n := c.nodes[0]
		for _, x := range []struct {
			what string
			bad  func(*hello)
			code uint16
		}{
			{"good", func(*hello) {}, codeOK},
			{"cluster not known yet", func(h *hello) { h.cluster = "" }, codeOK},
			{"ranges of versions meet", func(h *hello) { h.maxVersion = 9 }, codeOK},
			{"newer version only", func(h *hello) { h.minVersion, h.maxVersion = 2, 3 }, codeVersion},
			{"another broker", func(h *hello) { h.to = 4 }, codeWrongServer},
			{"our own id", func(h *hello) { h.from = n.id }, codeWrongServer},
			{"another cluster", func(h *hello) { h.cluster = "theirs" }, codeCluster},
		} {
			h := goodHello(n, classBulk)
			h.cluster = "ours"
			x.bad(&h)
			conn, f := dialRaw(t, c, n, h)
			if f.kind != frameHelloAck || f.code != x.code || f.request != 5 {
				t.Errorf("%s: answer %d, code %d (%s), want code %d", x.what, f.kind, f.code, f.body, x.code)
			}
			if x.code != codeOK && len(f.body) == 0 {
				t.Errorf("%s: no reason given", x.what)
			}
			_ = conn.Close()
		}
	})
}

// Whatever a peer sends after its hello, a broken frame ends the connection, is counted, and harms
// nothing else.
func TestBadFramesCloseTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		_, r := c.leader(7)
		n := c.nodes[0]
		to := uint64(1)
		head := func(kind frameKind, body []byte) []byte {
			return appendFrame(nil, &frame{kind: kind, group: 7, from: 1, to: to, body: body})
		}
		ok := appendBallot(nil, ballot{term: 5})
		entry := func(l raft.Log) []byte {
			b, bodies := appendAppend(nil, &chunk{term: 5, prevIndex: 1, prevTerm: 1, entries: []*raft.Log{&l}}, noBatches)
			return append(b, bytes.Join(bodies.buffers, nil)...)
		}
		flipped := head(frameVote, ok)
		flipped[len(flipped)-1] ^= 1
		short := head(frameVote, ok)
		for _, x := range []struct {
			what  string
			class class
			send  []byte
		}{
			{"flipped bit", classControl, flipped},
			{"length of 4 GiB", classControl, []byte{255, 255, 255, 255, 0, 0, 0, 36, 0, 0, 0, 0}},
			{"length 0", classControl, make([]byte, 12)},
			{"control frame above its bound", classControl, head(frameVote, make([]byte, maxControlBody))},
			{"vote on bulk", classBulk, head(frameVote, ok)},
			{"append on control", classControl, head(frameAppend, entry(raft.Log{Term: 1}))},
			{"unknown kind", classControl, head(99, nil)},
			{"second hello", classControl, head(frameHello, nil)},
			{"answer where a request belongs", classControl, head(frameVoteAck, nil)},
			{"vote cut short", classControl, head(frameVote, ok[:10])},
			{"vote of a term near the end", classControl, head(frameVote, appendBallot(nil, ballot{term: 1 << 63}))},
			{"heartbeats of odd size", classControl, head(frameHeartbeats, make([]byte, 33))},
			{"heartbeat of a term near the end", classControl, head(frameHeartbeats, appendBeat(nil, beat{7, 1, 1, 1 << 60}))},
			{"entry of an unknown type", classBulk, head(frameAppend, entry(raft.Log{Term: 1, Type: 77}))},
			{"deprecated entry", classBulk, head(frameAppend, entry(raft.Log{Term: 1, Type: raft.LogAddPeerDeprecated}))},
			{"configuration that is none", classBulk, head(frameAppend, entry(raft.Log{Term: 1, Type: raft.LogConfiguration, Data: []byte("\xc1nonsense")}))},
			{"entry of a later term than its leader", classBulk, head(frameAppend, entry(raft.Log{Term: 6}))},
			{"append cut short", classBulk, head(frameAppend, entry(raft.Log{Term: 1})[:40])},
			{"snapshot data without a snapshot", classBulk, head(frameSnapshotData, []byte("x"))},
			{"snapshot head that is none", classBulk, head(frameSnapshot, []byte("x"))},
		} {
			before := value(n.host.metrics.badFrames)
			conn, f := dialRaw(t, c, n, goodHello(n, x.class))
			if f.code != codeOK {
				t.Fatalf("hello: %s", f.body)
			}
			_, _ = conn.Write(x.send) // Fails where the frame is refused before it is all there.
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.ReadAll(conn); err != nil {
				t.Errorf("%s: the connection is not closed: %v", x.what, err)
			}
			if got := value(n.host.metrics.badFrames) - before; got != 1 {
				t.Errorf("%s: %v bad frames counted", x.what, got)
			}
			_ = conn.Close()
		}
		// A connection that ends inside a frame is no bad frame, and one that says nothing is dropped.
		before := value(n.host.metrics.badFrames)
		conn, _ := dialRaw(t, c, n, goodHello(n, classControl))
		_, _ = conn.Write(short[:20])
		_ = conn.Close()
		silent, _ := c.net.dial(t.Context(), "raw", n.name)
		if _, err := io.ReadAll(silent); err != nil {
			t.Errorf("a silent connection: %v", err)
		}
		if value(n.host.metrics.badFrames) != before {
			t.Error("an end was counted as a bad frame")
		}
		r.propose(t, "still well")
		c.agree(7, []string{"still well"})
	})
}

// Heartbeats of all groups between two brokers travel together, and cost little.
func TestManyIdleGroups(t *testing.T) {
	const groups, seconds = 100, 8
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		for g := range GroupID(groups) {
			c.openAll(g + 10)
		}
		for g := range GroupID(groups) {
			c.leader(g + 10)
		}
		time.Sleep(2 * time.Second)
		type counts struct{ frames, beats, control, bulk, changes float64 }
		count := func() (s counts) {
			for _, n := range c.nodes {
				m := n.host.metrics
				s.frames += value(m.beatFrames)
				s.beats += value(m.beats)
				s.control += value(m.sentBytes[classControl])
				s.bulk += value(m.sentBytes[classBulk])
				s.changes += value(m.leaderChanges)
			}
			return s
		}
		before := count()
		goroutines := runtime.NumGoroutine()
		time.Sleep(seconds * time.Second)
		after := count()
		frames := (after.frames - before.frames) / seconds
		beats := (after.beats - before.beats) / seconds
		t.Logf("%d groups: %.0f heartbeats a second in %.0f frames, control %.0f B/s, bulk %.0f B/s, %.1f goroutines for each replica",
			groups, beats, frames, (after.control-before.control)/seconds, (after.bulk-before.bulk)/seconds, float64(goroutines)/groups/3)
		// Six directed pairs, at most one frame every 20 ms each.
		if frames > 6*50+1 {
			t.Errorf("%.0f heartbeat frames a second", frames)
		}
		if beats < groups*2*4 || beats < 3*frames {
			t.Errorf("%.0f heartbeats a second in %.0f frames", beats, frames)
		}
		if after.changes != before.changes {
			t.Errorf("%v elections while idle", after.changes-before.changes)
		}
		led := make(map[int32]int)
		for g := range GroupID(groups) {
			n, _ := c.leader(g + 10)
			led[n.id]++
		}
		for _, n := range c.nodes {
			if led[n.id] < groups/5 {
				t.Errorf("leaders are not spread: %v", led)
			}
		}
		for _, n := range c.nodes {
			n.host.mu.RLock()
			wires := len(n.host.wires)
			n.host.mu.RUnlock()
			if wires != 8 {
				t.Errorf("broker %d has %d connections, want 4 dialed and 4 accepted", n.id, wires)
			}
		}
	})
}

// A leader of an idle group stays one: the lease leaves room for the pace of heartbeats.
func TestLeaseHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		for _, o := range c.others(n) {
			c.net.setDelay(n.name, o.name, 20*time.Millisecond)
			c.net.setDelay(o.name, n.name, 20*time.Millisecond)
		}
		term, _ := r.group.IsReady()
		time.Sleep(20 * time.Minute)
		if now, ok := r.group.IsReady(); !ok || now != term {
			t.Errorf("leadership of term %d did not last: %+v", term, r.group.Status())
		}
	})
}

// slowStore delays the log, as a slow disk does.
type slowStore struct {
	logStore
	delay *atomic.Int64
}

func (s slowStore) StoreLogs(logs []*raft.Log) error {
	time.Sleep(time.Duration(s.delay.Load()))
	return s.logStore.StoreLogs(logs)
}

func (s slowStore) queueLogs(logs []*raft.Log) error { return s.StoreLogs(logs) }

// Heartbeats do not wait for entries: neither for a slow network nor for a follower's slow disk.
func TestHeartbeatsPassEntries(t *testing.T) {
	for _, slow := range []string{"network", "disk"} {
		t.Run(slow, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var delay atomic.Int64
				var leading atomic.Int32
				c := newCluster(t, 3, func(c *cluster) {
					c.group = func(n *node, gc *GroupConfig) {
						gc.wrapLog = func(l logStore) logStore {
							mine := new(atomic.Int64)
							go func() {
								for range 200 { // until the group is long gone
									time.Sleep(50 * time.Millisecond)
									if leading.Load() != 0 && leading.Load() != n.id {
										mine.Store(delay.Load())
									}
								}
							}()
							return slowStore{l, mine}
						}
					}
				})
				c.openAll(7)
				n, r := c.leader(7)
				leading.Store(n.id)
				term, _ := r.group.IsReady()
				if slow == "network" {
					c.net.change(func() { c.net.rate = 1 << 20 })
				} else {
					delay.Store(int64(4 * time.Second))
				}
				time.Sleep(time.Second)
				started := time.Now()
				r.propose(t, strings.Repeat("x", 8<<20))
				took := time.Since(started)
				if now, ok := r.group.IsReady(); !ok || now != term {
					t.Errorf("leadership was lost over a large entry: term %d, then %d", term, now)
				}
				if took < 3*time.Second {
					t.Errorf("the entry took %v; this test shows nothing", took)
				}
				leading.Store(0)
				delay.Store(0)
				time.Sleep(20 * time.Second)
			})
		})
	}
}

// What waits for a peer fails at once when its connection breaks, and after a while when it only
// falls silent.
func TestLostConnectionFailsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.openAll(7)
		n, r := c.leader(7)
		other := c.others(n)[0]
		tr := r.group.engine.Load().transport
		id := raft.ServerID(MakeServerID(other.id, 1))
		ask := func() chan error {
			got := make(chan error, 1)
			go func() {
				got <- tr.AppendEntries(id, "", &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 1, PrevLogTerm: 1}, &raft.AppendEntriesResponse{})
			}()
			synctest.Wait()
			return got
		}
		c.net.isolate(true, n.name, other.name)
		got := ask()
		started := time.Now()
		c.net.reset(other.name)
		if err := <-got; err == nil {
			t.Error("a request over a broken connection was answered")
		}
		if took := time.Since(started); took != 0 {
			t.Errorf("it failed after %v", took)
		}
		c.net.isolate(false, n.name, other.name)
		time.Sleep(5 * time.Second)
		c.leader(7)
		if err := <-ask(); err != nil {
			t.Fatalf("not connected again: %v", err)
		}
		c.net.isolate(true, n.name, other.name)
		started = time.Now()
		if err := <-ask(); err == nil {
			t.Error("a request to a silent peer was answered")
		}
		if took := time.Since(started); took > n.host.deadAfter()+3*time.Second {
			t.Errorf("it failed after %v", took)
		}
	})
}

// A frame never carries a commit index above what it proves.
func TestCommitIndexIsBounded(t *testing.T) {
	tr := &transport{engine: &engine{log: &guardedLog{}}}
	log := func(i uint64, n int) *raft.Log { return &raft.Log{Index: i, Term: 2, Data: make([]byte, n)} }
	q := &raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 10, PrevLogTerm: 1, LeaderCommitIndex: 15}
	c, rest, err := tr.nextChunk(q, nil)
	if err != nil || len(rest) != 0 || c.commit != 10 {
		t.Errorf("an empty request after entry 10 says that %d is committed", c.commit)
	}
	q.Entries = []*raft.Log{log(11, 600<<10), log(12, 600<<10), log(13, 1), log(14, 3<<20), log(15, 1)}
	var got []string
	for rest = q.Entries; len(rest) > 0; {
		if c, rest, err = tr.nextChunk(q, rest); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d/%d+%d:%d", c.prevIndex, c.prevTerm, len(c.entries), c.commit))
	}
	if want := "[10/1+1:11 11/2+2:13 13/2+1:14 14/2+1:15]"; fmt.Sprint(got) != want {
		t.Errorf("frames (previous entry, entries, commit) %v, want %s", got, want)
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100)
		never := make(chan struct{})
		if !b.Acquire(1000, never, never) {
			t.Fatal("one that is larger than all must be let through alone")
		}
		order := make(chan int, 3)
		stop := make(chan struct{})
		for i, n := range []int64{60, 50, 10} {
			go func() {
				if b.Acquire(n, stop, never) {
					order <- i
				}
			}()
			synctest.Wait()
		}
		b.Release(1000)
		synctest.Wait()
		if got := <-order; got != 0 || len(order) != 0 {
			t.Errorf("first is %d, then %d more", got, len(order))
		}
		close(stop)
		synctest.Wait()
		if len(order) != 0 {
			t.Error("one that gave up was served")
		}
		b.Release(60)
		if b.free != 100 || len(b.waiters) != 0 {
			t.Errorf("%d bytes free, %d wait", b.free, len(b.waiters))
		}
	})
}

// A broker has one connection of each class; what is left of an older one goes.
func TestOlderConnectionGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.nodes[0]
		first, _ := dialRaw(t, c, n, goodHello(n, classControl))
		synctest.Wait()
		other, _ := dialRaw(t, c, n, goodHello(n, classBulk))
		second, _ := dialRaw(t, c, n, goodHello(n, classControl))
		synctest.Wait()
		_ = first.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := io.ReadAll(first); err != nil {
			t.Errorf("the older connection: %v", err)
		}
		for _, conn := range []net.Conn{other, second} {
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := io.ReadAll(conn); err == nil {
				t.Error("a connection was closed for no reason")
			}
			_ = conn.Close()
		}
		_ = first.Close()
	})
}

// What a group had under way when it was closed is not counted for ever: else the connection, which all groups
// share, would have less and less room.
func TestClosedGroupGivesBackItsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.openAll(7)
		c.openAll(8)
		n, r := c.leader(7)
		c.leader(8)
		r.propose(t, "connected")
		other := c.others(n)[0]
		e := r.group.engine.Load()
		link := n.host.peer(other.id).bulk.current()
		c.net.isolate(true, n.name, other.name)
		last, err := e.log.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			q := &raft.AppendEntriesRequest{Term: e.raft.CurrentTerm(), PrevLogEntry: last, PrevLogTerm: e.raft.CurrentTerm(),
				Entries: []*raft.Log{{Index: last + 1, Term: e.raft.CurrentTerm(), Data: make([]byte, 100<<10)}}}
			ended <- e.transport.AppendEntries(raft.ServerID(MakeServerID(other.id, 1)), "", q, &raft.AppendEntriesResponse{})
		}()
		synctest.Wait()
		if free := link.budget.free; free != link.budget.size-100<<10 || n.host.sending.(*budget).free != n.host.sending.(*budget).size-100<<10 {
			t.Errorf("%d of %d bytes are free with a request under way", free, link.budget.size)
		}
		if err := r.group.Close(); err != nil {
			t.Fatal(err)
		}
		<-ended
		synctest.Wait()
		if link.budget.free != link.budget.size || n.host.sending.(*budget).free != n.host.sending.(*budget).size || value(n.host.metrics.sendingBytes) != 0 {
			t.Errorf("%d of %d bytes are free after the group was closed, %v are counted", link.budget.free, link.budget.size, value(n.host.metrics.sendingBytes))
		}
		if link != n.host.peer(other.id).bulk.current() {
			t.Error("the connection was lost: the test shows nothing")
		}
		c.net.isolate(false, n.name, other.name)
	})
}

// Whoever can reach the port may be refused as often as he likes: the log says it once in a second.
func TestRefusedConnectionsDoNotFillTheLog(t *testing.T) {
	for _, x := range []struct{ what, says string }{{"hello", "refused a raft connection"}, {"frame", "cannot be understood"}} {
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			c := newCluster(t, 1, func(c *cluster) {
				c.config = func(conf *Config) { conf.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
			})
			n := c.nodes[0]
			for range 50 {
				h := goodHello(n, classControl)
				if x.what == "hello" {
					h.to++
				}
				conn, f := dialRaw(t, c, n, h)
				if f.code == codeOK {
					_, _ = conn.Write(appendFrame(nil, &frame{kind: 99}))
					_, _ = io.ReadAll(conn)
				}
				_ = conn.Close()
			}
			synctest.Wait()
			if got := strings.Count(log.String(), x.says); got != 1 {
				t.Errorf("%s: %d lines about 50 connections:\n%.1000s", x.what, got, log.String())
			}
		})
	}
}
