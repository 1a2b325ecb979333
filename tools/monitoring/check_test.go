package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// TestQueries scrapes three brokers under load, then without one of them. Every query of the dashboard parses, names metrics that
// brokers have, and gives an answer; every alert does so too, is quiet while all is well, and BrokerDown is not when a broker is.
func TestQueries(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := startCluster(ctx, t)
	h := newHistory()
	stop := startLoad(ctx, t, c)
	for range 8 {
		h.scrape(ctx, t, c)
		pass(ctx, time.Second)
	}
	e := promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: 30 * time.Second})
	p := parser.NewParser(parser.Options{})
	panels, alerts := readPanels(t), readAlerts(t, p)
	if len(panels) < 20 || len(alerts) < 10 {
		t.Fatalf("%d queries of panels, %d alerts", len(panels), len(alerts))
	}
	for name, query := range panels {
		h.knows(t, p, name, query)
		if v := h.ask(ctx, t, e, name, query); len(v) == 0 && !mayBeEmpty(query) {
			t.Errorf("%s: no answer to %s", name, query)
		}
	}
	for name, query := range alerts {
		h.knows(t, p, name, query)
		if v := h.ask(ctx, t, e, name, query); len(v) > 0 && name != "DiskNearlyFull" && name != "DiskSlow" {
			t.Errorf("alert %s fires although all is well: %s", name, v)
		}
	}
	stop()
	if err := c.Broker(3).Kill(); err != nil {
		t.Fatal(err)
	}
	pass(ctx, 5*time.Second)
	h.scrape(ctx, t, c)
	if v := h.ask(ctx, t, e, "BrokerDown", alerts["BrokerDown"]); len(v) == 0 {
		t.Error("alert BrokerDown does not fire although a broker is dead")
	}
}

// mayBeEmpty: quotients of what has not happened, and comparisons that select nothing.
func mayBeEmpty(query string) bool { return strings.Contains(query, "> 0") }

// startCluster runs three brokers.
func startCluster(ctx context.Context, t *testing.T) *brokerproc.Cluster {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "brokerd")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/brokerd")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := brokerproc.New(brokerproc.Options{Binary: binary, Dir: t.TempDir(), Brokers: 3, Set: []string{"log.level=warn"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// startLoad writes, in transactions and without, and reads, so that what is counted by label is counted.
func startLoad(ctx context.Context, t *testing.T, c *brokerproc.Cluster) (stop func()) {
	t.Helper()
	cl, err := client.New(client.Config{Bootstrap: c.GRPCAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.CreateTopic(ctx, client.TopicSpec{Name: "orders", Partitions: 6, ReplicationFactor: 3, WaitReady: time.Minute}); err != nil {
		t.Fatal(err)
	}
	txn, err := cl.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: "billing"})
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.InitTransactions(ctx); err != nil {
		t.Fatal(err)
	}
	p, err := cl.NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- write(ctx, p, txn) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = cl.Close(context.Background()) // it has served
	}
}

func write(ctx context.Context, p *client.Producer, txn *client.TransactionalProducer) error {
	for i := 0; ctx.Err() == nil; i++ {
		r := client.Record{Topic: "orders", Key: []byte(fmt.Sprint(i)), Value: make([]byte, 1000)}
		if res := p.SendSync(context.WithoutCancel(ctx), r); res.Err != nil {
			return res.Err
		}
		if i%20 > 0 {
			continue
		}
		if err := transact(context.WithoutCancel(ctx), txn, r); err != nil {
			return err
		}
	}
	return nil
}

func transact(ctx context.Context, txn *client.TransactionalProducer, r client.Record) error {
	if err := txn.Begin(); err != nil {
		return err
	}
	if err := txn.Send(ctx, r, nil); err != nil {
		return err
	}
	return txn.Commit(ctx)
}

func pass(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// scrape takes the metrics of all brokers that run, as if the last scrape had been 15 s ago.
func (h *history) scrape(ctx context.Context, t *testing.T, c *brokerproc.Cluster) {
	t.Helper()
	h.now = h.now.Add(15 * time.Second)
	for _, b := range c.Brokers() {
		if !b.Running() {
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.HTTP+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		exposition := expfmt.NewTextParser(model.LegacyValidation)
		families, err := exposition.TextToMetricFamilies(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: model.TimeFromUnixNano(h.now.UnixNano())}, slices.Collect(valuesOf(families))...)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range samples {
			h.add(s, "job", "oncelog", "instance", b.HTTP)
		}
	}
}

// knows makes sure that brokers have the metrics that a query names.
func (h *history) knows(t *testing.T, p parser.Parser, name, query string) {
	t.Helper()
	expr, err := p.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %s: %v", name, query, err)
		return
	}
	for _, selectors := range parser.ExtractSelectors(expr) {
		for _, m := range selectors {
			if m.Name == labels.MetricName && !h.names[m.Value] {
				t.Errorf("%s: no broker has metric %s", name, m.Value)
			}
		}
	}
}

// ask evaluates a query.
func (h *history) ask(ctx context.Context, t *testing.T, e *promql.Engine, name, query string) promql.Vector {
	t.Helper()
	q, err := e.NewInstantQuery(ctx, h, nil, query, h.now)
	if err != nil {
		t.Errorf("%s: %s: %v", name, query, err)
		return nil
	}
	defer q.Close()
	result := q.Exec(ctx)
	v, err := result.Vector()
	if err != nil {
		t.Errorf("%s: %s: %v", name, query, err)
	}
	return slices.Clone(v)
}

// readPanels gives the queries of the dashboard by panel, with its variables filled in.
func readPanels(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/oncelog.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*")
	queries := map[string]string{}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			queries[p.Title+"/"+target.RefID] = fill.Replace(target.Expr)
		}
	}
	return queries
}

// readAlerts gives the expressions of the alert rules, which promtool would take.
func readAlerts(t *testing.T, p parser.Parser) map[string]string {
	t.Helper()
	groups, errs := rulefmt.ParseFile("../../deploy/prometheus/alerts.yml", false, model.LegacyValidation, p, nil)
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	queries := map[string]string{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			queries[r.Alert] = r.Expr
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("alert %s lacks a summary, a description or a severity", r.Alert)
			}
		}
	}
	return queries
}
