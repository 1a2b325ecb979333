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
	out := result{What: r.what, Unit: r.unit, Goal: r.goal, FlushGoal: r.flushGoal, LessIsBetter: r.lessIsBetter}
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

// each divides figures of the same rounds.
func each(a, b []float64) (list []float64) {
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			list = append(list, a[i]/b[i])
		}
	}
	return list
}

// median is 0 for nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// reached says what became of a goal, which is a number, or words that begin with "at most a".
func (r *result) reached() string {
	verdict := func(ratio float64, goal string) string {
		want, err := strconv.ParseFloat(map[string]string{"at most a seventh": "0.143", "at most a fifth": "0.2"}[goal], 64)
		if err != nil {
			if want, err = strconv.ParseFloat(goal, 64); err != nil {
				return ""
			}
		}
		if r.LessIsBetter && ratio <= want || !r.LessIsBetter && ratio >= want {
			return "yes"
		}
		return "no"
	}
	if r.Ratio == 0 || r.Goal == "" {
		return "-"
	}
	first := verdict(r.Ratio, r.Goal)
	if r.FlushGoal != "" && r.FlushRatio > 0 {
		if second := verdict(r.FlushRatio, r.FlushGoal); second != first {
			return first + ", " + second
		}
	}
	return first
}

func show(results []result, format string) error {
	if format == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(results)
	}
	head := []string{"what", "unit", "oncelog", "Kafka", "Kafka, flush", "ratio (range)", "ratio, flush", "CPU s/GiB", "Kafka's", "goal", "reached"}
	var lines [][]string
	for _, r := range results {
		spread, goal := number(r.Ratio), r.Goal
		if r.Most > 0 {
			spread += fmt.Sprintf(" (%s-%s)", number(r.Least), number(r.Most))
		}
		if r.FlushGoal != "" {
			goal += ", flush " + r.FlushGoal
		}
		lines = append(lines, []string{r.What, r.Unit, number(r.Ours), number(r.Kafka), number(r.Flush), spread, number(r.FlushRatio), number(r.CPU), number(r.KafkaCPU), goal, r.reached()})
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
