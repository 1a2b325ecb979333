package history

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/oncelog/oncelog/record"
)

// A record's payload is text: the value, the partition it was sent to, and the same again and again up
// to the wanted size.
//
//	3:17@orders/0 3:17@orders/0 3:17@ord
//
// So damage anywhere is noticed, and so is a record that turns up in another partition.

// AppendPayload appends the payload of a value sent to a partition, size bytes long, or as short as it
// can be.
func AppendPayload(b []byte, key record.TopicPartition, v Value, size int) []byte {
	start := len(b)
	b = strconv.AppendUint(b, uint64(v.Process), 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(v.N), 10)
	b = append(b, '@')
	b = append(b, key.Topic...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(key.Partition), 10)
	b = append(b, ' ')
	for len(b)-start < size {
		b = append(b, b[start:start+min(len(b)-start, size-(len(b)-start))]...)
	}
	return b
}

// ParsePayload gives the value of a record that was read from a partition. The error says why it is
// none that was sent there.
func ParsePayload(key record.TopicPartition, b []byte) (Value, error) {
	head, _, ok := bytes.Cut(b, []byte{' '})
	name, to, ok1 := bytes.Cut(head, []byte{'@'})
	process, number, ok2 := bytes.Cut(name, []byte{':'})
	p, err1 := strconv.ParseUint(string(process), 10, 32)
	n, err2 := strconv.ParseUint(string(number), 10, 32)
	if !ok || !ok1 || !ok2 || err1 != nil || err2 != nil {
		return Value{}, fmt.Errorf("not a value of this history: %.40q", b)
	}
	v := Value{Process(p), uint32(n)}
	if string(to) != key.String() {
		return Value{}, fmt.Errorf("value %v was sent to %.100q", v, to)
	}
	if period := len(head) + 1; !bytes.Equal(b[period:], b[:len(b)-period]) {
		return Value{}, fmt.Errorf("the payload of value %v is damaged", v)
	}
	return v, nil
}
