package metadata

import (
	"math"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// CheckTopicName refuses what Kafka refuses: names that are empty, "." or "..", too long, or hold
// anything but letters, digits, '.', '_' and '-'.
func CheckTopicName(name string) *Error {
	switch {
	case name == "":
		return refuse(InvalidTopic, "name", "the topic name is empty").limit("1 to 249 bytes")
	case name == "." || name == "..":
		return refuse(InvalidTopic, "name", "a topic cannot be named %q", name)
	case len(name) > MaxTopicNameLength:
		return refuse(InvalidTopic, "name", "the topic name has %d bytes; at most %d are allowed", len(name), MaxTopicNameLength).limit(MaxTopicNameLength)
	}
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			return refuse(InvalidTopic, "name", "topic name %q: byte %d is not one of a-z A-Z 0-9 . _ -", clip(name), i)
		}
	}
	return nil
}

// Internal says whether a name is that of a topic which belongs to the brokers, or would collide with one. Clients neither create,
// alter nor delete these, and their partitions, the shards of the coordinators, stay as many as they were made.
func Internal(name string) bool { return record.InternalTopic(collisionKey(name)) }

func internalTopic(name string) *Error {
	return refuse(InvalidTopic, "name", "topic %q belongs to the brokers", clip(name))
}

// CheckNotInternal refuses the names of topics that belong to the brokers.
func CheckNotInternal(name string) *Error {
	if Internal(name) {
		return internalTopic(name)
	}
	return nil
}

func (s *State) createTopic(c *statev1.CreateTopic, r *Result) {
	if r.Err = s.checkInitialised(); r.Err != nil {
		return
	}
	id, err := topicIDFromBytes(c.GetTopicId())
	if err != nil {
		r.Err = refuse(InvalidRequest, "topic_id", "%v", err)
		return
	}
	name := c.GetName()
	if t, ok := s.img.TopicByID(id); ok {
		if t.Name == name && !t.Deleting {
			r.Topic = t // asked again
			return
		}
		r.Err = refuse(InvalidRequest, "topic_id", "topic id %s is taken", id)
		return
	}
	if r.Err = s.checkNewName(name); r.Err != nil {
		return
	}
	n := len(c.GetPartitions())
	if n == 0 {
		r.Err = refuse(InvalidPartitions, "partitions", "a topic has at least one partition").limit(1)
		return
	}
	replication := len(c.GetPartitions()[0].GetBrokerIds())
	if r.Err = CheckReplicationFactor(replication, len(s.img.brokers)); r.Err != nil {
		return
	}
	if r.Err = s.checkPartitions(n, 0, c.GetPartitions(), replication); r.Err != nil {
		return
	}
	configs, refusal := alterConfigs(nil, configsFromProto(c.GetConfigs()), nil, s.img.level)
	if r.Err = refusal; refusal != nil {
		return
	}
	settings := resolve(configs, s.img.defaults)
	if r.Err = checkSettings(settings, replication); r.Err != nil {
		return
	}
	if r.Err = s.checkAllocators(n, n*replication); r.Err != nil {
		return
	}

	t := &Topic{ID: id, Name: name, Configs: configs, Settings: settings, CreatedMS: c.GetCreatedMs(), Replication: replication}
	t.Partitions = s.addPartitions(id, nil, c.GetPartitions())
	img := s.editTopics()
	i, _ := img.findTopic(name)
	img.topics = slices.Insert(img.topics, i, t)
	i, _ = img.findTopicID(id)
	img.byID = slices.Insert(img.byID, i, t)
	r.Topic, r.Changed = t, true
}

func (s *State) checkNewName(name string) *Error {
	if err := CheckTopicName(name); err != nil {
		return err
	}
	if t, ok := s.img.topicByKey(name); ok {
		if t.Name == name {
			return refuse(TopicAlreadyExists, "name", "topic %q exists", name)
		}
		return refuse(InvalidTopic, "name", "topic %q collides with topic %q: '.' and '_' count as the same in the names of metrics", name, t.Name)
	}
	if len(s.img.byID) >= MaxTopics {
		return refuse(PolicyViolation, "name", "the cluster has %d topics, and no more are allowed", len(s.img.byID)).limit(MaxTopics)
	}
	return nil
}

