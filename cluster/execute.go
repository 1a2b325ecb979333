package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// term is one leadership of the metadata group, which all decisions of one request belong to. A
// command decided in it is not applied in a later one.
type term struct {
	group group
	term  record.Term
	// began is when the controller's work in it began; zero for requests.
	began time.Time
}

// execute makes a change if this broker leads the metadata group and is ready. caller is the broker
// that asks, this one or another.
func (c *Cluster) execute(ctx context.Context, caller peer.Identity, req *peerv1.ForwardRequest) (*peerv1.Done, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	switch r := req.GetRequest().(type) {
	case *peerv1.ForwardRequest_CreateTopic:
		return c.admit(ctx, func() (*peerv1.Done, error) { return c.createTopic(ctx, t, r.CreateTopic) })
	case *peerv1.ForwardRequest_AlterTopic:
		return c.admit(ctx, func() (*peerv1.Done, error) { return c.alterTopic(ctx, t, r.AlterTopic, req.GetAgain()) })
	case *peerv1.ForwardRequest_DeleteTopic:
		return c.deleteTopic(ctx, t, r.DeleteTopic, req.GetAgain())
	case *peerv1.ForwardRequest_RegisterBroker:
		return c.registerBroker(ctx, t, caller, r.RegisterBroker)
	case *peerv1.ForwardRequest_UnregisterBroker:
		return c.unregisterBroker(ctx, t, r.UnregisterBroker.GetCommand(), req.GetAgain())
	case *peerv1.ForwardRequest_SetFeatureLevel:
		return c.setFeatureLevel(ctx, t, r.SetFeatureLevel.GetCommand(), req.GetAgain())
	case *peerv1.ForwardRequest_ReportReplicas:
		cmd := r.ReportReplicas.GetCommand()
		if err := checkCaller(caller, cmd.GetBrokerId(), cmd.GetNodeIncarnation()); err != nil {
			return nil, err
		}
		return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ReportReplicas{ReportReplicas: cmd}})
	case *peerv1.ForwardRequest_AllocateProducerIds:
		cmd := r.AllocateProducerIds.GetCommand()
		if err := checkCaller(caller, cmd.GetBrokerId(), cmd.GetNodeIncarnation()); err != nil {
			return nil, err
		}
		return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AllocateProducerIds{AllocateProducerIds: cmd}})
	case *peerv1.ForwardRequest_AlterDefaults:
		cmd := &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AlterDefaults{AlterDefaults: r.AlterDefaults.GetCommand()}}
		if r.AlterDefaults.GetValidateOnly() {
			return c.try(ctx, t, cmd)
		}
		return c.propose(ctx, t, cmd)
	case *peerv1.ForwardRequest_AlterAccess:
		return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AlterAccess{AlterAccess: r.AlterAccess.GetCommand()}})
	case *peerv1.ForwardRequest_ReassignPartitions, *peerv1.ForwardRequest_CancelReassignments,
		*peerv1.ForwardRequest_ReportMembers, *peerv1.ForwardRequest_SetDraining:
		return c.executeMembers(ctx, t, caller, req)
	case *peerv1.ForwardRequest_Confirm:
		index := c.machine.applied.Load()
		if err := c.confirm(ctx, t); err != nil {
			return nil, err
		}
		return &peerv1.Done{Index: index}, nil
	default:
		return nil, &metadata.Error{Code: metadata.UnsupportedVersion, Message: "this broker does not know the request; it is older than the one that sent it"}
	}
}

// leading gives the term in which this broker leads and is ready.
func (c *Cluster) leading() (term, error) {
	g := c.group.Load()
	if g == nil {
		return term{}, notController(nil, "broker %d has no replica of the metadata group yet", c.config.Broker)
	}
	now, ready := (*g).IsReady()
	if !ready {
		return term{}, notController(c.leaderHint(), "broker %d does not lead the metadata group", c.config.Broker)
	}
	if c.Image().ClusterID() == "" {
		return term{}, notController(nil, "the cluster is being formed")
	}
	return term{group: *g, term: now}, nil
}

// checkCaller refuses what a broker says in the name of another.
func checkCaller(caller peer.Identity, broker int32, incarnation uint64) error {
	if caller.Broker == broker && caller.Incarnation == incarnation {
		return nil
	}
	return &metadata.Error{Code: metadata.InvalidRequest, Field: "broker_id",
		Message: fmt.Sprintf("broker %d (%x) asked in the name of broker %d (%x)", caller.Broker, caller.Incarnation, broker, incarnation)}
}

