package record_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// benchBatch is a batch of about 100 KiB of records of one size, of text that compresses to about
// a third.
func benchBatch(b *testing.B, codec record.Codec, size int) (record.Batch, []byte) {
	b.Helper()
	var text strings.Builder
	for i := 0; text.Len() < size; i++ {
		fmt.Fprintf(&text, "%d field=%x ", i*7919%1009, i*104729)
	}
	value := []byte(text.String()[:size])
	builder := record.NewBuilder(codec)
	for i := int64(0); builder.Size() < 100<<10; i++ {
		if err := builder.Append(1_700_000_000_000+i, []byte("key"), value, nil); err != nil {
			b.Fatal(err)
		}
	}
	return builder.Finish(1, 0, 0, false), value
}

func eachBatch(b *testing.B, f func(b *testing.B, batch record.Batch, value []byte)) {
	for codec := record.CodecNone; codec <= record.CodecZstd; codec++ {
		for _, size := range []int{100, 1024, 100 << 10} {
			if codec != record.CodecNone && size != 1024 {
				continue
			}
			b.Run(fmt.Sprintf("%v/%d", codec, size), func(b *testing.B) {
				batch, value := benchBatch(b, codec, size)
				b.SetBytes(100 << 10)
				b.ReportAllocs()
				b.ResetTimer()
				f(b, batch, value)
			})
		}
	}
}

// BenchmarkValidate is what the produce path does with a batch; rates are of uncompressed bytes.
func BenchmarkValidate(b *testing.B) {
	l := record.Limits{MaxBatchBytes: 1 << 20, Now: 1_700_000_000_000, TimestampBeforeMax: record.NoTimestampLimit, TimestampAfterMax: 3600_000}
	eachBatch(b, func(b *testing.B, batch record.Batch, _ []byte) {
		for b.Loop() {
			if _, err := record.Validate(batch, l); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRecords is what a consumer does with a batch.
func BenchmarkRecords(b *testing.B) {
	eachBatch(b, func(b *testing.B, batch record.Batch, _ []byte) {
		var records record.Records
		for b.Loop() {
			if err := records.Reset(batch, 0); err != nil {
				b.Fatal(err)
			}
			for records.Next() {
			}
			if records.Err() != nil {
				b.Fatal(records.Err())
			}
		}
	})
}

// BenchmarkBuilder is what a producer does for a batch.
func BenchmarkBuilder(b *testing.B) {
	eachBatch(b, func(b *testing.B, batch record.Batch, value []byte) {
		builder := record.NewBuilder(batch.Attributes().Codec())
		key := []byte("key")
		for b.Loop() {
			builder.Reset()
			for i := range int64(batch.Count()) {
				if err := builder.Append(1_700_000_000_000+i, key, value, nil); err != nil {
					b.Fatal(err)
				}
			}
			builder.Finish(1, 0, 0, false)
		}
	})
}
