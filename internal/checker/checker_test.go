package checker

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// clean is a history that keeps every promise: two processes, one partition, one value unknown and
// stored, one unknown and not stored, one not written.
func clean() ([]Send, []Read) {
	var sends []Send
	var reads []Read
	for i := range 6 {
		sends = append(sends, Send{i % 2, "t", 0, uint64(i), Written, record.Offset(i)})
		reads = append(reads, Read{"t", 0, record.Offset(i), uint64(i)})
	}
	sends = append(sends, Send{0, "t", 0, 6, Unknown, -1}, Send{1, "t", 0, 7, Unknown, -1}, Send{1, "t", 0, 8, NotWritten, -1})
	return sends, append(reads, Read{"t", 0, 6, 6})
}

func TestCheckFindsEachPlantedBug(t *testing.T) {
	for _, c := range []struct {
		kind  Kind
		plant func(s []Send, r []Read) ([]Send, []Read)
	}{
		{"", func(s []Send, r []Read) ([]Send, []Read) { return s, r }},
		{Lost, func(s []Send, r []Read) ([]Send, []Read) { return s, append(r[:2:2], r[3:]...) }},
		{Duplicate, func(s []Send, r []Read) ([]Send, []Read) { return s, append(r, Read{"t", 0, 7, 3}) }},
		{Phantom, func(s []Send, r []Read) ([]Send, []Read) { return s, append(r, Read{"t", 0, 7, 99}) }},
		{Phantom, func(s []Send, r []Read) ([]Send, []Read) { return s, append(r, Read{"t", 0, 7, 8}) }},
		{Moved, func(s []Send, r []Read) ([]Send, []Read) {
			r[6].Value, r[6].Offset = 6, 9
			s[6].Outcome, s[6].Offset = Written, 6
			return s, r
		}},
		{Inconsistent, func(s []Send, r []Read) ([]Send, []Read) { return s, append(r, Read{"t", 0, 3, 4}) }},
		{Reordered, func(s []Send, r []Read) ([]Send, []Read) {
			r[2].Value, r[4].Value = 4, 2
			s[2].Offset, s[4].Offset = 4, 2
			return s, r
		}},
	} {
		s, r := c.plant(clean())
		got := Check(s, r)
		if c.kind == "" != got.OK() || c.kind != "" && (len(got.Counts) != 1 || got.Counts[c.kind] != 1) {
			t.Errorf("planted %q: %s", c.kind, got)
		}
	}
}

func TestHistoryFileKeepsEverything(t *testing.T) {
	s, r := clean()
	var b bytes.Buffer
	if err := WriteTo(&b, s, r); err != nil {
		t.Fatal(err)
	}
	s2, r2, err := ReadFrom(&b)
	if err != nil || !reflect.DeepEqual(s, s2) || !reflect.DeepEqual(r, r2) {
		t.Fatalf("%v, %v, %v", s2, r2, err)
	}
	if _, _, err := ReadFrom(bytes.NewBufferString("{}\n")); err == nil {
		t.Fatal("an empty line was taken")
	}
}
