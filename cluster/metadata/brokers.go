package metadata

import (
	"math"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

func (s *State) initCluster(c *statev1.InitCluster, r *Result) {
	id, level := c.GetClusterId(), c.GetFeatureLevel()
	switch {
	case s.img.clusterID == id && id != "":
		return // asked again
	case s.img.clusterID != "":
		r.Err = refuse(InconsistentClusterID, "cluster_id", "the cluster is %s, not %s", s.img.clusterID, clip(id))
	case id == "" || len(id) > MaxClusterIDLength:
		r.Err = refuse(InvalidRequest, "cluster_id", "the cluster id has %d bytes; 1 to %d are allowed", len(id), MaxClusterIDLength).limit(MaxClusterIDLength)
	case level < uint32(BaseLevel) || level > math.MaxUint16:
		r.Err = refuse(InvalidRequest, "feature_level", "feature level %d does not exist", level).limit(BaseLevel)
	default:
		img := s.edit()
		img.clusterID, img.level = id, uint16(level)
		r.Changed = true
	}
}

func (s *State) registerBroker(c *statev1.RegisterBroker, r *Result) {
	if r.Err = s.checkInitialised(); r.Err != nil {
		return
	}
	if c.GetClusterId() != s.img.clusterID {
		r.Err = refuse(InconsistentClusterID, "cluster_id", "the cluster is %s, not %s", s.img.clusterID, clip(c.GetClusterId()))
		return
	}
	b, err := brokerFromProto(c.GetBroker())
	if r.Err = err; err != nil {
		return
	}
	if s.img.level < b.MinLevel || s.img.level > b.MaxLevel {
		r.Err = refuse(UnsupportedVersion, "feature_level", "broker %d applies at feature levels %d to %d; the cluster is at %d",
			b.ID, b.MinLevel, b.MaxLevel, s.img.level).limit(s.img.level)
		return
	}
	i, ok := s.img.findBroker(b.ID)
	b.Draining = ok && s.img.brokers[i].Draining
	switch {
	case ok && s.img.brokers[i].Incarnation != b.Incarnation && s.img.brokers[i].Incarnation != c.GetReplacesIncarnation():
		r.Err = refuse(DuplicateBrokerRegistration, "broker_id",
			"broker id %d is taken by a broker with node incarnation %x; this one has %x: give it another id, or unregister the other if its data directory is lost",
			b.ID, s.img.brokers[i].Incarnation, b.Incarnation)
	case ok && equalBroker(s.img.brokers[i], b):
	case ok:
		s.editBrokers().brokers[i] = b
		r.Changed = true
	case len(s.img.brokers) >= MaxBrokers:
		r.Err = refuse(PolicyViolation, "broker_id", "%d brokers are registered, and no more are allowed", MaxBrokers).limit(MaxBrokers)
	default:
		img := s.editBrokers()
		img.brokers = slices.Insert(img.brokers, i, b)
		r.Changed = true
	}
}

func equalBroker(a, b *Broker) bool {
	return a.ID == b.ID && a.Incarnation == b.Incarnation && slices.Equal(a.Listeners, b.Listeners) && a.Rack == b.Rack &&
		a.Version == b.Version && a.MinLevel == b.MinLevel && a.MaxLevel == b.MaxLevel && a.MaxReplicas == b.MaxReplicas && a.Draining == b.Draining
}

// brokerFromProto checks what a broker says of itself.
func brokerFromProto(p *statev1.BrokerState) (*Broker, *Error) {
	b := &Broker{ID: p.GetBrokerId(), Incarnation: p.GetNodeIncarnation(), Rack: p.GetRack(), Version: p.GetVersion(), MaxReplicas: p.GetMaxReplicas(), Draining: p.GetDraining()}
	lo, hi := p.GetMinFeatureLevel(), p.GetMaxFeatureLevel()
	switch {
	case b.ID < 0:
		return nil, refuse(InvalidRequest, "broker_id", "broker id %d is negative", b.ID).limit(0)
	case b.Incarnation == 0:
		return nil, refuse(InvalidRequest, "node_incarnation", "broker %d has no node incarnation", b.ID)
	case len(b.Rack) > MaxTextLength:
		return nil, refuse(InvalidRequest, "rack", "the rack has %d bytes; at most %d are allowed", len(b.Rack), MaxTextLength).limit(MaxTextLength)
	case len(b.Version) > MaxTextLength:
		return nil, refuse(InvalidRequest, "version", "the version has %d bytes; at most %d are allowed", len(b.Version), MaxTextLength).limit(MaxTextLength)
	case lo < uint32(BaseLevel) || hi < lo || hi > math.MaxUint16:
		return nil, refuse(InvalidRequest, "feature_level", "feature levels %d to %d are not a range", lo, hi)
	case len(p.GetListeners()) > MaxListeners:
		return nil, refuse(InvalidRequest, "listeners", "%d listeners; at most %d are allowed", len(p.GetListeners()), MaxListeners).limit(MaxListeners)
	}
	b.MinLevel, b.MaxLevel = uint16(lo), uint16(hi)
	for _, l := range p.GetListeners() {
		name, address := l.GetName(), l.GetAddress()
		if name == "" || address == "" || len(name) > MaxTextLength || len(address) > MaxTextLength {
			return nil, refuse(InvalidRequest, "listeners", "listener %q with address %q: each needs 1 to %d bytes", clip(name), clip(address), MaxTextLength).limit(MaxTextLength)
		}
		b.Listeners = append(b.Listeners, Listener{Name: name, Address: address})
	}
	slices.SortFunc(b.Listeners, func(x, y Listener) int { return strings.Compare(x.Name, y.Name) })
	for i := 1; i < len(b.Listeners); i++ {
		if b.Listeners[i-1].Name == b.Listeners[i].Name {
			return nil, refuse(InvalidRequest, "listeners", "listener %q is given twice", clip(b.Listeners[i].Name))
		}
	}
	if _, ok := b.Address(PeerListener); !ok {
		return nil, refuse(InvalidRequest, "listeners", "broker %d advertises no %s address", b.ID, PeerListener)
	}
	return b, nil
}

// BrokerToProto encodes a broker.
func BrokerToProto(b *Broker) *statev1.BrokerState {
	p := &statev1.BrokerState{
		BrokerId: b.ID, NodeIncarnation: b.Incarnation, Rack: b.Rack, Version: b.Version,
		MinFeatureLevel: uint32(b.MinLevel), MaxFeatureLevel: uint32(b.MaxLevel), MaxReplicas: b.MaxReplicas, Draining: b.Draining,
	}
	for _, l := range b.Listeners {
		p.Listeners = append(p.Listeners, &statev1.Listener{Name: l.Name, Address: l.Address})
	}
	return p
}

// unregisterBroker forgets a broker. Replicas that it was to remove go with it: who unregisters a broker
// says that its data directory is not coming back.
func (s *State) unregisterBroker(c *statev1.UnregisterBroker, r *Result) {
	id := c.GetBrokerId()
	if r.Err = s.checkBroker(id, c.GetNodeIncarnation()); r.Err != nil {
		return
	}
	e := &topicEdits{s: s}
	for _, t := range s.img.byID {
		for p := range t.Partitions {
			if !t.Deleting && t.Partitions[p].Holds(id) {
				r.Err = refuse(ResourceInUse, "broker_id", "broker %d holds a replica of %s/%d", id, t.Name, p)
				return
			}
			e.partition(t.Partitions[p].Group, func(p *Partition) bool { return p.forget(id) })
		}
	}
	e.finish()
	i, _ := s.img.findBroker(id)
	img := s.editBrokers()
	img.brokers = slices.Delete(img.brokers, i, i+1)
	r.Changed = true
}

// setDraining marks a broker; what becomes of its replicas the controller decides.
func (s *State) setDraining(c *statev1.SetDraining, r *Result) {
	if r.Err = s.checkBroker(c.GetBrokerId(), c.GetNodeIncarnation()); r.Err != nil {
		return
	}
	i, _ := s.img.findBroker(c.GetBrokerId())
	if s.img.brokers[i].Draining == c.GetDraining() {
		return
	}
	changed := *s.img.brokers[i]
	changed.Draining = c.GetDraining()
	s.editBrokers().brokers[i] = &changed
	r.Changed = true
}

func (s *State) setFeatureLevel(c *statev1.SetFeatureLevel, r *Result) {
	if r.Err = s.checkInitialised(); r.Err != nil {
		return
	}
	level := c.GetLevel()
	if c.GetExpectedLevel() != uint32(s.img.level) {
		r.Err = refuse(InvalidUpdateVersion, "expected_level", "the feature level is %d, not %d", s.img.level, c.GetExpectedLevel())
		return
	}
	if level <= uint32(s.img.level) {
		r.Err = refuse(FeatureUpdateFailed, "level", "the feature level is %d and can only be raised, not set to %d", s.img.level, level).limit(s.img.level)
		return
	}
	for _, b := range s.img.brokers {
		if level > uint32(b.MaxLevel) || level < uint32(b.MinLevel) {
			r.Err = refuse(FeatureUpdateFailed, "level", "broker %d (version %s) applies at feature levels %d to %d, not at %d",
				b.ID, b.Version, b.MinLevel, b.MaxLevel, level).limit(b.MaxLevel)
			return
		}
	}
	if level > math.MaxUint16 {
		r.Err = refuse(FeatureUpdateFailed, "level", "feature level %d does not exist", level).limit(math.MaxUint16)
		return
	}
	s.edit().level = uint16(level)
	r.Changed = true
}

func (s *State) allocateProducerIDs(c *statev1.AllocateProducerIds, r *Result) {
	if r.Err = s.checkBroker(c.GetBrokerId(), c.GetNodeIncarnation()); r.Err != nil {
		return
	}
	n := c.GetCount()
	if n == 0 || n > MaxProducerIDBlock {
		r.Err = refuse(InvalidRequest, "count", "a block has 1 to %d producer ids, not %d", MaxProducerIDBlock, n).limit(MaxProducerIDBlock)
		return
	}
	if s.img.nextProducerID > math.MaxInt64-int64(n) {
		r.Err = refuse(PolicyViolation, "count", "all producer ids have been given out").limit(int64(math.MaxInt64))
		return
	}
	img := s.edit()
	r.ProducerIDs = ProducerIDs{First: record.ProducerID(img.nextProducerID), Count: n}
	img.nextProducerID += int64(n)
	r.Changed = true
}

func (s *State) checkInitialised() *Error {
	if s.img.clusterID == "" {
		return refuse(InvalidRequest, "", "the cluster has not been formed yet")
	}
	return nil
}

// checkBroker refuses a command of, or about, a broker that is not registered as it says.
func (s *State) checkBroker(id int32, incarnation uint64) *Error {
	b, ok := s.img.Broker(id)
	if !ok {
		return refuse(BrokerIDNotRegistered, "broker_id", "broker %d is not registered", id)
	}
	if b.Incarnation != incarnation {
		return refuse(StaleBrokerEpoch, "node_incarnation", "broker %d is registered with node incarnation %x, not %x", id, b.Incarnation, incarnation)
	}
	return nil
}
