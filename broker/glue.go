package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/oncelog/oncelog/api"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/kafka"
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
		last, err := h.pullChunk(ctx, req, next, send)
		if err != nil || last == 0 {
			return err
		}
		next = last + 1
	}
	return nil
}

// pullChunk sends the next entries and gives the last one's index, 0 if there are no more. It waits for memory.
func (h peerHandler) pullChunk(ctx context.Context, req peer.PullRequest, next record.Index, send func([]peer.Entry) error) (record.Index, error) {
	room := h.p.memory.catchUp
	if err := room.AcquireContext(ctx, pullChunkBytes); err != nil {
		return 0, err
	}
	held := int64(pullChunkBytes)
	defer func() { room.Add(-held) }()
	entries, err := h.p.partitions.Entries(raftgroup.GroupID(req.Group), req.Incarnation, next, req.Through, pullChunkBytes)
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	out, bytes := make([]peer.Entry, len(entries)), int64(0)
	for i, e := range entries {
		out[i] = peer.Entry(e)
		bytes += int64(len(e.Data))
	}
	if more := bytes - held; more > 0 { // an entry that is larger than a chunk
		room.Add(more)
		held += more
	}
	return entries[len(entries)-1].Index, send(out)
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

// view is the cluster as the API sees it.
type view struct {
	*cluster.Cluster
	p *parts
}

// Self is this broker's id (api.Cluster).
func (v view) Self() int32 { return v.p.cfg.BrokerID }

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

// Reassign begins to move partitions (api.Cluster).
func (v view) Reassign(ctx context.Context, topic string, list []api.Reassignment, replicationFactor int32, validateOnly bool) (*metadata.Topic, error) {
	moves := make([]cluster.Reassignment, len(list))
	for i, r := range list {
		moves[i] = cluster.Reassignment(r)
	}
	return v.Cluster.Reassign(ctx, topic, moves, replicationFactor, validateOnly)
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

// kafkaView is the cluster as the Kafka listener sees it.
type kafkaView struct{ view }

// CreateTopic creates a topic, or checks whether it could (kafka.Cluster).
func (v kafkaView) CreateTopic(ctx context.Context, n kafka.NewTopic) (*metadata.Topic, error) {
	return v.Cluster.CreateTopic(ctx, cluster.NewTopic{
		Name: n.Name, Partitions: n.Partitions, ReplicationFactor: n.ReplicationFactor, Placements: n.Placements, Configs: n.Configs, ValidateOnly: n.ValidateOnly,
	})
}

// AlterTopic changes a topic, or checks whether it could (kafka.Cluster).
func (v kafkaView) AlterTopic(ctx context.Context, n kafka.TopicChange) (*metadata.Topic, error) {
	return v.Cluster.AlterTopic(ctx, cluster.TopicChange(n))
}

var (
	_ api.Log      = (*partition.Host)(nil)
	_ api.Replicas = (*partition.Host)(nil)
	_ api.Cluster  = view{}
	_ api.Health   = (*health)(nil)

	_ kafka.Log          = (*partition.Host)(nil)
	_ kafka.Replicas     = (*partition.Host)(nil)
	_ kafka.Cluster      = kafkaView{}
	_ kafka.Transactions = (*coordinator.Transactions)(nil)
	_ kafka.Coordinators = (*coordinator.Host)(nil)
	_ kafka.Markers      = txnGlue{}
	_ kafka.Groups       = (*coordinator.Groups)(nil)

	_ api.Transactions = (*coordinator.Transactions)(nil)
	_ api.Groups       = (*coordinator.Groups)(nil)
	_ api.Coordinators = (*coordinator.Host)(nil)
	_ peer.Handler     = peerHandler{}

	_ partition.Transactions  = txnGlue{}
	_ coordinator.Markers     = txnGlue{}
	_ coordinator.Directory   = directory{}
	_ coordinator.Topics      = groupGlue{}
	_ coordinator.Joiner      = groupGlue{}
	_ coordinator.ProducerIDs = (*cluster.Cluster)(nil)
)

// self is how this broker is (api.Self).
type self struct{ p *parts }

// Describe looks at the disk and says what is not well.
func (s self) Describe() api.SelfState {
	return api.SelfState{
		Reasons: s.p.health.reasons(), Warnings: s.p.health.warned(), Disk: s.p.disk.last(),
		Now: s.p.now(), ClockJump: s.p.partitions.ClockJump(), MaxFeatureLevel: metadata.CurrentLevel,
	}
}

// now is the broker's time of day.
func (p *parts) now() time.Time {
	if p.wall == nil {
		return time.Now()
	}
	return p.wall()
}
