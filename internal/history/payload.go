package history

import (
	"bytes"
	"fmt"
	"strconv"
)

// A record's payload is text: the value, the key it was sent to, and filler up to the wanted size.
//
//	3:17@chaos/0 ~~~~3:17@chaos/0 ~~~~3:17...
//
// The filler repeats the beginning, so damage anywhere is noticed, and so is a record that turns up
// in another partition.

// AppendPayload appends the payload of a value sent to a key, size bytes long, or as short as it
// can be.
func AppendPayload(b []byte, key Key, v Value, size int) []byte {
	start := len(b)
	b = strconv.AppendUint(b, uint64(v.Process), 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, v.N, 10)
	b = append(b, '@')
	b = append(b, key...)
	b = append(b, ' ')
	head := len(b)
	for len(b)-start < size {
		// What is there already, from the start: each round doubles it.
		if b = append(b, "~~~~"...); len(b)-start < size {
			b = append(b, b[start:start+min(len(b)-start, size-(len(b)-start))]...)
		}
	}
	return b[:max(head, start+size)]
}

// ParsePayload gives the value of a record that was read from a key. The error says why it is none
// that was sent there.
func ParsePayload(key Key, b []byte) (Value, error) {
	head, _, ok := bytes.Cut(b, []byte{' '})
	process, rest, ok1 := bytes.Cut(head, []byte{':'})
	number, to, ok2 := bytes.Cut(rest, []byte{'@'})
	p, err1 := strconv.ParseUint(string(process), 10, 32)
	n, err2 := strconv.ParseUint(string(number), 10, 64)
	if !ok || !ok1 || !ok2 || err1 != nil || err2 != nil {
		return Value{}, fmt.Errorf("no value: %.40q", b)
	}
	v := Value{Process: Process(p), N: n}
	if string(to) != string(key) {
		return Value{}, fmt.Errorf("value %s was sent to %.100q", v, to)
	}
	if !bytes.Equal(b, AppendPayload(make([]byte, 0, len(b)+8), key, v, len(b))) {
		return Value{}, fmt.Errorf("the payload of value %s is damaged", v)
	}
	return v, nil
}
