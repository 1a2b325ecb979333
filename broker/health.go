package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/internal/buildinfo"
)

// healthInterval is how often the broker looks at itself without being poked.
const healthInterval = 500 * time.Millisecond

// lookGap is the least time between two looks: with thousands of partitions each costs something, and each election asks for one.
const lookGap = 20 * time.Millisecond

// maxReasons bounds what /readyz lists.
const maxReasons = 10

// health knows whether this broker can do its work: it belongs to the cluster, has done what the
// metadata asks, holds no quarantined or stopped replica, and each of its groups has a leader.
type health struct {
	p *parts

	// mu guards what follows.
	mu sync.Mutex
	// waiting says what the broker waits for until it looks at itself; nil: that is not known yet.
	waiting  func() string
	last     []string
	warnings []string
	draining bool
	changed  chan struct{}
	poked    chan struct{}
}

func newHealth(p *parts) *health {
	return &health{p: p, last: []string{starting}, changed: make(chan struct{}), poked: make(chan struct{}, 1)}
}

// Serving says whether the broker is ready (api.Health).
func (h *health) Serving() (bool, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.last) == 0, h.changed
}

// reasons tells what keeps the broker from being ready; none: it is.
func (h *health) reasons() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting != nil && len(h.last) == 1 && h.last[0] == starting {
		if what := h.waiting(); what != "" {
			return []string{starting + ": waiting for " + what}
		}
	}
	return h.last
}

// starting is the reason before the first look.
const starting = "starting"

// waitsFor enters who knows what the broker waits for.
func (h *health) waitsFor(waiting func() string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = waiting
}

// warned tells what is not as it should be although the broker is ready.
func (h *health) warned() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.warnings
}

func (h *health) setWarnings(w []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.warnings = w
}

// poke asks for a look soon.
func (h *health) poke() {
	select {
	case h.poked <- struct{}{}:
	default:
	}
}

// drain makes the broker not ready for good.
func (h *health) drain() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.look()
}

func (h *health) isDraining() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.draining
}

// watch looks again and again until ctx ends.
func (h *health) watch(ctx context.Context) {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	for {
		h.look()
		looked := time.Now()
		select {
		case <-ticker.C:
		case <-h.poked:
		case <-ctx.Done():
			return
		}
		// Nothing is made to wait for no time: in a simulation such a timer would run here, beside those of other goroutines,
		// which the race detector of Go 1.26 does not survive.
		gap := lookGap - time.Since(looked)
		if gap <= 0 {
			continue
		}
		select {
		case <-time.After(gap):
		case <-ctx.Done():
			return
		}
	}
}

// waitReady waits until nothing is missing, or either context ends.
func (h *health) waitReady(ctx, abort context.Context) error {
	for {
		serving, changed := h.Serving()
		if serving {
			return nil
		}
		select {
		case <-changed:
		case err := <-h.p.failed:
			h.p.failed <- err // There is room: it has just been taken out.
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-abort.Done():
			return abort.Err()
		}
	}
}

func (h *health) look() {
	reasons := h.collect()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		reasons = []string{"draining"}
	}
	if slices.Equal(reasons, h.last) {
		return
	}
	h.last = reasons
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *health) collect() []string {
	p := h.p
	select {
	case <-p.cluster.Ready():
	default:
		return []string{"not registered with the cluster yet"}
	}
	p.disk.look()
	reasons, warnings := p.disk.trouble()
	h.setWarnings(warnings)
	if _, _, ok := p.cluster.Controller(); !ok {
		reasons = append(reasons, "the metadata group has no leader")
	}
	if !p.reconciler.isSettled() {
		reasons = append(reasons, "replicas are still being opened")
	}
	if !p.firstUserDone.Load() {
		reasons = append(reasons, "the user of security.bootstrap_user is not known yet")
	}
	problems, silent := p.partitions.Troubles()
	for _, g := range problems {
		reasons = append(reasons, fmt.Sprintf("replica of %s is out of service: %s", g.Spec.TopicPartition, g.Problem))
	}
	for _, g := range p.coordinators.Groups() {
		switch {
		case g.Problem != "":
			reasons = append(reasons, fmt.Sprintf("replica of %s is out of service: %s", g.Spec, g.Problem))
		case g.Raft.Leader == "":
			silent++
		}
	}
	if silent > 0 {
		reasons = append(reasons, fmt.Sprintf("%d partitions have no leader", silent))
	}
	if n := len(reasons); n > maxReasons {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more", n-maxReasons))
	}
	return reasons
}

// buildInfoMetric says which build runs.
func buildInfoMetric() prometheus.Collector {
	info := buildinfo.Get()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_build_info", Help: "Always 1; the labels name the build.",
		ConstLabels: prometheus.Labels{"version": info.Version, "commit": info.Commit, "go": info.Go}})
	g.Set(1)
	return g
}
