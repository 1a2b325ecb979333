package raftgroup

import (
	"errors"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
)

// A directory that is another replica's is not made this one's: what it holds would be taken for this one's. One whose
// making was interrupted is made again.
func TestDirectoryOfAnotherReplicaIsKept(t *testing.T) {
	fsys := vfs.NewMem(1)
	if err := makeDir(fsys, "data"); err != nil {
		t.Fatal(err)
	}
	one := Identity{Topic: [16]byte{1}, Group: 7, Self: "1/1"}
	other := one
	other.Topic = [16]byte{2}
	filled := 0
	fill := func() error { filled++; return nil }
	for range 2 {
		if err := one.CreateDir(fsys, "data/7-1", fill); err != nil || filled != 1 {
			t.Fatalf("filled %d times, %v", filled, err)
		}
	}
	if err := other.CreateDir(fsys, "data/7-1", fill); !errors.Is(err, errOtherReplica) || filled != 1 {
		t.Errorf("made in another's directory, filled %d times: %v", filled, err)
	}
	if err := one.CheckDir(fsys, "data/7-1"); err != nil {
		t.Error(err)
	}
	if err := fsys.FlipBit("data/7-1/"+identityFile, 9, 1); err != nil {
		t.Fatal(err)
	}
	if err := other.CreateDir(fsys, "data/7-1", fill); err != nil || filled != 2 {
		t.Errorf("beside a damaged identity, filled %d times: %v", filled, err)
	}
}
