package brokertest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/oncelog/oncelog/internal/vfs"
)

// Nemesis says how Torment breaks a cluster.
type Nemesis struct {
	// Faults to choose from, by weight. Default: Faults.
	Faults []Fault
	// Every is the mean time from one fault to the next. Default 2 s.
	Every time.Duration
	// Lasts is the mean time until a fault is undone. Default 3 s.
	Lasts time.Duration
	// Aim names a broker that is worth hitting, such as a leader; 0: none is known. Half of the
	// faults go there. Default: all go anywhere.
	Aim func() int32
	// Note is told of every fault and of its end.
	Note func(what string)
}

// Fault is one kind of trouble.
type Fault struct {
	Name string
	// Weight is how often it is chosen, relative to the others.
	Weight int
	// Out says that the broker is out of service meanwhile. Mostly one is at a time, so that the
	// others go on.
	Out bool
	// Begin does it to a broker that is up. It says what it did, and gives what undoes it; nil: it is
	// over at once. An empty text: it was not possible now.
	Begin func(c *Cluster, id int32, r *rand.Rand) (what string, end func())
}

// Faults are what Torment chooses from by default: power cuts of one broker and of all, with the
// answers before them lost or not, processes killed and restarted, pauses, broken, cut and slow links,
// slow, full and failing disks, clocks that jump, restarts one upon the other, and one disk that is lost for ever.
func Faults() []Fault {
	return []Fault{
		{"crash", 4, true, (*Cluster).beginCrash},
		{"kill", 2, true, (*Cluster).beginKill},
		{"restart", 1, true, (*Cluster).beginRestart},
		{"pause", 3, true, (*Cluster).beginPause},
		{"isolate", 3, true, (*Cluster).beginIsolate},
		{"cut", 3, false, (*Cluster).beginCut},
		{"reset", 4, false, (*Cluster).beginReset},
		{"slow-network", 2, false, (*Cluster).beginSlowNetwork},
		{"slow-disk", 2, false, (*Cluster).beginSlowDisk},
		{"full-disk", 1, false, (*Cluster).beginFullDisk},
		{"failing-sync", 2, true, (*Cluster).beginFailingSync},
		{"power-cut", 1, true, (*Cluster).beginPowerCut},
		{"silent-crash", 3, true, (*Cluster).beginSilentCrash},
		{"wrong-clock", 1, false, (*Cluster).beginWrongClock},
		{"restart-storm", 1, true, (*Cluster).beginRestartStorm},
		{"lost-disk", 1, true, (*Cluster).beginLostDisk},
	}
}

// Torment breaks the cluster again and again for a time, as the seed decides, and undoes at its end
// what has not been undone by then. It is meant for simulations. The goroutine of the test calls it;
// nobody else stops or starts brokers meanwhile.
//
// It ends early with an error if a broker ends by itself.
func (c *Cluster) Torment(d time.Duration, n Nemesis) error {
	c.t.Helper()
	n.setDefaults()
	t := &torment{c: c, nemesis: n, rng: rand.New(rand.NewPCG(c.options.Seed, 1)), until: time.Now().Add(d)}
	return t.run()
}

func (n *Nemesis) setDefaults() {
	if n.Faults == nil {
		n.Faults = Faults()
	}
	if n.Every == 0 {
		n.Every = 2 * time.Second
	}
	if n.Lasts == 0 {
		n.Lasts = 3 * time.Second
	}
	if n.Aim == nil {
		n.Aim = func() int32 { return 0 }
	}
	if n.Note == nil {
		n.Note = func(string) {}
	}
}

// torment is one run of Torment.
type torment struct {
	c       *Cluster
	nemesis Nemesis
	rng     *rand.Rand
	until   time.Time
	ends    []ending // by time
}

// ending is what undoes a fault.
type ending struct {
	at   time.Time
	what string
	out  bool
	do   func()
}

func (t *torment) run() error {
	t.c.t.Helper()
	next := time.Now().Add(t.around(t.nemesis.Every))
	for {
		at := next
		if len(t.ends) > 0 && t.ends[0].at.Before(at) {
			at = t.ends[0].at
		}
		if at.After(t.until) {
			break
		}
		time.Sleep(time.Until(at))
		if err := t.c.checkRunning(); err != nil {
			return err
		}
		if len(t.ends) > 0 && !t.ends[0].at.After(at) {
			t.undo()
			continue
		}
		t.begin()
		next = time.Now().Add(t.around(t.nemesis.Every))
	}
	time.Sleep(time.Until(t.until))
	for len(t.ends) > 0 {
		t.undo()
	}
	return t.c.checkRunning()
}

// around is a time whose mean is d: short ones are frequent, none is longer than five times d.
func (t *torment) around(d time.Duration) time.Duration {
	return time.Duration(float64(d) * min(t.rng.ExpFloat64(), 5))
}

