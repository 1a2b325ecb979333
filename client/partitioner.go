package client

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
)

// Partitioner picks a partition for a record that names none, out of n partitions. It may be
// called by many goroutines at once, must return 0 to n-1, or -1 to leave the choice to the
// producer, and must not keep what the record refers to.
type Partitioner func(r Record, n int) int32

// KeyPartition is the partition that Kafka's default partitioner gives a key, out of n: so that
// records written by Kafka clients and by this one meet in the same place.
func KeyPartition(key []byte, n int) int32 {
	return int32(murmur2(key)&0x7fffffff) % int32(n)
}

// murmur2 is MurmurHash2 with Kafka's seed (Utils.murmur2 of its clients).
func murmur2(b []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := seed ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := binary.LittleEndian.Uint32(b) * m
		k ^= k >> r
		h = h*m ^ k*m
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}

// sticky spreads records without a key: all go to one partition until a batch's worth has gone
// there, then another is drawn (KIP-794). That fills batches, and still spreads evenly.
type sticky struct {
	mu      sync.Mutex // guards what follows
	current int32
	left    int
}

// pick gives the partition for a record of size bytes. usable says which partitions have a leader;
// one without is only taken when there is no other.
func (s *sticky) pick(n, size, batchBytes int, usable func(int32) bool) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left <= 0 || int(s.current) >= n {
		s.current = draw(n, s.current, usable)
		s.left = batchBytes
	}
	s.left -= size
	return s.current
}

// draw picks at random among the usable partitions other than the last, if there are any.
func draw(n int, last int32, usable func(int32) bool) int32 {
	start := rand.IntN(n)
	second := int32(-1)
	for i := range n {
		p := int32((start + i) % n)
		if !usable(p) {
			continue
		}
		if p != last {
			return p
		}
		second = p
	}
	if second >= 0 {
		return second
	}
	return int32(start)
}
