package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/record"
)

// Reassignment names the brokers that shall hold a partition, the preferred leader first.
type Reassignment struct {
	Partition int32
	Brokers   []int32
}

// Reassign begins to move partitions to other brokers, or changes where a move goes. It returns when that
// is agreed; the topic's partitions show how far it is. replicationFactor is the topic's from now on, for
// which every partition has to be named; 0: as it is.
func (c *Cluster) Reassign(ctx context.Context, topic string, list []Reassignment, replicationFactor int32, validateOnly bool) (*metadata.Topic, error) {
	if replicationFactor < 0 {
		return nil, &metadata.Error{Code: metadata.InvalidReplicationFactor, Field: "replication_factor", Message: fmt.Sprintf("replication factor %d", replicationFactor), Limit: "1, 3, 5"}
	}
	_, t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	cmd := &statev1.ReassignPartitions{TopicId: t.ID[:], ReplicationFactor: uint32(replicationFactor)}
	for _, r := range list {
		if r.Partition < 0 {
			return nil, &metadata.Error{Code: metadata.UnknownTopicOrPartition, Field: "partitions", Message: fmt.Sprintf("topic %s has no partition %d", topic, r.Partition)}
		}
		cmd.Partitions = append(cmd.Partitions, &statev1.Reassignment{Partition: uint32(r.Partition), BrokerIds: r.Brokers})
	}
	slices.SortFunc(cmd.Partitions, func(a, b *statev1.Reassignment) int { return int(a.GetPartition()) - int(b.GetPartition()) })
	return c.topicChange(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_ReassignPartitions{
		ReassignPartitions: &peerv1.ReassignPartitions{Command: cmd, ValidateOnly: validateOnly}}})
}

// topic finds a topic. An image that is not the newest does no harm: the machine judges what is decided on it.
func (c *Cluster) topic(ctx context.Context, name string) (*metadata.Image, *metadata.Topic, error) {
	img := c.Image()
	t, ok := img.Topic(name)
	if !ok {
		var err error
		if img, err = c.Confirm(ctx); err != nil {
			return nil, nil, err
		}
		t, ok = img.Topic(name)
	}
	if !ok {
		return nil, nil, unknownTopic(name)
	}
	return img, t, nil
}

// SetReplicationFactor begins to give all partitions of a topic more or fewer replicas, on brokers that the
// cluster chooses as it does for new partitions. Replicas that exist stay where they are, the preferred
// leader first; of too many those that live and have all.
func (c *Cluster) SetReplicationFactor(ctx context.Context, topic string, n int32, validateOnly bool) (*metadata.Topic, error) {
	img, t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	if err := metadata.CheckReplicationFactor(int(n), len(img.Brokers())); err != nil {
		return nil, err
	}
	list, err := resize(img, t, int(n), c.Alive)
	if err != nil {
		return nil, err
	}
	return c.Reassign(ctx, topic, list, n, validateOnly)
}

// CancelReassignments takes back what reassignments under way have added; none: of all partitions.
func (c *Cluster) CancelReassignments(ctx context.Context, topic string, partitions []int32) (*metadata.Topic, error) {
	_, t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	cmd := &statev1.CancelReassignments{TopicId: t.ID[:]}
	for _, p := range partitions {
		if p < 0 || int(p) >= len(t.Partitions) {
			return nil, &metadata.Error{Code: metadata.UnknownTopicOrPartition, Field: "partitions", Message: fmt.Sprintf("topic %s has no partition %d", topic, p)}
		}
		cmd.Partitions = append(cmd.Partitions, uint32(p))
	}
	slices.Sort(cmd.Partitions)
	return c.topicChange(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_CancelReassignments{
		CancelReassignments: &peerv1.CancelReassignments{Command: cmd}}})
}

// Drain makes a broker give its replicas to others, or stops that. Nothing is placed on it any more. When it
// holds none it can be unregistered. It may be dead: what others have is copied from them.
func (c *Cluster) Drain(ctx context.Context, broker int32, draining bool) error {
	b, ok := c.Image().Broker(broker)
	if !ok {
		img, err := c.Confirm(ctx)
		if err != nil {
			return err
		}
		b, ok = img.Broker(broker)
	}
	if !ok {
		return &metadata.Error{Code: metadata.BrokerIDNotRegistered, Field: "broker_id", Message: fmt.Sprintf("broker %d is not registered", broker)}
	}
	return c.change(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_SetDraining{SetDraining: &peerv1.SetDraining{
		Command: &statev1.SetDraining{BrokerId: broker, NodeIncarnation: b.Incarnation, Draining: draining}}}})
}

