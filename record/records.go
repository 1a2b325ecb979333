package record

// Header is a name and a value that travel with a record. Names may repeat.
type Header struct {
	Key   string
	Value []byte // nil: null
}

// Record is one record of a batch.
type Record struct {
	Offset    Offset
	Timestamp int64  // ms since 1970; NoTimestamp: none
	Key       []byte // nil: null
	Value     []byte // nil: null
	Headers   []Header
}

// Records reads the records of one batch, in order:
//
//	records, err := batch.Records(0)
//	...
//	defer records.Close()
//	for records.Next() {
//		use(records.Record())
//	}
//	if err := records.Err(); err != nil ...
//
// Keys, values and header values alias the batch, or, if it is compressed, a buffer that Close
// gives back to a pool: they are good until Close. Who wants to keep them does not call Close;
// the collector then frees the buffer when nothing aliases it any more. Only the slice Headers
// itself is used again by Next. Not safe for concurrent use.
type Records struct {
	batch   Batch
	frames  []byte
	pos     int
	ordinal int32 // of the next record
	last    int32 // offset delta of the record before, -1 at first
	rec     Record
	err     error
	buf     *[]byte // from the pool; nil if not compressed or closed
}

// Records begins to read the records of b, which must be exactly one batch, as Parse returns it.
// They may take maxDecompressed bytes decompressed; 0: DefaultMaxDecompressed. The CRC is not
// checked. A batch that Validate accepts is read without error, unless its records were trusted.
//
// Errors, here and in Err: ErrCorruptMessage, ErrInvalidRecord, ErrMessageTooLarge,
// ErrUnsupportedCompression.
func (b Batch) Records(maxDecompressed int) (*Records, error) {
	r := &Records{}
	if err := r.Reset(b, maxDecompressed); err != nil {
		return nil, err
	}
	return r, nil
}

// Reset turns r to another batch, as if it had come from Batch.Records, and closes it first.
func (r *Records) Reset(b Batch, maxDecompressed int) error {
	r.Close()
	headers := r.rec.Headers[:0]
	*r = Records{last: -1}
	r.rec.Headers = headers
	if err := b.whole(); err != nil {
		return err
	}
	if b.Count() < 0 {
		return refuse(ErrInvalidRecord, "record count is %d", b.Count())
	}
	var err error
	if b.Attributes().Codec() == CodecNone {
		r.frames, err = b.content(nil, 0)
	} else {
		r.buf = getBuffer()
		r.frames, err = b.content(r.buf, maxDecompressed)
	}
	if err != nil {
		r.Close()
		return err
	}
	r.batch = b
	return nil
}

// Next moves to the next record. False: there is none, or Err says why it cannot be read.
func (r *Records) Next() bool {
	if r.err != nil || r.batch == nil {
		return false
	}
	if r.ordinal == r.batch.Count() {
		if r.pos != len(r.frames) {
			r.err = refuse(ErrInvalidRecord, "%d bytes after the last of %d records", len(r.frames)-r.pos, r.ordinal)
		}
		return false
	}
	var f frame
	if p := f.read(r.frames, r.pos); p != "" {
		r.err = refuseRecord(ErrInvalidRecord, r.ordinal, "%s", p)
		return false
	}
	// Compaction leaves holes, but offsets rise and stay inside the batch.
	if f.offsetDelta <= r.last || f.offsetDelta > r.batch.LastOffsetDelta() {
		r.err = refuseRecord(ErrInvalidRecord, r.ordinal, "offset delta %d, want above %d and at most %d",
			f.offsetDelta, r.last, r.batch.LastOffsetDelta())
		return false
	}
	r.take(&f)
	r.last = f.offsetDelta
	r.pos = f.end
	r.ordinal++
	return true
}

// take fills the record from its frame.
func (r *Records) take(f *frame) {
	r.rec.Offset = r.batch.BaseOffset() + Offset(f.offsetDelta)
	if r.batch.Attributes().LogAppendTime() {
		r.rec.Timestamp = r.batch.MaxTimestamp()
	} else {
		r.rec.Timestamp = r.batch.BaseTimestamp() + f.timestampDelta
	}
	r.rec.Key = bytesAt(r.frames, f.key, f.keyLen)
	r.rec.Value = bytesAt(r.frames, f.value, f.valueLen)
	r.rec.Headers = f.appendHeaders(r.rec.Headers[:0], r.frames)
}

// appendHeaders appends the record's headers. The frame was read without a problem.
func (f *frame) appendHeaders(dst []Header, b []byte) []Header {
	p := f.headers
	for range f.headerCount {
		var n int32
		var at int
		n, at, p = span(b, p)
		key := string(b[at : at+int(n)])
		n, at, p = span(b, p)
		dst = append(dst, Header{Key: key, Value: bytesAt(b, at, n)})
	}
	return dst
}

// Record is the record that Next moved to. The next call of Next overwrites it.
func (r *Records) Record() *Record { return &r.rec }

// Err is why Next stopped before the end; nil at the end.
func (r *Records) Err() error { return r.err }

// Close gives the buffer of decompressed records back; see Records. Closing twice is allowed.
func (r *Records) Close() {
	if r.buf != nil {
		putBuffer(r.buf)
	}
	r.buf, r.batch, r.frames = nil, nil, nil
	r.rec.Key, r.rec.Value = nil, nil
}
