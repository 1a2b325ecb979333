package metadata

import (
	"cmp"
	"slices"
	"strings"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/record"
)

// Image is the metadata at one moment. It never changes: whoever holds one may read it without a lock
// for as long as wanted, and must not write to anything reached through it.
type Image struct {
	version   uint64
	clusterID string
	level     uint16

	nextGroup       GroupID
	nextIncarnation uint64
	nextProducerID  int64

	brokers  []*Broker    // by id
	topics   []*Topic     // not being deleted; by collisionKey of the name
	byID     []*Topic     // all, those being deleted too; by id
	groups   []groupEntry // all partitions; by group id
	defaults []Config     // by name
	base     Settings     // defaults over the table

	credentials []*Credential // by user and mechanism
	rules       *acl.Set
}

// groupEntry says which partition a group is.
type groupEntry struct {
	group     GroupID
	topic     TopicID
	partition int32
}

// collisionKey maps '.' to '_': two names with one key would share the name of a metric, so metadata
// holds only one of them, as in Kafka.
func collisionKey(name string) string { return strings.ReplaceAll(name, ".", "_") }

// noRules is the set of all images without any.
var noRules = acl.New(nil)

func emptyImage() *Image {
	img := &Image{nextGroup: firstGroupID, nextIncarnation: firstIncarnation, level: BaseLevel, rules: noRules}
	img.base = resolve(nil, nil)
	return img
}

// Version is the Raft index of the last entry that changed something; 0: nothing yet.
func (img *Image) Version() uint64 { return img.version }

// ClusterID is empty until the cluster has been formed.
func (img *Image) ClusterID() string { return img.clusterID }

// FeatureLevel gates what the machines of all groups do.
func (img *Image) FeatureLevel() uint16 { return img.level }

// Brokers are all that are registered, by id.
func (img *Image) Brokers() []*Broker { return img.brokers }

// Broker finds a broker by id.
func (img *Image) Broker(id int32) (*Broker, bool) {
	i, ok := img.findBroker(id)
	if !ok {
		return nil, false
	}
	return img.brokers[i], true
}

func (img *Image) findBroker(id int32) (int, bool) {
	return slices.BinarySearchFunc(img.brokers, id, func(b *Broker, id int32) int { return cmp.Compare(b.ID, id) })
}

// Topics are all that are not being deleted, ordered by name with '.' and '_' alike.
func (img *Image) Topics() []*Topic { return img.topics }

// Topic finds a topic by name. One that is being deleted has no name.
func (img *Image) Topic(name string) (*Topic, bool) {
	t, ok := img.topicByKey(name)
	if !ok || t.Name != name {
		return nil, false
	}
	return t, true
}

// Partition finds a partition of a topic that Topic finds. The number may be any, as clients send them.
func (img *Image) Partition(tp record.TopicPartition) (*Partition, bool) {
	t, ok := img.Topic(tp.Topic)
	if !ok || tp.Partition < 0 || int(tp.Partition) >= len(t.Partitions) {
		return nil, false
	}
	return &t.Partitions[tp.Partition], true
}

// topicByKey finds the topic that has the name or collides with it.
func (img *Image) topicByKey(name string) (*Topic, bool) {
	i, ok := img.findTopic(name)
	if !ok {
		return nil, false
	}
	return img.topics[i], true
}

func (img *Image) findTopic(name string) (int, bool) {
	key := collisionKey(name)
	return slices.BinarySearchFunc(img.topics, key, func(t *Topic, key string) int {
		return cmp.Compare(collisionKey(t.Name), key)
	})
}

// AllTopics are all, those being deleted too, by id.
func (img *Image) AllTopics() []*Topic { return img.byID }

// TopicByID finds a topic by id, one being deleted too.
func (img *Image) TopicByID(id TopicID) (*Topic, bool) {
	i, ok := img.findTopicID(id)
	if !ok {
		return nil, false
	}
	return img.byID[i], true
}

func (img *Image) findTopicID(id TopicID) (int, bool) {
	return slices.BinarySearchFunc(img.byID, id, func(t *Topic, id TopicID) int {
		return slices.Compare(t.ID[:], id[:])
	})
}

// Group finds the partition that a group is.
func (img *Image) Group(id GroupID) (topic *Topic, partition int32, ok bool) {
	i, ok := img.findGroup(id)
	if !ok {
		return nil, 0, false
	}
	e := img.groups[i]
	t, ok := img.TopicByID(e.topic)
	return t, e.partition, ok
}

func (img *Image) findGroup(id GroupID) (int, bool) {
	return slices.BinarySearchFunc(img.groups, id, func(e groupEntry, id GroupID) int { return cmp.Compare(e.group, id) })
}

// Partitions counts the partitions of all topics, those being deleted included.
func (img *Image) Partitions() int { return len(img.groups) }

// Defaults are the cluster's defaults for topic configs, sorted by name.
func (img *Image) Defaults() []Config { return img.defaults }

// DefaultSettings are what a topic without configs of its own gets.
func (img *Image) DefaultSettings() Settings { return img.base }