func (t *torment) undo() {
	e := t.ends[0]
	t.ends = t.ends[1:]
	t.nemesis.Note("end of " + e.what)
	e.do()
}

// begin chooses a fault and a broker.
func (t *torment) begin() {
	f := t.choose()
	if f.Out && slices.ContainsFunc(t.ends, func(e ending) bool { return e.out }) && t.rng.IntN(3) > 0 {
		return
	}
	id := t.target()
	if id == 0 {
		return
	}
	what, end := f.Begin(t.c, id, t.rng)
	if what == "" {
		return
	}
	t.nemesis.Note(what)
	if end == nil {
		return
	}
	t.ends = append(t.ends, ending{time.Now().Add(t.around(t.nemesis.Lasts)), what, f.Out, end})
	slices.SortStableFunc(t.ends, func(a, b ending) int { return a.at.Compare(b.at) })
}

func (t *torment) choose() Fault {
	sum := 0
	for _, f := range t.nemesis.Faults {
		sum += f.Weight
	}
	x := t.rng.IntN(sum)
	for _, f := range t.nemesis.Faults {
		if x -= f.Weight; x < 0 {
			return f
		}
	}
	panic("brokertest: weights of faults below 0")
}

// target picks a broker that is up; 0: none is.
func (t *torment) target() int32 {
	aimed := t.rng.IntN(2) == 0
	up := slices.DeleteFunc(t.c.Brokers(), func(id int32) bool { return !t.c.Running(id) })
	if len(up) == 0 {
		return 0
	}
	any := up[t.rng.IntN(len(up))]
	if aimed {
		if id := t.nemesis.Aim(); id > 0 && t.c.Running(id) {
			return id
		}
	}
	return any
}

// Mend undoes whatever is wrong with links, disks and brokers, and waits until every broker is ready.
// The error says which is not, and why, after a minute.
func (c *Cluster) Mend() error {
	c.t.Helper()
	c.Network.HealAll()
	for _, n := range c.nodes {
		n.gate.open()
		c.SlowDisk(n.id, 0)
		c.SetClock(n.id, 0)
		n.disk.ClearFaults()
		n.disk.SetDelay(n.gate.delay)
		n.disk.SetCapacity(0)
		if n.broker == nil {
			c.startNode(n)
		}
	}
	for _, n := range c.nodes {
		if err := n.awaitReady(); err != nil {
			return err
		}
	}
	return nil
}

// checkRunning says that a broker has ended by itself.
func (c *Cluster) checkRunning() error {
	for _, n := range c.nodes {
		if n.broker == nil {
			continue
		}
		select {
		case err := <-n.done:
			n.done <- err
			return fmt.Errorf("broker %d has ended by itself: %w", n.id, err)
		default:
		}
	}
	return nil
}

func (c *Cluster) startIfDown(id int32) func() {
	return func() {
		if !c.Running(id) {
			c.StartAgain(id)
		}
	}
}

func (c *Cluster) beginCrash(id int32, _ *rand.Rand) (string, func()) {
	c.Crash(id)
	return fmt.Sprintf("crash of broker %d", id), c.startIfDown(id)
}

func (c *Cluster) beginKill(id int32, _ *rand.Rand) (string, func()) {
	c.Kill(id)
	return fmt.Sprintf("kill of broker %d", id), c.startIfDown(id)
}

func (c *Cluster) beginRestart(id int32, _ *rand.Rand) (string, func()) {
	if c.node(id).gate.isShut() {
		return "", nil // It could not end.
	}
	c.Stop(id)
	return fmt.Sprintf("stop of broker %d", id), c.startIfDown(id)
}

func (c *Cluster) beginPause(id int32, _ *rand.Rand) (string, func()) {
	c.Pause(id)
	return fmt.Sprintf("pause of broker %d", id), func() { c.Resume(id) }
}

func (c *Cluster) beginIsolate(id int32, r *rand.Rand) (string, func()) {
	others, what := c.others(id, false), "other brokers"
	switch r.IntN(4) {
	case 0, 1:
		others, what = c.others(id, true), "everybody"
	case 2:
		others, what = c.ClientHosts(), "clients"
	}
	host := c.Host(id)
	c.Network.Isolate(host, others...)
	return fmt.Sprintf("broker %d is cut off from %s", id, what), func() {
		for _, o := range others {
			c.Network.Heal(host, o)
			c.Network.Heal(o, host)
		}
	}
}

// link is one direction between a broker and another host.
func (c *Cluster) link(id int32, r *rand.Rand) (from, to string) {
	others := c.others(id, true)
	from, to = c.Host(id), others[r.IntN(len(others))]
	if r.IntN(2) == 0 {
		from, to = to, from
	}
	return from, to
}

func (c *Cluster) beginCut(id int32, r *rand.Rand) (string, func()) {
	from, to := c.link(id, r)
	c.Network.Cut(from, to)
	return fmt.Sprintf("nothing gets from %s to %s", from, to), func() { c.Network.Heal(from, to) }
}