// admit lets one change of topics be decided at a time, so that each sees the placement that the one
// before has made.
func (c *Cluster) admit(ctx context.Context, change func() (*peerv1.Done, error)) (*peerv1.Done, error) {
	select {
	case c.admin <- struct{}{}:
	case <-ctx.Done():
		return nil, &Error{Code: NotController, Message: "other changes of topics came first: " + ctx.Err().Error(), Outcome: raftgroup.DidNotHappen, Cause: ctx.Err()}
	}
	defer func() { <-c.admin }()
	return change()
}

// propose has a command applied and gives what came of it.
func (c *Cluster) propose(ctx context.Context, t term, cmd *statev1.MetadataCommand) (*peerv1.Done, error) {
	data, err := metadata.EncodeCommand(cmd)
	if err != nil {
		return nil, err
	}
	res, err := t.group.Propose(ctx, raftgroup.Command{Data: data, AppendTime: time.Now().UnixMilli(), Term: t.term})
	if err != nil {
		return nil, c.proposeError(err)
	}
	r, ok := res.(metadata.Result)
	if !ok {
		return nil, &Error{Code: RequestTimedOut, Message: fmt.Sprintf("the metadata group answered %T", res), Outcome: raftgroup.MayHaveHappened}
	}
	return doneOf(r)
}

func doneOf(r metadata.Result) (*peerv1.Done, error) {
	if r.Err != nil {
		return nil, r.Err
	}
	d := &peerv1.Done{Index: r.Index, FirstProducerId: int64(r.ProducerIDs.First), ProducerIds: r.ProducerIDs.Count}
	if r.Topic != nil {
		d.Topic = metadata.TopicToProto(r.Topic)
	}
	return d, nil
}

// confirm shows that this broker still leads in a term, so that what its image said in it is what is agreed.
func (c *Cluster) confirm(ctx context.Context, t term) error {
	if err := t.group.ConfirmTerm(ctx, t.term); err != nil {
		return notController(c.leaderHint(), "leadership not confirmed: %v", err)
	}
	return nil
}

// refused gives back a refusal that was decided here and not by the machine, once it is certain that
// the image it was decided on is the newest: a deposed leader knows nothing.
func (c *Cluster) refused(ctx context.Context, t term, refusal error) (*peerv1.Done, error) {
	if err := c.confirm(ctx, t); err != nil {
		return nil, err
	}
	return nil, refusal
}

// try says what a command would do, by applying it to a copy of the newest state. What it gives has
// no index: nothing has happened.
func (c *Cluster) try(ctx context.Context, t term, cmd *statev1.MetadataCommand) (*peerv1.Done, error) {
	if _, err := metadata.EncodeCommand(cmd); err != nil {
		return nil, err
	}
	img := c.Image()
	if err := c.confirm(ctx, t); err != nil {
		return nil, err
	}
	r, err := metadata.StateOf(img).ApplyCommand(img.Version()+1, cmd)
	if err != nil {
		return nil, err
	}
	r.Index = 0
	return doneOf(r)
}

// createTopic decides where the replicas go.
func (c *Cluster) createTopic(ctx context.Context, t term, r *peerv1.CreateTopic) (*peerv1.Done, error) {
	img := c.Image()
	placements := r.GetPlacements()
	if len(placements) == 0 {
		var err error
		if placements, err = c.placeNew(img, r); err != nil {
			return c.refused(ctx, t, err)
		}
	}
	cmd := &statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: &statev1.CreateTopic{
		TopicId: r.GetTopicId(), Name: r.GetName(), Configs: sortedConfigs(r.GetConfigs()), Partitions: placements, CreatedMs: time.Now().UnixMilli(),
	}}}
	if r.GetValidateOnly() {
		return c.try(ctx, t, cmd)
	}
	return c.propose(ctx, t, cmd)
}

