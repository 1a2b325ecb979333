package cluster

import (
	"context"
	"errors"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// controlInterval is how often the controller looks around although nothing has changed.
const controlInterval = time.Second

// onLeadership starts the controller's work with each term in which this broker leads the metadata
// group, and tells the peers (raftgroup). The work ends with the term.
func (c *Cluster) onLeadership(e raftgroup.LeadershipEvent) {
	if !e.Ready {
		c.leaders.resign(metadata.MetadataGroup, e.Term)
		c.metrics.controller.Set(0)
		return
	}
	c.leaders.lead(metadata.MetadataGroup, e.Term, true)
	c.metrics.controller.Set(1)
	c.logger.Info("this broker is the controller", "term", uint64(e.Term))
	c.controllers.Go(func() { c.control(e.Context, e.Term) })
}

// control does the controller's work of one term. Each duty looks at what is and proposes what should
// be; done twice, or by two controllers, it changes nothing.
func (c *Cluster) control(ctx context.Context, now record.Term) {
	select {
	case <-c.opened: // the first term can begin before Open has returned
	case <-ctx.Done():
		return
	}
	t := term{group: *c.group.Load(), term: now, began: time.Now()}
	for {
		leaders, image := c.leaders.changed.wait(), c.machine.changed.wait()
		pause := controlInterval
		if err := c.duties(ctx, t); err != nil && ctx.Err() == nil {
			c.logger.Warn("controller: to be done again", "err", err)
			leaders, image, pause = nil, nil, mostRetry
		}
		timer := time.NewTimer(pause)
		select {
		case <-leaders:
		case <-image:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// duties does what there is to do now.
func (c *Cluster) duties(ctx context.Context, t term) error {
	img := c.Image()
	if img.ClusterID() == "" {
		return c.initCluster(ctx, t)
	}
	return errors.Join(c.activate(ctx, t, img), c.followMembers(ctx, t, img), c.replaceLost(ctx, t, img),
		c.moveOff(ctx, t, img), c.growInternal(ctx, t, img))
}

// initCluster gives the cluster the id that its founders promised themselves to.
func (c *Cluster) initCluster(ctx context.Context, t term) error {
	n := c.node.Load()
	_, err := c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_InitCluster{
		InitCluster: &statev1.InitCluster{ClusterId: n.clusterID, FeatureLevel: uint32(n.level)}}})
	return err
}

// activate ends the creating of partitions whose groups have a ready leader: from then on nobody
// bootstraps them. A majority has created its replicas by then, or there would be no leader.
func (c *Cluster) activate(ctx context.Context, t term, img *metadata.Image) error {
	led := c.ledWhileCreating(img)
	if len(led) == 0 {
		return nil
	}
	_, err := c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_ActivatePartitions{
		ActivatePartitions: &statev1.ActivatePartitions{GroupIds: led}}})
	return err
}

func (c *Cluster) ledWhileCreating(img *metadata.Image) []uint64 {
	var led []uint64
	for _, t := range img.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if p.Phase != metadata.Creating || !p.Created() || len(led) >= metadata.MaxReportedReplicas {
				continue
			}
			if l, ok := c.leaders.find(p.Group); ok && l.Ready {
				led = append(led, uint64(p.Group))
			}
		}
	}
	return led
}
