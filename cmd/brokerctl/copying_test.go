package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/client"
)

// Replicas without a vote, and those that Raft alone cannot bring level, are being filled; others are not.
func TestCopiesOf(t *testing.T) {
	groups := []client.RaftGroup{
		{GroupID: 7, Name: "a/0", Broker: 1, Role: "leader", FirstIndex: 50, LastIndex: 90, LogBytes: 1000, Learners: []string{"4/9"}},
		{GroupID: 7, Name: "a/0", Broker: 2, Role: "follower", FirstIndex: 40, LastIndex: 90, LogBytes: 1200},
		{GroupID: 7, Name: "a/0", Broker: 3, Role: "follower", FirstIndex: 1, LastIndex: 20, LogBytes: 100},
		{GroupID: 7, Name: "a/0", Broker: 4, Role: "learner", FirstIndex: 50, LastIndex: 60, LogBytes: 250},
		{GroupID: 2, Name: "b/0", Broker: 4, Role: "learner", LogBytes: 10}, // whose leader is not known
		// Beside three voters of the metadata others stay without a vote.
		{GroupID: metadataGroup, Name: "metadata", Broker: 1, Role: "leader", FirstIndex: 1, LastIndex: 900, CommitIndex: 900, Learners: []string{"4/9"}},
		{GroupID: metadataGroup, Name: "metadata", Broker: 4, Role: "learner", FirstIndex: 1, LastIndex: 890},
	}
	got := copiesOf(groups)
	if len(got) != 2 || got[0].Broker != 3 || got[0].Copied != 100 || got[1].Broker != 4 || got[1].Copied != 250 || got[1].Total != 1000 {
		t.Fatalf("%+v", got)
	}
}

func TestCopyPace(t *testing.T) {
	var p copyPace
	now := time.Unix(1000, 0)
	at := func(s int, have int64) string {
		return p.words(now.Add(time.Duration(s)*time.Second), have<<20, 100<<20)
	}
	for _, c := range []struct {
		second int
		have   int64
		want   string
	}{
		{0, 0, "0 B of 100.0 MiB copied"},
		{2, 20, "20.0 MiB of 100.0 MiB copied, 10.0 MiB/s, 8s left"},
		{10, 20, "20.0 MiB of 100.0 MiB copied, 2.0 MiB/s, 40s left"},
		{40, 20, "20.0 MiB of 100.0 MiB copied"},
		{42, 10, "10.0 MiB of 100.0 MiB copied"}, // begun anew
	} {
		if got := at(c.second, c.have); got != c.want {
			t.Errorf("after %d s: %q, want %q", c.second, got, c.want)
		}
	}
}

func TestCopyTable(t *testing.T) {
	left := int64(95)
	var out bytes.Buffer
	if err := copyTable([]copyJSON{{Name: "orders/0", Broker: 3, Copied: 1 << 30, Total: 4 << 30, PerSecond: 32 << 20, SecondsLeft: &left},
		{Name: "orders/1", Broker: 3, Total: 1 << 20}}).write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"BEING FILLED", "orders/0", "1.0 GiB", "4.0 GiB", "32.0 MiB", "1m35s", "-"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
