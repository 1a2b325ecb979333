package metadata

import (
	"fmt"
	"strings"
	"testing"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// big is a state with one broker, on which topics of one replica are made.
func big(t *testing.T) (*State, *uint64) {
	t.Helper()
	s, index := NewState(), new(uint64)
	for _, line := range []string{"init c", "broker 1 11"} {
		*index++
		if out := applyLine(t, s, *index, line); !strings.Contains(out, ": ok") {
			t.Fatal(out)
		}
	}
	return s, index
}

func create(t *testing.T, s *State, index *uint64, name string, partitions int) *Error {
	t.Helper()
	*index++
	id := make([]byte, 16)
	copy(id, fmt.Sprintf("%016d", *index))
	c := &statev1.CreateTopic{Name: name, TopicId: id, Partitions: make([]*statev1.Placement, partitions)}
	for i := range c.Partitions {
		c.Partitions[i] = &statev1.Placement{BrokerIds: []int32{1}}
	}
	r, err := s.ApplyCommand(*index, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: c}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Err
}

func wantLimit(t *testing.T, err *Error, code Code, limit int) {
	t.Helper()
	if err == nil || err.Code != code || err.Limit != fmt.Sprint(limit) || err.Field == "" {
		t.Fatalf("got %+v, want %s with limit %d", err, code, limit)
	}
}

func TestLimitOfPartitions(t *testing.T) {
	s, index := big(t)
	wantLimit(t, create(t, s, index, "t", MaxPartitionsPerTopic+1), InvalidPartitions, MaxPartitionsPerTopic)
	for i := range MaxPartitions / MaxPartitionsPerTopic {
		if err := create(t, s, index, fmt.Sprint("t", i), MaxPartitionsPerTopic); err != nil {
			t.Fatal(err)
		}
	}
	wantLimit(t, create(t, s, index, "one", 1), PolicyViolation, MaxPartitions)
	b := snapshot(t, s.Image())
	if len(b) > MaxSnapshotBytes/4 {
		t.Errorf("the snapshot has %d bytes", len(b))
	}
	restore(t, b)
}

func TestLimitOfTopics(t *testing.T) {
	s, index := big(t)
	for i := range MaxTopics {
		if err := create(t, s, index, fmt.Sprint("t", i), 1); err != nil {
			t.Fatal(err)
		}
	}
	wantLimit(t, create(t, s, index, "one", 1), PolicyViolation, MaxTopics)
	restore(t, snapshot(t, s.Image()))
}

func TestLimitOfBrokers(t *testing.T) {
	s, index := big(t)
	for i := 2; i <= MaxBrokers; i++ {
		*index++
		if out := applyLine(t, s, *index, fmt.Sprintf("broker %d 5", i)); !strings.Contains(out, ": ok") {
			t.Fatal(out)
		}
	}
	*index++
	r, err := s.ApplyCommand(*index, parseCommand(t, fmt.Sprintf("broker %d 5", MaxBrokers+1)))
	if err != nil {
		t.Fatal(err)
	}
	wantLimit(t, r.Err, PolicyViolation, MaxBrokers)
}

func TestLimitOfTexts(t *testing.T) {
	s, index := big(t)
	long := strings.Repeat("x", MaxTextLength+1)
	for line, limit := range map[string]int{
		"broker 2 22 rack=" + long:                                      MaxTextLength,
		"broker 2 22 version=" + long:                                   MaxTextLength,
		"broker 2 22 listeners=peer@" + long:                            MaxTextLength,
		"broker 2 22 listeners=peer@a:1," + long + "@a:1":               MaxTextLength,
		"broker 2 22 listeners=peer@a:1" + strings.Repeat(",l@b", 16):   MaxListeners,
		"create " + strings.Repeat("x", MaxTopicNameLength+1) + " on=1": MaxTopicNameLength,
		"create t on=1 retention.ms:" + strings.Repeat("1", 1025):       MaxConfigValueLength,
	} {
		*index++
		r, err := s.ApplyCommand(*index, parseCommand(t, line))
		if err != nil {
			t.Fatal(err)
		}
		if r.Err == nil || r.Err.Limit != fmt.Sprint(limit) || len(r.Err.Message) > 500 {
			t.Errorf("%.60s...: %+v", line, r.Err)
		}
	}
	if err := create(t, s, index, strings.Repeat("x", MaxTopicNameLength), 1); err != nil {
		t.Error("the longest name:", err)
	}
}

func TestLimitOfReports(t *testing.T) {
	s, index := big(t)
	refs := make([]*statev1.ReplicaRef, MaxReportedReplicas+1)
	for i := range refs {
		refs[i] = &statev1.ReplicaRef{GroupId: uint64(i)}
	}
	*index++
	r, err := s.ApplyCommand(*index, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{
		ReportReplicas: &statev1.ReportReplicas{BrokerId: 1, NodeIncarnation: 11, Created: refs}}})
	if err != nil {
		t.Fatal(err)
	}
	wantLimit(t, r.Err, InvalidRequest, MaxReportedReplicas)
	r, err = s.ApplyCommand(*index+1, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ActivatePartitions{
		ActivatePartitions: &statev1.ActivatePartitions{GroupIds: make([]uint64, MaxReportedReplicas+1)}}})
	if err != nil {
		t.Fatal(err)
	}
	wantLimit(t, r.Err, InvalidRequest, MaxReportedReplicas)
}

