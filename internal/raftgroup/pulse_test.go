package raftgroup

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// observed is how many observations a histogram has.
func observed(t *testing.T, o prometheus.Observer) uint64 {
	t.Helper()
	var d dto.Metric
	if err := o.(prometheus.Metric).Write(&d); err != nil {
		t.Fatal(err)
	}
	return d.GetHistogram().GetSampleCount()
}

// Idle groups cost their brokers a message each way for each interval, however many they are, and hold no elections.
func TestIdleGroupsCostLittle(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			const groups, minutes = 12, 5
			c := newCluster(t, 3, options...)
			for g := range GroupID(groups) {
				c.openAll(g + 10)
			}
			for g := range GroupID(groups) {
				_, r := c.leader(g + 10)
				r.propose(t, "something")
			}
			time.Sleep(5 * time.Second)
			type counts struct{ frames, beats, appends, elected, timeouts, leases float64 }
			count := func() (s counts) {
				for _, n := range c.nodes {
					m := n.host.metrics
					s.frames += value(m.beatFrames)
					s.beats += value(m.beats)
					s.appends += float64(observed(t, m.rpcTimes[frameAppend]))
					s.elected += value(m.leaderChanges)
					s.timeouts += value(m.timeouts)
					s.leases += value(m.leases)
				}
				return s
			}
			before := count()
			time.Sleep(minutes * time.Minute)
			after := count()
			seconds := float64(minutes * 60)
			if after.elected != before.elected || after.timeouts != before.timeouts || after.leases != before.leases {
				t.Errorf("elections for nothing: %+v, then %+v", before, after)
			}
			// Six directions between three brokers, eight times a second.
			if got := (after.frames - before.frames) / seconds; got > 6*8+1 {
				t.Errorf("%.1f messages with heartbeats a second, want at most 48", got)
			}
			if got := (after.beats - before.beats) / seconds / groups; got < 2*7 || got > 2*8+1 {
				t.Errorf("%.1f heartbeats a second for each group, want 16", got)
			}
			if got := (after.appends - before.appends) / seconds / groups; got > 2.2/tellAgain.Seconds() {
				t.Errorf("%.2f empty appends a second for each idle group, want one for each follower in %v", got, tellAgain)
			}
		})
	})
}

// A follower whose Raft was opened again has forgotten the commit index, on connections that have not broken. It is told at once, also if it is of an
// older version that does not say so.
func TestFollowerOpenedAgainIsTold(t *testing.T) {
	t.Run("says so", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { followerOpenedAgain(t, false) }) })
	t.Run("older", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { followerOpenedAgain(t, true) }) })
}

func followerOpenedAgain(t *testing.T, older bool) {
	t.Helper()
	c := newCluster(t, 3, func(c *cluster) { c.config = func(conf *Config) { conf.older = older } })
	c.openAll(7)
	n, r := c.leader(7)
	r.propose(t, "something")
	want := r.group.Status().CommitIndex
	for _, o := range c.others(n) {
		until(t, "the follower to know what is committed", func() bool { return o.replicas[7].group.Status().CommitIndex == want })
	}
	for _, o := range c.others(n) {
		f := o.replicas[7].group
		reopened := value(o.host.metrics.reopens)
		f.engine.Load().reopenSoon()
		until(t, "the follower to be open again", func() bool { return value(o.host.metrics.reopens) > reopened && f.engine.Load() != nil })
		time.Sleep(1500 * time.Millisecond) // a heartbeat says that it is new, and within twice CommitTimeout it is told
		if got := f.Status().CommitIndex; got != want {
			t.Errorf("broker %d knows %d as committed after it was opened again, want %d", o.id, got, want)
		}
	}
	if got := value(n.host.metrics.leases) + value(n.host.metrics.timeouts); got != 0 {
		t.Errorf("%v timeouts", got)
	}
}

