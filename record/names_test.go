package record

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// P11: 0 follows 2^31 - 1, both ways.
func TestSequenceWrap(t *testing.T) {
	for _, tc := range []struct {
		from Sequence
		n    int32
		to   Sequence
	}{
		{0, 0, 0},
		{0, 1, 1},
		{math.MaxInt32, 1, 0},
		{math.MaxInt32 - 1, 1, math.MaxInt32},
		{math.MaxInt32 - 1, 3, 1},
		{5, math.MaxInt32, 4},
		{math.MaxInt32, math.MaxInt32, math.MaxInt32 - 1},
	} {
		if got := tc.from.Add(tc.n); got != tc.to {
			t.Errorf("%d.Add(%d) = %d, want %d", tc.from, tc.n, got, tc.to)
		}
		if got := tc.to.Sub(tc.n); got != tc.from {
			t.Errorf("%d.Sub(%d) = %d, want %d", tc.to, tc.n, got, tc.from)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.Int32Min(0).Draw(t, "s")
		n := rapid.Int32Min(0).Draw(t, "n")
		want := Sequence((int64(s) + int64(n)) % (1 << 31))
		if got := Sequence(s).Add(n); got != want || got.Sub(n) != Sequence(s) {
			t.Fatalf("%d + %d = %d, want %d", s, n, got, want)
		}
	})
}

func TestCodecNames(t *testing.T) {
	for c := range codecCount {
		if got, err := ParseCodec(c.String()); got != c || err != nil {
			t.Errorf("ParseCodec(%q) = %v, %v", c.String(), got, err)
		}
	}
	for _, name := range []string{"", "GZIP", "s2", "Codec(9)"} {
		if _, err := ParseCodec(name); err == nil {
			t.Errorf("ParseCodec(%q): no error", name)
		}
	}
	if got := Codec(9).String(); got != "Codec(9)" {
		t.Error(got)
	}
}

func TestCodeNames(t *testing.T) {
	for c, want := range map[Code]string{
		ErrCorruptMessage: "CORRUPT_MESSAGE", ErrInvalidRecord: "INVALID_RECORD", ErrMessageTooLarge: "MESSAGE_TOO_LARGE",
		ErrRecordListTooLarge: "RECORD_LIST_TOO_LARGE", ErrInvalidTimestamp: "INVALID_TIMESTAMP",
		ErrUnsupportedCompression: "UNSUPPORTED_COMPRESSION_TYPE", 0: "Code(0)",
	} {
		if c.Error() != want {
			t.Errorf("%v, want %s", c, want)
		}
	}
}

func TestVarints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int64().Draw(t, "v")
		b := appendVarlong(nil, v)
		if got, next := varlong(b, 0); got != v || next != len(b) || len(b) != sizeVarlong(v) {
			t.Fatalf("%d: %d, next %d of %d, size %d", v, got, next, len(b), sizeVarlong(v))
		}
		if _, next := varlong(b[:len(b)-1], 0); next != -1 {
			t.Fatalf("%d cut off is read", v)
		}
		got, next := varint(b, 0)
		if fits := v == int64(int32(v)); fits != (next > 0) || fits && got != int32(v) {
			t.Fatalf("%d as varint: %d, next %d", v, got, next)
		}
	})
}
