package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oncelog/oncelog/internal/vfs"
)

// mem is a broker's disk.
func (n *node) mem() *vfs.Mem { return n.fs.(*vfs.Mem) }

// makeDir makes a directory and all above it, durably.
func makeDir(fsys vfs.FS, dir string) error {
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		if err := fsys.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// crash ends a broker as a power cut does: at one moment nothing leaves it any more, and what was not
// synced by then is lost, kept or torn. kill: as SIGKILL does; what was written is there.
func (c *cluster) crash(n *node, rng *rand.Rand, kill bool) {
	c.t.Helper()
	c.net.isolate(true, n.name, names(c.nodes)...)
	c.net.reset(n.name)
	var image *vfs.Mem
	if kill {
		image = n.mem().KillClone()
	} else {
		image = n.mem().CrashClone(rng)
	}
	c.stop(n)
	n.fs = image
	c.net.isolate(false, n.name, names(c.nodes)...)
}

// storm is a group under load whose brokers crash, stall and are cut off.
type storm struct {
	t    *testing.T
	c    *cluster
	rng  *rand.Rand
	size int

	// lives counts each broker's crashes: what it says after one does not count.
	lives []atomic.Int64
	// delays are how long a sync takes on each broker's disk, at most.
	delays []atomic.Int64
	// incarnations are the names under which the brokers are members: each disk that is lost costs one.
	incarnations []uint64
	// broken makes installations of snapshots fail once what conflicts was cut off.
	broken atomic.Bool

	// mu guards nodes, which come and go, and what the clients were told.
	mu      sync.Mutex
	running map[int]*replica
	acked   [][]string // by client, in order
	refused []string   // what did not happen, as the clients were told
	did     map[string]int
}

const stormGroup = GroupID(7)

// stormKind says in what the group keeps its log.
type stormKind struct {
	name string
	// synchronous: every entry is on disk before Raft goes on.
	synchronous bool
	// control: in a record log of its own. converted: which was a Bolt file before.
	control, converted bool
	usual              time.Duration
}

func newStorm(t *testing.T, seed uint64, kind stormKind) *storm {
	rng := rand.New(rand.NewPCG(seed, 0))
	s := &storm{t: t, rng: rng, size: 3, running: map[int]*replica{}, did: map[string]int{}}
	if rng.IntN(4) == 0 {
		s.size = 5
	}
	s.lives, s.delays = make([]atomic.Int64, s.size), make([]atomic.Int64, s.size)
	s.incarnations = make([]uint64, s.size)
	for i := range s.incarnations {
		s.incarnations[i] = 1
	}
	s.c = newCluster(t, s.size, func(c *cluster) {
		c.records, c.control = !kind.control, kind.control
		c.config = func(conf *Config) { conf.QueueLogs = !kind.synchronous }
		c.group = func(n *node, gc *GroupConfig) {
			gc.SnapshotBytes = 16 << 10
			if kind.control {
				// Bolt files are converted by whoever has crashed.
				gc.RecordLog = !kind.converted || s.lives[n.id-1].Load() > 0
				gc.wrapLog = func(l logStore) logStore { return &refusingStore{l, &s.broken} }
				return
			}
			gc.CatchUp = func(_ context.Context, info SnapshotInfo, state []byte) error {
				err := s.pull(n, info, state)
				if err == nil && s.broken.Load() {
					err = errDisk
				}
				if err != nil {
					err = errors.Join(err, gc.Log.DiscardCatchUp())
				}
				return err
			}
		}
	})
	for i := range s.c.nodes {
		s.newDisk(i)
		s.open(i)
	}
	return s
}

// newDisk makes a disk fast, middling or slow.
func (s *storm) newDisk(i int) {
	most := []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond}[s.rng.IntN(3)]
	s.delays[i].Store(int64(most))
}

// pull catches up if the source runs.
func (s *storm) pull(n *node, info SnapshotInfo, state []byte) error {
	broker, _, err := ParseServerID(info.Source)
	if err != nil {
		return err
	}
	s.mu.Lock()
	from := s.running[int(broker)-1]
	s.mu.Unlock()
	if from == nil {
		return errors.New("the source is away")
	}
	return pullFrom(n.replicas[stormGroup].log, from.log, info, state)
}

