package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
)

// roundWaits is what writers waited in one round, in ms: those of each partition that the broker led, and the longest of
// the others.
type roundWaits struct {
	Fault     string    `json:"fault"`
	Led       []float64 `json:"led_ms"`
	OthersMax float64   `json:"others_max_ms"`
	Seconds   float64   `json:"seconds,omitempty"` // that the round took, with all that it waited for before the fault
}

// row is what one kind of fault came to, in ms.
type row struct {
	Fault string `json:"fault"`
	// Goal is for the p99 of Waits and of Longest; 0: there is none.
	Goal float64 `json:"goal_p99_ms,omitempty"`
	// Waits are those of the partitions that the broker led, over all rounds; Longest is the longest of them of each round.
	Waits        quantiles `json:"partitions"`
	Longest      quantiles `json:"longest_of_round"`
	OthersMax    float64   `json:"others_max_ms"` // of partitions that it did not lead
	RoundSeconds float64   `json:"round_seconds"` // on average, where it is known
}

// goals are for the p99 of what writers wait, in ms. A broker that is gone is noticed by its connections, one that is silent by a timeout.
var goals = map[string]float64{"kill": 1500, "pause": 4000, "cut": 4000}

type quantiles struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

func quantilesOf(list []float64) quantiles {
	if len(list) == 0 {
		return quantiles{}
	}
	slices.Sort(list)
	at := func(q float64) float64 { return list[int(math.Ceil(q*float64(len(list))))-1] }
	return quantiles{N: len(list), P50: at(0.5), P99: at(0.99), Max: list[len(list)-1]}
}

// waits holds the rounds of one fault, those of earlier runs too if there is a file.
type waits struct {
	file   string
	rounds []roundWaits
}

func openWaits(file, fault string) (*waits, error) {
	w := &waits{file: file}
	if file == "" {
		return w, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r roundWaits
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if r.Fault == fault {
			w.rounds = append(w.rounds, r)
		}
	}
	return w, lines.Err()
}

func (w *waits) add(r roundWaits) error {
	w.rounds = append(w.rounds, r)
	if w.file == "" {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(w.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

func (w *waits) row(fault string) row {
	r := row{Fault: fault, Goal: goals[fault]}
	var led, longest []float64
	timed := 0
	for _, one := range w.rounds {
		led = append(led, one.Led...)
		if len(one.Led) > 0 {
			longest = append(longest, slices.Max(one.Led))
		}
		r.OthersMax = max(r.OthersMax, one.OthersMax)
		if one.Seconds > 0 {
			r.RoundSeconds += one.Seconds
			timed++
		}
	}
	r.Waits, r.Longest = quantilesOf(led), quantilesOf(longest)
	r.RoundSeconds /= float64(max(timed, 1))
	return r
}