// GroupMembers is what the leader of a partition's group has found and done (metadata.reassign.go).
type GroupMembers struct {
	Group metadata.GroupID
	// CaughtUp are the incarnations of joining replicas that have what the leader has, Removed those of
	// leaving ones that are no members any more, which is committed.
	CaughtUp, Removed []uint64
}

// ReportMembers tells how far groups that this broker leads are, and waits until that is agreed.
func (c *Cluster) ReportMembers(ctx context.Context, groups []GroupMembers) error {
	for part := range slices.Chunk(groups, metadata.MaxReportedReplicas) {
		cmd := &statev1.ReportMembers{BrokerId: c.config.Broker, NodeIncarnation: c.node.Load().incarnation}
		for _, g := range part {
			cmd.Groups = append(cmd.Groups, &statev1.GroupMembers{GroupId: uint64(g.Group), CaughtUp: g.CaughtUp, Removed: g.Removed})
		}
		err := c.change(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_ReportMembers{ReportMembers: &peerv1.ReportMembers{Command: cmd}}})
		if err != nil {
			return err
		}
	}
	return nil
}

// ReportLost tells that replicas have lost what they acknowledged, and can only be replaced.
func (c *Cluster) ReportLost(ctx context.Context, refs []metadata.ReplicaRef) error {
	return c.reportReplicas(ctx, refs, func(r *statev1.ReportReplicas, part []*statev1.ReplicaRef) { r.Lost = part })
}

// executeMembers makes a change of members if this broker leads the metadata group in t.
func (c *Cluster) executeMembers(ctx context.Context, t term, caller peer.Identity, req *peerv1.ForwardRequest) (*peerv1.Done, error) {
	switch r := req.GetRequest().(type) {
	case *peerv1.ForwardRequest_ReassignPartitions:
		if err := c.checkTargets(ctx, t, r.ReassignPartitions.GetCommand()); err != nil {
			return nil, err
		}
		cmd := &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: r.ReassignPartitions.GetCommand()}}
		if r.ReassignPartitions.GetValidateOnly() {
			return c.try(ctx, t, cmd)
		}
		return c.propose(ctx, t, cmd)
	case *peerv1.ForwardRequest_CancelReassignments:
		return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CancelReassignments{CancelReassignments: r.CancelReassignments.GetCommand()}})
	case *peerv1.ForwardRequest_ReportMembers:
		cmd := r.ReportMembers.GetCommand()
		if err := checkCaller(caller, cmd.GetBrokerId(), cmd.GetNodeIncarnation()); err != nil {
			return nil, err
		}
		return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportMembers{ReportMembers: cmd}})
	case *peerv1.ForwardRequest_SetDraining:
		return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_SetDraining{SetDraining: r.SetDraining.GetCommand()}})
	default:
		return nil, &metadata.Error{Code: metadata.UnsupportedVersion, Message: fmt.Sprintf("unknown change of members %T", r)}
	}
}

// checkTargets refuses to give a partition to replicas of which most are dead. Those that are added are waited for; those that have
// it are not, and whoever leaves does not come back: the group would wait for the dead ones, with the living ones leaving it.
func (c *Cluster) checkTargets(ctx context.Context, t term, cmd *statev1.ReassignPartitions) error {
	var id metadata.TopicID
	copy(id[:], cmd.GetTopicId())
	topic, ok := c.Image().TopicByID(id)
	if !ok {
		return nil // the machine says so
	}
	for _, a := range cmd.GetPartitions() {
		number, dead := a.GetPartition(), []int32(nil)
		if uint64(number) >= uint64(len(topic.Partitions)) {
			continue
		}
		for _, b := range a.GetBrokerIds() {
			if r, ok := topic.Partitions[number].Replica(b); ok && !r.Joining && !c.Alive(b) {
				dead = append(dead, b)
			}
		}
		if n := len(a.GetBrokerIds()); 2*len(dead) < n || n == 0 {
			continue
		}
		if listened := time.Since(time.Unix(0, c.listening.Load())); listened < c.config.DeadAfter {
			return notController(nil, "this controller has listened for %s and cannot know who lives", listened.Round(time.Millisecond))
		}
		_, err := c.refused(ctx, t, &metadata.Error{Code: metadata.InvalidReplicaAssignment, Field: "partitions",
			Message: fmt.Sprintf("partition %d is to be left to brokers %v, of which %v are dead: most of those that keep it have to live", number, a.GetBrokerIds(), dead)})
		return err
	}
	return nil
}

