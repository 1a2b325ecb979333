package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// writeTxnMarkers writes markers as an operator's tool asks, to end a transaction that nobody else ends (KIP-664, T28). Every marker is in
// the answer. Before version 2 a marker does not tell the version of its transaction, and the rules of version 1 hold (T29).
func (c *conn) writeTxnMarkers(r *request, req *kmsg.WriteTxnMarkersRequest, resp *kmsg.WriteTxnMarkersResponse) {
	ctx, cancel := context.WithTimeout(c.ctx, coordinatorTimeout)
	defer cancel()
	var markers []coordinator.Marker
	for i := range req.Markers {
		m := &req.Markers[i]
		version := int8(1)
		if req.Version >= 2 && m.TransactionVersion >= 2 {
			version = 2
		}
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				markers = append(markers, coordinator.Marker{TopicPartition: record.TopicPartition{Topic: t.Topic, Partition: p}, ProducerID: record.ProducerID(m.ProducerID),
					Epoch: record.Epoch(m.ProducerEpoch), CoordinatorEpoch: m.CoordinatorEpoch, Commit: m.Committed, Version: version, Operator: true})
			}
		}
	}
	var results []coordinator.MarkerResult
	may := c.mayAny(r, frontdoor.OnCluster(acl.Alter), frontdoor.OnCluster(acl.ClusterAction))
	if may && len(markers) <= frontdoor.MaxPartitions {
		results = c.c.Markers.Write(ctx, markers)
	}
	next := 0
	code := func() int16 {
		if !may {
			return c.denied(r, acl.Cluster)
		}
		if results == nil {
			return c.refuse(r, frontdoor.ReasonInvalidRequest)
		}
		next++
		return c.markerCode(r, results[next-1])
	}
	for i := range req.Markers {
		to := kmsg.NewWriteTxnMarkersResponseMarker()
		to.ProducerID = req.Markers[i].ProducerID
		for _, t := range req.Markers[i].Topics {
			topic := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			topic.Topic = t.Topic
			for _, p := range t.Partitions {
				topic.Partitions = append(topic.Partitions, kmsg.WriteTxnMarkersResponseMarkerTopicPartition{Partition: p, ErrorCode: code()})
			}
			to.Topics = append(to.Topics, topic)
		}
		resp.Markers = append(resp.Markers, to)
	}
}

// markerCode says what became of a marker.
func (c *conn) markerCode(r *request, result coordinator.MarkerResult) int16 {
	switch result.State {
	case coordinator.MarkerWritten:
		return 0
	case coordinator.MarkerGone:
		return c.refuse(r, frontdoor.ReasonUnknownTopic)
	case coordinator.MarkerEpochFenced:
		return c.refuse(r, "INVALID_PRODUCER_EPOCH")
	case coordinator.MarkerCoordinatorFenced:
		return c.refuse(r, "TRANSACTION_COORDINATOR_FENCED")
	}
	return c.refuse(r, frontdoor.ReasonNotLeader) // to be tried again, whatever it was (T28)
}
