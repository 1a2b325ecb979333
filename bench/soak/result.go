package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// What comes of a run.
const (
	running = "running"
	passed  = "passed"
	failed  = "failed"
)

// result is what the file holds.
type result struct {
	Began         time.Time `json:"began"`
	Seconds       float64   `json:"seconds"`
	WantedSeconds float64   `json:"wanted_seconds"`
	Verdict       string    `json:"verdict"`
	Failures      []string  `json:"failures,omitempty"`
	GoalMB        float64   `json:"goal_mb"`
	// Memory of all three, then of each; its bytes are millions.
	Memory       memory    `json:"memory"`
	Brokers      []memory  `json:"memory_of_each"`
	Written      float64   `json:"written_mb_per_s"`
	WrittenGB    float64   `json:"written_gb"`
	Read         float64   `json:"read_mb_per_s"`
	Transactions int64     `json:"transactions"`
	AckP50       float64   `json:"ack_p50_ms"`
	AckP99       float64   `json:"ack_p99_ms"`
	CommitP99    float64   `json:"commit_p99_ms"`
	Processor    float64   `json:"cores"`
	PerGiB       float64   `json:"cpu_seconds_per_gib"`
	Others       float64   `json:"others_cores"`
	Files        int       `json:"open_files"`
	Elections    elections `json:"elections"`
	Series       []look    `json:"series"`
}

type memory struct {
	Start   float64 `json:"start_mb"`
	End     float64 `json:"end_mb"`
	Most    float64 `json:"most_mb"`
	MostAt  float64 `json:"most_at_s,omitempty"` // of all three
	Program float64 `json:"program_mb,omitempty"`
	Rested  float64 `json:"rested_mb,omitempty"` // a while after the load
}

// elections are terms that have begun, of all groups, and what the brokers counted meanwhile. One election may have several
// causes, and one cause several elections.
type elections struct {
	All    int            `json:"all"`
	Causes map[string]int `json:"causes"`
}

// look is one line of the series; rates and times are of what came since the line before.
type look struct {
	At           float64   `json:"at_s"`
	Memory       float64   `json:"memory_mb"`
	Each         []float64 `json:"memory_of_each_mb"`
	Most         float64   `json:"most_memory_mb"` // up to now
	Written      float64   `json:"written_mb_per_s"`
	Read         float64   `json:"read_mb_per_s"`
	Transactions float64   `json:"transactions_per_s"`
	AckP99       float64   `json:"ack_p99_ms"`
	CommitP99    float64   `json:"commit_p99_ms"`
	Processor    float64   `json:"cores"`
	Others       float64   `json:"others_cores"`
	Disk         int64     `json:"disk_bytes"`
	Elections    int       `json:"elections"` // up to now
}

// add takes what has been seen since the last look, which it returns.
func (r *result) add(w *watcher, s *sample) look {
	w.peak.Lock()
	most, mostAt, mostEach := w.peak.all, w.peak.at, w.peak.each
	r.Brokers = nil
	for i, mb := range s.each {
		r.Brokers = append(r.Brokers, memory{Start: w.first.each[i], End: mb, Most: mostEach[i]})
	}
	w.peak.Unlock()
	l := between(&w.last, s)
	l.At, l.Most, l.Elections = s.at.Sub(w.began).Seconds(), most, r.Elections.All
	r.Series = append(r.Series, l)

	all := between(&w.first, s)
	r.Seconds = l.At
	r.Memory = memory{Start: w.first.memory, End: s.memory, Most: most, MostAt: mostAt.Seconds(), Program: s.files}
	r.Written, r.WrittenGB, r.Read = all.Written, float64(s.written-w.first.written)/1e9, all.Read
	r.Transactions, r.Files = s.transactions-w.first.transactions, s.open
	r.AckP50, r.AckP99, r.CommitP99 = s.acks.since(w.first.acks, 0.5), all.AckP99, all.CommitP99
	r.Processor, r.Others = all.Processor, all.Others
	if gib := float64(s.written-w.first.written) / (1 << 30); gib > 0 {
		r.PerGiB = (s.cpu - w.first.cpu) / gib
	}
	return l
}

func between(a, b *sample) look {
	took := b.at.Sub(a.at).Seconds()
	return look{Memory: b.memory, Each: b.each, Disk: b.used,
		Written: float64(b.written-a.written) / 1e6 / took, Read: float64(b.read-a.read) / 1e6 / took,
		Transactions: float64(b.transactions-a.transactions) / took, AckP99: b.acks.since(a.acks, 0.99), CommitP99: b.commits.since(a.commits, 0.99),
		Processor: (b.cpu - a.cpu) / took, Others: (b.others - a.others) / took}
}

