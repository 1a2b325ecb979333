package record

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// fuzzLimit bounds decompression while fuzzing.
const fuzzLimit = 1 << 20

// addBatches gives the fuzzer batches of all codecs and clients.
func addBatches(f *testing.F, add func(b Batch)) {
	f.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*.hex"))
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		add(unhex(f, string(text)))
	}
	add(unhex(f, golden))
	for codec := range codecCount {
		add(sample(f, codec))
	}
	add(framed(0))
	add(nil)
}

func FuzzParse(f *testing.F) {
	addBatches(f, func(b Batch) {
		f.Add([]byte(b))
		f.Add(append(bytes.Clone(b), b...))
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		b, rest, err := Parse(data)
		if err != nil {
			if b != nil || rest != nil {
				t.Error("a batch beside the error")
			}
			return
		}
		if len(b)+len(rest) != len(data) || len(b) != b.Size() || len(b) < HeaderSize || b.Magic() != 2 {
			t.Errorf("%d and %d bytes of %d, size %d", len(b), len(rest), len(data), b.Size())
		}
		_ = b.CheckCRC()
		if b.LastSequence() < 0 && b.BaseSequence() >= 0 && b.LastOffsetDelta() >= 0 {
			t.Errorf("P11: last sequence %d", b.LastSequence())
		}
		if _, ok, err := ParseMarker(b); ok && (err != nil || !b.Attributes().Control()) {
			t.Errorf("a marker, %v", err)
		}
	})
}

// FuzzValidate: what is accepted reads back without error, makes an equal batch when built anew,
// and is accepted again as it is; what is refused has an *Error; the input never changes.
func FuzzValidate(f *testing.F) {
	addBatches(f, func(b Batch) {
		for flags := range byte(16) {
			f.Add([]byte(b), flags)
		}
	})
	f.Fuzz(func(t *testing.T, data []byte, flags byte) {
		l := Limits{MaxDecompressedBytes: fuzzLimit, MaxBatchBytes: 1 << 20, TimestampBeforeMax: NoTimestampLimit, TimestampAfterMax: 1000, SegmentBytes: 2 << 20}
		l.Compacted = flags&1 != 0
		l.LogAppendTime = flags&2 != 0
		if flags&4 != 0 {
			l.Now = now
		}
		l.TrustRecords = flags&8 != 0
		if len(data) >= HeaderSize && flags&16 == 0 {
			// Without the right CRC nearly nothing would get through.
			Batch(data).seal()
		}
		before := bytes.Clone(data)
		b, err := Validate(data, l)
		if !bytes.Equal(data, before) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if _, ok := err.(*Error); !ok || b != nil {
				t.Fatalf("batch %x, error %T %v", []byte(b), err, err)
			}
			return
		}
		again, err := Validate(b, l)
		if err != nil || &again[0] != &b[0] {
			t.Fatalf("not accepted again: %v", err)
		}
		if b.Attributes().Codec() != CodecNone && l.TrustRecords {
			return
		}
		checkValidated(t, b, &l)
	})
}

func checkValidated(t *testing.T, b Batch, l *Limits) {
	t.Helper()
	records, err := b.Records(fuzzLimit)
	if err != nil {
		t.Fatal(err)
	}
	builder := NewBuilder(b.Attributes().Codec())
	var all []Record
	rebuilt := true
	for records.Next() {
		r := *records.Record()
		r.Headers = append([]Header(nil), r.Headers...)
		all = append(all, r)
		if r.Offset != Offset(len(all)-1) || l.Compacted && r.Key == nil {
			t.Fatalf("record %d: offset %d, key %q", len(all)-1, r.Offset, r.Key)
		}
		// The builder refuses some timestamps that Kafka takes.
		rebuilt = rebuilt && builder.Append(r.Timestamp, r.Key, r.Value, r.Headers) == nil
	}
	if records.Err() != nil || len(all) != int(b.Count()) {
		t.Fatalf("%d of %d records: %v", len(all), b.Count(), records.Err())
	}
	if !rebuilt {
		return
	}
	if got := contentOf(t, builder.Finish(1, 1, 1, true)); !reflect.DeepEqual(got, all) {
		t.Fatalf("built anew, %d records differ from %d", len(got), len(all))
	}
}

