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
}

// decides says whether apply asks the producer machine about a batch.
func (s Sabotage) decides(b record.Batch) bool {
	return b.ProducerID() != record.NoProducerID && !s.NoDedup
}

// restored is the state that a snapshot gives.
func (s Sabotage) restored(st state) state {
	if s.ForgetProducers {
		st.producers = producer.New(producer.Limits{MaxProducers: int(st.settings.maxProducers)})
	}
	return st
}
