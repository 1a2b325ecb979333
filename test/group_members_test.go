package test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (w *worker) committed() (offsets []record.Offset) {
	w.s.t.Helper()
	found, err := w.s.cl.GroupOffsets(w.s.ctx, testGroup, true)
	w.s.must("offsets", err)
	for _, f := range found {
		offsets = append(offsets, f.Offset)
	}
	return offsets
}

// AutoCommit commits what Poll has returned, at a later Poll: never what the program may still be working on.
func TestAutomaticCommit(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", func(c *client.GroupConfig) { c.AutoCommit, c.AutoCommitInterval = true, 50*time.Millisecond })
	s.share(map[*worker]int{one: 3})
	s.fill(0, 6)
	one.readN(6)
	s.until("commit by polling", func() bool {
		one.read(20 * time.Millisecond)
		return slices.Equal(one.committed(), []record.Offset{2, 2, 2})
	})
	s.fill(6, 3)
	one.readN(3)
	s.must("leave", one.g.Close(s.ctx)) // which commits
	if got := one.committed(); !slices.Equal(got, []record.Offset{3, 3, 3}) {
		t.Fatalf("after Close: %v", got)
	}
}

// CommitAsync commits in the order in which it was asked to, and tells what came of it.
func TestCommitAsync(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", nil)
	s.share(map[*worker]int{one: 3})
	tp := record.TopicPartition{Topic: topic}
	results := make(chan error, 100)
	for i := range 100 {
		one.g.CommitAsync(client.Offsets{tp: record.Offset(i + 1)}, func(_ client.Offsets, err error) { results <- err })
	}
	for range 100 {
		s.must("commit", <-results)
	}
	if got := one.committed(); !slices.Equal(got, []record.Offset{100}) {
		t.Fatalf("committed %v", got)
	}
	one.g.CommitAsync(client.Offsets{{Topic: "nowhere"}: 1}, func(_ client.Offsets, err error) { results <- err })
	if err := <-results; reasonOf(err) != client.ReasonStaleMemberEpoch {
		t.Fatalf("for no topic of its own: %v", err)
	}
}

// Who goes back while a commit is under way, and commits that, is not told that there is nothing to commit: what lies in between would be lost
// with the next crash.
func TestCommitOfWhatWasGoneBackTo(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", nil)
	s.share(map[*worker]int{one: 3})
	tp := record.TopicPartition{Topic: topic}
	for range 20 {
		s.must("commit", one.g.CommitOffsets(s.ctx, client.Offsets{tp: 0}))
		offsets := client.Offsets{tp: 7}
		one.g.CommitAsync(offsets, nil)
		offsets[tp] = 9 // it was taken as it was
		s.must("seek", one.g.Seek(tp, client.At(0)))
		s.must("commit", one.g.Commit(s.ctx))
		found, err := one.g.Committed(s.ctx, tp)
		s.must("fetch", err)
		if len(found) != 1 || found[0].Offset != 0 {
			t.Fatalf("committed %+v, want offset 0", found)
		}
	}
}

// Whoever has given partitions back commits nothing for them any more: they are read from where those begin who have them now (G20).
func TestNothingIsCommittedForWhatWasGivenBack(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", nil)
	s.share(map[*worker]int{one: 3})
	had := one.g.Assignment()
	before := one.g.Member()
	two := s.worker("two", nil)
	s.until("share", func() bool {
		one.read(20 * time.Millisecond)
		two.read(20 * time.Millisecond)
		return len(one.g.Assignment()) > 0 && len(two.g.Assignment()) > 0 && len(one.g.Assignment())+len(two.g.Assignment()) == 3
	})
	gone := two.g.Assignment()[0]
	if !slices.Contains(had, gone) {
		t.Fatalf("%v was not of %v", gone, had)
	}
	s.must("commit", two.g.CommitOffsets(s.ctx, client.Offsets{gone: 7}))
	if err := one.g.CommitOffsets(s.ctx, client.Offsets{gone: 3}); reasonOf(err) != client.ReasonStaleMemberEpoch {
		t.Errorf("a commit for what was given back: %v", err)
	}
	// As a commit that was asked for before, and goes out now.
	p := s.transactional("tx")
	s.must("begin", p.Begin())
	if err := p.SendOffsets(s.ctx, before, client.Offsets{gone: 3}); reasonOf(err) != client.ReasonStaleMemberEpoch {
		t.Errorf("at the epoch of before: %v", err)
	}
	s.must("abort", p.Abort(s.ctx))
	found, err := two.g.Committed(s.ctx, gone)
	s.must("fetch", err)
	if len(found) != 1 || found[0].Offset != 7 {
		t.Errorf("committed %+v", found)
	}
}

