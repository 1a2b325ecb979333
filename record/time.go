package record

// Found is a record's place in the log and its time.
type Found struct {
	Offset    Offset
	Timestamp int64 // ms since 1970
}

// FirstAtOrAfter finds the first record of b at or above offset from whose timestamp is at least
// ts; false if there is none (L17). For b and maxDecompressed see Batch.Records.
func (b Batch) FirstAtOrAfter(ts int64, from Offset, maxDecompressed int) (Found, bool, error) {
	var found Found
	var ok bool
	err := b.eachTime(maxDecompressed, func(f Found) bool {
		if f.Offset >= from && f.Timestamp >= ts {
			found, ok = f, true
		}
		return !ok
	})
	return found, ok && err == nil, err
}

// Latest finds the record of b at or above offset from with the largest timestamp, of several the
// first; false if there is none (L20). For b and maxDecompressed see Batch.Records.
func (b Batch) Latest(from Offset, maxDecompressed int) (Found, bool, error) {
	var found Found
	var ok bool
	err := b.eachTime(maxDecompressed, func(f Found) bool {
		if f.Offset >= from && (!ok || f.Timestamp > found.Timestamp) {
			found, ok = f, true
		}
		return true
	})
	return found, ok && err == nil, err
}

// eachTime calls yield for each record until it says false.
func (b Batch) eachTime(maxDecompressed int, yield func(Found) bool) error {
	records, err := b.Records(maxDecompressed)
	if err != nil {
		return err
	}
	defer records.Close()
	for records.Next() {
		if r := records.Record(); !yield(Found{r.Offset, r.Timestamp}) {
			return nil
		}
	}
	return records.Err()
}
