package producer

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// sample is a state with something in every part: idle and open producers, full and empty windows, markers of both
// kinds, aborted transactions, a moved log start.
func sample(t testing.TB) *State {
	t.Helper()
	s := New(Limits{})
	end := record.Offset(0)
	app := func(b Batch) {
		if b.Records == 0 {
			b.Records = 2
		}
		if b.LastSequence = b.BaseSequence; !b.Coordinator {
			b.LastSequence = b.BaseSequence.Add(b.Records - 1)
		}
		v := s.Append(b, end, 1000+int64(end))
		if v.Code != Accepted {
			t.Fatal(v.Message(b))
		}
		end = v.Last + 1
	}
	mark := func(m Marker) {
		if v := s.EndTransaction(m, end, 1000+int64(end)); v.Code != Accepted {
			t.Fatalf("%+v", v)
		}
		end++
	}
	verified := Knew{Verified: true, Version: 1, Marker: 1 << 40, LowestSequence: record.NoSequence}
	for i := range record.Sequence(7) {
		app(Batch{ProducerID: 1, Epoch: 3, BaseSequence: 2 * i, MaxTimestamp: int64(i)})
	}
	app(Batch{ProducerID: 2, BaseSequence: math.MaxInt32, Transactional: true, Knew: verified})
	mark(Marker{ProducerID: 2, Epoch: 0, CoordinatorEpoch: 7, Version: 1})
	app(Batch{ProducerID: 3, BaseSequence: 0, Transactional: true, Knew: verified})
	mark(Marker{ProducerID: 4, Epoch: 9, Commit: true, Version: 2})
	app(Batch{ProducerID: 5, BaseSequence: -1, Coordinator: true, Transactional: true, Knew: verified})
	app(Batch{ProducerID: 2, BaseSequence: 1, Transactional: true, Knew: verified})
	mark(Marker{ProducerID: 2, Epoch: 1, CoordinatorEpoch: 7, Version: 2})
	s.TruncateStart(4)
	checkInvariants(t, s)
	return s
}

// TestEncodingIsStable holds the format to the bytes that this release writes: testdata must not change but with the
// version. ONCELOG_REWRITE=1 writes it anew.
func TestEncodingIsStable(t *testing.T) {
	const file = "testdata/format/version-1.hex"
	got := hex.Dump(sample(t).AppendTo(nil))
	if os.Getenv("ONCELOG_REWRITE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != strings.ReplaceAll(string(want), "\r\n", "\n") {
		t.Errorf("the encoding has changed:\n%s", got)
	}
}

// TestDecodeFindsDamage flips every bit, and cuts and extends the encoding at every place.
func TestDecodeFindsDamage(t *testing.T) {
	data := sample(t).AppendTo(nil)
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			_, err := Decode(bad, Limits{})
			want := ErrCorrupt
			if i == 4 || i == 5 {
				want = ErrVersion
			}
			if !errors.Is(err, want) {
				t.Fatalf("byte %d, bit %d: %v", i, bit, err)
			}
		}
		if _, err := Decode(data[:i], Limits{}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d: %v", i, err)
		}
	}
	if _, err := Decode(append(bytes.Clone(data), 0), Limits{}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("one byte more: %v", err)
	}
	if _, err := Decode(data, Limits{}); err != nil {
		t.Fatal(err)
	}
}

