package main

import (
	"testing"

	"github.com/oncelog/oncelog/client"
)

// A drain that cannot come to an end is known by the brokers that are left.
func TestTooFew(t *testing.T) {
	broker := func(id int32) client.Broker { return client.Broker{ID: id, Alive: true} }
	three := []client.Partition{{Replicas: []int32{1, 2, 3}}}
	for _, c := range []struct {
		name       string
		brokers    []client.Broker
		partitions []client.Partition
		others     int
		few        bool
	}{
		{"three of three", []client.Broker{broker(1), broker(2), broker(3)}, three, 2, true},
		{"one is free", []client.Broker{broker(1), broker(2), broker(3), broker(4)}, three, 3, false},
		{"the free one is dead", []client.Broker{broker(1), broker(2), broker(3), {ID: 4}}, three, 2, true},
		{"the free one is drained", []client.Broker{broker(1), broker(2), broker(3), {ID: 4, Alive: true, Draining: true}}, three, 2, true},
		{"one of them can go", []client.Broker{broker(1), broker(2), broker(3)}, []client.Partition{{Replicas: []int32{1, 2, 3}}, {Replicas: []int32{1}}}, 2, false},
		{"one is on its way", []client.Broker{broker(1), broker(2), broker(3)}, []client.Partition{{Replicas: []int32{1, 2, 3}, Joining: []int32{4}}}, 2, false},
		{"one is leaving", []client.Broker{broker(1), broker(2), broker(3)}, []client.Partition{{Replicas: []int32{2, 3, 4}, Leaving: []int32{1}}}, 2, false},
	} {
		m := client.Metadata{Brokers: c.brokers, Topics: []client.Topic{{Name: "orders", Partitions: c.partitions}}}
		if others, few := tooFew(m, 1); others != c.others || few != c.few {
			t.Errorf("%s: %d others, too few: %v", c.name, others, few)
		}
	}
}