// What the controller does about members by itself. Each is a look at the image and the proposals that
// follow from it; the machine takes none of them twice.

// maxMoves is how many partitions are being moved off draining brokers at the same time.
const maxMoves = 8

// replaceLost gives replicas that have lost their data successors on the same brokers. A group that has lost
// its majority waits for an operator: nobody has what was acknowledged.
func (c *Cluster) replaceLost(ctx context.Context, t term, img *metadata.Image) error {
	var refs []*statev1.ReplicaRef
	for _, topic := range img.AllTopics() {
		for i := range topic.Partitions {
			p := &topic.Partitions[i]
			if p.Phase != metadata.Active || len(p.Leaving) >= metadata.MaxLeaving {
				continue
			}
			for _, r := range p.Replicas {
				if r.Lost && p.Survives() && c.Alive(r.Broker) && len(refs) < metadata.MaxReportedReplicas {
					c.logger.Info("a lost replica is replaced", "topic", topic.Name, "partition", i, "peer", r.Broker, "incarnation", r.Incarnation)
					refs = append(refs, &statev1.ReplicaRef{GroupId: uint64(p.Group), Incarnation: r.Incarnation})
				}
			}
		}
	}
	if len(refs) == 0 {
		return nil
	}
	_, err := c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReplaceReplicas{
		ReplaceReplicas: &statev1.ReplaceReplicas{Replicas: refs}}})
	return err
}

// moveOff begins to move partitions off draining brokers, a few at a time.
func (c *Cluster) moveOff(ctx context.Context, t term, img *metadata.Image) error {
	var failed error
	for _, m := range movesOff(img, c.Alive, c.isLed) {
		_, err := c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{
			ReassignPartitions: &statev1.ReassignPartitions{TopicId: m.topic.ID[:], Partitions: []*statev1.Reassignment{
				{Partition: uint32(m.partition), BrokerIds: m.target}}}}})
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("move %s/%d off a draining broker: %w", m.topic.Name, m.partition, err))
			continue
		}
		c.logger.Info("a partition moves off a draining broker", "topic", m.topic.Name, "partition", m.partition, "to", m.target)
	}
	return failed
}

// growInternal gives the brokers' own topics three replicas once there are three brokers: they were made when
// there were fewer, and hold what every transaction and group depends on.
func (c *Cluster) growInternal(ctx context.Context, t term, img *metadata.Image) error {
	able := 0
	for _, b := range img.Brokers() {
		if !b.Draining && c.Alive(b.ID) {
			able++
		}
	}
	for _, topic := range img.Topics() {
		if !record.InternalTopic(topic.Name) || topic.Replication >= defaultReplication(able) || slices.ContainsFunc(topic.Partitions, busy) {
			continue
		}
		list, err := resize(img, topic, defaultReplication(able), c.Alive)
		if err != nil {
			return nil //nolint:nilerr // there is no room now
		}
		cmd := &statev1.ReassignPartitions{TopicId: topic.ID[:], ReplicationFactor: uint32(defaultReplication(able))}
		for _, r := range list {
			cmd.Partitions = append(cmd.Partitions, &statev1.Reassignment{Partition: uint32(r.Partition), BrokerIds: r.Brokers})
		}
		if _, err := c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReassignPartitions{ReassignPartitions: cmd}}); err != nil {
			return err
		}
		c.logger.Info("a topic of the brokers gets more replicas", "topic", topic.Name, "replication_factor", cmd.ReplicationFactor)
	}
	return nil
}

// busy tells whether a partition cannot be reassigned now.
func busy(p metadata.Partition) bool { return p.Phase != metadata.Active || p.Changing() }

// move is where a partition shall be.
type move struct {
	topic     *metadata.Topic
	partition int
	target    []int32
}

