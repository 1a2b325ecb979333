package cluster

import (
	"context"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
)

// Confirm gives an image that holds every change that was made before the call. It asks the controller,
// which asks a majority.
func (c *Cluster) Confirm(ctx context.Context) (*metadata.Image, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	done, err := c.do(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_Confirm{Confirm: &peerv1.Confirm{}}})
	if err != nil {
		return nil, err
	}
	if err := c.machine.waitApplied(ctx, done.GetIndex()); err != nil {
		return nil, gaveUp(ctx, nil)
	}
	return c.Image(), nil
}

// SetFeatureLevel raises the cluster's feature level. Every registered broker must support it; from then
// on brokers that do not are refused. It cannot be lowered.
func (c *Cluster) SetFeatureLevel(ctx context.Context, level uint16) error {
	img, err := c.Confirm(ctx)
	if err != nil {
		return err
	}
	return c.change(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_SetFeatureLevel{SetFeatureLevel: &peerv1.SetFeatureLevel{
		Command: &statev1.SetFeatureLevel{Level: uint32(level), ExpectedLevel: uint32(img.FeatureLevel())}}}})
}

// UnregisterBroker makes the cluster forget a broker that holds no replica, for good if its data
// directory is lost. A broker that still runs would have to be started anew to be registered again.
func (c *Cluster) UnregisterBroker(ctx context.Context, broker int32) error {
	img, err := c.Confirm(ctx)
	if err != nil {
		return err
	}
	cmd := &statev1.UnregisterBroker{BrokerId: broker}
	if b, ok := img.Broker(broker); ok {
		cmd.NodeIncarnation = b.Incarnation
	}
	return c.change(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_UnregisterBroker{UnregisterBroker: &peerv1.UnregisterBroker{Command: cmd}}})
}

// Resign hands the leadership of the metadata group to another broker, if this one has it, before it
// stops: the cluster then has a controller at once.
func (c *Cluster) Resign(ctx context.Context) error {
	g := c.group.Load()
	if g == nil {
		return nil
	}
	if _, leads := (*g).IsReady(); !leads || len((*g).Status().Voters) < 2 {
		return nil
	}
	return (*g).TransferLeadership(ctx, "")
}

// AlterDefaults sets and unsets the configs that topics have which do not set them themselves.
func (c *Cluster) AlterDefaults(ctx context.Context, set map[string]string, unset []string, validateOnly bool) error {
	return c.change(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_AlterDefaults{AlterDefaults: &peerv1.AlterDefaults{
		Command: &statev1.AlterDefaults{SetConfigs: configsToProto(set), UnsetConfigs: unset}, ValidateOnly: validateOnly}}})
}

// change makes a change and waits until this broker's image holds it.
func (c *Cluster) change(ctx context.Context, req *peerv1.ForwardRequest) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	done, err := c.do(ctx, req)
	if err != nil {
		return err
	}
	c.seen(ctx, done.GetIndex())
	return nil
}

func registerRequest(clusterID string, b *metadata.Broker, fresh bool) *peerv1.ForwardRequest {
	return &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_RegisterBroker{RegisterBroker: &peerv1.RegisterBroker{
		Command: &statev1.RegisterBroker{Broker: metadata.BrokerToProto(b), ClusterId: clusterID}, Fresh: fresh}}}
}
