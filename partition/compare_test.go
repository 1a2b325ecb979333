package partition

import (
	"fmt"
	"slices"
	"testing"

	"github.com/oncelog/oncelog/internal/raftgroup"
)

func TestWhoIsWrong(t *testing.T) {
	type sums map[raftgroup.ServerID]EntrySum
	sum := func(n byte, sound bool) EntrySum { return EntrySum{[32]byte{n}, sound} }
	good, other, third := sum(1, true), sum(2, true), sum(3, true)
	broken := sum(9, false)
	for _, c := range []struct {
		name   string
		sums   sums
		voters int
		wrong  string
		differ bool
	}{
		{"all equal", sums{"1/1": good, "2/2": good, "3/3": good}, 3, "[]", false},
		{"one alone", sums{"1/1": good}, 3, "[]", false},
		{"one of three", sums{"1/1": good, "2/2": other, "3/3": good}, 3, "[2/2]", true},
		{"one of three, its own checksums tell", sums{"1/1": good, "2/2": broken, "3/3": good}, 3, "[2/2]", true},
		{"two answer and differ", sums{"1/1": good, "2/2": other}, 3, "[]", true},
		{"two answer, one's own checksums tell, and the third may be gone", sums{"1/1": broken, "2/2": good}, 3, "[]", true},
		{"one of five is broken, one is gone", sums{"1/1": good, "2/2": broken, "3/3": good, "4/4": good}, 5, "[2/2]", true},
		{"one of five is broken, two are gone", sums{"1/1": good, "2/2": broken, "3/3": good}, 5, "[]", true},
		{"three differ", sums{"1/1": good, "2/2": other, "3/3": third}, 3, "[]", true},
		{"two of three are broken: nobody is left to rebuild from", sums{"1/1": good, "2/2": broken, "3/3": sum(8, false)}, 3, "[]", true},
		{"a group of two cannot lose one", sums{"1/1": good, "2/2": broken}, 2, "[]", true},
		{"two of five", sums{"1/1": good, "2/2": other, "3/3": good, "4/4": third, "5/5": good}, 5, "[2/2 4/4]", true},
		{"a majority of what answers is none of the group", sums{"1/1": good, "2/2": good, "3/3": other}, 5, "[]", true},
	} {
		wrong, differ := whoIsWrong(c.sums, c.voters)
		slices.Sort(wrong)
		if fmt.Sprint(wrong) != c.wrong || differ != c.differ {
			t.Errorf("%s: wrong %v, differ %v, want %s, %v", c.name, wrong, differ, c.wrong, c.differ)
		}
	}
}
