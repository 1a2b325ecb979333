package kafka

import (
	"net"
	"strconv"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// node is a broker as clients of one listener reach it.
type node struct {
	id   int32
	host string
	port int32
	rack *string
}

// nodeOf says how clients of this listener reach a broker; false: not at all.
func (c *conn) nodeOf(b *metadata.Broker) (node, bool) {
	address, ok := b.Address(c.advertised)
	if !ok {
		return node{}, false
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return node{}, false
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return node{}, false
	}
	n := node{id: b.ID, host: host, port: int32(port)}
	if b.Rack != "" {
		n.rack = &b.Rack
	}
	return n, true
}

// nodes are all brokers that clients of this listener can reach.
func (c *conn) nodes(img *metadata.Image) []node {
	var list []node
	for _, b := range img.Brokers() {
		if n, ok := c.nodeOf(b); ok {
			list = append(list, n)
		}
	}
	return list
}

// node finds one broker.
func (c *conn) node(id int32) (node, bool) {
	if b, ok := c.c.Cluster.Image().Broker(id); ok {
		return c.nodeOf(b)
	}
	return node{}, false
}

// leaders collects where to ask instead (KIP-951).
type leaders struct {
	c    *conn
	seen []node
}

// hint gives the leader that an answer names for a failed partition; -1, -1 where none is known that the client can reach.
func (l *leaders) hint(leader *partition.Leader) (id, epoch int32) {
	if leader == nil || leader.Broker < 0 {
		return -1, -1
	}
	n, ok := l.c.node(leader.Broker)
	if !ok {
		return -1, -1
	}
	for _, s := range l.seen {
		if s.id == n.id {
			return n.id, leader.Epoch
		}
	}
	l.seen = append(l.seen, n)
	return n.id, leader.Epoch
}

// exists says whether the metadata has a partition.
func exists(img *metadata.Image, tp record.TopicPartition) bool {
	_, ok := img.Partition(tp)
	return ok
}

// topicByID finds a topic that exists under its id; one that is being deleted does not.
func topicByID(img *metadata.Image, id [16]byte) (*metadata.Topic, bool) {
	t, ok := img.TopicByID(metadata.TopicID(id))
	if !ok || t.Deleting {
		return nil, false
	}
	return t, true
}