func (c *Cluster) beginReset(id int32, r *rand.Rand) (string, func()) {
	others := c.others(id, true)
	if r.IntN(2) == 0 {
		others = others[r.IntN(len(others)):][:1]
	}
	for _, o := range others {
		c.Network.ResetConns(c.Host(id), o)
	}
	return fmt.Sprintf("connections of broker %d with %s break", id, strings.Join(others, ", ")), nil
}

func (c *Cluster) beginSlowNetwork(id int32, r *rand.Rand) (string, func()) {
	from, to := c.link(id, r)
	d := between(r, 5*time.Millisecond, time.Second)
	c.Network.Delay(from, to, d)
	return fmt.Sprintf("what %s sends to %s is %s late", from, to, d), func() { c.Network.Delay(from, to, 0) }
}

func (c *Cluster) beginSlowDisk(id int32, r *rand.Rand) (string, func()) {
	d := between(r, 5*time.Millisecond, 3*time.Second)
	c.SlowDisk(id, d)
	return fmt.Sprintf("syncs of broker %d take %s longer", id, d), func() { c.SlowDisk(id, 0) }
}

// between is a duration from least to most whose logarithm is uniform, in whole milliseconds.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	ratio := float64(most) / float64(least)
	return time.Duration(float64(least) * math.Pow(ratio, r.Float64())).Round(time.Millisecond)
}

func (c *Cluster) beginFullDisk(id int32, r *rand.Rand) (string, func()) {
	disk, room := c.Disk(id), r.Int64N(64<<10)
	disk.SetCapacity(disk.Used() + room)
	return fmt.Sprintf("the disk of broker %d has %d bytes left", id, room), func() { c.Disk(id).SetCapacity(0) }
}

var errBadDisk = errors.New("input/output error")

// beginFailingSync makes the next sync but some fail. Its replica stops for good: only a new process
// that reads anew what is on the disk can go on.
func (c *Cluster) beginFailingSync(id int32, r *rand.Rand) (string, func()) {
	n := 1 + r.IntN(20)
	disk := c.Disk(id)
	disk.FailNth(vfs.OpSync, "", n, errBadDisk)
	return fmt.Sprintf("sync %d from now fails on broker %d", n, id), func() {
		if c.Running(id) && c.Disk(id) == disk {
			c.Crash(id)
		}
		c.startIfDown(id)()
	}
}

func (c *Cluster) beginPowerCut(_ int32, _ *rand.Rand) (string, func()) {
	c.PowerCut()
	return "power cut of all brokers", func() {
		for _, id := range c.Brokers() {
			c.startIfDown(id)()
		}
	}
}

// beginSilentCrash loses what a broker answers its clients for a moment, and then its power, or that
// of all: what was written is sent again, to brokers that know of it only from their disks.
func (c *Cluster) beginSilentCrash(id int32, r *rand.Rand) (string, func()) {
	host, clients := c.Host(id), c.ClientHosts()
	for _, cl := range clients {
		c.Network.Cut(host, cl)
	}
	time.Sleep(between(r, 5*time.Millisecond, 500*time.Millisecond))
	what, end := c.beginCrash(id, r)
	if r.IntN(2) == 0 {
		what, end = c.beginPowerCut(id, r)
	}
	for _, cl := range clients {
		c.Network.Heal(host, cl)
	}
	return what + ", its last answers lost", end
}

// beginWrongClock makes the time of day jump, by up to ten days either way.
func (c *Cluster) beginWrongClock(id int32, r *rand.Rand) (string, func()) {
	ahead := between(r, time.Second, 240*time.Hour)
	if r.IntN(2) == 0 {
		ahead = -ahead
	}
	c.SetClock(id, ahead)
	return fmt.Sprintf("the clock of broker %d is wrong by %s", id, ahead), func() { c.SetClock(id, 0) }
}

// beginRestartStorm kills a broker again and again, shortly after it was started.
func (c *Cluster) beginRestartStorm(id int32, r *rand.Rand) (string, func()) {
	n := 3 + r.IntN(4)
	for range n {
		c.Kill(id)
		time.Sleep(between(r, time.Millisecond, 200*time.Millisecond))
		c.StartAgain(id)
		time.Sleep(between(r, 5*time.Millisecond, 3*time.Second))
	}
	return fmt.Sprintf("broker %d was killed and started %d times", id, n), nil
}

// beginLostDisk takes a broker's disk for ever, once in the life of a cluster: of two that are lost before the first is
// rebuilt, nobody promises anything. Of disks that lie, one that is lost is one too many.
func (c *Cluster) beginLostDisk(id int32, _ *rand.Rand) (string, func()) {
	if c.options.LyingDisks || slices.ContainsFunc(c.nodes, func(n *node) bool { return n.wiped > 0 }) {
		return "", nil
	}
	c.Wipe(id)
	return fmt.Sprintf("broker %d has lost its disk", id), c.startIfDown(id)
}