// open opens the group on a broker that runs.
func (s *storm) open(i int) {
	n := s.c.nodes[i]
	disk := rand.New(rand.NewPCG(s.rng.Uint64(), 1))
	var mu sync.Mutex
	n.mem().SetDelay(func(op vfs.Op) time.Duration {
		most := s.delays[i].Load()
		if op.Kind != vfs.OpSync || most == 0 {
			return 0
		}
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(disk.Int64N(most))
	})
	if err := makeDir(n.fs, filepath.Join(n.dir, fmt.Sprintf("group-%d", stormGroup))); err != nil {
		s.t.Fatal(err)
	}
	var bootstrap []Server
	if s.incarnations[i] == 1 {
		bootstrap = members(s.size)
	}
	r := s.c.mustOpen(n, stormGroup, s.member(i), bootstrap)
	log := r.log
	if c, ok := innermost(r.group.logs).(*controlLog); ok {
		log = c.log
	}
	if log != nil {
		log.SetSegmentBytes(16 << 10)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[i] = r
}

// innermost is a log without what a test has put around it.
func innermost(l logStore) logStore {
	if r, ok := l.(*refusingStore); ok {
		return r.logStore
	}
	return l
}

// member is the name under which a broker is a member.
func (s *storm) member(i int) ServerID { return MakeServerID(s.c.nodes[i].id, s.incarnations[i]) }

// loseDisk takes a broker's disk away. Under another name it becomes a member in its own place, while others crash.
func (s *storm) loseDisk(i int) {
	old := s.member(i)
	down := []int{i}
	if other := s.rng.IntN(s.size); other != i && s.rng.IntN(4) > 0 {
		down = append(down, other)
	}
	s.crash(false, down...)
	n := s.c.nodes[i]
	n.fs = vfs.NewMem(s.rng.Uint64())
	if err := errors.Join(os.RemoveAll(n.dir), os.MkdirAll(n.dir, 0o750)); err != nil { // terms and votes, and Bolt files
		s.t.Fatal(err)
	}
	s.incarnations[i]++
	s.pause(1500)
	s.restart(i)
	s.pause(4000) // were it a voter still, it could make a majority with one that lacks what the others acknowledged
	s.restart(down[1:]...)
	p := Plan{Leaving: []ServerID{old}}
	for k := range s.size {
		p.Voters = append(p.Voters, s.member(k))
	}
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if _, r := s.leading(s.rng); r != nil {
			short, cancel := context.WithTimeout(s.t.Context(), time.Second)
			shape, err := r.group.Reshape(short, p)
			cancel()
			if err == nil && shape.Done {
				return
			}
		}
		if s.rng.IntN(40) == 0 {
			other := s.rng.IntN(s.size)
			s.crash(s.rng.IntN(2) == 0, other)
			s.pause(500)
			s.restart(other)
		}
		if time.Since(began) > 5*time.Minute {
			s.t.Fatalf("broker %d has not got its place back", i+1)
		}
	}
}

func (s *storm) crash(kill bool, which ...int) {
	for _, i := range which {
		s.lives[i].Add(1)
	}
	for _, i := range which {
		s.mu.Lock()
		delete(s.running, i)
		s.mu.Unlock()
		s.c.crash(s.c.nodes[i], s.rng, kill)
	}
}

func (s *storm) restart(which ...int) {
	for _, i := range which {
		s.newDisk(i)
		s.c.start(s.c.nodes[i])
		s.open(i)
	}
}

// comeBack restarts brokers: often only as many as make a majority, which then go on without the
// others, whatever those have on their disks.
func (s *storm) comeBack(down []int) {
	late := min(s.rng.IntN(s.size/2+1), len(down))
	s.rng.Shuffle(len(down), func(i, j int) { down[i], down[j] = down[j], down[i] })
	s.restart(down[late:]...)
	if late > 0 {
		s.pause(5000)
		s.restart(down[:late]...)
	}
}

func (s *storm) pause(most int) { time.Sleep(time.Duration(s.rng.IntN(most)) * time.Millisecond) }

// client proposes one command after the other to whoever leads, until ctx ends, and keeps those that
// were acknowledged.
func (s *storm) client(ctx context.Context, id int, rng *rand.Rand) {
	for k := 0; ctx.Err() == nil; k++ {
		time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
		i, r := s.leading(rng)
		if r == nil {
			continue
		}
		life := s.lives[i].Load()
		command := fmt.Sprintf("%d.%06d.%0*d", id, k, rng.IntN(400), 0)
		short, cancel := context.WithTimeout(ctx, time.Second)
		_, err := r.group.Propose(short, Command{Data: []byte(command)})
		cancel()
		if s.lives[i].Load() != life {
			continue
		}
		s.mu.Lock()
		switch {
		case err == nil:
			s.acked[id] = append(s.acked[id], command)
		case OutcomeOf(err) == DidNotHappen:
			s.refused = append(s.refused, command)
		}
		s.mu.Unlock()
	}
}

