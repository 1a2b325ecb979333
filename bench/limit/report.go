package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// report is the outcome of a run. The JSON names are what bench/run reads. MB
// are millions of bytes of payload, counted once; CPU is that of all four
// processes.
type report struct {
	Partitions    int     `json:"partitions"`
	BatchBytes    int     `json:"batch_bytes"`
	InFlight      int     `json:"in_flight"`
	Sync          bool    `json:"sync"`
	Overwrite     bool    `json:"overwrite"`
	Seconds       float64 `json:"seconds"`
	Batches       int     `json:"batches"`
	MBPerSecond   float64 `json:"mb_per_s"`
	P50Micros     float64 `json:"p50_us"`
	P99Micros     float64 `json:"p99_us"`
	MaxMicros     float64 `json:"max_us"`
	CPUPerGiB     float64 `json:"cpu_s_per_gib"`
	CPUPerBatchUS float64 `json:"cpu_us_per_batch"`
	// CPUSeconds by process: client, leader, follower_1, follower_2.
	CPUSeconds map[string]float64 `json:"cpu_s"`
}

func newReport(opts options, took time.Duration, latencies []time.Duration, before, after map[string]time.Duration) *report {
	r := &report{
		Partitions: opts.partitions, BatchBytes: opts.batchBytes, InFlight: opts.inFlight,
		Sync: !opts.noSync, Overwrite: opts.overwrite,
		Seconds: took.Seconds(), Batches: len(latencies), CPUSeconds: map[string]float64{},
	}
	var cpu time.Duration
	for name, used := range after {
		cpu += used - before[name]
		r.CPUSeconds[name] = (used - before[name]).Seconds()
	}
	if len(latencies) == 0 {
		return r
	}
	payload := float64(len(latencies)) * float64(opts.batchBytes)
	r.MBPerSecond = payload / 1e6 / took.Seconds()
	r.CPUPerGiB = cpu.Seconds() / (payload / (1 << 30))
	r.CPUPerBatchUS = micros(cpu) / float64(len(latencies))
	slices.Sort(latencies)
	r.P50Micros = micros(quantile(latencies, 0.50))
	r.P99Micros = micros(quantile(latencies, 0.99))
	r.MaxMicros = micros(latencies[len(latencies)-1])
	return r
}

// quantile gives the smallest value that at least a share q of the sorted values
// does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	i := int(float64(len(sorted)) * q)
	if float64(i) == float64(len(sorted))*q && i > 0 {
		i--
	}
	return sorted[min(i, len(sorted)-1)]
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func (r *report) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, `%d partitions, %d bytes a batch, %d in flight, sync %t, overwrite %t, %.2f s
%10.1f MB/s (%d batches)
%10.0f us p50, %.0f us p99, %.0f us at most
%10.2f CPU s/GiB, %.0f us a batch (client %.2f, leader %.2f, followers %.2f and %.2f s)
`,
		r.Partitions, r.BatchBytes, r.InFlight, r.Sync, r.Overwrite, r.Seconds,
		r.MBPerSecond, r.Batches, r.P50Micros, r.P99Micros, r.MaxMicros, r.CPUPerGiB, r.CPUPerBatchUS,
		r.CPUSeconds["client"], r.CPUSeconds["leader"], r.CPUSeconds["follower_1"], r.CPUSeconds["follower_2"])
	return err
}