// CheckReplicationFactor refuses a factor that no topic can have, or that is above the number of
// registered brokers.
func CheckReplicationFactor(n, brokers int) *Error {
	if !slices.Contains(ReplicationFactors[:], n) {
		return refuse(InvalidReplicationFactor, "replication_factor", "replication factor %d: 1, 3 and 5 are allowed; an even one survives no more failures than the odd one below it", n).limit("1, 3, 5")
	}
	if n > brokers {
		return refuse(InvalidReplicationFactor, "replication_factor", "replication factor %d is above the number of registered brokers, %d", n, brokers).limit(brokers)
	}
	return nil
}

// CheckPartitionCount refuses a number of partitions that a topic, or the cluster, cannot have. The
// topic has some now, 0 if it is new; all counts those of all topics.
func CheckPartitionCount(n, now, all int) *Error {
	switch {
	case n < 1:
		return refuse(InvalidPartitions, "partitions", "%d partitions: a topic has at least one", n).limit(1)
	case n <= now:
		return refuse(InvalidPartitions, "partitions", "the topic has %d partitions, and the number can only be raised, not set to %d", now, n).limit(now)
	case n > MaxPartitionsPerTopic:
		return refuse(InvalidPartitions, "partitions", "%d partitions: a topic can have %d", n, MaxPartitionsPerTopic).limit(MaxPartitionsPerTopic)
	case all+n-now > MaxPartitions:
		return refuse(PolicyViolation, "partitions", "%d partitions more would make %d in the cluster; %d are allowed", n-now, all+n-now, MaxPartitions).limit(MaxPartitions)
	}
	return nil
}

// checkPartitions judges the placement of partitions to be added.
func (s *State) checkPartitions(n, now int, added []*statev1.Placement, replication int) *Error {
	if err := CheckPartitionCount(n, now, len(s.img.groups)); err != nil {
		return err
	}
	for p, placement := range added {
		ids := placement.GetBrokerIds()
		if len(ids) != replication {
			return refuse(InvalidReplicaAssignment, "partitions", "partition %d is placed on %d brokers, not on %d", now+p, len(ids), replication).limit(replication)
		}
		for i, b := range ids {
			if slices.Contains(ids[:i], b) {
				return refuse(InvalidReplicaAssignment, "partitions", "partition %d has two replicas on broker %d", now+p, b)
			}
			if _, ok := s.img.findBroker(b); !ok {
				return refuse(InvalidReplicaAssignment, "partitions", "partition %d is placed on broker %d, which is not registered", now+p, b)
			}
		}
	}
	return nil
}

// checkAllocators refuses when ids would run out, which no cluster lives long enough to see.
func (s *State) checkAllocators(groups, incarnations int) *Error {
	if uint64(s.img.nextGroup) > math.MaxUint64-uint64(groups) || s.img.nextIncarnation > math.MaxUint64-uint64(incarnations) {
		return refuse(PolicyViolation, "", "all group ids or incarnations have been given out").limit(uint64(math.MaxUint64))
	}
	return nil
}

// addPartitions gives out the ids of new partitions and enters their groups.
func (s *State) addPartitions(id TopicID, have []Partition, added []*statev1.Placement) []Partition {
	img := s.editGroups()
	out := slices.Grow(slices.Clone(have), len(added))
	for _, placement := range added {
		p := Partition{Group: img.nextGroup, Phase: Creating}
		img.nextGroup++
		for _, b := range placement.GetBrokerIds() {
			p.Replicas = append(p.Replicas, Replica{Broker: b, Incarnation: img.nextIncarnation})
			img.nextIncarnation++
		}
		img.groups = append(img.groups, groupEntry{group: p.Group, topic: id, partition: int32(len(out))})
		out = append(out, p)
	}
	return out
}

// liveTopic finds a topic that is not being deleted.
func (s *State) liveTopic(b []byte) (*Topic, *Error) {
	id, err := topicIDFromBytes(b)
	if err != nil {
		return nil, refuse(InvalidRequest, "topic_id", "%v", err)
	}
	t, ok := s.img.TopicByID(id)
	if !ok || t.Deleting {
		return nil, refuse(UnknownTopicID, "topic_id", "there is no topic with id %s", id)
	}
	return t, nil
}

