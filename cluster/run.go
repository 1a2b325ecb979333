package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// refreshInterval is how often seeds and remembered brokers are asked where they are, until this
// broker is ready. Later the reports do that.
const refreshInterval = 500 * time.Millisecond

// run is this broker's membership from start to end: find or form the cluster, open the metadata
// group, register, and then keep up with what is agreed.
func (c *Cluster) run(open func(raftgroup.GroupConfig) (group, error)) error {
	founders, err := c.findCluster(c.ctx)
	if err != nil {
		return err
	}
	if err := c.openGroup(open, founders); err != nil {
		return err
	}
	defer func() {
		c.closeErr = (*c.group.Load()).Close() // ends the last term, and with it the controller's work
		c.controllers.Wait()
	}()

	// What runs beside the registration ends with this context, before the group is closed.
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer c.aside.Wait()
	defer cancel(nil)
	aside := func(f func(context.Context) error) {
		c.aside.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	aside(c.followImage)
	aside(c.reporters)
	aside(c.refresh)
	aside(c.watchRegistration)
	aside(c.fetchProducerIDs)
	if err := c.registerAndCatchUp(ctx); err != nil {
		if cause := ended(ctx); cause != nil {
			return cause // that is why registering was given up
		}
		return err
	}
	c.logger.Info("broker is registered", "cluster", c.ClusterID(), "index", c.machine.Applied())
	c.metrics.ready.Set(1)
	close(c.ready)
	<-ctx.Done()
	return ended(ctx)
}

// ended is why the context was cancelled, if not by its owner.
func ended(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// newsTimeout is how late brokers may hear of a change of metadata that was answered, at most twice this. Partitions may be ten times as late: there
// one asks their leaders.
const newsTimeout = 50 * time.Millisecond

func (c *Cluster) openGroup(open func(raftgroup.GroupConfig) (group, error), founders []raftgroup.ServerID) error {
	dir, err := c.makeMetadataDir()
	if err != nil {
		return err
	}
	if c.begun, err = vfs.Exists(c.config.FS, filepath.Join(c.config.Dir, begunFile)); err != nil {
		return fmt.Errorf("open the metadata group: %w", err)
	}
	var bootstrap []raftgroup.Server
	for _, id := range founders {
		bootstrap = append(bootstrap, raftgroup.Server{ID: id})
	}
	g, err := open(raftgroup.GroupConfig{
		ID:           raftgroup.MetadataGroup,
		Name:         "metadata",
		Self:         c.node.Load().server(),
		Dir:          dir,
		Machine:      c.machine,
		Bootstrap:    bootstrap,
		OnLeadership: c.onLeadership,
		// Whoever was told of a change asks another broker next.
		CommitTimeout: newsTimeout,
		MustExist:     c.begun,
	})
	if errors.Is(err, raftgroup.ErrStateLost) {
		return fmt.Errorf("%w: the metadata that %s belongs to is gone in part; remove the whole data directory, and the broker is rebuilt from the others: %w",
			ErrForeignData, filepath.Join(c.config.Dir, IdentityFile), err)
	}
	if err != nil {
		return fmt.Errorf("open the metadata group: %w", err)
	}
	c.group.Store(&g)
	c.listening.Store(time.Now().UnixNano())
	close(c.opened)
	return nil
}

// makeMetadataDir makes the directory of the metadata group. A member has one: a node that says it is a member and finds
// none has lost what it voted (openIdentity).
func (c *Cluster) makeMetadataDir() (string, error) {
	dir := filepath.Join(c.config.Dir, metadataDir)
	if err := c.config.FS.MkdirAll(dir); err != nil {
		return "", fmt.Errorf("make the metadata directory: %w", err)
	}
	if err := c.config.FS.SyncDir(c.config.Dir); err != nil {
		return "", fmt.Errorf("make the metadata directory: %w", err)
	}
	return dir, nil
}

// registerAndCatchUp registers this broker as it is configured now and waits until the image is no
// older than the registration: until then this broker may not know what it has agreed to.
func (c *Cluster) registerAndCatchUp(ctx context.Context) error {
	said := ""
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		err := c.register(ctx, c.config.RequestTimeout)
		if err == nil {
			return c.machine.waitApplied(ctx, c.registered.Load())
		}
		if isFinal(err) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err.Error() != said {
			said = err.Error()
			c.logger.Info("not registered yet: waiting for "+c.Waiting(), "cluster", c.ClusterID(), "err", err)
		}
		if !sleep(ctx, nil, pause) {
			return ctx.Err()
		}
	}
}

// register asks the controller to register this broker, once per start.
func (c *Cluster) register(ctx context.Context, timeout time.Duration) error {
	if c.registered.Load() > 0 {
		return nil
	}
	done, err := c.askRegistration(ctx, timeout)
	if err == nil {
		c.registered.Store(done.GetIndex())
	}
	return err
}

func (c *Cluster) askRegistration(ctx context.Context, timeout time.Duration) (*peerv1.Done, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	b := &metadata.Broker{
		ID: c.config.Broker, Incarnation: c.node.Load().incarnation, Listeners: c.config.Listeners, Rack: c.config.Rack,
		Version: c.config.Version, MinLevel: c.config.MinLevel, MaxLevel: c.config.MaxLevel, MaxReplicas: uint32(c.config.MaxReplicas),
	}
	return c.do(ctx, registerRequest(c.ClusterID(), b, c.node.Load().membership == none))
}

// isFinal says that asking again cannot help.
func isFinal(err error) bool {
	var refusal *metadata.Error
	return errors.As(err, &refusal)
}

// followImage does what each new image asks of this broker: note that the cluster exists, remember
// addresses, count.
func (c *Cluster) followImage(ctx context.Context) error {
	var old *metadata.Image
	known := false // an image has had this directory's broker
	for {
		changed := c.machine.changed.wait()
		img := c.Image()
		if img != old {
			if b, ok := img.Broker(c.config.Broker); known && c.ReplacedIn(img) {
				return directoryReplaced(fmt.Errorf("broker id %d is that of node incarnation %x", b.ID, b.Incarnation))
			} else if ok && !c.ReplacedIn(img) {
				known = true
			}
			if err := c.noteCluster(img); err != nil {
				return err
			}
			c.book.follow(old, img)
			c.metrics.version.Set(float64(img.Version()))
			c.metrics.topics.Set(float64(len(img.Topics())))
			c.metrics.partitions.Set(float64(img.Partitions()))
			c.metrics.brokers.Set(float64(len(img.Brokers())))
			c.metrics.level.Set(float64(img.FeatureLevel()))
			old = img
		}
		c.book.save()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// noteCluster writes down that the metadata group has begun here, and that the cluster this node is promised to exists.
func (c *Cluster) noteCluster(img *metadata.Image) error {
	if img.ClusterID() == "" {
		return nil
	}
	if !c.begun {
		text := "The metadata group has applied entries in the directory " + metadataDir + ". Where that is empty, they were lost.\n"
		if err := vfs.WriteFileAtomic(c.config.FS, filepath.Join(c.config.Dir, begunFile), []byte(text)); err != nil {
			return fmt.Errorf("write down that the metadata group has begun: %w", err)
		}
		c.begun = true
	}
	n := c.node.Load()
	if n.membership == member && n.clusterID == img.ClusterID() {
		return nil
	}
	if n.clusterID != img.ClusterID() {
		return fmt.Errorf("%w: it belongs to cluster %s, and its metadata to cluster %s", ErrForeignData, n.clusterID, img.ClusterID())
	}
	return c.changeIdentity(func(n *identity) { n.membership, n.founders = member, nil })
}

// refresh keeps asking where the others are until this broker is ready: after a restart all may have
// moved, and nobody can be elected before they find each other. If everybody who answers at the seeds
// belongs to another cluster, this data directory is in the wrong place.
func (c *Cluster) refresh(ctx context.Context) error {
	for {
		addresses := append([]string(nil), c.config.Seeds...)
		for _, e := range c.book.all() {
			if e.Broker != c.config.Broker {
				addresses = append(addresses, e.Address)
			}
		}
		ours, theirs := 0, ""
		for i, a := range c.hello(ctx, addresses) {
			switch {
			case i >= len(c.config.Seeds) || a.err != nil || a.node.GetNodeIncarnation() == c.node.Load().incarnation:
			case a.node.GetClusterId() == c.ClusterID() || a.node.GetClusterId() == "":
				ours++
			default:
				theirs = fmt.Sprintf("%s (broker %d at %s)", a.node.GetClusterId(), a.node.GetBrokerId(), a.seed)
			}
		}
		if ours == 0 && theirs != "" && ctx.Err() == nil {
			return fmt.Errorf("%w: it belongs to cluster %s, and the seeds to cluster %s", ErrForeignData, c.ClusterID(), theirs)
		}
		c.book.save()
		select {
		case <-c.ready:
			return nil
		case <-time.After(refreshInterval):
		case <-ctx.Done():
			return nil
		}
	}
}

// Hello tells who we are (peer.Handler).
func (c *Cluster) Hello(_ context.Context, caller peer.Identity, req *peerv1.HelloRequest) (*peerv1.HelloResponse, error) {
	if n := nodeOf(caller, req.GetNode()); n != nil {
		c.meet(n)
	}
	resp := &peerv1.HelloResponse{Node: c.self(), MetadataLeader: c.leaderHint().proto()}
	if caller.ClusterID == c.ClusterID() || caller.ClusterID == "" {
		for _, e := range c.book.all() {
			resp.Brokers = append(resp.Brokers, &peerv1.Node{BrokerId: e.Broker, NodeIncarnation: e.Incarnation, PeerAddress: e.Address})
		}
	}
	return resp, nil
}

// self is how this broker describes itself.
func (c *Cluster) self() *peerv1.Node {
	n := c.node.Load()
	p := &peerv1.Node{
		BrokerId: n.broker, NodeIncarnation: n.incarnation, ClusterId: n.clusterID, PeerAddress: c.config.peerAddress(),
		MinFeatureLevel: uint32(c.config.MinLevel), MaxFeatureLevel: uint32(c.config.MaxLevel), Version: c.config.Version,
	}
	switch n.membership {
	case none:
		p.Membership = peerv1.Membership_MEMBERSHIP_NONE
	case forming:
		p.Membership = peerv1.Membership_MEMBERSHIP_FORMING
	case member:
		p.Membership = peerv1.Membership_MEMBERSHIP_MEMBER
	}
	return p
}

// Self is who this broker is, for peer.ServerConfig.
func (c *Cluster) Self() peer.Identity {
	n := c.node.Load()
	return peer.Identity{Broker: n.broker, Incarnation: n.incarnation, ClusterID: c.ClusterID()}
}

// ClusterID is that of the cluster this broker belongs to, or is about to; empty: not known yet.
func (c *Cluster) ClusterID() string {
	if id := c.node.Load().clusterID; id != "" {
		return id
	}
	if id := c.joining.Load(); id != nil {
		return *id
	}
	return ""
}

// Image is the newest metadata that this broker has applied. It may be older than the leader's; see
// Confirm.
func (c *Cluster) Image() *metadata.Image { return c.machine.image.Load() }

// FeatureLevel is that of the newest image, for raftgroup.Config.
func (c *Cluster) FeatureLevel() uint16 { return c.Image().FeatureLevel() }

// WaitNewer waits for an image with a higher version and gives the newest. Images in between may be
// passed over: each holds all that is to be known.
func (c *Cluster) WaitNewer(ctx context.Context, version uint64) (*metadata.Image, error) {
	for {
		changed := c.machine.changed.wait()
		if img := c.Image(); img.Version() > version {
			return img, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// WaitApplied waits until this broker's image holds everything up to an index of the metadata group.
func (c *Cluster) WaitApplied(ctx context.Context, index uint64) error {
	return c.machine.waitApplied(ctx, index)
}

// Controller is the broker that leads the metadata group, as far as this broker knows.
func (c *Cluster) Controller() (broker int32, term record.Term, ok bool) {
	g := c.group.Load()
	if g == nil {
		return -1, 0, false
	}
	id, term := (*g).Leader()
	broker, _, err := raftgroup.ParseServerID(id)
	if err != nil {
		return -1, term, false
	}
	return broker, term, true
}

// MetadataStatus describes this broker's replica of the metadata group; false: it is not open yet.
func (c *Cluster) MetadataStatus() (raftgroup.Status, bool) {
	g := c.group.Load()
	if g == nil {
		return raftgroup.Status{}, false
	}
	return (*g).Status(), true
}
