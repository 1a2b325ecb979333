package cluster

import (
	"cmp"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
)

// load is what a broker carries already, as placement counts it.
type load struct {
	broker           *metadata.Broker
	alive            bool
	replicas, leader int
}

// place chooses brokers for n new partitions: no two replicas of one on a broker, over as many racks
// as there are, onto the brokers with the fewest replicas, the first replica (the preferred leader)
// onto the broker that is first for the fewest. Brokers not heard from come last. The same image and
// the same liveness give the same placement.
func place(img *metadata.Image, n, replication int, alive func(int32) bool) ([]*statev1.Placement, error) {
	loads := loadsOf(img, alive)
	out := make([]*statev1.Placement, n)
	for i := range out {
		chosen := choose(loads, replication)
		if chosen == nil {
			return nil, noRoom()
		}
		leader := slices.MinFunc(chosen, func(a, b *load) int {
			return cmp.Or(compareBool(b.alive, a.alive), cmp.Compare(a.leader, b.leader), cmp.Compare(a.broker.ID, b.broker.ID))
		})
		leader.leader++
		p := &statev1.Placement{BrokerIds: []int32{leader.broker.ID}}
		for _, l := range chosen {
			l.replicas++
			if l != leader {
				p.BrokerIds = append(p.BrokerIds, l.broker.ID)
			}
		}
		out[i] = p
	}
	return out, nil
}

func loadsOf(img *metadata.Image, alive func(int32) bool) []*load {
	byID := make(map[int32]*load)
	var loads []*load
	for _, b := range img.Brokers() {
		l := &load{broker: b, alive: alive(b.ID)}
		byID[b.ID] = l
		loads = append(loads, l)
	}
	for _, t := range img.AllTopics() {
		for i := range t.Partitions {
			for k, r := range t.Partitions[i].Replicas {
				l := byID[r.Broker]
				if l == nil || r.Deleted {
					continue
				}
				l.replicas++
				if k == 0 {
					l.leader++
				}
			}
		}
	}
	return loads
}

func noRoom() error {
	return &metadata.Error{Code: metadata.PolicyViolation, Field: "partitions",
		Message: "the brokers have no room for the replicas: limits.max_partitions of too many is reached, or they are draining"}
}

// choose picks the brokers of one partition, one after the other; nil: there is no room.
func choose(loads []*load, replication int) []*load {
	var chosen []*load
	racks := make(map[string]int)
	for range replication {
		best := pick(loads, chosen, racks)
		if best == nil {
			return nil
		}
		chosen = append(chosen, best)
		racks[best.broker.Rack]++
	}
	return chosen
}

// pick finds the best place for one more replica beside those that are chosen; nil: there is none.
func pick(loads, chosen []*load, racks map[string]int) *load {
	var best *load
	for _, l := range loads {
		full := l.broker.MaxReplicas > 0 && l.replicas >= int(l.broker.MaxReplicas)
		if full || l.broker.Draining || slices.Contains(chosen, l) {
			continue
		}
		if best == nil || better(l, best, racks) {
			best = l
		}
	}
	return best
}

// better says whether a is a better place than b for the next replica. Loads are in order of id, which
// breaks ties.
func better(a, b *load, racks map[string]int) bool {
	return cmp.Or(
		compareBool(b.alive, a.alive),
		cmp.Compare(racks[a.broker.Rack], racks[b.broker.Rack]),
		cmp.Compare(a.replicas, b.replicas),
		cmp.Compare(a.leader, b.leader),
	) < 0
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}