func (s *State) alterTopic(c *statev1.AlterTopic, r *Result) {
	t, err := s.liveTopic(c.GetTopicId())
	if r.Err = err; err != nil {
		return
	}
	now, added := len(t.Partitions), c.GetAddPartitions()
	if len(added) > 0 {
		if r.Err = CheckNotInternal(t.Name); r.Err != nil {
			return
		}
		if int64(c.GetExpectedPartitions()) != int64(now) {
			r.Err = refuse(InvalidUpdateVersion, "partitions", "topic %s has %d partitions, not %d", t.Name, now, c.GetExpectedPartitions())
			return
		}
		if r.Err = s.checkPartitions(now+len(added), now, added, t.Replication); r.Err != nil {
			return
		}
		if r.Err = s.checkAllocators(len(added), len(added)*t.Replication); r.Err != nil {
			return
		}
	}
	configs, err := alterConfigs(t.Configs, configsFromProto(c.GetSetConfigs()), c.GetUnsetConfigs(), s.img.level)
	if r.Err = err; err != nil {
		return
	}
	settings := resolve(configs, s.img.defaults)
	if r.Err = checkSettings(settings, t.Replication); r.Err != nil {
		return
	}
	if len(added) == 0 && slices.Equal(configs, t.Configs) {
		r.Topic = t
		return
	}
	changed := *t
	changed.Configs, changed.Settings = configs, settings
	if len(added) > 0 {
		changed.Partitions = s.addPartitions(t.ID, t.Partitions, added)
	}
	s.replaceTopic(&changed)
	r.Topic, r.Changed = &changed, true
}

func (s *State) deleteTopic(c *statev1.DeleteTopic, r *Result) {
	id, err := topicIDFromBytes(c.GetTopicId())
	if err != nil {
		r.Err = refuse(InvalidRequest, "topic_id", "%v", err)
		return
	}
	t, ok := s.img.TopicByID(id)
	if !ok {
		r.Err = refuse(UnknownTopicID, "topic_id", "there is no topic with id %s", id)
		return
	}
	if t.Deleting {
		r.Topic = t // asked again
		return
	}
	if r.Err = CheckNotInternal(t.Name); r.Err != nil {
		return
	}
	changed := *t
	changed.Deleting = true
	changed.Partitions = slices.Clone(t.Partitions)
	for i := range changed.Partitions {
		changed.Partitions[i].abandon()
	}
	img := s.editTopics()
	i, _ := img.findTopic(t.Name)
	img.topics = slices.Delete(img.topics, i, i+1)
	i, _ = img.findTopicID(id)
	img.byID[i] = &changed
	r.Topic, r.Changed = &changed, true
}

func (s *State) alterDefaults(c *statev1.AlterDefaults, r *Result) {
	if r.Err = s.checkInitialised(); r.Err != nil {
		return
	}
	set := configsFromProto(c.GetSetConfigs())
	for _, cfg := range set {
		if d, ok := LookupConfig(cfg.Name); ok && d.PerTopic {
			r.Err = refuse(InvalidConfig, d.Name, "%s can be set on a topic only", d.Name)
			return
		}
	}
	defaults, err := alterConfigs(s.img.defaults, set, c.GetUnsetConfigs(), s.img.level)
	if r.Err = err; err != nil {
		return
	}
	if slices.Equal(defaults, s.img.defaults) {
		return
	}
	base := resolve(nil, defaults)
	if r.Err = checkSettings(base, 1); r.Err != nil {
		return
	}
	settings := make([]Settings, len(s.img.byID))
	for i, t := range s.img.byID {
		settings[i] = resolve(t.Configs, defaults)
		if err := checkSettings(settings[i], t.Replication); err != nil {
			err.Message = "topic " + t.Name + ": " + err.Message
			r.Err = err
			return
		}
	}
	img := s.editTopics()
	img.defaults, img.base = defaults, base
	for i, t := range slices.Clone(img.byID) {
		if settings[i] != t.Settings {
			changed := *t
			changed.Settings = settings[i]
			s.replaceTopic(&changed)
		}
	}
	r.Changed = true
}
