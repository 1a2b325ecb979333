package broker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/api"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition"
)

// From where on a disk is in trouble.
const (
	// stalledAfter is as in raftgroup: after it, leaders give up leading.
	stalledAfter = 2 * time.Second
	// slowSync is a sync that makes clients wait noticeably.
	slowSync = 500 * time.Millisecond
	// lowSpace is the part of the file system that should be free.
	lowSpace = 0.1
	// tinySpace is too little for the segments that replicas are about to begin.
	tinySpace = 64 << 20
)

// disk watches the broker's disk: what its replicas have seen of it, and how much room there is. It tells the log
// when something begins or ends.
type disk struct {
	fs     vfs.FS
	dir    string
	seen   func() partition.DiskState
	logger *slog.Logger
	free   prometheus.Gauge
	total  prometheus.Gauge
	stall  prometheus.Gauge
	full   prometheus.Gauge

	// mu guards what follows.
	mu    sync.Mutex
	state api.DiskState
	told  map[string]bool
}

func newDisk(fs vfs.FS, dir string, seen func() partition.DiskState, reg prometheus.Registerer, logger *slog.Logger) *disk {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "brokerd", Subsystem: "disk", Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	return &disk{
		fs: fs, dir: dir, seen: seen, logger: logger, told: map[string]bool{},
		free:  gauge("free_bytes", "What the file system that holds the data directory still takes; 0 with brokerd_disk_total_bytes 0: it does not tell."),
		total: gauge("total_bytes", "Size of the file system that holds the data directory."),
		stall: gauge("stalled_seconds", "For how long the longest write under way has been; above 2 leaders give up leading."),
		full:  gauge("full", "1 while writes are refused for lack of space, and for 10 s after."),
	}
}

// look looks once.
func (d *disk) look() {
	seen := d.seen()
	s := api.DiskState{Full: seen.Full, Stalled: seen.Stalled, SlowestSync: seen.SlowestSync}
	s.Free, s.Total, _ = vfs.Space(d.fs, d.dir)
	d.free.Set(float64(s.Free))
	d.total.Set(float64(s.Total))
	d.stall.Set(s.Stalled.Seconds())
	d.full.Set(0)
	if s.Full {
		d.full.Set(1)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = s
	reasons, warnings := diskTrouble(s)
	d.tell(slog.LevelError, "full", s.Full, reasons)
	d.tell(slog.LevelError, "does not answer", s.Stalled > stalledAfter, reasons)
	d.tell(slog.LevelWarn, "slow", isSlow(s), warnings)
	d.tell(slog.LevelWarn, "nearly full", isLow(s), warnings)
}

// tell tells the log that something has begun or ended. Held: mu.
func (d *disk) tell(level slog.Level, what string, is bool, texts []string) {
	if is == d.told[what] {
		return
	}
	d.told[what] = is
	if !is {
		d.logger.Info("disk: not "+what+" any more", "dir", d.dir)
		return
	}
	d.logger.Log(context.Background(), level, "disk: "+what, "dir", d.dir, "trouble", texts)
}

// trouble gives what keeps the broker from being ready, and what should be looked after.
func (d *disk) trouble() (reasons, warnings []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return diskTrouble(d.state)
}

// last gives what was seen last.
func (d *disk) last() api.DiskState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

func isSlow(s api.DiskState) bool { return s.SlowestSync >= slowSync }

func isLow(s api.DiskState) bool {
	return s.Total > 0 && !s.Full && (float64(s.Free) < lowSpace*float64(s.Total) || s.Free < tinySpace)
}

func diskTrouble(s api.DiskState) (reasons, warnings []string) {
	room := ""
	if s.Total > 0 {
		room = fmt.Sprintf(": %s of %s are free", mebibytes(s.Free), mebibytes(s.Total))
	}
	if s.Full {
		reasons = append(reasons, "the disk is full, writes are refused"+room)
	}
	if s.Stalled > stalledAfter {
		reasons = append(reasons, fmt.Sprintf("the disk does not answer: a write has been under way for %s", s.Stalled.Round(time.Second)))
	}
	if isLow(s) {
		warnings = append(warnings, "the disk is nearly full"+room)
	}
	if isSlow(s) {
		warnings = append(warnings, fmt.Sprintf("the disk is slow: a sync took %s", s.SlowestSync.Round(time.Millisecond)))
	}
	return reasons, warnings
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
