package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/api"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// peerHandler answers what other brokers ask: the cluster's own questions, and log entries for
// replicas that catch up.
type peerHandler struct {
	*cluster.Cluster
	p *parts
}

// pullChunkBytes is how much of a log is read at once for a peer.
const pullChunkBytes = 1 << 20

// PullEntries sends the entries asked for (peer.Handler).
func (h peerHandler) PullEntries(ctx context.Context, _ peer.Identity, req peer.PullRequest, send func([]peer.Entry) error) error {
	for next := req.From; next <= req.Through; {
		if err := ctx.Err(); err != nil {
			return err
		}
		entries, err := h.p.partitions.Entries(raftgroup.GroupID(req.Group), req.Incarnation, next, req.Through, pullChunkBytes)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		out := make([]peer.Entry, len(entries))
		for i, e := range entries {
			out[i] = peer.Entry(e)
		}
		if err := send(out); err != nil {
			return err
		}
		next = entries[len(entries)-1].Index + 1
	}
	return nil
}

// pull brings entries from the peer that holds them (partition.PullFunc).
func (p *parts) pull(ctx context.Context, from raftgroup.ServerID, group raftgroup.GroupID, first, through record.Index, yield func([]recordlog.Entry) error) error {
	broker, incarnation, err := raftgroup.ParseServerID(from)
	if err != nil {
		return err
	}
	target, ok := p.cluster.PeerTarget(broker)
	if !ok {
		return fmt.Errorf("broker %d has no known address", broker)
	}
	req := peer.PullRequest{Group: uint64(group), Incarnation: incarnation, From: first, Through: through}
	return p.cluster.Peers().PullEntries(ctx, target, req, func(entries []peer.Entry) error {
		out := make([]recordlog.Entry, len(entries))
		for i, e := range entries {
			out[i] = recordlog.Entry(e)
		}
		return yield(out)
	})
}

// log is the partitions as the API sees them. What this broker holds no replica of, the metadata
// names: unknown, or led by another.
type log struct {
	*partition.Host
	cluster *cluster.Cluster
}

// Limits are what a batch for the partition is validated with (api.Log).
func (l log) Limits(tp record.TopicPartition) (record.Limits, error) {
	limits, err := l.Host.Limits(tp)
	return limits, l.explain(tp, err)
}

// Produce appends a batch (api.Log).
func (l log) Produce(req partition.ProduceRequest, done func(partition.ProduceResult, error)) {
	l.Host.Produce(req, func(r partition.ProduceResult, err error) { done(r, l.explain(req.TopicPartition, err)) })
}

// Fetch reads (api.Log).
func (l log) Fetch(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
	answers := l.Host.Fetch(ctx, req)
	for i := range answers {
		if answers[i].Err != nil {
			_ = errors.As(l.explain(answers[i].TopicPartition, answers[i].Err), &answers[i].Err)
		}
	}
	return answers
}

// explain adds to NOT_LEADER what the metadata knows.
func (l log) explain(tp record.TopicPartition, err error) error {
	var e *partition.Error
	if err == nil || !errors.As(err, &e) || e.Code != partition.CodeNotLeader || e.Outcome != raftgroup.DidNotHappen {
		return err
	}
	t, ok := l.cluster.Image().Topic(tp.Topic)
	if !ok || tp.Partition < 0 || int(tp.Partition) >= len(t.Partitions) {
		return &partition.Error{Code: partition.CodeUnknownTopicOrPartition, Outcome: raftgroup.DidNotHappen,
			Message: fmt.Sprintf("there is no partition %s", tp)}
	}
	if lead, ok := l.cluster.Leader(t.Partitions[tp.Partition].Group); ok && lead.Ready && lead.Broker != l.cluster.Self().Broker {
		known := *e
		known.Leader = &partition.Leader{Broker: lead.Broker, Epoch: int32(lead.Term)}
		return &known
	}
	return err
}

// view is the cluster as the API sees it.
type view struct {
	*cluster.Cluster
	p *parts
}

// Leader is who leads a group and is ready (api.Cluster).
func (v view) Leader(g metadata.GroupID) (partition.Leader, bool) {
	lead, ok := v.Cluster.Leader(g)
	if !ok || !lead.Ready {
		return partition.Leader{Broker: -1, Epoch: -1}, false
	}
	return partition.Leader{Broker: lead.Broker, Epoch: int32(lead.Term)}, true
}

// Controller is the broker that leads the metadata group, -1 if unknown (api.Cluster).
func (v view) Controller() int32 {
	broker, _, ok := v.Cluster.Controller()
	if !ok {
		return -1
	}
	return broker
}

// MetadataGroup is the local replica of the metadata group (api.Cluster).
func (v view) MetadataGroup() (raftgroup.Status, bool) { return v.MetadataStatus() }

// CreateTopic creates a topic, or checks whether it could (api.Cluster).
func (v view) CreateTopic(ctx context.Context, n api.NewTopic) (*metadata.Topic, error) {
	return v.Cluster.CreateTopic(ctx, cluster.NewTopic{
		Name: n.Name, Partitions: n.Partitions, ReplicationFactor: n.ReplicationFactor, Configs: n.Configs, ValidateOnly: n.ValidateOnly,
	})
}

// AlterTopic changes a topic, or checks whether it could (api.Cluster).
func (v view) AlterTopic(ctx context.Context, n api.TopicChange) (*metadata.Topic, error) {
	return v.Cluster.AlterTopic(ctx, cluster.TopicChange(n))
}

// TopicReady waits until every partition has a leader that is ready (api.Cluster).
func (v view) TopicReady(ctx context.Context, name string) error {
	for {
		changed := v.LeadersChanged()
		img := v.Image()
		if t, ok := img.Topic(name); ok && v.allLed(t) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (v view) allLed(t *metadata.Topic) bool {
	for i := range t.Partitions {
		if _, ok := v.Leader(t.Partitions[i].Group); !ok {
			return false
		}
	}
	return true
}

var (
	_ api.Log      = log{}
	_ api.Replicas = (*partition.Host)(nil)
	_ api.Cluster  = view{}
	_ api.Health   = (*health)(nil)
	_ peer.Handler = peerHandler{}
)
