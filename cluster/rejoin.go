package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// How a broker whose disk was lost comes back under its id (docs/decisions/0012-lost-disks.md): its new directory has an
// incarnation that never voted and never acknowledged. The controller lets it take the place of the old one, under which
// nobody can come back from then on; what the old one held is found to be lost, and is replaced (metadata/reassign.go).

// rejoinSilence is for how many DeadAfter nobody has heard of a broker whose place another may take.
const rejoinSilence = 3

// registerBroker registers a broker, or a new directory in the place of one that was lost.
func (c *Cluster) registerBroker(ctx context.Context, t term, caller peer.Identity, r *peerv1.RegisterBroker) (*peerv1.Done, error) {
	cmd := r.GetCommand()
	b := cmd.GetBroker()
	if err := checkCaller(caller, b.GetBrokerId(), b.GetNodeIncarnation()); err != nil {
		return nil, err
	}
	img := c.Image()
	old, taken := img.Broker(b.GetBrokerId())
	taken = taken && old.Incarnation != b.GetNodeIncarnation()
	if cmd.GetReplacesIncarnation() != 0 {
		return c.refused(ctx, t, &metadata.Error{Code: metadata.InvalidRequest, Field: "replaces_incarnation", Message: "only the controller says whose place a broker takes"})
	}
	if taken && r.GetFresh() {
		needed := rejoinSilence * c.config.DeadAfter
		if listened := time.Since(time.Unix(0, c.listening.Load())); listened < needed {
			return nil, notController(nil, "broker id %d is taken, and this controller has listened for %s: it takes %s to know that nobody lives who has the id", old.ID, listened.Round(time.Millisecond), needed)
		}
		if refusal := mayRejoin(img, old, time.Since(c.LastHeard(old.ID)), needed); refusal != nil {
			return c.refused(ctx, t, refusal)
		}
		cmd = proto.CloneOf(cmd)
		cmd.ReplacesIncarnation = old.Incarnation
	}
	done, err := c.propose(ctx, t, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_RegisterBroker{RegisterBroker: cmd}})
	if err == nil && taken {
		c.leaders.heard(old.ID, time.Now()) // so that a third one has to wait
		c.logger.Warn("a broker has lost its disk and was registered anew: all that it held is replaced", "broker", old.ID,
			"node_incarnation", fmt.Sprintf("%x", b.GetNodeIncarnation()), "replaces", fmt.Sprintf("%x", old.Incarnation))
	}
	return done, err
}

// mayRejoin judges whether a new directory may take the place of a broker's that was lost. Who has the id must have been
// silent, or two brokers are configured with one id. And every group has to have a majority without the old directory, or
// that is still needed. What is wrong here costs copies, or waiting, and never a record: nobody votes or acknowledges under
// the old incarnations, whatever this says.
func mayRejoin(img *metadata.Image, old *metadata.Broker, silent, needed time.Duration) *metadata.Error {
	if silent < needed {
		address, _ := old.Address(metadata.PeerListener)
		return &metadata.Error{Code: metadata.DuplicateBrokerRegistration, Field: "broker_id",
			Message: fmt.Sprintf("broker id %d is that of a broker at %s with node incarnation %x, which was heard %s ago; a new directory takes the place of one that was silent for %s: give this one another id, or end the other",
				old.ID, address, old.Incarnation, silent.Round(time.Millisecond), needed)}
	}
	var only []string
	advice := "delete these topics, or give this broker another id"
	for _, t := range img.AllTopics() {
		for i := range t.Partitions {
			if p := &t.Partitions[i]; !t.Deleting && p.Phase == metadata.Active && !p.SurvivesWithout(old.ID) && p.Holds(old.ID) {
				only = append(only, fmt.Sprintf("%s/%d", t.Name, i))
				if metadata.Internal(t.Name) {
					advice = "give this broker another id: topics of the brokers cannot be deleted"
				}
			}
		}
	}
	if len(only) == 0 {
		return nil
	}
	const shown = 5
	names := strings.Join(only[:min(shown, len(only))], ", ")
	if len(only) > shown {
		names += fmt.Sprintf(" and %d more", len(only)-shown)
	}
	return &metadata.Error{Code: metadata.ResourceInUse, Field: "broker_id",
		Message: fmt.Sprintf("the directory that broker %d had is needed: without it there is no majority of %s. Is its disk not mounted? If it is gone for good, %s",
			old.ID, names, advice)}
}

// mayBeFree tells whether the id that this new directory asks for may be free soon: the broker that had it has just gone, or a
// replica is about to be whole with which its old directory is not needed. It is asked by findCluster alone.
func (c *Cluster) mayBeFree(err error) bool {
	if !errors.Is(err, &metadata.Error{Code: metadata.DuplicateBrokerRegistration}) && !errors.Is(err, &metadata.Error{Code: metadata.ResourceInUse}) {
		return false
	}
	if c.taken.IsZero() {
		c.taken = time.Now()
	}
	return time.Since(c.taken) < 3*rejoinSilence*c.config.DeadAfter
}

// ReplacedCaller is Replaced for peer.ServerConfig.
func (c *Cluster) ReplacedCaller(caller peer.Identity, since uint64) bool {
	return c.Replaced(caller.Broker, raftgroup.Node{Incarnation: caller.Incarnation, Since: since})
}

// Doubt notes that another broker knows this one's id as another directory's.
func (c *Cluster) Doubt() {
	select {
	case c.doubts <- struct{}{}:
	default:
	}
}

// watchRegistration ends a broker in whose place a new directory was registered while it was cut off. Who says so may have
// old metadata; the controller knows.
func (c *Cluster) watchRegistration(ctx context.Context) error {
	for {
		select {
		case <-c.doubts:
		case <-ctx.Done():
			return nil
		}
		if _, err := c.askRegistration(ctx, c.config.RequestTimeout); errors.Is(err, &metadata.Error{Code: metadata.DuplicateBrokerRegistration}) {
			return directoryReplaced(err)
		}
		if !sleep(ctx, nil, c.config.DeadAfter) {
			return nil
		}
	}
}

func directoryReplaced(err error) error {
	return fmt.Errorf("this directory was replaced while nobody heard of its broker, remove it: %w", err)
}

// Node is the directory that this broker runs on, for raftgroup.Config.
func (c *Cluster) Node() raftgroup.Node {
	n := raftgroup.Node{Incarnation: c.node.Load().incarnation, Since: c.registered.Load()}
	if img := c.Image(); n.Since == 0 {
		if b, ok := img.Broker(c.config.Broker); ok && b.Incarnation == n.Incarnation {
			n.Since = img.Version() // it was registered no later
		}
	}
	return n
}

// Replaced says whether this broker's metadata has another directory in the place of one that was registered, for
// raftgroup.Config. Metadata that ends before that registration does not know: it may have the directory's predecessor.
func (c *Cluster) Replaced(broker int32, n raftgroup.Node) bool {
	img := c.Image()
	b, ok := img.Broker(broker)
	return ok && b.Incarnation != n.Incarnation && n.Since > 0 && n.Since <= img.Version()
}

// ReplacedIn says whether an image has another directory in the place of this broker's: none of the replicas that it has for the
// broker are to be here. The names of replicas do not tell, since the other may have been given them since.
func (c *Cluster) ReplacedIn(img *metadata.Image) bool {
	b, ok := img.Broker(c.config.Broker)
	return ok && b.Incarnation != c.node.Load().incarnation
}