// store replaces the file, which is whole at any time.
func (r *result) store(file string) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// judge says what is not as it should be.
func (r *result) judge(ended error, early string) {
	if ended != nil {
		r.Failures = append(r.Failures, fmt.Sprintf("the load ended with: %v", ended))
	}
	if early != "" {
		r.Failures = append(r.Failures, fmt.Sprintf("it ended after %s of %s: %s", seconds(r.Seconds), seconds(r.WantedSeconds), early))
	}
	if r.GoalMB > 0 && r.Memory.Most > r.GoalMB {
		r.Failures = append(r.Failures, fmt.Sprintf("the brokers had %.0f MB, more than %.0f", r.Memory.Most, r.GoalMB))
	}
	if r.Elections.All > 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("%d elections for nothing", r.Elections.All))
	}
	if len(r.Series) == 0 || r.Series[len(r.Series)-1].Written == 0 {
		r.Failures = append(r.Failures, "nothing was written in the end")
	}
	r.Verdict = passed
	if len(r.Failures) > 0 {
		r.Verdict = failed
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second)
}

// conclude judges, shows the tables and says the verdict, which is the error too.
func (w *watcher) conclude(ended error, early string, apart time.Duration) error {
	r := &w.result
	r.judge(ended, early)
	r.table(apart)
	stored := r.store(w.file)
	why := strings.Join(r.Failures, "; ")
	if r.Verdict == passed {
		fmt.Printf("\nPASSED: %s of full load, at most %.0f MB (goal %.0f), no election. All figures: %s\n", seconds(r.Seconds), r.Memory.Most, r.GoalMB, w.file)
		return stored
	}
	fmt.Printf("\nFAILED after %s: %s. All figures: %s\n", seconds(r.Seconds), why, w.file)
	return errors.Join(errors.New(why), stored)
}

// window is several looks as one: rates are their average, times those of the worst one, the rest is the last one's.
func window(looks []look, began float64) look {
	w := looks[len(looks)-1]
	w.Written, w.Read, w.Transactions = 0, 0, 0
	all, before := w.At-began, began
	for _, l := range looks {
		part := (l.At - before) / all
		before = l.At
		w.Written, w.Read, w.Transactions = w.Written+part*l.Written, w.Read+part*l.Read, w.Transactions+part*l.Transactions
		w.AckP99, w.CommitP99 = max(w.AckP99, l.AckP99), max(w.CommitP99, l.CommitP99)
	}
	return w
}

// table is the result, as docs/performance.md has it.
func (r *result) table(apart time.Duration) {
	if len(r.Series) == 0 {
		return
	}
	fmt.Println("| after | memory of all, MB | of each | written, MB/s | p99 of an answer, ms, at worst | read, MB/s | transactions/s; p99, ms | elections so far |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	start := make([]float64, len(r.Brokers))
	for i, b := range r.Brokers {
		start[i] = b.Start
	}
	fmt.Printf("| start | %.0f | %s | | | | | |\n", r.Memory.Start, each(start))
	var since []look // since the line before
	next, before := apart, 0.0
	for i, l := range r.Series {
		since = append(since, l)
		at := time.Duration(l.At * float64(time.Second))
		if at+time.Second < next && i != len(r.Series)-1 {
			continue
		}
		next += apart
		w := window(since, before)
		since, before = nil, l.At
		fmt.Printf("| %s | %.0f | %s | %.0f | %.0f | %.0f | %.0f; %.0f | %d |\n", at.Round(time.Second), w.Memory, each(w.Each), w.Written, w.AckP99,
			w.Read, w.Transactions, w.CommitP99, w.Elections)
	}
	var most, rested []float64
	for _, b := range r.Brokers {
		most, rested = append(most, b.Most), append(rested, b.Rested)
	}
	fmt.Printf("| most (after %s) | %.0f | %s | | | | | |\n", seconds(r.Memory.MostAt), r.Memory.Most, each(most))
	if r.Memory.Rested > 0 {
		fmt.Printf("| when the load was over | %.0f | %s | | | | | |\n", r.Memory.Rested, each(rested))
	}
	fmt.Println()

	fmt.Println("| full load for | written | p50, p99 of an answer | read | transactions | memory of three brokers, in the end; most | processor; for each GiB; other programs' | files | elections |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	fmt.Printf("| %s | %.0f MB/s, %.1f GB | %.0f, %.0f ms | %.0f MB/s | %d, p99 %.0f ms | %.0f MB; %.0f MB | %.0f %% of one core; %.1f s; %.0f %% | %d | %d |\n",
		seconds(r.Seconds), r.Written, r.WrittenGB, r.AckP50, r.AckP99, r.Read, r.Transactions, r.CommitP99, r.Memory.End, r.Memory.Most,
		100*r.Processor, r.PerGiB, 100*r.Others, r.Files, r.Elections.All)
	fmt.Println("\nmeanwhile, counted by the brokers:")
	for _, text := range slices.Sorted(maps.Keys(r.Elections.Causes)) {
		fmt.Printf("%6d  %s\n", r.Elections.Causes[text], text)
	}
}
