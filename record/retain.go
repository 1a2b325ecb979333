package record

import "encoding/binary"

// Keys reads offsets and keys of one batch's records, and no more of them; it allocates nothing. Its
// rules, errors and lifetimes are those of Records.
type Keys struct {
	batch   Batch
	frames  []byte
	begin   int // of the present record in frames
	frame   frame
	ordinal int32
	last    int32
	err     error
	buf     *[]byte
}

// Reset turns k to another batch, of which exactly one is in b, and closes it first.
func (k *Keys) Reset(b Batch, maxDecompressed int) error {
	k.Close()
	*k = Keys{last: -1}
	if err := b.whole(); err != nil {
		return err
	}
	if b.Count() < 0 {
		return refuse(ErrInvalidRecord, "record count is %d", b.Count())
	}
	if b.Attributes().Codec() != CodecNone && b.Count() > 0 {
		k.buf = getBuffer()
	}
	var err error
	if b.Count() > 0 {
		if k.frames, err = b.content(k.buf, maxDecompressed); err != nil {
			k.Close()
			return err
		}
	}
	k.batch = b
	return nil
}

// Next moves to the next record. False: there is none, or Err says why it cannot be read.
func (k *Keys) Next() bool {
	if k.err != nil || k.batch == nil {
		return false
	}
	begin := k.frame.end
	if k.ordinal == k.batch.Count() {
		if begin != len(k.frames) {
			k.err = refuse(ErrInvalidRecord, "%d bytes after the last of %d records", len(k.frames)-begin, k.ordinal)
		}
		return false
	}
	if p := k.frame.read(k.frames, begin); p != "" {
		k.err = refuseRecord(ErrInvalidRecord, k.ordinal, "%s", p)
		return false
	}
	if d := k.frame.offsetDelta; d <= k.last || d > k.batch.LastOffsetDelta() {
		k.err = refuseRecord(ErrInvalidRecord, k.ordinal, "offset delta %d, want above %d and at most %d", d, k.last, k.batch.LastOffsetDelta())
		return false
	}
	k.begin, k.last = begin, k.frame.offsetDelta
	k.ordinal++
	return true
}

// Offset is the present record's.
func (k *Keys) Offset() Offset { return k.batch.BaseOffset() + Offset(k.frame.offsetDelta) }

// Key is the present record's; nil: null.
func (k *Keys) Key() []byte { return bytesAt(k.frames, k.frame.key, k.frame.keyLen) }

// Tombstone says whether the present record's value is null.
func (k *Keys) Tombstone() bool { return k.frame.valueLen < 0 }

// Err is why Next stopped before the end; nil at the end.
func (k *Keys) Err() error { return k.err }

// Close gives the buffer of decompressed records back.
func (k *Keys) Close() {
	if k.buf != nil {
		putBuffer(k.buf)
	}
	k.buf, k.batch, k.frames = nil, nil, nil
}

// Retainer takes records out of batches. The zero value is ready; not safe for concurrent use.
type Retainer struct {
	keys   Keys
	raw    []byte
	out    []byte
	codecs [codecCount]*Compression
}

// Retain gives b with only those of its records of which keep says so: b itself if that is all of
// them, nil if it is none, else a batch that is good until the next call. Whatever else its header says
// survives: offsets, sequences, timestamps, producer, codec (L34). The bytes follow from b's header, the
// records that are kept and the codec's encoder alone, so that it does not matter in how many steps the
// others went.
//
// Errors: as Records. b is then to be left as it is.
func (r *Retainer) Retain(b Batch, keep func(offset Offset, key []byte, tombstone bool) bool) (Batch, error) {
	k := &r.keys
	if err := k.Reset(b, 0); err != nil {
		return nil, err
	}
	defer k.Close()
	r.raw = r.raw[:0]
	kept := int32(0)
	run := 0 // where those begin that are kept and not copied yet; without a gap there is nothing to copy
	for k.Next() {
		if keep(k.Offset(), k.Key(), k.Tombstone()) {
			kept++
			continue
		}
		r.raw = append(r.raw, k.frames[run:k.begin]...)
		run = k.frame.end
	}
	switch {
	case k.err != nil:
		return nil, k.err
	case kept == 0:
		return nil, nil
	case kept == b.Count():
		return b, nil
	}
	r.raw = append(r.raw, k.frames[run:]...)
	r.out = append(r.out[:0], b[:HeaderSize]...)
	if codec := b.Attributes().Codec(); codec == CodecNone {
		r.out = append(r.out, r.raw...)
	} else {
		if r.codecs[codec] == nil {
			r.codecs[codec] = NewCompression(codec)
		}
		r.out = r.codecs[codec].appendTo(r.out, r.raw)
	}
	out := Batch(r.out)
	out.resize(kept)
	return out, nil
}

// resize makes length, record count and CRC fit.
func (b Batch) resize(count int32) {
	binary.BigEndian.PutUint32(b[offLength:], uint32(len(b)-lengthPrefix))
	binary.BigEndian.PutUint32(b[offRecordCount:], uint32(count))
	b.seal()
}

// Emptied is b without its records, which keeps its place, producer, epoch and sequences in the log (L34, L35).
func (b Batch) Emptied() Batch {
	e := make(Batch, HeaderSize)
	copy(e, b)
	e.setAttributes(e.Attributes() &^ AttrCodecMask)
	e.resize(0)
	return e
}