// movesOff are the next moves off draining brokers. One that is under way is led elsewhere where it goes to a draining broker, and
// so is what one had lost and is to be given again: it may be dead, and neither would ever end. A group without a leader does not move.
func movesOff(img *metadata.Image, alive func(int32) bool, led func(metadata.GroupID) bool) []move {
	drains, under := false, 0
	for _, b := range img.Brokers() {
		drains = drains || b.Draining
	}
	if !drains {
		return nil
	}
	for _, t := range img.AllTopics() {
		for i := range t.Partitions {
			if p := &t.Partitions[i]; led(p.Group) && moves(p, alive) {
				under++
			}
		}
	}
	loads := loadsOf(img, alive)
	var list []move
	for _, t := range img.AllTopics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if under+len(list) >= maxMoves {
				return list
			}
			if p.Phase != metadata.Active || !led(p.Group) {
				continue
			}
			if target, ok := withoutDraining(img, p, loads); ok {
				list = append(list, move{t, i, target})
			}
		}
	}
	return list
}

func (c *Cluster) isLed(g metadata.GroupID) bool {
	l, ok := c.leaders.find(g)
	return ok && l.Ready
}

// moves tells whether a partition is being moved now: one that waits for a dead broker is not.
func moves(p *metadata.Partition, alive func(int32) bool) bool {
	return p.Target != nil && !slices.ContainsFunc(p.Replicas, func(r metadata.Replica) bool { return r.Joining && !alive(r.Broker) })
}

// holdersOf are the brokers that hold a partition, or shall when its reassignment is done.
func holdersOf(p *metadata.Partition) []int32 {
	if p.Target != nil {
		return slices.Clone(p.Target)
	}
	ids := make([]int32, len(p.Replicas))
	for i, r := range p.Replicas {
		ids[i] = r.Broker
	}
	return ids
}

// withoutDraining puts others in the places of draining brokers; false: there is none, or nobody can take
// what it has.
func withoutDraining(img *metadata.Image, p *metadata.Partition, loads []*load) ([]int32, bool) {
	target := holdersOf(p)
	var chosen []*load
	at := func(id int32) *load {
		i := slices.IndexFunc(loads, func(l *load) bool { return l.broker.ID == id })
		if i < 0 {
			return nil
		}
		return loads[i]
	}
	replaced := false
	for _, id := range target {
		if l := at(id); l != nil {
			chosen = append(chosen, l)
		}
	}
	for i, id := range target {
		b, ok := img.Broker(id)
		if ok && !b.Draining {
			continue
		}
		racks := racksOf(chosen, id)
		best := pick(loads, chosen, racks)
		if best == nil || !best.alive {
			return nil, false
		}
		best.replicas++
		chosen = append(chosen, best)
		target[i], replaced = best.broker.ID, true
	}
	return target, replaced
}

// resize names the brokers of all partitions of a topic for a replication factor.
func resize(img *metadata.Image, t *metadata.Topic, n int, alive func(int32) bool) ([]Reassignment, error) {
	loads := loadsOf(img, alive)
	list := make([]Reassignment, len(t.Partitions))
	for i := range t.Partitions {
		p := &t.Partitions[i]
		target := holdersOf(p)
		if len(target) > n {
			slices.SortStableFunc(target, func(a, b int32) int { return useless(img, p, a, alive) - useless(img, p, b, alive) })
			target = target[:n]
		}
		var chosen []*load
		for _, l := range loads {
			if slices.Contains(target, l.broker.ID) {
				chosen = append(chosen, l)
			}
		}
		for len(target) < n {
			best := pick(loads, chosen, racksOf(chosen, -1))
			if best == nil {
				return nil, noRoom()
			}
			best.replicas++
			chosen = append(chosen, best)
			target = append(target, best.broker.ID)
		}
		list[i] = Reassignment{Partition: int32(i), Brokers: target}
	}
	return list, nil
}

// useless says how little is kept of a partition with the replica on a broker alone: who has not all of it is of no use, and who
// is dead or about to go of less than others.
func useless(img *metadata.Image, p *metadata.Partition, broker int32, alive func(int32) bool) int {
	b, registered := img.Broker(broker)
	switch r, ok := p.Replica(broker); {
	case !ok || r.Joining || r.Lost || !r.Created:
		return 2
	case !alive(broker) || !registered || b.Draining:
		return 1
	default:
		return 0
	}
}

// racksOf counts the racks of brokers, but for one.
func racksOf(chosen []*load, without int32) map[string]int {
	racks := make(map[string]int)
	for _, l := range chosen {
		if l.broker.ID != without {
			racks[l.broker.Rack]++
		}
	}
	return racks
}
