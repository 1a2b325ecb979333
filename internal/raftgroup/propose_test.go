package raftgroup

import "testing"

// Small commands wait for the end of a group once maxGroups are under way, and for no longer than until there are gatherBytes of them.
func TestSmallCommandsTravelInGroups(t *testing.T) {
	q := &proposals{}
	add := func(kind Kind, size int64) {
		q.queue = append(q.queue, &proposal{kind: kind, size: size})
		q.queuedBytes += size
	}
	for n := range maxGroups {
		add(KindCommand, 1000)
		if q.gathersLocked() {
			t.Fatalf("a command waits while %d groups are under way", n)
		}
		if !q.takeLocked().last {
			t.Fatalf("group %d of one command has no end", n)
		}
	}
	add(KindCommand, 1000)
	add(KindCommand, 1000)
	if !q.gathersLocked() {
		t.Fatalf("a small command does not wait while %d groups are under way", q.groups)
	}
	q.groups--
	if q.gathersLocked() {
		t.Fatal("commands wait although a group has ended")
	}
	first := q.takeLocked()
	add(KindCommand, 1000) // belongs to the next group
	if first.last || q.gathersLocked() {
		t.Fatal("the second of a group waits for others")
	}
	if !q.takeLocked().last || !q.gathersLocked() {
		t.Fatal("a command that came after the group began travels with it")
	}
	add(KindCommand, gatherBytes)
	if q.gathersLocked() {
		t.Fatalf("%d bytes wait for more", q.queuedBytes)
	}
	q.takeLocked()
	q.takeLocked()
	add(KindLeaderStart, 20)
	if q.gathersLocked() {
		t.Fatal("the first entry of a term waits")
	}
	if q.groups != maxGroups+1 || q.rest != 0 {
		t.Errorf("%d groups, %d left of the last, want %d and 0", q.groups, q.rest, maxGroups+1)
	}
}
