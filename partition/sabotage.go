package partition

import (
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// Sabotage plants bugs. Only tests set it: what finds no planted bug would find no other either.
type Sabotage struct {
	// NoDedup makes apply take every batch, also one that it has already.
	NoDedup bool
	// ForgetProducers loses what is known of producers when the state is restored from a snapshot.
	ForgetProducers bool
	// PassOpen lets readers of committed data past transactions that are open.
	PassOpen bool
	// StaleEpoch takes the batches of producers that have been replaced.
	StaleEpoch bool
}

// decides says whether apply asks the producer machine about a batch.
func (s Sabotage) decides(b record.Batch) bool {
	return b.ProducerID() != record.NoProducerID && !s.NoDedup
}

// admits says whether a batch is stored, or proposed without a question to its coordinator, although the producer machine refuses it.
func (s Sabotage) admits(c producer.Code) bool {
	return s.StaleEpoch && c == producer.InvalidProducerEpoch
}

// stable is how far readers of committed data get.
func (s Sabotage) stable(st *state) record.Offset {
	if s.PassOpen {
		return st.next
	}
	return st.lastStable()
}

// restored is the state that a snapshot gives.
func (s Sabotage) restored(st state) state {
	if s.ForgetProducers {
		st.producers = producer.New(producer.Limits{MaxProducers: int(st.settings.maxProducers)})
	}
	return st
}
