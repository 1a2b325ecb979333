package group

// What members of type "consumer" say and are given is opaque to the coordinator (G10), but for what is read here: which topics they are
// subscribed to, and which partitions they have.

// ConsumerTopics gives the topics that a consumer's metadata names (ConsumerProtocolSubscription); false: it cannot be read. Every
// version of it begins with the first: int16 version, int32 number of topics, and each as int16 length and bytes. What comes after them is
// not looked at.
func ConsumerTopics(metadata []byte) ([]string, bool) {
	r := reader{metadata}
	version, n := r.int(2), r.int(4)
	if version < 0 || n < 0 || n > len(metadata) {
		return nil, false
	}
	topics := make([]string, 0, n)
	for range n {
		topic, ok := r.bytes(r.int(2))
		if !ok {
			return nil, false
		}
		topics = append(topics, string(topic))
	}
	return topics, true
}

// ConsumerPartitions are partitions of one topic that a consumer was assigned.
type ConsumerPartitions struct {
	Topic      string
	Partitions []int32
}

// ConsumerAssignment gives the partitions of a consumer's assignment (ConsumerProtocolAssignment), in the order in which they are there; false: it
// cannot be read. It is built like the metadata, with an int32 number of partitions after each topic, and each of them as int32.
func ConsumerAssignment(assignment []byte) ([]ConsumerPartitions, bool) {
	r := reader{assignment}
	version, n := r.int(2), r.int(4)
	if version < 0 || n < 0 || n > len(assignment) {
		return nil, false
	}
	list := make([]ConsumerPartitions, 0, n)
	for range n {
		topic, ok := r.bytes(r.int(2))
		count := r.int(4)
		if !ok || count < 0 || count > len(r.left)/4 {
			return nil, false
		}
		t := ConsumerPartitions{Topic: string(topic)}
		for range count {
			number := r.int(4)
			if number < 0 {
				return nil, false
			}
			t.Partitions = append(t.Partitions, int32(number))
		}
		list = append(list, t)
	}
	return list, true
}

// reader takes big-endian numbers and bytes from a slice.
type reader struct{ left []byte }

// int gives a signed number of a few bytes; -1 if it is cut off.
func (r *reader) int(size int) int {
	b, ok := r.bytes(size)
	if !ok || b[0] >= 0x80 {
		return -1
	}
	n := 0
	for _, c := range b {
		n = n<<8 | int(c)
	}
	return n
}

func (r *reader) bytes(n int) ([]byte, bool) {
	if n < 0 || n > len(r.left) {
		return nil, false
	}
	b := r.left[:n]
	r.left = r.left[n:]
	return b, true
}
