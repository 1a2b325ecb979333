package raftgroup

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

func noBatches(*raft.Log) bool { return false }

// batchOfBytes is a batch with one record of n bytes.
func batchOfBytes(t *testing.T, n int) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.CodecNone)
	if err := b.Append(1, nil, bytes.Repeat([]byte("x"), n), nil); err != nil {
		t.Fatal(err)
	}
	return b.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)
}

// encodeAppend is what goes over the wire for entries.
func encodeAppend(entries []*raft.Log, holdsBatches func(*raft.Log) bool) []byte {
	c := &chunk{term: 9, prevIndex: 4, prevTerm: 1, entries: entries}
	b, follow := appendAppend(beginFrame(nil, &frame{kind: frameAppend, group: 1}), c, holdsBatches)
	endFrame(b, 0, follow, true)
	return append(b, bytes.Join(follow.buffers, nil)...)
}

// A leader does not read its batches again to send them: their own checksums become a part of the frame's. What is damaged
// in the leader's memory, after the batch was validated, the follower finds.
func TestFrameOfBatchesCarriesTheirChecksums(t *testing.T) {
	data := append(bytes.Clone(batchOfBytes(t, 40<<10)), batchOfBytes(t, 300)...)
	data = append(data, batchOfBytes(t, 9<<10)...)
	entries := []*raft.Log{
		{Index: 5, Term: 2, Extensions: []byte("ext"), Data: data},
		{Index: 6, Term: 2, Data: batchOfBytes(t, 100)},
	}
	plain := encodeAppend(entries, noBatches)
	isBatches := func(*raft.Log) bool { return true }
	sent := encodeAppend(entries, isBatches)
	if !bytes.Equal(plain, sent) {
		t.Fatal("a frame is not the same when checksums of batches are taken over")
	}
	read := func(b []byte) error {
		_, err := readFrame(bufio.NewReader(bytes.NewReader(b)), maxFrameBytes)
		return err
	}
	if err := read(sent); err != nil {
		t.Fatal(err)
	}
	for at := 21 * 8; at < len(data)*8; at += 8*97 + 1 { // what the batch's checksum covers
		data[at/8] ^= 1 << (at % 8)
		if err := read(encodeAppend(entries, isBatches)); err == nil && at/8 < 40<<10 {
			t.Fatalf("bit %d of the batches flipped in the leader's memory: the follower took it", at)
		}
		data[at/8] ^= 1 << (at % 8)
		onTheWay := bytes.Clone(sent)
		onTheWay[len(sent)/2+at/16] ^= 1 << (at % 8)
		if err := read(onTheWay); err == nil {
			t.Fatalf("bit %d flipped on the way: the follower took it", at)
		}
	}
}
