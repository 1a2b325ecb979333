package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/client"
)

// What health says is true, and what it advises can be done.
func TestHealthWords(t *testing.T) {
	refused := &client.Error{Reason: client.ReasonNetwork, Message: "broker 10.0.0.1:9095: cannot connect: dial tcp 10.0.0.1:9095: connect: connection refused"}
	partition := client.Partition{GroupID: 7, Leader: 1, Replicas: []int32{1, 4, 3}, Leaving: []int32{2}}
	m := client.Metadata{Controller: 1, Brokers: []client.Broker{{ID: 1, Alive: true}, {ID: 3, Alive: true}, {ID: 4, Alive: true}, {ID: 2, Address: "10.0.0.1:9095"}},
		Topics: []client.Topic{{Name: "orders", Partitions: []client.Partition{partition}}}}
	draining, noController, silent := m, m, m
	draining.Brokers = append([]client.Broker{}, m.Brokers...)
	draining.Brokers[3].Draining, draining.Brokers[3].Replicas = true, 1
	noController.Controller = -1
	silent.Brokers = append([]client.Broker{}, m.Brokers...)
	silent.Brokers[3].Alive = true
	metadata := []client.RaftGroup{
		{GroupID: metadataGroup, Name: "metadata", Broker: 1, Role: "leader", Ready: true, Voters: []string{"1/1", "2/1", "3/1"}, Learners: []string{"4/1"}, LastIndex: 900, CommitIndex: 900},
		{GroupID: metadataGroup, Name: "metadata", Broker: 4, Role: "learner", LastIndex: 900},
	}
	quarantined := func(broker int32, name string) client.RaftGroup {
		return client.RaftGroup{GroupID: 9, Name: name, Broker: broker, Role: "quarantined", Problem: "the disk was lost"}
	}
	for name, c := range map[string]struct {
		v         viewed
		want, not []string
	}{
		"a learner of the metadata is not being filled": {viewed{m: m, groups: map[uint64][]client.RaftGroup{metadataGroup: metadata}}, nil, []string{"being filled"}},
		"dead":                               {viewed{m: m}, []string{"broker 2 is not heard from", "cluster drain 2, then brokerctl cluster unregister 2"}, nil},
		"dead, and nothing can be agreed on": {viewed{m: noController}, []string{"broker 2 is not heard from"}, []string{"cluster drain"}},
		"dead and drained":                   {viewed{m: draining}, []string{"nothing is left on it: brokerctl cluster unregister 2"}, []string{"cluster drain", "1 replica left"}},
		"stopped a moment ago":               {viewed{m: silent, silent: map[int32]error{2: refused}}, []string{"at 10.0.0.1:9095: connect: connection refused", "start it"}, []string{"dial tcp", "is alive"}},
		"many replicas of a broker are lost": {viewed{m: m, groups: map[uint64][]client.RaftGroup{9: {quarantined(3, "a/0"), quarantined(3, "a/1")}}}, []string{"2 replicas on broker 3 are out of service. The first: a/0 on broker 3 is quarantined: the disk was lost"}, nil},
		"a new replica's broker does not answer": {viewed{m: m, groups: map[uint64][]client.RaftGroup{9: {{GroupID: 9, Name: "a/0", Broker: 1, Role: "leader", Voters: []string{"1/1"}, Learners: []string{"2/5"}}}}},
			[]string{"1 new replica to be filled on brokers that do not answer: a/0 on broker 2"}, []string{"being filled, "}},
	} {
		var text strings.Builder
		for _, f := range c.v.health().Findings {
			text.WriteString(f.What + "\n  " + f.Do + "\n")
		}
		for _, w := range c.want {
			if !strings.Contains(text.String(), w) {
				t.Errorf("%s: no %q in\n%s", name, w, text.String())
			}
		}
		for _, w := range c.not {
			if strings.Contains(text.String(), w) {
				t.Errorf("%s: %q in\n%s", name, w, text.String())
			}
		}
	}
	if got := unreached(errors.New("gone"), "a:1"); got != "gone" {
		t.Error(got)
	}
}

// A move that is called off is over, though a dead broker cannot remove what it was to get.
func TestWaitsOnlyForDead(t *testing.T) {
	brokers := []client.Broker{{ID: 1, Alive: true}, {ID: 2}}
	for _, c := range []struct {
		q    client.Partition
		want bool
	}{
		{client.Partition{Leaving: []int32{2}}, true},
		{client.Partition{Leaving: []int32{1, 2}}, false},
		{client.Partition{Leaving: []int32{2}, Joining: []int32{2}}, false},
		{client.Partition{Leaving: []int32{2}, Target: []int32{1}}, false},
		{client.Partition{}, false},
	} {
		if got := waitsOnlyForDead(c.q, brokers); got != c.want {
			t.Errorf("%+v: %v", c.q, got)
		}
	}
}