// A leader whose followers are in a later term, and answer heartbeats alone, loses its lease as if they were out of reach.
func TestDeposedLeaderLosesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		old, r := c.leader(7)
		r.propose(t, "before")
		c.agree(7, []string{"before"})
		term, _ := r.group.IsReady()
		hang := make(chan struct{})
		defer close(hang)
		for _, o := range c.others(old) {
			// Raft's goroutine hears of a later term, and then is busy: no append is answered.
			e := o.replicas[7].group.engine.Load()
			q := &raft.InstallSnapshotRequest{RPCHeader: e.headerOf(99, 1), SnapshotVersion: 1, Term: uint64(term) + 5, LastLogIndex: 1 << 20,
				LastLogTerm: uint64(term) + 5, Size: 10, Configuration: raft.EncodeConfiguration(raft.Configuration{})}
			e.inbox.put(q, hangingReader(hang), 0, func(any, uint16, error) {})
		}
		since := time.Now()
		until(t, "the leader to give up", func() bool { _, ok := r.group.IsReady(); return !ok })
		if took := time.Since(since); took > 1500*time.Millisecond {
			t.Errorf("it believed for %v that it leads, want at most the lease of 1 s and a quarter of the timeout", took)
		}
	})
}

// hangingReader gives nothing until it is closed, and then an error.
type hangingReader chan struct{}

func (r hangingReader) Read([]byte) (int, error) {
	<-r
	return 0, errDisk
}

// A leader sends heartbeats in its own term only, and only to its followers; nothing answers Raft's for a follower that is away.
func TestPulseEndsWithItsLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		old, r := c.leader(7)
		tr := r.group.engine.Load().transport
		term, _ := r.group.IsReady()
		heartbeat := func(to *node) error {
			return tr.AppendEntries(raft.ServerID(MakeServerID(to.id, 1)), "", &raft.AppendEntriesRequest{Term: uint64(term)}, &raft.AppendEntriesResponse{})
		}
		others := c.others(old)
		for _, o := range others {
			if err := heartbeat(o); err != nil {
				t.Errorf("heartbeat to broker %d: %v", o.id, err)
			}
		}
		// Cut off: within its lease, and twice as long for the time between two looks, it knows; the others elect one of them.
		cut := time.Now()
		c.net.isolate(true, old.name, others[0].name, others[1].name)
		until(t, "the leader to give up", func() bool { _, ok := r.group.IsReady(); return !ok })
		if took := time.Since(cut); took > 2500*time.Millisecond {
			t.Errorf("a leader that was cut off gave up after %v", took)
		}
		for _, o := range others {
			to, err := tr.target(raft.ServerID(MakeServerID(o.id, 1)))
			if err != nil {
				t.Fatal(err)
			}
			if _, send, on := to.pulse.begin(time.Now()); send || on {
				t.Errorf("it would send another heartbeat to broker %d", o.id)
			}
		}
		if got := value(old.host.metrics.leases); got != 1 {
			t.Errorf("%v leases lost, want 1", got)
		}
		_, next := c.leader(7, others...)
		next.propose(t, "next")
		if took := time.Since(cut); took > 4*time.Second {
			t.Errorf("the next leader took %v", took)
		}
		for _, o := range others {
			if err := heartbeat(o); err == nil {
				t.Errorf("a heartbeat of term %d to broker %d was answered after it", term, o.id)
			}
		}
		c.net.isolate(false, old.name, others[0].name, others[1].name)
		c.agree(7, []string{"next"})
		time.Sleep(2 * time.Second)
		for _, p := range []*peer{old.host.peer(others[0].id), old.host.peer(others[1].id)} {
			p.beats.mu.Lock()
			if n := len(p.beats.pulses); n != 0 {
				t.Errorf("the leader that was deposed still sends heartbeats to %d followers on broker %d", n, p.broker)
			}
			p.beats.mu.Unlock()
		}
		// One follower is away: the group lives on the other one, and Raft is told.
		lead, r := c.leader(7)
		tr = r.group.engine.Load().transport
		term, _ = r.group.IsReady()
		away := c.others(lead)[0]
		c.stop(away)
		until(t, "heartbeats to a broker that is away to fail", func() bool { return heartbeat(away) != nil })
		time.Sleep(20 * time.Second)
		if now, ok := r.group.IsReady(); !ok || now != term {
			t.Errorf("leadership of term %d did not outlast a follower: %+v", term, r.group.Status())
		}
	})
}
