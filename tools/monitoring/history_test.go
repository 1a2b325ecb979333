package monitoring

import (
	"context"
	"iter"
	"maps"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// history is what was scraped: as much of a time series database as the query engine needs.
type history struct {
	now    time.Time
	names  map[string]bool
	series map[uint64]*series
}

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

func newHistory() *history {
	return &history{now: time.UnixMilli(1_700_000_000_000), names: map[string]bool{}, series: map[uint64]*series{}}
}

// add keeps a sample under its own labels and those given in pairs.
func (h *history) add(s *model.Sample, more ...string) {
	b := labels.NewBuilder(labels.EmptyLabels())
	for name, value := range s.Metric {
		b.Set(string(name), string(value))
	}
	for i := 0; i < len(more); i += 2 {
		b.Set(more[i], more[i+1])
	}
	l := b.Labels()
	h.names[l.Get(labels.MetricName)] = true
	x := h.series[l.Hash()]
	if x == nil {
		x = &series{labels: l}
		h.series[l.Hash()] = x
	}
	x.samples = append(x.samples, sample{int64(s.Timestamp), float64(s.Value)})
}

func valuesOf(families map[string]*dto.MetricFamily) iter.Seq[*dto.MetricFamily] {
	return maps.Values(families)
}

// sample is a float at a time in ms.
type sample struct {
	t int64
	v float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.v }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// Querier gives what lies between two times (storage.Queryable).
func (h *history) Querier(from, to int64) (storage.Querier, error) {
	return &querier{h: h, from: from, to: to}, nil
}

type querier struct {
	h        *history
	from, to int64
}

// Select gives the series that match.
func (q *querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	var list []storage.Series
	for _, s := range q.h.series {
		if !matches(s.labels, matchers) {
			continue
		}
		var within []chunks.Sample
		for _, x := range s.samples {
			if x.T() >= q.from && x.T() <= q.to {
				within = append(within, x)
			}
		}
		if len(within) > 0 {
			list = append(list, storage.NewListSeries(s.labels, within))
		}
	}
	return &seriesSet{list: list}
}

func matches(l labels.Labels, matchers []*labels.Matcher) bool {
	for _, m := range matchers {
		if !m.Matches(l.Get(m.Name)) {
			return false
		}
	}
	return true
}

func (q *querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q *querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q *querier) Close() error { return nil }

type seriesSet struct {
	list []storage.Series
	at   int
}

func (s *seriesSet) Next() bool                        { s.at++; return s.at <= len(s.list) }
func (s *seriesSet) At() storage.Series                { return s.list[s.at-1] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }
