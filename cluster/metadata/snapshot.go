package metadata

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// snapshotFormat is that of a metadata snapshot: one oncelog.state.v1.MetadataState.
var snapshotFormat = statev1.Format{Magic: "OLMD", Version: 1, MaxBytes: MaxSnapshotBytes}

// ErrBadSnapshot: the bytes are not a whole snapshot, or what they hold cannot be a state. The error
// that wraps it says what is wrong.
var ErrBadSnapshot = statev1.ErrDamaged

// ErrNewerSnapshot: the snapshot has a format that this program does not know.
var ErrNewerSnapshot = statev1.ErrNewer

func bad(format string, args ...any) error {
	return fmt.Errorf("metadata: snapshot: %w: %s", ErrBadSnapshot, fmt.Sprintf(format, args...))
}

// AppendSnapshot appends the image's snapshot. Equal images give equal bytes.
func (img *Image) AppendSnapshot(buf []byte) ([]byte, error) {
	buf, err := snapshotFormat.Append(buf, img.toProto())
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return buf, nil
}

// RestoreImage reads a snapshot and checks every invariant that apply keeps.
func RestoreImage(b []byte) (*Image, error) {
	p := new(statev1.MetadataState)
	if err := snapshotFormat.Read(b, p); err != nil {
		return nil, fmt.Errorf("metadata: snapshot: %w", err)
	}
	return imageFromProto(p)
}

func (img *Image) toProto() *statev1.MetadataState {
	p := &statev1.MetadataState{
		ClusterId: img.clusterID, Version: img.version, FeatureLevel: uint32(img.level),
		NextGroupId: uint64(img.nextGroup), NextIncarnation: img.nextIncarnation, NextProducerId: img.nextProducerID,
		Defaults: ConfigsToProto(img.defaults),
	}
	for _, b := range img.brokers {
		p.Brokers = append(p.Brokers, BrokerToProto(b))
	}
	for _, t := range img.byID {
		p.Topics = append(p.Topics, TopicToProto(t))
	}
	img.accessToProto(p)
	return p
}

// TopicToProto encodes a topic.
func TopicToProto(t *Topic) *statev1.TopicState {
	p := &statev1.TopicState{
		TopicId: slices.Clone(t.ID[:]), Name: t.Name, Configs: ConfigsToProto(t.Configs), Deleting: t.Deleting, CreatedMs: t.CreatedMS,
		ReplicationFactor: uint32(t.Replication),
	}
	for i := range t.Partitions {
		from := &t.Partitions[i]
		to := &statev1.PartitionState{GroupId: uint64(from.Group), Phase: statev1.PartitionPhase(from.Phase), Target: slices.Clone(from.Target)}
		for _, r := range from.Replicas {
			to.Replicas = append(to.Replicas, &statev1.ReplicaState{BrokerId: r.Broker, Incarnation: r.Incarnation, Created: r.Created, Deleted: r.Deleted,
				Joining: r.Joining, Added: r.Added, Lost: r.Lost})
		}
		for _, l := range from.Leaving {
			to.Leaving = append(to.Leaving, &statev1.LeavingReplica{BrokerId: l.Broker, Incarnation: l.Incarnation, Removed: l.Removed})
		}
		p.Partitions = append(p.Partitions, to)
	}
	return p
}

// TopicFromProto reads a topic that another broker sent; its settings are resolved with the image's
// defaults.
func (img *Image) TopicFromProto(p *statev1.TopicState) (*Topic, error) {
	return topicFromProto(p, img.defaults)
}

func topicFromProto(p *statev1.TopicState, defaults []Config) (*Topic, error) {
	id, err := topicIDFromBytes(p.GetTopicId())
	if err != nil {
		return nil, bad("%v", err)
	}
	t := &Topic{ID: id, Name: p.GetName(), Deleting: p.GetDeleting(), CreatedMS: p.GetCreatedMs()}
	if refusal := CheckTopicName(t.Name); refusal != nil {
		return nil, bad("topic %s: %v", id, refusal)
	}
	if t.Configs, err = restoreConfigs(p.GetConfigs(), false); err != nil {
		return nil, fmt.Errorf("topic %s: %w", t.Name, err)
	}
	t.Settings = resolve(t.Configs, defaults)
	n := len(p.GetPartitions())
	if n < 1 || n > MaxPartitionsPerTopic {
		return nil, bad("topic %s has %d partitions", t.Name, n)
	}
	t.Replication = int(p.GetReplicationFactor())
	if t.Replication == 0 {
		t.Replication = len(p.GetPartitions()[0].GetReplicas())
	}
	if !slices.Contains(ReplicationFactors[:], t.Replication) {
		return nil, bad("topic %s has %d replicas", t.Name, t.Replication)
	}
	if refusal := checkSettings(t.Settings, t.Replication); refusal != nil {
		return nil, bad("topic %s: %v", t.Name, refusal)
	}
	for i, pp := range p.GetPartitions() {
		part, err := partitionFromProto(pp, t.Replication, t.Deleting)
		if err != nil {
			return nil, fmt.Errorf("topic %s/%d: %w", t.Name, i, err)
		}
		t.Partitions = append(t.Partitions, part)
	}
	if t.Deleting && allDeleted(t) {
		return nil, bad("topic %s has been deleted", t.Name)
	}
	return t, nil
}

func partitionFromProto(p *statev1.PartitionState, replication int, deleting bool) (Partition, error) {
	if p.GetPhase() < 1 || p.GetPhase() > 3 || (p.GetPhase() == statev1.PartitionPhase_PARTITION_PHASE_DELETING) != deleting {
		return Partition{}, bad("phase %v", p.GetPhase())
	}
	out := Partition{Group: GroupID(p.GetGroupId()), Phase: Phase(p.GetPhase()), Target: p.GetTarget()}
	for _, r := range p.GetReplicas() {
		if _, ok := out.Replica(r.GetBrokerId()); ok || r.GetBrokerId() < 0 {
			return Partition{}, bad("replica on broker %d", r.GetBrokerId())
		}
		out.Replicas = append(out.Replicas, Replica{Broker: r.GetBrokerId(), Incarnation: r.GetIncarnation(), Created: r.GetCreated(), Deleted: r.GetDeleted(),
			Joining: r.GetJoining(), Added: r.GetAdded(), Lost: r.GetLost()})
	}
	for _, l := range p.GetLeaving() {
		out.Leaving = append(out.Leaving, Leaving{Broker: l.GetBrokerId(), Incarnation: l.GetIncarnation(), Removed: l.GetRemoved()})
	}
	return out, out.check(replication)
}

// check is what holds of every partition of a topic with that many replicas.
func (p *Partition) check(replication int) error {
	deleting, voters := p.Phase == Deleting, 0
	for _, r := range p.Replicas {
		if !r.Joining {
			voters++
		}
		switch {
		case r.Deleted && !deleting:
			return bad("deleted replica on broker %d", r.Broker)
		case deleting && (r.Joining || r.Added || r.Lost):
			return bad("replica on broker %d changes while it is being deleted", r.Broker)
		case r.Added && !slices.Contains(p.Target, r.Broker):
			return bad("replica on broker %d has been added for nothing", r.Broker)
		}
	}
	for _, l := range p.Leaving {
		if l.Broker < 0 || deleting && !l.Removed {
			return bad("leaving replica on broker %d", l.Broker)
		}
	}
	for i, id := range p.Target {
		if _, ok := p.Replica(id); !ok || slices.Contains(p.Target[:i], id) {
			return bad("broker %d shall hold it", id)
		}
	}
	switch {
	case voters == 0 || len(p.Leaving) > MaxLeaving:
		return bad("%d voters, %d replicas leave", voters, len(p.Leaving))
	case p.Target == nil && len(p.Replicas) != replication && !deleting:
		return bad("%d replicas, not %d", len(p.Replicas), replication)
	case p.Target != nil && (len(p.Target) != replication || p.Phase != Active):
		return bad("%d replicas shall hold it, not %d, and it is %v", len(p.Target), replication, p.Phase)
	case p.Phase == Active && !p.Created():
		return bad("active without a majority of replicas")
	case p.Phase == Creating && p.Changing():
		return bad("it changes while it is being created")
	}
	return nil
}

// restoreConfigs reads a sorted list of values in canonical form. The feature level does not matter:
// what is stored was accepted once.
func restoreConfigs(in []*statev1.ConfigValue, asDefaults bool) ([]Config, error) {
	out := configsFromProto(in)
	for i, c := range out {
		if i > 0 && out[i-1].Name >= c.Name {
			return nil, bad("configs are not sorted")
		}
		d, v, err := checkConfig(c.Name, c.Value, math.MaxUint16)
		if err != nil {
			return nil, bad("%v", err)
		}
		if v != c.Value || asDefaults && d.PerTopic {
			return nil, bad("config %s=%s", c.Name, c.Value)
		}
	}
	return out, nil
}

