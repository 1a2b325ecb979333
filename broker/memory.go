package broker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/internal/frontdoor"
)

// memory is limits.memory and its kinds. Those that clients fill are the doors' (frontdoor.Shared). The log's newest entries are not in it:
// limits.cache_bytes bounds them.
type memory struct {
	*frontdoor.Memory
	// sending and receiving are entries on their way to other brokers and from them, catchUp is what replicas are sent that lie
	// further behind than Raft reaches.
	sending, receiving, catchUp *frontdoor.Budget
}

// memoryParts is how many parts of max_message_bytes the memory must have: replication is guaranteed an eighth, and needs two.
const memoryParts = 16

// newMemory makes the kinds that commits wait for; they come first. What all kinds are guaranteed is 26/32.
func newMemory(l LimitsConfig, reg prometheus.Registerer) memory {
	m := memory{Memory: frontdoor.NewMemory(int64(l.Memory))}
	eighth := m.Limit() / 8
	m.sending = m.Kind("replication", eighth, int64(l.ReplicationBytes), false).Share(nil)
	m.receiving = m.Kind("receiving", eighth, m.Limit()/4, false).Share(nil)
	reg.MustRegister(m)
	return m
}

// kindOfCatchUp is made last: it yields to all others.
func (m memory) kindOfCatchUp() *frontdoor.Budget {
	return m.Kind("catch_up", m.Limit()/32, m.Limit()/8, true).Share(nil)
}
