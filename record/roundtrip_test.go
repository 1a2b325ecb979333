package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/record"
	"pgregory.net/rapid"
)

var codecs = []record.Codec{record.CodecNone, record.CodecGzip, record.CodecSnappy, record.CodecLZ4, record.CodecZstd}

// readAll gives copies of all records of a batch.
func readAll(t testing.TB, b record.Batch) []record.Record {
	t.Helper()
	all, err := tryReadAll(b, 0)
	if err != nil {
		t.Fatalf("reading %d records: %v", b.Count(), err)
	}
	return all
}

func tryReadAll(b record.Batch, limit int) ([]record.Record, error) {
	records, err := b.Records(limit)
	if err != nil {
		return nil, err
	}
	defer records.Close()
	var all []record.Record
	for records.Next() {
		r := *records.Record()
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		r.Headers = append([]record.Header(nil), r.Headers...)
		for i := range r.Headers {
			r.Headers[i].Value = bytes.Clone(r.Headers[i].Value)
		}
		all = append(all, r)
	}
	return all, records.Err()
}

// build makes a batch of records; their offsets do not count.
func build(t testing.TB, codec record.Codec, records []record.Record) record.Batch {
	t.Helper()
	b := record.NewBuilder(codec)
	for _, r := range records {
		if err := b.Append(r.Timestamp, r.Key, r.Value, r.Headers); err != nil {
			t.Fatal(err)
		}
	}
	return b.Finish(7, 3, 100, false)
}

func TestRoundTripEveryCodec(t *testing.T) {
	text := []byte(strings.Repeat("the quick brown fox ", 100))
	records := []record.Record{
		{Offset: 0, Timestamp: 1_700_000_000_000, Key: []byte("k"), Value: text},
		{Offset: 1, Timestamp: 1_700_000_000_007, Value: text},
		{Offset: 2, Timestamp: 1_699_999_999_000, Key: []byte{}, Value: []byte{}},
		{Offset: 3, Timestamp: record.NoTimestamp, Key: text},
		{Offset: 4, Timestamp: 1_700_000_000_001, Headers: []record.Header{{Key: "a", Value: text}, {Key: "", Value: nil}, {Key: "a", Value: []byte{}}}},
	}
	for _, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			b := build(t, codec, records)
			if got := b.Attributes().Codec(); got != codec {
				t.Errorf("codec %v, want %v", got, codec)
			}
			v, err := record.Validate(b, record.Limits{MaxBatchBytes: len(b)})
			if err != nil {
				t.Fatal(err)
			}
			if &v[0] != &b[0] || len(v) != len(b) {
				t.Error("a batch that needs no correction was copied")
			}
			if got := readAll(t, v); !reflect.DeepEqual(got, records) {
				t.Errorf("got  %v\nwant %v", got, records)
			}
			if b.ProducerID() != 7 || b.ProducerEpoch() != 3 || b.BaseSequence() != 100 || b.LastSequence() != 104 ||
				b.Count() != 5 || b.LastOffsetDelta() != 4 || b.MaxTimestamp() != 1_700_000_000_007 || b.BaseTimestamp() != 1_700_000_000_000 {
				t.Errorf("header fields wrong: % x", b[:record.HeaderSize])
			}
			b.Rewrite(8, 0, 0)
			b.SetBaseOffset(1000)
			b.SetLogAppendTime(5)
			if err := b.CheckCRC(); err != nil {
				t.Error(err)
			}
			for i, r := range readAll(t, b) {
				if r.Timestamp != 5 || r.Offset != record.Offset(1000+i) {
					t.Errorf("record %d: timestamp %d, offset %d", i, r.Timestamp, r.Offset)
				}
			}
		})
	}
}

func drawRecords(t *rapid.T) []record.Record {
	nullable := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 300),
		rapid.Map(rapid.IntRange(0, 3000), func(n int) []byte { return bytes.Repeat([]byte("ab"), n) }))
	header := rapid.Custom(func(t *rapid.T) record.Header {
		return record.Header{Key: rapid.String().Draw(t, "header key"), Value: nullable.Draw(t, "header value")}
	})
	n := rapid.IntRange(1, 40).Draw(t, "records")
	base := rapid.Int64Range(-1, 1<<62).Draw(t, "base")
	var all []record.Record
	for i := range n {
		r := record.Record{
			Offset:    record.Offset(i),
			Timestamp: max(-1, base+rapid.Int64Range(-1<<40, 1<<61).Draw(t, "delta")),
			Key:       nullable.Draw(t, "key"),
			Value:     nullable.Draw(t, "value"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			r.Headers = append(r.Headers, header.Draw(t, "header"))
		}
		all = append(all, r)
	}
	return all
}

// Whatever a builder makes is valid, reads back equal, and is as large as the builder said.
func TestBuilderProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		codec := rapid.SampledFrom(codecs).Draw(t, "codec")
		b := record.NewBuilder(codec)
		for _, r := range records {
			want := b.SizeWith(r.Timestamp, r.Key, r.Value, r.Headers)
			if err := b.Append(r.Timestamp, r.Key, r.Value, r.Headers); err != nil {
				t.Fatal(err)
			}
			if b.Size() != want {
				t.Fatalf("size %d after append, SizeWith said %d", b.Size(), want)
			}
		}
		batch := b.Finish(1, 2, 3, true)
		if len(batch) > b.Size() || codec == record.CodecNone && len(batch) != b.Size() {
			t.Fatalf("batch has %d bytes, Size said %d", len(batch), b.Size())
		}
		if _, err := record.Validate(batch, record.Limits{MaxBatchBytes: b.Size()}); err != nil {
			t.Fatal(err)
		}
		got, err := tryReadAll(batch, 0)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", records) {
			t.Fatalf("got  %v\nwant %v", got, records)
		}
	})
}

func TestErrorsNameCodeAndRecord(t *testing.T) {
	err := error(&record.Error{Code: record.ErrInvalidRecord, Message: "key is null", Record: 3})
	if !errors.Is(err, record.ErrInvalidRecord) || err.Error() != "INVALID_RECORD: record 3: key is null" {
		t.Error(err)
	}
}
