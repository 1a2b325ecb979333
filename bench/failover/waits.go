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
	r := row{Fault: fault, Rounds: len(w.rounds)}
	var led []float64
	for _, one := range w.rounds {
		led = append(led, one.Led...)
		r.OthersMax = max(r.OthersMax, one.OthersMax)
	}
	slices.Sort(led)
	r.Partitions = len(led)
	if len(led) > 0 {
		at := func(q float64) float64 { return led[int(math.Ceil(q*float64(len(led))))-1] }
		r.P50, r.P99, r.Max = at(0.5), at(0.99), led[len(led)-1]
	}
	return r
}