// FuzzRecords: reading bytes that nobody validated ends, with an error or with as many records
// as the batch says, in bounds.
func FuzzRecords(f *testing.F) {
	addBatches(f, func(b Batch) { f.Add([]byte(b)) })
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := Batch(data).Records(fuzzLimit)
		if err != nil {
			return
		}
		defer records.Close()
		n, size := int32(0), 0
		for last := Offset(math.MinInt64); records.Next(); n++ {
			r := records.Record()
			if n > 0 && r.Offset-last <= 0 && last < math.MaxInt64-math.MaxInt32 {
				t.Fatalf("offset %d after %d", r.Offset, last)
			}
			last = r.Offset
			size += len(r.Key) + len(r.Value)
			for _, h := range r.Headers {
				size += len(h.Key) + len(h.Value)
			}
		}
		if size > max(fuzzLimit, len(data)) {
			t.Fatalf("%d bytes of content", size)
		}
		if records.Err() == nil && n != Batch(data).Count() {
			t.Fatalf("%d records of %d", n, Batch(data).Count())
		}
	})
}

// FuzzDecompress: no decoder exceeds the limit or its memory, whatever it is given, and it gives
// the same whether the buffer was large or small at first.
func FuzzDecompress(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "frames", "*"))
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		codec := map[string]Codec{".gz": CodecGzip, ".lz4": CodecLZ4, ".zst": CodecZstd}[filepath.Ext(file)]
		f.Add(byte(codec), readFrame(f, filepath.Base(file)))
	}
	for codec := CodecGzip; codec < codecCount; codec++ {
		f.Add(byte(codec), NewCompression(codec).appendTo(nil, []byte("hello, hello, hello")))
	}
	f.Fuzz(func(t *testing.T, codec byte, src []byte) {
		fuzzDecoder(t, Codec(codec), src)
	})
}

// FuzzXerial is FuzzDecompress for framed snappy: the chunks are made from the input.
func FuzzXerial(f *testing.F) {
	block := snappyEncoder{}.compress(nil, []byte("hello, hello, hello"))
	f.Add(xerial(block, block), false)
	f.Add(xerial(), false)
	f.Add(block, true)
	f.Add([]byte{0x80, 0x80, 0x40, 'x'}, true)
	f.Fuzz(func(t *testing.T, src []byte, wrap bool) {
		if wrap {
			src = xerial(src[:len(src)/2], src[len(src)/2:])
		}
		fuzzDecoder(t, CodecSnappy, src)
	})
}

func fuzzDecoder(t *testing.T, codec Codec, src []byte) {
	const limit = 256 << 10
	got, err := decompress(nil, codec, src, limit)
	if len(got) > limit || cap(got) > 3*limit+(8*len(src)) {
		t.Fatalf("%d bytes, capacity %d", len(got), cap(got))
	}
	again, err2 := decompress(make([]byte, 0, 4*limit), codec, src, limit)
	// The words for damage may differ, whether it is damage may not.
	if (err == nil) != (err2 == nil) || errors.Is(err, errTooLarge) != errors.Is(err2, errTooLarge) || err == nil && !bytes.Equal(got, again) {
		t.Fatalf("%d bytes, %v; with a large buffer %d bytes, %v", len(got), err, len(again), err2)
	}
	if err != nil {
		return
	}
	if codec > CodecNone && codec < codecCount {
		if back, err := decompress(nil, codec, NewCompression(codec).appendTo(nil, got), limit); err != nil || !bytes.Equal(back, got) {
			t.Fatalf("compressed again: %d bytes of %d, %v", len(back), len(got), err)
		}
	}
}
