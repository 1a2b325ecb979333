package test

import (
	"math"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/record"
)

// Codes of Kafka.
const (
	invalidProducerEpoch         = 47
	transactionCoordinatorFenced = 52
)

// marker asks a broker to write one marker on a partition of a topic, as an operator's tool does (T28).
func (w *kafkaWire) marker(tp record.TopicPartition, id record.ProducerID, epoch int16, coordinatorEpoch int32) int16 {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.Version = 1
	m := kmsg.NewWriteTxnMarkersRequestMarker()
	m.ProducerID, m.ProducerEpoch, m.CoordinatorEpoch = int64(id), epoch, coordinatorEpoch
	to := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
	to.Topic, to.Partitions = tp.Topic, []int32{tp.Partition}
	m.Topics = append(m.Topics, to)
	req.Markers = append(req.Markers, m)
	resp := w.ask(req).(*kmsg.WriteTxnMarkersResponse)
	return resp.Markers[0].Topics[0].Partitions[0].ErrorCode
}

// A client may end a transaction on a partition (T28), but no marker of a client makes those of the coordinators refused from then on: the
// next transactions become visible.
func TestMarkersOfClients(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactional("tx")
	s.must("begin", p.Begin())
	s.put(p, only, "first")
	s.must("commit", p.Commit(s.ctx))
	s.awaitRead([]string{topic + ":first"}, only)
	list, _, err := s.cl.DescribeProducers(s.ctx, only)
	s.must("describe", err)
	now := list[0]
	w := dialKafka(t, s.c, s.c.KafkaAddrs()[0])
	for _, c := range []struct {
		what             string
		epoch            int16
		coordinatorEpoch int32
		want             int16
	}{
		{"a coordinator that nobody is", int16(now.Epoch), math.MaxInt32, transactionCoordinatorFenced},
		{"an epoch that no producer has", math.MaxInt16, now.CoordinatorEpoch, invalidProducerEpoch},
		{"an epoch of before", int16(now.Epoch) - 1, now.CoordinatorEpoch, invalidProducerEpoch},
	} {
		if got := w.marker(only, now.ID, c.epoch, c.coordinatorEpoch); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	if got := w.marker(only, now.ID+1000, 3, 0); got != invalidProducerEpoch {
		t.Errorf("a producer that nobody is: %d", got)
	}
	s.must("begin", p.Begin())
	s.put(p, only, "second")
	s.must("commit", p.Commit(s.ctx))
	s.awaitRead([]string{topic + ":first", topic + ":second"}, only)

	s.must("begin", p.Begin())
	s.put(p, only, "open")
	list, _, err = s.cl.DescribeProducers(s.ctx, only)
	s.must("describe", err)
	if err := w.marker(only, list[0].ID, int16(list[0].Epoch), list[0].CoordinatorEpoch); err != 0 {
		t.Errorf("what a tool does with what it is told: %d", err)
	}
	list, _, err = s.cl.DescribeProducers(s.ctx, only)
	s.must("describe", err)
	if list[0].TxnStart >= 0 {
		t.Errorf("still open: %+v", list[0])
	}
}