// TestDecodeFindsLies puts impossible values into an encoding whose CRC is right, so that only the checks of meaning can
// find them.
func TestDecodeFindsLies(t *testing.T) {
	good := sample(t).AppendTo(nil)
	first := headerSize // producer 1, idle, five batches
	open := len(good) - crcSize - 2*abortedSize - producerSize - producerSize - batchSize
	abort := len(good) - crcSize - 2*abortedSize
	if id := binary.BigEndian.Uint64(good[open:]); id != 3 {
		t.Fatalf("producer %d where 3 was expected", id)
	}
	for _, lie := range []struct {
		what  string
		at    int
		value uint64
		size  int
	}{
		{"reserved", 6, 1, 2},
		{"log start below 0", 8, math.MaxUint64, 8},
		{"log start above end", 8, 1 << 40, 8},
		{"end below what it holds", 16, 5, 8},
		{"too many idle", 24, 4, 4},
		{"too few idle", 24, 2, 4},
		{"a billion idle", 24, 1 << 31, 4},
		{"too many open", 28, 3, 4},
		{"a billion aborted", 32, 1 << 31, 4},
		{"too few aborted", 32, 1, 4},
		{"id below 0", first, math.MaxUint64, 8},
		{"id twice", first, 2, 8},
		{"touched at the end", first + 16, 27, 8},
		{"touched below its batches", first + 16, 12, 8},
		{"touched after the next one", first + 16, 26, 8},
		{"idle with a transaction", first + 24, 13, 8},
		{"open from below -1", open + 24, math.MaxUint64 - 1, 8},
		{"marker after the last touch", first + 32, 20, 8},
		{"voiding marker after the marker", first + 40, 3, 8},
		{"voiding marker below -1", first + 40, math.MaxUint64 - 1, 8},
		{"coordinator epoch below -1", first + 48, math.MaxUint32 - 1, 4},
		{"epoch below -1", first + 52, math.MaxUint16 - 1, 2},
		{"six batches", first + 54, 6, 1},
		{"four batches", first + 54, 4, 1},
		{"padding", first + 55, 1, 1},
		{"last sequence below 0", first + producerSize, math.MaxUint32, 4},
		{"delta below 0", first + producerSize + 4, math.MaxUint32, 4},
		{"delta beyond the offsets", first + producerSize + 4, 6, 4},
		{"batches overlap", first + producerSize + batchSize + 4, 2, 4},
		{"batches in wrong order", first + producerSize + 8, 9, 8},
		{"batch after the touch", first + producerSize + 4*batchSize + 8, 14, 8},
		{"open without a transaction", open + 24, math.MaxUint64, 8},
		{"open after the touch", open + 24, 20, 8},
		{"open in wrong order", open + 24, 21, 8},
		{"aborted id below 0", abort, math.MaxUint64, 8},
		{"aborted first below 0", abort + 8, math.MaxUint64, 8},
		{"aborted first at last", abort + 8, 16, 8},
		{"aborted last below log start", abort + 16, 3, 8},
		{"aborted last at the end", abort + abortedSize + 16, 27, 8},
		{"aborted in wrong order", abort + 16, 26, 8},
		{"stable offset below 0", abort + 24, math.MaxUint64, 8},
		{"stable offset above its marker", abort + 24, 18, 8},
		{"aborted begins below the stable offset", abort + abortedSize + 8, 12, 8},
		{"open below the stable offset", open + 24, 12, 8},
		{"stable offset goes back", abort + abortedSize + 24, 2, 8},
	} {
		bad := bytes.Clone(good)
		switch lie.size {
		case 1:
			bad[lie.at] = byte(lie.value)
		case 2:
			binary.BigEndian.PutUint16(bad[lie.at:], uint16(lie.value))
		case 4:
			binary.BigEndian.PutUint32(bad[lie.at:], uint32(lie.value))
		case 8:
			binary.BigEndian.PutUint64(bad[lie.at:], lie.value)
		}
		if bytes.Equal(bad, good) {
			t.Errorf("%s: not a lie", lie.what)
		}
		if _, err := Decode(seal(bad), Limits{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", lie.what, err)
		} else if strings.Contains(err.Error(), "CRC") {
			t.Errorf("%s: found by the CRC: %v", lie.what, err)
		}
	}
}

// seal puts the right CRC at the end.
func seal(data []byte) []byte {
	if body := len(data) - crcSize; body >= 0 {
		binary.BigEndian.PutUint32(data[body:], crc32.Checksum(data[:body], castagnoli))
	}
	return data
}

// FuzzDecode gives arbitrary bytes, as they are and with the CRC put right. What is taken must encode to the same bytes, and the
// machine must keep its invariants over any further operations.
func FuzzDecode(f *testing.F) {
	f.Add(New(Limits{}).AppendTo(nil), uint64(1))
	f.Add(sample(f).AppendTo(nil), uint64(2))
	f.Add(crowd(3, true).AppendTo(nil), uint64(3))
	f.Add([]byte(magic), uint64(4))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		_, _ = Decode(data, Limits{})
		data = seal(bytes.Clone(data))
		s, err := Decode(data, Limits{MaxProducers: 8})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("error of no known kind: %v", err)
			}
			return
		}
		if !bytes.Equal(s.AppendTo(nil), data) {
			t.Fatal("encodes to other bytes")
		}
		checkInvariants(t, s)
		disturb(s, rand.New(rand.NewPCG(seed, 0)))
		checkInvariants(t, s)
		again, err := Decode(s.AppendTo(nil), Limits{})
		if err != nil {
			t.Fatalf("after further operations: %v", err)
		}
		checkInvariants(t, again)
	})
}

// disturb does a few operations with the producers that the state knows, whatever they are.
func disturb(s *State, r *rand.Rand) {
	known, _ := s.Describe(nil, 20)
	for range 40 {
		if s.end > math.MaxInt64/2 {
			return // offsets of this size are nobody's
		}
		id, epoch, seq := record.ProducerID(r.Int64N(50)), record.Epoch(r.IntN(3)), record.Sequence(r.IntN(5))
		if len(known) > 0 && r.IntN(4) > 0 {
			d := known[r.IntN(len(known))]
			id, epoch, seq = d.ProducerID, d.Epoch, max(0, d.LastSequence.Add(1))
		}
		switch r.IntN(6) {
		case 0:
			s.EndTransaction(Marker{ProducerID: id, Epoch: epoch, CoordinatorEpoch: math.MaxInt32, Version: int8(r.IntN(3))}, s.end, r.Int64())
		case 1:
			s.Expire(s.Idle(math.MaxInt64, math.MaxInt64, r.IntN(3)), math.MaxInt64, math.MaxInt64)
		case 2:
			s.TruncateStart(s.logStart + record.Offset(r.IntN(9)))
		default:
			n := int32(1 + r.IntN(3))
			knew := Knew{Verified: true, Marker: math.MaxInt64, LowestSequence: -1}
			s.Append(Batch{ProducerID: id, Epoch: epoch, BaseSequence: seq, LastSequence: seq.Add(n - 1), Records: n, Transactional: r.IntN(2) == 0, Knew: knew}, s.end, r.Int64())
		}
		s.Aborted(0, s.end)
	}
}

// crowd is a state of n producers with full windows, every tenth with an open transaction if open is set.
func crowd(n int, open bool) *State {
	s := New(Limits{MaxProducers: n})
	end := record.Offset(0)
	for round := range record.Sequence(window) {
		for id := range record.ProducerID(n) {
			b := Batch{ProducerID: id, BaseSequence: round * 10, LastSequence: round*10 + 9, Records: 10, MaxTimestamp: int64(end)}
			if open && id%10 == 0 && round == window-1 {
				b.Transactional, b.Knew = true, Knew{Verified: true, Marker: -1, LowestSequence: -1}
			}
			end = s.Append(b, end, int64(end)).Last + 1
		}
	}
	return s
}
