package record

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Batches after compaction: holes between offsets, no records at all (L34 to L36).
func TestRecordsOfCompactedBatches(t *testing.T) {
	holes := framed(2, []byte{6 << 1, 0, 0, 3 << 1, 1, 1, 0}, []byte{6 << 1, 0, 0, 7 << 1, 1, 1, 0})
	put32(offLastOffsetDelta, 9)(holes)
	holes.SetBaseOffset(100)
	got := contentOf(t, holes)
	if len(got) != 2 || got[0].Offset != 103 || got[1].Offset != 107 || holes.LastOffset() != 109 {
		t.Errorf("%v", got)
	}
	empty := framed(0)
	put32(offLastOffsetDelta, 9)(empty)
	if got := contentOf(t, empty); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestRecordsRefuse(t *testing.T) {
	ok := []byte{6 << 1, 0, 0, 0, 1, 1, 0}
	good := sample(t, CodecNone)
	for _, tc := range []struct {
		name  string
		batch Batch
		code  Code
	}{
		{"nothing", nil, ErrInvalidRecord},
		{"cut", good[:len(good)-1], ErrInvalidRecord},
		{"two batches", append(bytes.Clone(good), good...), ErrInvalidRecord},
		{"magic", change(good, offMagic, 8), ErrCorruptMessage},
		{"count -1", altered(good, put32(offRecordCount, -1)), ErrInvalidRecord},
		{"count 2^31 - 1", altered(good, put32(offRecordCount, 1<<31-1)), ErrInvalidRecord},
		{"count too small", altered(good, put32(offRecordCount, 2)), ErrInvalidRecord},
		{"codec", altered(good, put16(offAttributes, 5)), ErrUnsupportedCompression},
		{"not gzip", altered(good, put16(offAttributes, 1)), ErrCorruptMessage},
		{"offset that does not rise", framed(2, ok, ok), ErrInvalidRecord},
		{"offset above the last", framed(1, []byte{6 << 1, 0, 0, 1 << 1, 1, 1, 0}), ErrInvalidRecord},
		{"negative offset", framed(1, []byte{6 << 1, 0, 0, 1, 1, 1, 0}), ErrInvalidRecord},
	} {
		records, err := tc.batch.Records(0)
		if err == nil {
			for records.Next() {
			}
			err = records.Err()
			if records.Next() {
				t.Errorf("%s: goes on after the error", tc.name)
			}
			records.Close()
		}
		if !errors.Is(err, tc.code) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.code)
		}
	}
	long := sample(t, CodecZstd)
	if _, err := long.Records(100); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("limit of 100 bytes: %v", err)
	}
}

func TestRecordsRefuseNegativeCountAtOnce(t *testing.T) {
	if _, err := altered(sample(t, CodecNone), put32(offRecordCount, -1)).Records(0); !errors.Is(err, ErrInvalidRecord) {
		t.Error(err)
	}
}

// A reader that is used again allocates only the names of headers.
func TestRecordsDoNotAllocate(t *testing.T) {
	b := NewBuilder(CodecNone)
	for range 10 {
		if err := b.Append(now, []byte("key"), nil, []Header{{}, {Value: []byte("v")}}); err != nil {
			t.Fatal(err)
		}
	}
	batch := b.Finish(1, 0, 0, false)
	var r Records
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Reset(batch, 0); err != nil {
			t.Fatal(err)
		}
		for r.Next() {
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// One reader may go through many batches; without Close, what was read stays as it is.
func TestRecordsReset(t *testing.T) {
	var r Records
	for round := range 3 {
		for codec := range codecCount {
			b := sample(t, codec)
			if err := r.Reset(b, 0); err != nil {
				t.Fatal(err)
			}
			n := 0
			for r.Next() {
				if want := fmt.Sprintf("key%d", n); string(r.Record().Key) != want {
					t.Errorf("round %d, %v: key %q, want %q", round, codec, r.Record().Key, want)
				}
				n++
			}
			if n != 3 || r.Err() != nil {
				t.Errorf("round %d, %v: %d records, %v", round, codec, n, r.Err())
			}
		}
		if err := r.Reset(nil, 0); err == nil || r.Next() {
			t.Error("an empty batch is read")
		}
	}
	r.Close()
	r.Close()
	if r.Next() {
		t.Error("reads on after Close")
	}

	kept := contentOf(t, sample(t, CodecLZ4))
	for range 10 {
		records, err := sampleAt(t, CodecLZ4, 1, 2, 3, 4).Records(0)
		if err != nil {
			t.Fatal(err)
		}
		for records.Next() {
		}
		records.Close()
	}
	for i, r := range kept {
		if string(r.Key) != fmt.Sprintf("key%d", i) || string(r.Value) != strings.Repeat("value ", 20) {
			t.Errorf("record %d changed: %q", i, r.Key)
		}
	}
}

// L17, L20.
func TestFindByTime(t *testing.T) {
	for codec := range codecCount {
		b := sampleAt(t, codec, 100, 300, 200, 300, NoTimestamp)
		b.SetBaseOffset(10)
		for _, tc := range []struct {
			ts    int64
			from  Offset
			want  Found
			found bool
		}{
			{0, 0, Found{10, 100}, true},
			{100, 0, Found{10, 100}, true},
			{101, 0, Found{11, 300}, true},
			{150, 12, Found{12, 200}, true},
			{300, 12, Found{13, 300}, true},
			{300, 14, Found{}, false},
			{301, 0, Found{}, false},
			{-1, 14, Found{14, NoTimestamp}, true},
		} {
			got, found, err := b.FirstAtOrAfter(tc.ts, tc.from, 0)
			if got != tc.want || found != tc.found || err != nil {
				t.Errorf("%v: FirstAtOrAfter(%d, %d) = %v, %v, %v", codec, tc.ts, tc.from, got, found, err)
			}
		}
		for from, want := range map[Offset]Found{0: {11, 300}, 12: {13, 300}, 14: {14, NoTimestamp}, 15: {}} {
			got, found, err := b.Latest(from, 0)
			if got != want || found != (from < 15) || err != nil {
				t.Errorf("%v: Latest(%d) = %v, %v, %v", codec, from, got, found, err)
			}
		}
		b.SetLogAppendTime(777)
		if got, found, err := b.FirstAtOrAfter(777, 12, 0); got != (Found{12, 777}) || !found || err != nil {
			t.Errorf("%v: log append time: %v, %v, %v", codec, got, found, err)
		}
	}
	damaged := altered(sample(t, CodecGzip), func(b Batch) { clear(b[HeaderSize:]) })
	if _, found, err := damaged.FirstAtOrAfter(0, 0, 0); found || !errors.Is(err, ErrCorruptMessage) {
		t.Errorf("damaged: %v, %v", found, err)
	}
	cut := altered(sample(t, CodecNone), put32(offRecordCount, 4))
	if _, found, err := cut.Latest(0, 0); found || !errors.Is(err, ErrInvalidRecord) {
		t.Errorf("wrong count: %v, %v", found, err)
	}
}
