package test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// TestMetricsInDocsExist: what the documents tell an operator to look at is there.
func TestMetricsInDocsExist(t *testing.T) {
	t.Parallel()
	s := begin(t)
	have := s.c.MetricNames(s.leader())
	// Those with labels that nothing has happened to yet are not shown.
	have = append(have, "brokerd_mux_rejected_total", "brokerd_transactional_ids", "brokerd_transaction_partitions",
		"brokerd_groups", "brokerd_group_members", "brokerd_group_offsets", "brokerd_group_offsets_pending", "brokerd_group_bytes",
		"brokerd_group_joining_bytes", "brokerd_group_requests_total", "brokerd_kafka_connections_closed_total", "brokerd_replica_comparisons_total",
		// Those of what is not configured in this test neither; TestTLSOnEveryListener and TestUsersComeInByBothDoors use it.
		"brokerd_tls_certificate_not_after_seconds", "brokerd_tls_authority_not_after_seconds", "brokerd_authentications_total", "brokerd_authorization_denied_total",
		"brokerd_audit_lines_left_out_total")
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	name := regexp.MustCompile(`\bbrokerd_[a-z_]+[a-z]\b`)
	seen := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllString(string(text), -1) {
			seen++
			if !slices.Contains(have, m) {
				t.Errorf("%s names %s, which brokers do not have", page, m)
			}
		}
	}
	if seen == 0 {
		t.Error("the documents name no metric")
	}
}