// A static member that closes and comes back has the partitions that it had, and nobody else has noticed (G12, G14).
func TestStaticMemberComesBack(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	static := func(id string) func(*client.GroupConfig) { return func(c *client.GroupConfig) { c.InstanceID = id } }
	one, two := s.worker("one", static("i1")), s.worker("two", static("i2"))
	s.until("share", func() bool {
		one.read(20 * time.Millisecond)
		two.read(20 * time.Millisecond)
		return len(one.g.Assignment())+len(two.g.Assignment()) == 3 && len(one.g.Assignment()) > 0 && len(two.g.Assignment()) > 0
	})
	had := one.g.Assignment()
	revoked, assigned := two.revoked, two.assigned
	s.must("close", one.g.Close(s.ctx))
	again := s.worker("one", static("i1"))
	s.until("come back", func() bool {
		again.read(20 * time.Millisecond)
		two.read(20 * time.Millisecond)
		return slices.Equal(again.g.Assignment(), had)
	})
	if two.revoked != revoked || two.assigned != assigned || two.lost != 0 {
		t.Errorf("the other member was told of %d, %d, %d", two.assigned-assigned, two.revoked-revoked, two.lost)
	}
	third := s.worker("three", static("i1")) // while the other one is there
	ctx := s.ctx
	s.until("is not let in", func() bool {
		third.read(20 * time.Millisecond)
		again.read(20 * time.Millisecond)
		d, err := s.cl.DescribeGroup(ctx, testGroup)
		return err == nil && len(d.Members) == 2 && len(third.g.Assignment()) == 0
	})
}

// A program that does not poll leaves the group until it does: its partitions are not held up by it.
func TestMemberThatDoesNotPollLeaves(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", func(c *client.GroupConfig) { c.MaxPollInterval = time.Second })
	s.share(map[*worker]int{one: 3})
	two := s.worker("two", nil)
	s.share(map[*worker]int{two: 3}) // one does not poll meanwhile
	s.until("one comes back", func() bool {
		one.read(20 * time.Millisecond)
		two.read(20 * time.Millisecond)
		return one.lost == 3 && len(one.g.Assignment()) > 0
	})
	want := s.fill(0, 9)
	var got []string
	s.until("both read", func() bool {
		got = append(append(got, one.read(20*time.Millisecond)...), two.read(20*time.Millisecond)...)
		return len(got) >= 9
	})
	slices.Sort(got)
	s.wantValues("read", got, want)
}

// A pattern finds topics that come later; a partition that is paused gives nothing until it is resumed.
func TestPatternAndPause(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", func(c *client.GroupConfig) { c.Topics, c.Pattern = nil, "late-.*|"+topic })
	s.share(map[*worker]int{one: 3})
	for _, name := range []string{"late-1", "too-late-1"} {
		_, err := s.cl.CreateTopic(s.ctx, client.TopicSpec{Name: name, Partitions: 2, ReplicationFactor: 3, WaitReady: 10 * time.Second})
		s.must("create", err)
	}
	s.share(map[*worker]int{one: 5})
	paused := record.TopicPartition{Topic: topic, Partition: 1}
	s.must("pause", one.g.Pause(paused))
	want := s.fill(0, 6)
	var got []string
	s.until("read what is not paused", func() bool { got = append(got, one.read(50*time.Millisecond)...); return len(got) >= 4 })
	if more := one.read(200 * time.Millisecond); len(more) > 0 {
		t.Fatalf("%v of a paused partition", more)
	}
	s.must("resume", one.g.Resume(paused))
	got = append(got, one.readN(2)...)
	slices.Sort(got)
	s.wantValues("all", got, want)
}

// A topic that is deleted and created again is another one: its records are read from their beginning, whatever was read of the one before, and nobody
// commits for it what was.
func TestGroupReadsATopicThatWasCreatedAgain(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", nil)
	s.share(map[*worker]int{one: 3})
	s.fill(0, 6)
	one.readN(6)
	before, old := one.g.Member(), one.g.Positions()
	s.must("delete", s.cl.DeleteTopic(s.ctx, topic))
	_, err := s.cl.CreateTopic(s.ctx, client.TopicSpec{Name: topic, Partitions: 3, ReplicationFactor: 3, WaitReady: 20 * time.Second})
	s.must("create again", err)
	want := s.fill(10, 9)
	if err := one.g.Commit(s.ctx); err == nil {
		t.Error("offsets of the old topic are committed for the new one")
	}
	p := s.transactional("tx")
	s.must("begin", p.Begin())
	if err := p.SendOffsets(s.ctx, before, old); err == nil {
		t.Error("offsets of the old topic are sent for the new one")
	}
	s.must("abort", p.Abort(s.ctx))
	var values []string
	s.until("the new topic is read", func() bool {
		ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
		defer cancel()
		got, _ := one.g.Poll(ctx)
		for i := range got {
			if got[i].Err == nil { // else the old topic is missed, until its partitions are given back
				values = append(values, s.values(got[i:i+1])...)
			}
		}
		return len(values) >= 9
	})
	slices.Sort(values)
	s.wantValues("of the new topic", values, want)
	s.must("commit", one.g.Commit(s.ctx))
	if got := one.committed(); !slices.Equal(got, []record.Offset{3, 3, 3}) {
		t.Errorf("committed %v", got)
	}
}