// placeNew places the partitions of a new topic, or refuses what cannot be placed. The rest of the
// request is for the machine to judge, but for the name: a wrong one is said first.
func (c *Cluster) placeNew(img *metadata.Image, r *peerv1.CreateTopic) ([]*statev1.Placement, error) {
	n := int(cmp.Or(r.GetPartitions(), 1))
	replication := int(r.GetReplicationFactor())
	if replication == 0 {
		replication = defaultReplication(len(img.Brokers()))
	}
	if err := metadata.CheckTopicName(r.GetName()); err != nil {
		return nil, err
	}
	if err := metadata.CheckPartitionCount(n, 0, img.Partitions()); err != nil {
		return nil, err
	}
	if err := metadata.CheckReplicationFactor(replication, len(img.Brokers())); err != nil {
		return nil, err
	}
	return place(img, n, replication, c.Alive)
}

// defaultReplication is 3, or 1 where there are fewer brokers: never 2, which survives no more than 1.
func defaultReplication(brokers int) int {
	if brokers >= 3 {
		return 3
	}
	return 1
}

func (c *Cluster) alterTopic(ctx context.Context, t term, r *peerv1.AlterTopic, again bool) (*peerv1.Done, error) {
	img := c.Image()
	topic, ok := img.Topic(r.GetName())
	if !ok {
		return c.refused(ctx, t, unknownTopic(r.GetName()))
	}
	alter := &statev1.AlterTopic{TopicId: topic.ID[:], SetConfigs: sortedConfigs(r.GetSetConfigs()), UnsetConfigs: slices.Sorted(slices.Values(r.GetUnsetConfigs()))}
	// Asked again for the number it has already: the first attempt did it.
	if n := int(r.GetPartitions()); n != 0 && !(again && n == len(topic.Partitions)) {
		if err := metadata.CheckPartitionCount(n, len(topic.Partitions), img.Partitions()); err != nil {
			return c.refused(ctx, t, err)
		}
		placed, err := place(img, n-len(topic.Partitions), topic.Replication, c.Alive)
		if err != nil {
			return c.refused(ctx, t, err)
		}
		alter.AddPartitions, alter.ExpectedPartitions = placed, uint32(len(topic.Partitions))
	}
	cmd := &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AlterTopic{AlterTopic: alter}}
	if r.GetValidateOnly() {
		return c.try(ctx, t, cmd)
	}
	return c.propose(ctx, t, cmd)
}

// deleteTopic deletes by id, so that asking again cannot hit another topic of the same name.
func (c *Cluster) deleteTopic(ctx context.Context, t term, r *peerv1.DeleteTopic, again bool) (*peerv1.Done, error) {
	var id metadata.TopicID
	if copy(id[:], r.GetTopicId()) != len(id) || len(r.GetTopicId()) != len(id) {
		return nil, &metadata.Error{Code: metadata.InvalidRequest, Field: "topic_id", Message: "the request names no topic id"}
	}
	if _, ok := c.Image().TopicByID(id); !ok {
		if again {
			if err := c.confirm(ctx, t); err != nil {
				return nil, err
			}
			return &peerv1.Done{}, nil // the first attempt did it, and the replicas are gone too
		}
		return c.refused(ctx, t, unknownTopic(r.GetName()))
	}
	return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_DeleteTopic{DeleteTopic: &statev1.DeleteTopic{TopicId: id[:]}}})
}

func (c *Cluster) unregisterBroker(ctx context.Context, t term, cmd *statev1.UnregisterBroker, again bool) (*peerv1.Done, error) {
	if _, ok := c.Image().Broker(cmd.GetBrokerId()); !ok && again {
		if err := c.confirm(ctx, t); err != nil {
			return nil, err
		}
		return &peerv1.Done{}, nil
	}
	return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_UnregisterBroker{UnregisterBroker: cmd}})
}

func (c *Cluster) setFeatureLevel(ctx context.Context, t term, cmd *statev1.SetFeatureLevel, again bool) (*peerv1.Done, error) {
	if again && uint32(c.Image().FeatureLevel()) == cmd.GetLevel() {
		if err := c.confirm(ctx, t); err != nil {
			return nil, err
		}
		return &peerv1.Done{}, nil
	}
	return c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_SetFeatureLevel{SetFeatureLevel: cmd}})
}

func unknownTopic(name string) *metadata.Error {
	return &metadata.Error{Code: metadata.UnknownTopicOrPartition, Field: "name", Message: fmt.Sprintf("there is no topic %.300q", name)}
}

func sortedConfigs(in []*statev1.ConfigValue) []*statev1.ConfigValue {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b *statev1.ConfigValue) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}