// imageFromProto builds an image and checks every invariant that apply keeps.
func imageFromProto(p *statev1.MetadataState) (*Image, error) {
	if p.GetFeatureLevel() < uint32(BaseLevel) || p.GetFeatureLevel() > math.MaxUint16 {
		return nil, bad("feature level %d", p.GetFeatureLevel())
	}
	img := &Image{
		version: p.GetVersion(), clusterID: p.GetClusterId(), level: uint16(p.GetFeatureLevel()),
		nextGroup: GroupID(p.GetNextGroupId()), nextIncarnation: p.GetNextIncarnation(), nextProducerID: p.GetNextProducerId(), rules: noRules,
	}
	switch {
	case len(img.clusterID) > MaxClusterIDLength:
		return nil, bad("cluster id of %d bytes", len(img.clusterID))
	case img.nextGroup < firstGroupID || img.nextIncarnation < firstIncarnation || img.nextProducerID < 0:
		return nil, bad("allocators at %d, %d, %d", img.nextGroup, img.nextIncarnation, img.nextProducerID)
	case len(p.GetBrokers()) > MaxBrokers || len(p.GetTopics()) > MaxTopics:
		return nil, bad("%d brokers, %d topics", len(p.GetBrokers()), len(p.GetTopics()))
	case img.clusterID == "" && len(p.GetBrokers())+len(p.GetTopics())+len(p.GetDefaults()) > 0:
		return nil, bad("no cluster id")
	}
	var err error
	if img.defaults, err = restoreConfigs(p.GetDefaults(), true); err != nil {
		return nil, err
	}
	img.base = resolve(nil, img.defaults)
	if refusal := checkSettings(img.base, 1); refusal != nil {
		return nil, bad("%v", refusal)
	}
	for _, bp := range p.GetBrokers() {
		b, refusal := brokerFromProto(bp)
		if refusal != nil {
			return nil, bad("%v", refusal)
		}
		if n := len(img.brokers); n > 0 && img.brokers[n-1].ID >= b.ID {
			return nil, bad("brokers are not sorted")
		}
		if img.level < b.MinLevel || img.level > b.MaxLevel {
			return nil, bad("broker %d cannot apply at feature level %d", b.ID, img.level)
		}
		img.brokers = append(img.brokers, b)
	}
	if err := img.restoreTopics(p.GetTopics()); err != nil {
		return nil, err
	}
	if err := img.restoreAccess(p); err != nil {
		return nil, err
	}
	return img, nil
}

func (img *Image) restoreTopics(in []*statev1.TopicState) error {
	incarnations := make(map[uint64]bool)
	for _, tp := range in {
		t, err := topicFromProto(tp, img.defaults)
		if err != nil {
			return err
		}
		if n := len(img.byID); n > 0 && slices.Compare(img.byID[n-1].ID[:], t.ID[:]) >= 0 {
			return bad("topics are not sorted")
		}
		img.byID = append(img.byID, t)
		if !t.Deleting {
			img.topics = append(img.topics, t)
		}
		if len(img.groups)+len(t.Partitions) > MaxPartitions {
			return bad("more than %d partitions", MaxPartitions)
		}
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if p.Group < firstGroupID || p.Group >= img.nextGroup {
				return bad("group id %d, next is %d", p.Group, img.nextGroup)
			}
			img.groups = append(img.groups, groupEntry{group: p.Group, topic: t.ID, partition: int32(i)})
			for _, r := range p.Replicas {
				if err := img.restoreReplica(incarnations, r.Broker, r.Incarnation, r.Deleted); err != nil {
					return err
				}
			}
			for _, l := range p.Leaving {
				if err := img.restoreReplica(incarnations, l.Broker, l.Incarnation, false); err != nil {
					return err
				}
			}
		}
	}
	slices.SortFunc(img.topics, func(a, b *Topic) int { return cmp.Compare(collisionKey(a.Name), collisionKey(b.Name)) })
	for i := 1; i < len(img.topics); i++ {
		if collisionKey(img.topics[i-1].Name) == collisionKey(img.topics[i].Name) {
			return bad("topics %s and %s", img.topics[i-1].Name, img.topics[i].Name)
		}
	}
	slices.SortFunc(img.groups, func(a, b groupEntry) int { return cmp.Compare(a.group, b.group) })
	for i := 1; i < len(img.groups); i++ {
		if img.groups[i-1].group == img.groups[i].group {
			return bad("group id %d is there twice", img.groups[i].group)
		}
	}
	return nil
}

// restoreReplica checks what holds of each replica, and enters its incarnation.
func (img *Image) restoreReplica(incarnations map[uint64]bool, broker int32, incarnation uint64, deleted bool) error {
	if incarnation < firstIncarnation || incarnation >= img.nextIncarnation || incarnations[incarnation] {
		return bad("incarnation %d, next is %d", incarnation, img.nextIncarnation)
	}
	incarnations[incarnation] = true
	if _, ok := img.findBroker(broker); !ok && !deleted {
		return bad("replica on broker %d, which is not registered", broker)
	}
	return nil
}
