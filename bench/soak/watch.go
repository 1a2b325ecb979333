package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// watcher looks at the brokers while they are busy.
type watcher struct {
	cluster *brokerproc.Cluster
	client  *client.Client
	load    *load
	dir     string
	length  time.Duration
	goal    float64 // MB, of all three; 0: any
	file    string  // of the result

	began time.Time
	first sample
	last  sample
	peak  peak
	// terms are those of every group when the watch began, causes the brokers' counters then.
	terms  map[string]uint64
	causes map[string]float64
	result result
}

// peak is the most memory that was seen, in MB; it is looked for more often than all else.
type peak struct {
	sync.Mutex
	all  float64
	at   time.Duration
	each []float64
}

// sample is what was seen at once.
type sample struct {
	at                          time.Time
	memory                      float64 // of all three, MB
	each                        []float64
	files                       float64 // MB that are pages of files: the program
	cpu                         float64 // s since they began, of all three
	others                      float64 // s of processor that neither they nor this program has taken
	open                        int
	used, free                  int64 // of the disk: the brokers' directories; what is left
	written, read, transactions int64
	acks, commits               *counted
}

func (w *watcher) sample() sample {
	s := sample{at: time.Now(), written: w.load.written.Load(), read: w.load.read.Load(), transactions: w.load.transactions.Load(),
		acks: w.load.acks.now(), commits: w.load.commits.now()}
	for _, b := range w.cluster.Brokers() {
		u := b.Usage()
		s.each = append(s.each, float64(u.ResidentBytes)/1e6)
		s.memory += float64(u.ResidentBytes) / 1e6
		s.files += float64(u.ResidentBytes-u.AnonymousBytes) / 1e6
		s.cpu += u.CPUSeconds
		s.open += u.OpenFiles
	}
	w.peak.see(s.each, s.at.Sub(w.began))
	s.others = busy() - s.cpu - own()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(w.dir, &disk); err == nil {
		s.free = int64(disk.Bavail) * disk.Bsize
	}
	s.used = usedIn(w.dir)
	return s
}

func (p *peak) see(each []float64, at time.Duration) {
	p.Lock()
	defer p.Unlock()
	if p.each == nil {
		p.each = make([]float64, len(each))
	}
	sum := 0.0
	for i, mb := range each {
		sum += mb
		p.each[i] = max(p.each[i], mb)
	}
	if sum > p.all {
		p.all, p.at = sum, at
	}
}

// seek looks for the peak each second.
func (w *watcher) seek(ctx context.Context) {
	for pass(ctx, time.Second) == nil {
		var each []float64
		for _, b := range w.cluster.Brokers() {
			each = append(each, float64(b.Usage().ResidentBytes)/1e6)
		}
		w.peak.see(each, time.Since(w.began))
	}
}