// leading picks a broker that believes to lead; nobody may, or several.
func (s *storm) leading(rng *rand.Rand) (int, *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range rng.Perm(s.size) {
		if r := s.running[i]; r != nil {
			if _, ok := r.group.IsReady(); ok {
				return i, r
			}
		}
	}
	return -1, nil
}

// trouble makes one kind of trouble and ends it.
func (s *storm) trouble() {
	some := s.rng.Perm(s.size)
	kind := []string{"crash", "crash of the leader", "crash of a majority", "power cut", "power cut", "slow disk", "stalled disk", "cut off", "cut off", "transfer", "kill", "opened again", "broken installations", "lost disk", "full disk", "other members", "members on a full disk"}[s.rng.IntN(17)]
	s.did[kind]++
	switch kind {
	case "crash", "kill":
		some = some[:1+s.rng.IntN(2)]
	case "opened again":
		for _, i := range some[:1+s.rng.IntN(s.size)] {
			s.mu.Lock()
			r := s.running[i]
			s.mu.Unlock()
			if e := r.group.engine.Load(); e != nil {
				e.reopenSoon()
			}
		}
		return
	case "lost disk":
		s.broken.Store(false)
		s.loseDisk(some[0])
		return
	case "broken installations":
		s.broken.Store(!s.broken.Load())
		return
	case "full disk":
		s.fill(some[:1+s.rng.IntN(s.size/2)], func() { s.pause(2000) })
		return
	case "other members":
		s.otherMembers()
		return
	case "members on a full disk":
		s.fill(some[:1+s.rng.IntN(s.size/2)], s.otherMembers)
		return
	case "crash of the leader":
		some = some[:1]
		if i, _ := s.leading(s.rng); i >= 0 {
			some[0] = i
		}
	case "crash of a majority":
		some = some[:s.size/2+1]
	case "power cut":
	case "slow disk":
		s.newDisk(some[0])
		return
	case "stalled disk":
		s.delays[some[0]].Store(int64(10 * time.Second))
		s.pause(4000)
		s.newDisk(some[0])
		return
	case "cut off":
		n := s.c.nodes[some[0]]
		s.c.net.isolate(true, n.name, names(s.c.nodes)...)
		s.pause(3000)
		s.c.net.isolate(false, n.name, names(s.c.nodes)...)
		return
	case "transfer":
		if _, r := s.leading(s.rng); r != nil {
			short, cancel := context.WithTimeout(s.t.Context(), time.Second)
			_ = r.group.TransferLeadership(short, "")
			cancel()
		}
		return
	}
	s.crash(kind == "kill", some...)
	s.pause(1500)
	s.comeBack(some)
}

// fill leaves brokers no more than a little space while f runs.
func (s *storm) fill(which []int, f func()) {
	for _, i := range which {
		m := s.c.nodes[i].mem()
		m.SetCapacity(m.Used() + s.rng.Int64N(8<<10))
		defer m.SetCapacity(0)
	}
	f()
}

// otherMembers takes a member's vote, and gives it back.
func (s *storm) otherMembers() {
	out := s.member(s.rng.IntN(s.size))
	var rest []ServerID
	for i := range s.size {
		if id := s.member(i); id != out {
			rest = append(rest, id)
		}
	}
	s.reshape(Plan{Voters: rest, Leaving: []ServerID{out}}, time.Second)
	defer s.reshape(Plan{Voters: append(rest, out)}, 20*time.Second)
	if s.rng.IntN(2) == 0 {
		s.pause(1000)
		return
	}
	down := s.rng.IntN(s.size)
	s.crash(s.rng.IntN(2) == 0, down)
	s.pause(1500)
	s.restart(down)
}

// reshape tries for a while to make the members what a plan says.
func (s *storm) reshape(p Plan, most time.Duration) {
	for began := time.Now(); time.Since(began) < most; time.Sleep(20 * time.Millisecond) {
		if _, r := s.leading(s.rng); r != nil {
			short, cancel := context.WithTimeout(s.t.Context(), time.Second)
			shape, err := r.group.Reshape(short, p)
			cancel()
			if err == nil && shape.Done {
				return
			}
		}
	}
}

