package partition

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/partition/recordlog"
)

// openSpares begins to keep files of dropped segments, to be written over. Without them files grow as ever.
func (h *Host) openSpares() {
	if h.config.SparesDir == "" {
		return
	}
	var err error
	if h.spares, err = recordlog.OpenSpares(h.config.FS, h.config.SparesDir); err != nil {
		h.logger.Warn("no files of dropped segments are kept", "err", err)
		return
	}
	if h.config.Registerer != nil {
		h.config.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "brokerd_log_spare_bytes",
			Help: "Bytes of files of dropped segments that are kept to be written over."}, func() float64 { return float64(h.spares.Bytes()) }))
	}
}

// DiskState is what this broker's replicas have lately seen of the disk.
type DiskState struct {
	// Full: an append was refused for lack of space in the last 10 s.
	Full bool
	// Stalled is for how long the longest write under way has been; 0: none is.
	Stalled time.Duration
	// SlowestSync is the longest sync of the last 10 to 20 s.
	SlowestSync time.Duration
}

// Disk asks all replicas.
func (h *Host) Disk() DiskState {
	var d DiskState
	for _, r := range h.all() {
		d.Full = d.Full || r.log.Full()
		d.Stalled = max(d.Stalled, r.log.Stalled())
		d.SlowestSync = max(d.SlowestSync, r.log.SlowestSync())
	}
	return d
}

// ClockJump is by how much the clock had jumped forward when ages were last judged; 0: it had not, or was back.
func (h *Host) ClockJump() time.Duration { return time.Duration(h.jump.Load()) }