// usedIn adds up the files in a directory; those that go meanwhile count as nothing.
func usedIn(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// busy is how long the processors of the machine have not been idle, in s; 0 where Linux does not say.
func busy() float64 {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	sum := 0.0
	for i, f := range fields {
		// cpu, user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user.
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		ticks, _ := strconv.ParseFloat(f, 64)
		sum += ticks / 100
	}
	return sum
}

// own is what this program has taken.
func own() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// begin waits until leaders are where they are preferred and caches have filled: no group has elected one for calm, which is longer than
// brokers need to hand over what others are preferred for, two looks of leader_balance.
func (w *watcher) begin(ctx context.Context) error {
	const calm, most = 25 * time.Second, 3 * time.Minute
	fmt.Fprintf(os.Stderr, "soak: there is load; waiting until no leader has changed for %s\n", calm)
	begun, changed := time.Now(), time.Now()
	for time.Since(changed) < calm && time.Since(begun) < most {
		now, err := w.groups(ctx)
		if err == nil {
			err = pass(ctx, time.Second)
		}
		if err != nil {
			return err
		}
		if !maps.Equal(now, w.terms) {
			w.terms, changed = now, time.Now()
		}
	}
	causes, err := w.counters(ctx)
	if err != nil {
		return err
	}
	w.causes = causes
	w.began = time.Now()
	w.first = w.sample()
	w.last = w.first
	w.result = result{Began: w.began, Seconds: 0, WantedSeconds: w.length.Seconds(), GoalMB: w.goal, Verdict: running}
	return nil
}

// causes of elections, by the brokers' counters.
var causes = []struct{ counter, text string }{
	{"brokerd_raft_heartbeat_timeouts_total", "a follower did not hear of its leader"},
	{"brokerd_raft_lease_losses_total", "a leader did not hear of a majority"},
	{"brokerd_raft_disk_stalls_total", "a disk did not answer"},
	{"brokerd_raft_dead_brokers_total", "a broker was found dead"},
	{"brokerd_raft_leader_changes_total", "won by a replica, whatever for"},
}

// handed is a cause that only the brokers' logs have, in these words.
const handed = "handed over to the preferred leader"

// counters are those of the causes, of all brokers.
func (w *watcher) counters(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	sum := make(map[string]float64)
	for _, b := range w.cluster.Brokers() {
		all, err := b.Metrics(ctx)
		if err != nil {
			return nil, fmt.Errorf("broker %d: %w", b.ID, err)
		}
		for _, c := range causes {
			sum[c.text] += all[c.counter]
		}
		text, err := os.ReadFile(b.LogFile())
		if err != nil {
			return nil, err
		}
		sum[handed] += float64(bytes.Count(text, []byte(handed)))
	}
	return sum, nil
}

// groups are the terms of all groups, by name. A term begins with an election.
func (w *watcher) groups(ctx context.Context) (map[string]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	groups, failed, err := w.client.RaftGroups(ctx, "")
	if err == nil && len(failed) > 0 {
		err = fmt.Errorf("broker %d does not answer: %w", failed[0].Broker, failed[0].Err)
	}
	terms := make(map[string]uint64)
	for _, g := range groups {
		terms[g.Name] = max(terms[g.Name], g.Term)
	}
	return terms, err
}

// look takes a sample, tells it and writes down how it goes.
func (w *watcher) look(ctx context.Context) error {
	terms, err := w.groups(ctx)
	if err == nil {
		w.result.Elections.All = 0
		for name, term := range terms {
			w.result.Elections.All += int(term - w.terms[name])
		}
	}
	now, failed := w.counters(ctx)
	if failed == nil {
		w.result.Elections.Causes = make(map[string]int)
		for text, n := range now {
			w.result.Elections.Causes[text] = int(n - w.causes[text])
		}
	}
	s := w.sample()
	at := w.result.add(w, &s)
	fmt.Fprintf(os.Stderr, "soak: %7s of %s  memory %4.0f MB (%s); %5.0f MB/s written, p99 %.0f ms; %.0f read; %.0f transactions/s, p99 %.0f ms; processor %.0f %% of one core, others %.0f %%; disk %.1f GB; elections %d\n",
		s.at.Sub(w.began).Round(time.Second), w.length, s.memory, each(s.each), at.Written, at.AckP99, at.Read, at.Transactions, at.CommitP99,
		100*at.Processor, 100*at.Others, float64(s.used)/1e9, at.Elections)
	w.last = s
	return errors.Join(err, failed, w.result.store(w.file))
}

// rest sees what the brokers have kept a while after the load.
func (w *watcher) rest(ctx context.Context, d time.Duration) {
	if d == 0 || len(w.result.Brokers) == 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "soak: the load has ended; looking at memory again in %s\n", d)
	if pass(ctx, d) != nil {
		return
	}
	s := w.sample()
	w.result.Memory.Rested = s.memory
	for i, mb := range s.each {
		w.result.Brokers[i].Rested = mb
	}
	fmt.Fprintf(os.Stderr, "soak: memory %4.0f MB (%s)\n", s.memory, each(s.each))
}

func each(list []float64) string {
	text := ""
	for i, mb := range list {
		if i > 0 {
			text += " + "
		}
		text += fmt.Sprintf("%.0f", mb)
	}
	return text
}
