package main

import (
	"strings"
	"testing"
)

// What failed is left out, and the ratios are of rounds in which both were measured.
func TestFiguresWithoutWhatFailed(t *testing.T) {
	r := &row{what: "produce", unit: "MB/s", goal: "2.5", flushGoal: "5", cpuGoal: "5"}
	got := conclude(r, map[string][]sample{
		"oncelog":     {{value: 100, cpu: 6}, {}, {value: 90, cpu: 4}, {value: 80, cpu: 5}},
		"kafka":       {{value: 50, cpu: 20}, {value: 1}, {}, {value: 20, cpu: 30}},
		"kafka flush": {{value: 20}, {value: 20}, {value: 30}},
	})[0]
	if got.Ours != 90 || got.Ratio != 3 || got.Least != 2 || got.Most != 4 || got.FlushRatio != 4 || got.CPU != 5 {
		t.Errorf("%+v", got)
	}
	if cells := strings.Join(got.cells(), " | "); cells != "produce | 90.0 MB/s | 20.0 MB/s | 20.0 MB/s | 3.00 (2.00-4.00) | 4.00 | 5.00, 25.0 | 2.5, flush 5, CPU 5 | ratio yes, flush no, CPU yes" {
		t.Error(cells)
	}
}

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		r             result
		goal, reached string
	}{
		{result{Ratio: 2.6, Goal: "2.5", FlushRatio: 4, FlushGoal: "5", CPU: 7, CPUGoal: "5"}, "2.5, flush 5, CPU 5", "ratio yes, flush no, CPU no"},
		{result{Ratio: 0.2, Goal: "at most a seventh", LessIsBetter: true}, "at most a seventh", "no"},
		{result{Ratio: 0.1, Goal: "at most a fifth", LessIsBetter: true}, "at most a fifth", "yes"},
		{result{Ratio: 1.2, Goal: "1", CPU: 1, KafkaCPU: 3, CPUGoal: "0.5 of Kafka's"}, "1, CPU 0.5 of Kafka's", "yes"},
		{result{Ratio: 1.2, Goal: "1", CPU: 2, KafkaCPU: 3, CPUGoal: "0.5 of Kafka's"}, "1, CPU 0.5 of Kafka's", "ratio yes, CPU no"},
		{result{Goal: "1"}, "1", "not measured"},
		{result{Ratio: 3}, "-", "-"},
	} {
		if goal, reached := c.r.goals(); goal != c.goal || reached != c.reached {
			t.Errorf("%+v: %q, %q", c.r, goal, reached)
		}
	}
}
