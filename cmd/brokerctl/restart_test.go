package main

import (
	"reflect"
	"testing"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func TestRestartBlockers(t *testing.T) {
	three := []string{"1/5", "2/6", "3/7"}
	replica := func(broker int32, role string, last record.Index) client.RaftGroup {
		return client.RaftGroup{Broker: broker, GroupID: 1000, Name: "orders/0", Role: role, Ready: role == "leader",
			Voters: three, LastIndex: last, CommitIndex: last}
	}
	stopped := replica(3, "stopped", 0)
	stopped.Problem = "disk failed"
	alone := replica(2, "leader", 10)
	alone.Voters = []string{"2/9"}
	pair := replica(1, "leader", 10)
	pair.Voters = []string{"1/5", "2/6"}
	unready := replica(1, "leader", 900)
	unready.Ready = false
	for name, c := range map[string]struct {
		groups    []client.RaftGroup
		concerned int
		want      []restartBlocker
	}{
		"all well":       {[]client.RaftGroup{replica(1, "leader", 900), replica(2, "follower", 900), replica(3, "follower", 810)}, 1, nil},
		"one that leads": {[]client.RaftGroup{replica(2, "leader", 900), replica(1, "follower", 900), replica(3, "follower", 900)}, 1, nil},
		"another does not answer": {[]client.RaftGroup{replica(1, "leader", 900), replica(2, "follower", 900)}, 1,
			[]restartBlocker{{"orders/0", "1 of 3 replicas would be left: broker 3 does not answer"}}},
		"another is stopped": {[]client.RaftGroup{replica(1, "leader", 900), replica(2, "follower", 900), stopped}, 1,
			[]restartBlocker{{"orders/0", "1 of 3 replicas would be left: the replica on broker 3 is stopped"}}},
		"another lags": {[]client.RaftGroup{replica(1, "leader", 900), replica(2, "follower", 900), replica(3, "follower", 799)}, 1,
			[]restartBlocker{{"orders/0", "1 of 3 replicas would be left: broker 3 is 101 entries behind"}}},
		"two have votes": {[]client.RaftGroup{pair, replica(2, "follower", 10), replica(3, "learner", 5)}, 1,
			[]restartBlocker{{"orders/0", "1 of 2 replicas would be left: no other has a vote yet"}}},
		"the only replica":  {[]client.RaftGroup{alone}, 1, []restartBlocker{{"orders/0", "it has no other replica"}}},
		"not a voter there": {[]client.RaftGroup{{Broker: 1, GroupID: 1000, Role: "leader", Ready: true, Voters: []string{"1/1", "3/1"}}}, 0, nil},
		"no leader that is ready": {[]client.RaftGroup{unready, replica(2, "follower", 900)}, 1,
			[]restartBlocker{{"orders/0", "it has no leader that is ready"}}},
	} {
		concerned, got := restartBlockers(2, c.groups)
		if c.want == nil {
			c.want = []restartBlocker{}
		}
		if concerned != c.concerned || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %d groups, %v, want %d and %v", name, concerned, got, c.concerned, c.want)
		}
	}
}
