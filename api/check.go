package api

import (
	"strconv"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/record"
)

// What one request may hold. Beyond it the request is refused with INVALID_REQUEST.
const (
	// maxPartitions of one Fetch or ListOffsets.
	maxPartitions = 10_000
	// maxProducers of one DescribeProducers.
	maxProducers = 10_000
	// maxTimeoutMS bounds the time that a request may ask the broker to wait for a commit or a leader.
	maxTimeoutMS = 600_000
	// maxFetchWaitMS bounds a long poll.
	maxFetchWaitMS = 60_000
	// maxTopicsNamed of one GetMetadata.
	maxTopicsNamed = 10_000
)

// checkPartition checks a topic's name and a partition number as they come from a client. It does
// not ask whether they exist.
func checkPartition(topic string, partition int32) (record.TopicPartition, *clientv1.Error) {
	if err := checkTopic(topic); err != nil {
		return record.TopicPartition{}, err
	}
	if partition < 0 {
		return record.TopicPartition{}, refused(reasonInvalidRequest, "partition", "0", "partition is %d, want 0 or more", partition)
	}
	return record.TopicPartition{Topic: topic, Partition: partition}, nil
}

// checkTopic checks the name of a topic that a client may use.
func checkTopic(name string) *clientv1.Error {
	if err := metadata.CheckNotInternal(name); err != nil {
		return refused(string(err.Code), "topic", err.Limit, "%s", err.Message)
	}
	return checkTopicName(name)
}

// checkTopicName checks a topic's name by Kafka's rules. Those of the brokers' own topics pass.
func checkTopicName(name string) *clientv1.Error {
	if err := metadata.CheckTopicName(name); err != nil {
		return refused(string(err.Code), "topic", err.Limit, "%s", err.Message)
	}
	return nil
}

// checkRange refuses a number outside least to most.
func checkRange(field string, v, least, most int64) *clientv1.Error {
	if v >= least && v <= most {
		return nil
	}
	return refused(reasonInvalidRequest, field, strconv.FormatInt(least, 10)+" to "+strconv.FormatInt(most, 10),
		"%s is %d, want %d to %d", field, v, least, most)
}

// checkIsolation says whether only committed data is asked for.
func checkIsolation(level clientv1.IsolationLevel) (committed bool, _ *clientv1.Error) {
	switch level {
	case clientv1.IsolationLevel_ISOLATION_LEVEL_UNSPECIFIED, clientv1.IsolationLevel_ISOLATION_LEVEL_READ_UNCOMMITTED:
		return false, nil
	case clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED:
		return true, nil
	}
	return false, refused(reasonInvalidRequest, "isolation_level", "0 to 2", "isolation_level is %d, which does not exist", level)
}
