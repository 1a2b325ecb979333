package test

import (
	"errors"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
)

// problems are what a broker's replicas say keeps them from serving.
func (l *load) problems(id int32) string {
	groups, _, err := l.cl.RaftGroups(l.ctx, topic)
	if err != nil {
		return ""
	}
	var all []string
	for _, g := range groups {
		if g.Broker == id {
			all = append(all, g.Problem)
		}
	}
	return strings.Join(all, "; ")
}

// until asks again and again until the answer is yes.
func (l *load) until(what string, yes func() bool) {
	l.t.Helper()
	(&scenario{t: l.t, ctx: l.ctx, c: l.c, cl: l.cl}).until(what, yes)
}

// TestFsyncFails: after a failed fdatasync nobody knows what is on the disk. The leader's replica stops and says why; it is
// not tried again as if nothing had happened, though the disk works again. The others go on, and the broker comes back
// from what its disk really holds.
func TestFsyncFails(t *testing.T) {
	t.Parallel()
	l := start(t)
	id := l.leader()
	l.c.Disk(id).FailNth(vfs.OpSync, ".seg", 1, errors.New("input/output error"))
	l.until("the replica to stop", func() bool { return strings.Contains(l.problems(id), "input/output error") })
	for range 3 {
		l.progress()
	}
	if n := l.c.Metric(id, "brokerd_raft_halted_groups_total"); n != 1 {
		t.Errorf("%v replicas are stopped, want 1", n)
	}
	if p := l.problems(id); !strings.Contains(p, "input/output error") {
		t.Errorf("the replica goes on: %q", p)
	}
	l.c.Crash(id) // what the failed call should have written is gone
	l.c.Restart(id)
	l.until("the replica to be back", func() bool { return l.problems(id) == "" || l.problems(id) == "; " })
	l.progress()
	l.judge()
}

// TestDiskFull: a broker whose disk is full takes nothing and loses nothing; the others go on, and it does too when there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	l := start(t)
	id := l.leader()
	disk := l.c.Disk(id)
	disk.SetCapacity(disk.Used())
	for range 3 {
		l.progress()
	}
	disk.SetCapacity(0)
	l.progress()
	l.judge()
}