// blow runs load and trouble for a while and then checks that everything acknowledged is there, once,
// in each client's order, and the same on all brokers.
func (s *storm) blow(d time.Duration) {
	ctx, cancel := context.WithTimeout(s.t.Context(), d)
	defer cancel()
	var clients sync.WaitGroup
	s.acked = make([][]string, 4)
	for id := range s.acked {
		rng := rand.New(rand.NewPCG(s.rng.Uint64(), 2))
		clients.Go(func() { s.client(ctx, id, rng) })
	}
	for ctx.Err() == nil {
		time.Sleep(time.Duration(s.rng.IntN(800)) * time.Millisecond)
		s.trouble()
	}
	clients.Wait()
	s.broken.Store(false)
	var r *replica
	until(s.t, "the last command", func() bool {
		_, r = s.c.leader(stormGroup)
		_, err := r.group.Propose(s.t.Context(), Command{Data: []byte("end")})
		return err == nil
	})
	var all Plan
	for i := range s.size {
		all.Voters = append(all.Voters, s.member(i))
	}
	s.reshape(all, time.Minute)
	defer func() {
		for i, r := range s.running {
			if s.t.Failed() {
				s.t.Logf("broker %d: %+v", i+1, r.group.Status())
			}
		}
	}()
	s.c.agree(stormGroup, []string{"end"})
	s.check(r.machine.seen())
}

func (s *storm) check(seen []string) {
	s.t.Helper()
	at := map[string]int{}
	for i, command := range seen {
		if _, twice := at[command]; twice && command != "end" {
			s.t.Errorf("%q is there twice", command)
		}
		at[command] = i
	}
	for _, command := range s.refused {
		if _, ok := at[command]; ok {
			s.t.Errorf("%q is there, and its client was told that it did not happen", command)
		}
	}
	for id, list := range s.acked {
		before := -1
		for _, command := range list {
			i, ok := at[command]
			if !ok {
				s.t.Errorf("client %d: %q was acknowledged and is lost", id, command)
				continue
			}
			if i < before {
				s.t.Errorf("client %d: %q stands before what was acknowledged earlier", id, command)
			}
			before = i
		}
	}
}

// stormSeed is ONCELOG_SEED, or taken from the clock; it is printed.
func stormSeed(t *testing.T) (seed uint64, fixed bool) {
	if v := os.Getenv("ONCELOG_SEED"); v != "" {
		seed, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("ONCELOG_SEED: %v", err)
		}
		return seed, true
	}
	return uint64(time.Now().UnixNano()), false
}

func stormBudget(t *testing.T, usual time.Duration) time.Duration {
	if v := os.Getenv("ONCELOG_CRASH_SECONDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("ONCELOG_CRASH_SECONDS: %v", err)
		}
		return time.Duration(n) * time.Second
	}
	return usual
}

// What was acknowledged survives crashes of one broker, of several and of all, in every order with
// slow and stalled disks, cuts and elections; no replica ever fails to open again.
func TestAcknowledgedSurvivesCrashes(t *testing.T) {
	for _, kind := range []stormKind{
		{name: "queued", usual: 6 * time.Second},
		{name: "synchronous", synchronous: true, usual: 2 * time.Second}, // the reference
		{name: "control", control: true, usual: 2 * time.Second},
		{name: "converted", control: true, converted: true, usual: time.Second},
	} {
		t.Run(kind.name, func(t *testing.T) {
			seed, fixed := stormSeed(t)
			until := time.Now().Add(stormBudget(t, kind.usual))
			runs, acked, did := 0, 0, map[string]int{}
			for ; runs == 0 || time.Now().Before(until) && !fixed; seed++ {
				t.Logf("ONCELOG_SEED=%d", seed)
				synctest.Test(t, func(t *testing.T) {
					s := newStorm(t, seed, kind)
					s.blow(12 * time.Second)
					for _, list := range s.acked {
						acked += len(list)
					}
					for k, n := range s.did {
						did[k] += n
					}
				})
				if runs++; t.Failed() {
					break
				}
			}
			kinds := slices.Sorted(maps.Keys(did))
			t.Logf("%d runs, %d commands acknowledged, %v %v", runs, acked, kinds, did)
		})
	}
}

// lostAll gives the chance by which a power cut loses all that was not synced.
func lostAll() *rand.Rand {
	for seed := uint64(0); ; seed++ {
		if rand.New(rand.NewPCG(seed, 0)).IntN(8) == 0 { // CrashClone's first choice
			return rand.New(rand.NewPCG(seed, 0))
		}
	}
}
