package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// result is one figure: ours beside Kafka's. A ratio is the median of the rounds' ratios, ours by Kafka's, Least and Most its ends.
type result struct {
	What  string  `json:"what"`
	Unit  string  `json:"unit"`
	Ours  float64 `json:"oncelog"`
	Kafka float64 `json:"kafka,omitempty"`
	Flush float64 `json:"kafka_flush,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
	Least float64 `json:"ratio_least,omitempty"`
	Most  float64 `json:"ratio_most,omitempty"`
	// FlushRatio is to Kafka with flush.messages=1.
	FlushRatio float64 `json:"flush_ratio,omitempty"`
	// CPU is what the three brokers burned for each GiB of values, in seconds.
	CPU          float64 `json:"broker_cpu_s_per_gib,omitempty"`
	KafkaCPU     float64 `json:"kafka_cpu_s_per_gib,omitempty"`
	Goal         string  `json:"goal,omitempty"`
	FlushGoal    string  `json:"flush_goal,omitempty"`
	CPUGoal      string  `json:"cpu_goal,omitempty"`
	Reached      string  `json:"reached,omitempty"`
	LessIsBetter bool    `json:"less_is_better,omitempty"`
}

// conclude makes results of a row's samples: one, or two where there is a p99.
func conclude(r *row, samples map[string][]sample) []result {
	value := func(s sample) float64 { return s.value }
	list := []result{figure(r, samples, value)}
	for _, s := range samples["oncelog"] {
		if s.p99 > 0 {
			p99 := *r
			p99.what, p99.goal = strings.ReplaceAll(r.what, "p50", "p99"), "0.5"
			p99.cpuGoal = ""
			if p99.what == r.what {
				list[0].What, p99.unit, p99.lessIsBetter, p99.goal, p99.flushGoal = r.what+": a second", "ms", true, "", ""
				p99.what += ": p99"
			}
			return append(list, figure(&p99, samples, func(s sample) float64 { return s.p99 }))
		}
	}
	return list
}

func figure(r *row, samples map[string][]sample, of func(sample) float64) result {
	out := result{What: r.what, Unit: r.unit, Goal: r.goal, FlushGoal: r.flushGoal, CPUGoal: r.cpuGoal, LessIsBetter: r.lessIsBetter}
	pick := func(system string, f func(sample) float64) (list []float64) {
		for _, s := range samples[system] {
			list = append(list, f(s))
		}
		return list
	}
	ours, kafka, flush := pick("oncelog", of), pick("kafka", of), pick("kafka flush", of)
	cpu := func(s sample) float64 { return s.cpu }
	out.Ours, out.Kafka, out.Flush = median(ours), median(kafka), median(flush)
	out.CPU, out.KafkaCPU = median(pick("oncelog", cpu)), median(pick("kafka", cpu))
	if ratios := each(ours, kafka); len(ratios) > 0 {
		out.Ratio, out.Least, out.Most = median(ratios), slices.Min(ratios), slices.Max(ratios)
	}
	out.FlushRatio = median(each(ours, flush))
	return out
}

// each divides figures of the same rounds, where both came to something.
func each(a, b []float64) (list []float64) {
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			list = append(list, a[i]/b[i])
		}
	}
	return list
}

// median is that of the figures that came to something; 0: none did.
func median(v []float64) float64 {
	v = slices.DeleteFunc(slices.Clone(v), func(f float64) bool { return f <= 0 })
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// goals are in words what a figure is to be, and what became of it: of the ratio to Kafka, of that to Kafka which waits for the disk, and of
// the brokers' processor time.
func (r *result) goals() (goal, reached string) {
	type one struct{ name, goal, verdict string }
	var all []one
	add := func(name, goal string, have bool, ok func(limit float64) bool) {
		if goal == "" {
			return
		}
		verdict := "not measured"
		if have {
			verdict = map[bool]string{true: "yes", false: "no"}[ok(limitOf(goal))]
		}
		all = append(all, one{name, goal, verdict})
	}
	atLeast := func(ratio float64) func(float64) bool {
		return func(limit float64) bool { return r.LessIsBetter && ratio <= limit || !r.LessIsBetter && ratio >= limit }
	}
	add("ratio", r.Goal, r.Ratio > 0, atLeast(r.Ratio))
	add("flush", r.FlushGoal, r.FlushRatio > 0, atLeast(r.FlushRatio))
	if share, ofKafkas := strings.CutSuffix(r.CPUGoal, " of Kafka's"); ofKafkas {
		add("CPU", r.CPUGoal, r.CPU > 0 && r.KafkaCPU > 0, func(float64) bool { return r.CPU <= limitOf(share)*r.KafkaCPU })
	} else {
		add("CPU", r.CPUGoal, r.CPU > 0, func(limit float64) bool { return r.CPU <= limit })
	}
	if len(all) == 0 {
		return "-", "-"
	}
	goal, reached = all[0].goal, all[0].verdict
	same := !slices.ContainsFunc(all, func(o one) bool { return o.verdict != all[0].verdict })
	if !same {
		reached = all[0].name + " " + all[0].verdict
	}
	for _, o := range all[1:] {
		goal += ", " + o.name + " " + o.goal
		if !same {
			reached += ", " + o.name + " " + o.verdict
		}
	}
	return goal, reached
}

// limitOf reads a goal, which is a number, or words that begin with "at most a".
func limitOf(goal string) float64 {
	switch goal {
	case "at most a seventh":
		return 1.0 / 7
	case "at most a fifth":
		return 0.2
	}
	limit, err := strconv.ParseFloat(goal, 64)
	if err != nil {
		return 0 // of a share of Kafka's, which its own part of goals reads
	}
	return limit
}

func show(results []result, format string) error {
	for i := range results {
		_, results[i].Reached = results[i].goals()
	}
	if format == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(results)
	}
	head := []string{"what", "oncelog", "Kafka", "Kafka, flush", "ratio (range)", "to flush", "CPU s/GiB: oncelog, Kafka", "goal", "reached"}
	var lines [][]string
	for _, r := range results {
		lines = append(lines, r.cells())
	}
	if format == "markdown" {
		fmt.Println("| " + strings.Join(head, " | ") + " |")
		fmt.Println("|" + strings.Repeat("---|", len(head)))
		for _, l := range lines {
			fmt.Println("| " + strings.Join(l, " | ") + " |")
		}
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, l := range lines {
		fmt.Fprintln(w, strings.Join(l, "\t"))
	}
	return w.Flush()
}

// cells are a row of the table.
func (r *result) cells() []string {
	with := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return number(v) + " " + r.Unit
	}
	spread, cpu := number(r.Ratio), "-"
	if r.Most > 0 {
		spread += fmt.Sprintf(" (%s-%s)", number(r.Least), number(r.Most))
	}
	if r.CPU > 0 || r.KafkaCPU > 0 {
		cpu = number(r.CPU) + ", " + number(r.KafkaCPU)
	}
	goal, reached := r.goals()
	return []string{r.What, with(r.Ours), with(r.Kafka), with(r.Flush), spread, number(r.FlushRatio), cpu, goal, reached}
}

// number has three digits that say something; "-" for nothing.
func number(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
