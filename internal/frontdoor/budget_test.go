package frontdoor

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func value(t *testing.T, g prometheus.Gauge) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.Gauge.GetValue()
}

// What one door holds is not there for the other; each counts its own.
func TestDoorsShareAPool(t *testing.T) {
	first, second := prometheus.NewGauge(prometheus.GaugeOpts{Name: "a"}), prometheus.NewGauge(prometheus.GaugeOpts{Name: "b"})
	pool := NewPool(100)
	a, b := pool.Share(first), pool.Share(second)
	if !a.TryAdd(70) || b.TryAdd(40) || !b.TryAdd(30) {
		t.Fatal("70 and 30 of 100 fit, 40 do not")
	}
	if value(t, first) != 70 || value(t, second) != 30 {
		t.Errorf("the doors count %v and %v", value(t, first), value(t, second))
	}
	taken := make(chan int64)
	go func() { taken <- b.Take(t.Context(), 50, 60, nil) }()
	a.Add(-70)
	if n := <-taken; n != 60 {
		t.Errorf("%d were taken, want 60", n)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if n := a.Take(over, 50, 60, nil); n != 0 {
		t.Errorf("%d were taken when there was no room", n)
	}
}
