package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

	began time.Time
	first sample
	last  sample
	// most is the most memory that was seen, of all three, in MB.
	most float64
	// terms are those of every group when the watch began, and elections how many have begun since.
	terms     map[string]uint64
	elections int
}

// sample is what was seen at once.
type sample struct {
	at                          time.Time
	memory                      float64 // of all three, MB
	each                        []float64
	cpu                         float64 // s since they began, of all three
	others                      float64 // s of processor that neither they nor this program has taken
	files                       int
	used, free                  int64 // of the disk: the brokers' directories; what is left
	written, read, transactions int64
}

func (w *watcher) sample() sample {
	s := sample{at: time.Now(), written: w.load.written.Load(), read: w.load.read.Load(), transactions: w.load.transactions.Load()}
	for _, b := range w.cluster.Brokers() {
		u := b.Usage()
		s.each = append(s.each, float64(u.ResidentBytes)/1e6)
		s.memory += float64(u.ResidentBytes) / 1e6
		s.cpu += u.CPUSeconds
		s.files += u.OpenFiles
	}
	s.others = busy() - s.cpu - own()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(w.dir, &disk); err == nil {
		s.free = int64(disk.Bavail) * disk.Bsize
	}
	s.used = usedIn(w.dir)
	return s
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

// begin waits until leaders are where they are preferred and caches have filled: no group has elected one for calm.
func (w *watcher) begin(ctx context.Context) error {
	const calm, most = 10 * time.Second, 2 * time.Minute
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
	w.first = w.sample()
	w.began, w.last = w.first.at, w.first
	return nil
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

// look takes a sample and tells it.
func (w *watcher) look(ctx context.Context) error {
	terms, err := w.groups(ctx)
	if err == nil {
		w.elections = 0
		for name, term := range terms {
			w.elections += int(term - w.terms[name])
		}
	}
	s := w.sample()
	took := s.at.Sub(w.last.at).Seconds()
	w.most = max(w.most, s.memory)
	fmt.Fprintf(os.Stderr, "soak: %7s  %5.0f MB/s written, %5.0f read, %4.0f transactions/s; memory %4.0f MB (%s); processor %3.0f %% of one core, others %3.0f %%; disk %.1f GB; elections %d\n",
		s.at.Sub(w.began).Round(time.Second), float64(s.written-w.last.written)/1e6/took, float64(s.read-w.last.read)/1e6/took,
		float64(s.transactions-w.last.transactions)/took, s.memory, each(s.each), 100*(s.cpu-w.last.cpu)/took, 100*(s.others-w.last.others)/took, float64(s.used)/1e9, w.elections)
	w.last = s
	return err
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

// table is the result, as docs/performance.md has it.
func (w *watcher) table() {
	took := w.last.at.Sub(w.began)
	rate := func(n int64) float64 { return float64(n) / 1e6 / took.Seconds() }
	fmt.Println("| full load for | written | read | transactions | memory of three brokers, in the end; most | processor; other programs' | files | elections |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	fmt.Printf("| %s | %.0f MB/s, %.1f GB | %.0f MB/s | %d | %.0f MB; %.0f MB | %.0f %% of one core; %.0f %% | %d | %d |\n", took.Round(time.Second),
		rate(w.last.written-w.first.written), float64(w.last.written-w.first.written)/1e9, rate(w.last.read-w.first.read),
		w.last.transactions-w.first.transactions, w.last.memory, w.most, 100*(w.last.cpu-w.first.cpu)/took.Seconds(),
		100*(w.last.others-w.first.others)/took.Seconds(), w.last.files, w.elections)
}

// judge says what is not as it should be.
func (w *watcher) judge(memory int64) error {
	var errs []error
	if memory > 0 && w.last.memory > float64(memory) {
		errs = append(errs, fmt.Errorf("the brokers have %.0f MB in the end, more than %d", w.last.memory, memory))
	}
	if w.elections > 0 {
		errs = append(errs, fmt.Errorf("%d elections for nothing", w.elections))
	}
	return errors.Join(errs...)
}