func TestAllocatorsRunOut(t *testing.T) {
	img := *sample(t)
	img.nextProducerID = 1<<63 - 5
	s := StateOf(&img)
	if out := applyLine(t, s, 100, "pids 1 11 4"); !strings.Contains(out, "producer ids") {
		t.Fatal(out)
	}
	if out := applyLine(t, s, 101, "pids 1 11 1"); !strings.Contains(out, string(PolicyViolation)) {
		t.Fatal(out)
	}
	img.nextIncarnation = 1<<64 - 2
	if out := applyLine(t, StateOf(&img), 100, "create z id=9 on=1,2,3"); !strings.Contains(out, string(PolicyViolation)) {
		t.Fatal(out)
	}
	img.nextIncarnation, img.nextGroup = 1000, 1<<64-1
	if out := applyLine(t, StateOf(&img), 100, "create z id=9 on=1,2,3;1,2,3"); !strings.Contains(out, string(PolicyViolation)) {
		t.Fatal(out)
	}
}

func TestCommandSizeIsBounded(t *testing.T) {
	c := parseCommand(t, "create t on=1")
	c.GetCreateTopic().Name = strings.Repeat("x", MaxCommandBytes)
	if _, err := EncodeCommand(c); err == nil {
		t.Fatal("encoded")
	}
}

// TestLimitOfLeaving: a group that cannot be rid of replicas, because it has no leader, does not collect
// them for ever.
func TestLimitOfLeaving(t *testing.T) {
	s, index := NewState(), uint64(0)
	apply := func(line string) string {
		index++
		return applyLine(t, s, index, line)
	}
	for _, line := range []string{"init c", "broker 1 1", "broker 2 2", "broker 3 3", "broker 4 4", "broker 5 5", "broker 6 6",
		"create t on=1,2,3", "report 1 1 created=1000/1", "report 2 2 created=1000/2", "activate 1000"} {
		apply(line)
	}
	last := ""
	for i := range 2 * MaxLeaving {
		last = apply(fmt.Sprintf("reassign 0=1,%d,%d", 4+i%2, 5+i%2))
	}
	if !strings.Contains(last, "POLICY_VIOLATION") || !strings.Contains(last, fmt.Sprintf("limit %d", MaxLeaving)) {
		t.Fatal(last)
	}
	// Losing replicas again and again has the same bound.
	p := &s.Image().Topics()[0].Partitions[0]
	for range 2 * MaxLeaving {
		r := p.Replicas[len(p.Replicas)-1]
		apply(fmt.Sprintf("report %d %d created=1000/%d lost=1000/%d", r.Broker, r.Broker, r.Incarnation, r.Incarnation))
		apply(fmt.Sprintf("replace 1000/%d", r.Incarnation))
		p = &s.Image().Topics()[0].Partitions[0]
	}
	if n := len(p.Leaving); n != MaxLeaving {
		t.Fatalf("%d replicas leave", n)
	}
	restore(t, snapshot(t, s.Image()))
}

func TestLimitOfMemberReports(t *testing.T) {
	s, index := big(t)
	for _, c := range []*statev1.MetadataCommand{
		{Command: &statev1.MetadataCommand_ReportMembers{ReportMembers: &statev1.ReportMembers{BrokerId: 1, NodeIncarnation: 11, Groups: make([]*statev1.GroupMembers, MaxReportedReplicas+1)}}},
		{Command: &statev1.MetadataCommand_ReplaceReplicas{ReplaceReplicas: &statev1.ReplaceReplicas{Replicas: make([]*statev1.ReplicaRef, MaxReportedReplicas+1)}}},
	} {
		*index++
		r, err := s.ApplyCommand(*index, c)
		if err != nil {
			t.Fatal(err)
		}
		wantLimit(t, r.Err, InvalidRequest, MaxReportedReplicas)
	}
}
