package metadata

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// model is a second, dumb implementation of the machine for what the random tests generate: plain maps,
// nothing shared, every command on a deep copy that replaces the state only if all went well.
type model struct {
	cluster        string
	level          uint32
	version        uint64
	group, replica uint64
	pid            int64
	brokers        map[int32]mBroker
	topics         map[string]mTopic // by id
	defaults       map[string]string
	// credentials by user and mechanism, and rules, are texts.
	credentials map[string]string
	rules       map[string]bool
}

type mBroker struct {
	incarnation uint64
	rack        string
	lo, hi      uint32
	address     string
	draining    bool
}

type mTopic struct {
	name       string
	configs    map[string]string
	partitions []mPartition
	deleting   bool
	rf         int
}

type mPartition struct {
	group    uint64
	phase    string
	replicas []mReplica
	leaving  []mLeaving
	target   []int32
}

type mReplica struct {
	broker           int32
	incarnation      uint64
	created, deleted bool
	joining, added   bool
	lost             bool
}

func newModel() *model {
	return &model{level: 1, group: 1000, replica: 1, brokers: map[int32]mBroker{}, topics: map[string]mTopic{}, defaults: map[string]string{},
		credentials: map[string]string{}, rules: map[string]bool{}}
}

func (m *model) clone() *model {
	c := *m
	c.brokers, c.defaults = maps.Clone(m.brokers), maps.Clone(m.defaults)
	c.credentials, c.rules = maps.Clone(m.credentials), maps.Clone(m.rules)
	c.topics = make(map[string]mTopic)
	for id, t := range m.topics {
		t.configs = maps.Clone(t.configs)
		t.partitions = slices.Clone(t.partitions)
		for i := range t.partitions {
			t.partitions[i].replicas = slices.Clone(t.partitions[i].replicas)
			t.partitions[i].leaving = slices.Clone(t.partitions[i].leaving)
		}
		c.topics[id] = t
	}
	return &c
}

// apply gives the code of the refusal; empty: accepted.
func (m *model) apply(index uint64, cmd *statev1.MetadataCommand) (code Code, pids int64) {
	c := m.clone()
	code, pids = c.run(cmd)
	if code == "" && c.String() != m.String() {
		c.version = index
		*m = *c
	}
	return code, pids
}

func (m *model) run(command *statev1.MetadataCommand) (code Code, pids int64) {
	switch cmd := command.Command.(type) {
	case *statev1.MetadataCommand_InitCluster:
		if m.cluster != "" && m.cluster != cmd.InitCluster.ClusterId {
			return InconsistentClusterID, 0
		}
		m.cluster = cmd.InitCluster.ClusterId
	case *statev1.MetadataCommand_RegisterBroker:
		return m.register(cmd.RegisterBroker), 0
	case *statev1.MetadataCommand_UnregisterBroker:
		return m.unregister(cmd.UnregisterBroker.BrokerId, cmd.UnregisterBroker.NodeIncarnation), 0
	case *statev1.MetadataCommand_SetFeatureLevel:
		return m.raise(cmd.SetFeatureLevel.Level, cmd.SetFeatureLevel.ExpectedLevel), 0
	case *statev1.MetadataCommand_CreateTopic:
		return m.create(cmd.CreateTopic), 0
	case *statev1.MetadataCommand_AlterTopic:
		return m.alter(cmd.AlterTopic), 0
	case *statev1.MetadataCommand_DeleteTopic:
		t, ok := m.topics[string(cmd.DeleteTopic.TopicId)]
		if !ok {
			return UnknownTopicID, 0
		}
		t.deleting = true
		for i := range t.partitions {
			t.partitions[i].phase = "deleting"
			t.partitions[i].endChange()
		}
		m.topics[string(cmd.DeleteTopic.TopicId)] = t
	case *statev1.MetadataCommand_ReportReplicas:
		return m.report(cmd.ReportReplicas), 0
	case *statev1.MetadataCommand_ActivatePartitions:
		if m.cluster == "" {
			return InvalidRequest, 0
		}
		m.each(func(p *mPartition) {
			n, of := 0, 0
			for _, r := range p.replicas {
				if r.created && !r.joining {
					n++
				}
				if !r.joining {
					of++
				}
			}
			if slices.Contains(cmd.ActivatePartitions.GroupIds, p.group) && p.phase == "creating" && 2*n > of {
				p.phase = "active"
			}
		})
	case *statev1.MetadataCommand_AllocateProducerIds:
		if code := m.known(cmd.AllocateProducerIds.BrokerId, cmd.AllocateProducerIds.NodeIncarnation); code != "" {
			return code, 0
		}
		n := int64(cmd.AllocateProducerIds.Count)
		if n < 1 || n > 1_000_000 {
			return InvalidRequest, 0
		}
		m.pid += n
		return "", n
	case *statev1.MetadataCommand_AlterDefaults:
		return m.alterDefaults(cmd.AlterDefaults), 0
	case *statev1.MetadataCommand_AlterAccess:
		return m.access(cmd.AlterAccess), 0
	default:
		return m.members(command), 0
	}
	return "", 0
}

func (m *model) known(broker int32, incarnation uint64) Code {
	b, ok := m.brokers[broker]
	switch {
	case !ok:
		return BrokerIDNotRegistered
	case b.incarnation != incarnation:
		return StaleBrokerEpoch
	}
	return ""
}

func (m *model) register(c *statev1.RegisterBroker) Code {
	b := c.Broker
	old, ok := m.brokers[b.BrokerId]
	switch {
	case m.cluster == "":
		return InvalidRequest
	case c.ClusterId != m.cluster:
		return InconsistentClusterID
	case m.level < b.MinFeatureLevel || m.level > b.MaxFeatureLevel:
		return UnsupportedVersion
	case ok && old.incarnation != b.NodeIncarnation && old.incarnation != c.ReplacesIncarnation:
		return DuplicateBrokerRegistration
	}
	m.brokers[b.BrokerId] = mBroker{b.NodeIncarnation, b.Rack, b.MinFeatureLevel, b.MaxFeatureLevel, b.Listeners[0].Address, old.draining}
	return ""
}

func (m *model) unregister(broker int32, incarnation uint64) Code {
	if code := m.known(broker, incarnation); code != "" {
		return code
	}
	for _, t := range m.topics {
		for k, p := range t.partitions {
			for i, r := range p.replicas {
				if r.broker == broker && !t.deleting {
					return ResourceInUse
				}
				if r.broker == broker {
					p.replicas[i].deleted = true
				}
			}
			var left []mLeaving
			for _, l := range p.leaving {
				if l.broker == broker && !l.removed {
					return ResourceInUse
				}
				if l.broker != broker {
					left = append(left, l)
				}
			}
			t.partitions[k].leaving = left
		}
	}
	delete(m.brokers, broker)
	m.sweep()
	return ""
}

func (m *model) raise(level, expected uint32) Code {
	switch {
	case m.cluster == "":
		return InvalidRequest
	case expected != m.level:
		return InvalidUpdateVersion
	case level <= m.level:
		return FeatureUpdateFailed
	}
	for _, b := range m.brokers {
		if level < b.lo || level > b.hi {
			return FeatureUpdateFailed
		}
	}
	m.level = level
	return ""
}

func (m *model) create(c *statev1.CreateTopic) Code {
	if m.cluster == "" {
		return InvalidRequest
	}
	if t, ok := m.topics[string(c.TopicId)]; ok {
		if t.name == c.Name && !t.deleting {
			return ""
		}
		return InvalidRequest
	}
	for _, r := range c.Name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz._", r) {
			return InvalidTopic
		}
	}
	for _, t := range m.topics {
		if !t.deleting && t.name == c.Name {
			return TopicAlreadyExists
		}
		if !t.deleting && strings.ReplaceAll(t.name, ".", "_") == strings.ReplaceAll(c.Name, ".", "_") {
			return InvalidTopic
		}
	}
	if len(c.Partitions) == 0 {
		return InvalidPartitions
	}
	rf := len(c.Partitions[0].BrokerIds)
	if rf != 1 && rf != 3 && rf != 5 || rf > len(m.brokers) {
		return InvalidReplicationFactor
	}
	t := mTopic{name: c.Name, configs: map[string]string{}, rf: rf}
	if code := m.place(&t, c.Partitions, rf); code != "" {
		return code
	}
	if code := m.configure(t.configs, m.defaults, c.Configs, nil, rf); code != "" {
		return code
	}
	m.topics[string(c.TopicId)] = t
	return ""
}

func (m *model) place(t *mTopic, add []*statev1.Placement, rf int) Code {
	for _, p := range add {
		seen := map[int32]bool{}
		part := mPartition{group: m.group, phase: "creating"}
		m.group++
		for _, b := range p.BrokerIds {
			if _, ok := m.brokers[b]; !ok || seen[b] {
				return InvalidReplicaAssignment
			}
			seen[b] = true
			part.replicas = append(part.replicas, mReplica{broker: b, incarnation: m.replica})
			m.replica++
		}
		if len(part.replicas) != rf {
			return InvalidReplicaAssignment
		}
		t.partitions = append(t.partitions, part)
	}
	return ""
}

// configure knows the configs that the random tests use.
func (m *model) configure(configs, defaults map[string]string, set []*statev1.ConfigValue, unset []string, rf int) Code {
	for _, u := range unset {
		if u != "retention.ms" && u != "min.insync.replicas" {
			return InvalidConfig
		}
		delete(configs, u)
	}
	seen := map[string]bool{}
	for _, c := range set {
		if seen[c.Name] || slices.Contains(unset, c.Name) {
			return InvalidRequest
		}
		seen[c.Name] = true
		if c.Name != "retention.ms" && c.Name != "min.insync.replicas" || c.Value == "x" {
			return InvalidConfig
		}
		configs[c.Name] = c.Value
	}
	if v := configs["min.insync.replicas"]; v != "" && int(v[0]-'0') > rf/2+1 {
		return InvalidConfig
	}
	return ""
}

func (m *model) alter(c *statev1.AlterTopic) Code {
	t, ok := m.topics[string(c.TopicId)]
	if !ok || t.deleting {
		return UnknownTopicID
	}
	rf := t.rf
	if len(c.AddPartitions) > 0 {
		if int(c.ExpectedPartitions) != len(t.partitions) {
			return InvalidUpdateVersion
		}
		if code := m.place(&t, c.AddPartitions, rf); code != "" {
			return code
		}
	}
	if code := m.configure(t.configs, m.defaults, c.SetConfigs, c.UnsetConfigs, rf); code != "" {
		return code
	}
	m.topics[string(c.TopicId)] = t
	return ""
}

func (m *model) alterDefaults(c *statev1.AlterDefaults) Code {
	if m.cluster == "" {
		return InvalidRequest
	}
	for _, s := range c.SetConfigs {
		if s.Name == "min.insync.replicas" {
			return InvalidConfig
		}
	}
	return m.configure(m.defaults, nil, c.SetConfigs, c.UnsetConfigs, 5)
}

func (m *model) report(c *statev1.ReportReplicas) Code {
	if code := m.known(c.BrokerId, c.NodeIncarnation); code != "" {
		return code
	}
	m.each(func(p *mPartition) {
		for i := range p.replicas {
			r := &p.replicas[i]
			is := func(ref *statev1.ReplicaRef) bool {
				return ref.GroupId == p.group && ref.Incarnation == r.incarnation && r.broker == c.BrokerId
			}
			if slices.ContainsFunc(c.Created, is) && p.phase != "deleting" {
				r.created = true
			}
			if slices.ContainsFunc(c.Deleted, is) && p.phase == "deleting" {
				r.deleted = true
			}
			if slices.ContainsFunc(c.Lost, is) && p.phase != "deleting" && r.created {
				r.lost = true
			}
		}
		p.leaving = slices.DeleteFunc(p.leaving, func(l mLeaving) bool {
			return l.removed && l.broker == c.BrokerId && slices.ContainsFunc(c.Deleted, func(ref *statev1.ReplicaRef) bool {
				return ref.GroupId == p.group && ref.Incarnation == l.incarnation
			})
		})
		p.finish()
	})
	m.sweep()
	return ""
}

func (m *model) each(f func(*mPartition)) {
	for _, t := range m.topics {
		for i := range t.partitions {
			f(&t.partitions[i])
		}
	}
}

// sweep forgets topics that are gone everywhere.
func (m *model) sweep() {
	for id, t := range m.topics {
		left := 0
		for _, p := range t.partitions {
			left += len(p.leaving)
			for _, r := range p.replicas {
				if !r.deleted {
					left++
				}
			}
		}
		if left == 0 {
			delete(m.topics, id)
		}
	}
}

// String prints the state as describe prints an image, but for the version.
func (m *model) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %q level %d next group %d incarnation %d producer %d\n", m.cluster, m.level, m.group, m.replica, m.pid)
	for _, id := range slices.Sorted(maps.Keys(m.brokers)) {
		br := m.brokers[id]
		fmt.Fprintf(&b, "broker %d (%d) [{peer %s}] rack %q levels %d-%d draining %v\n", id, br.incarnation, br.address, br.rack, br.lo, br.hi, br.draining)
	}
	fmt.Fprintf(&b, "defaults %v\n", pairs(m.defaults))
	b.WriteString(m.accessString())
	for _, id := range slices.Sorted(maps.Keys(m.topics)) {
		t := m.topics[id]
		fmt.Fprintf(&b, "topic %q %x deleting %v rf %d %v\n", t.name, id, t.deleting, t.rf, pairs(t.configs))
		for i, p := range t.partitions {
			fmt.Fprintf(&b, "  %d: group %d %v %v leaving %v target %v\n", i, p.group, p.phase, p.replicas, p.leaving, p.target)
		}
	}
	return b.String()
}

func pairs(m map[string]string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return out
}

// modelOf turns an image into a model, to be compared.
func modelOf(img *Image) *model {
	m := newModel()
	m.cluster, m.level, m.version = img.ClusterID(), uint32(img.FeatureLevel()), img.Version()
	m.group, m.replica, m.pid = uint64(img.nextGroup), img.nextIncarnation, img.nextProducerID
	for _, b := range img.Brokers() {
		m.brokers[b.ID] = mBroker{b.Incarnation, b.Rack, uint32(b.MinLevel), uint32(b.MaxLevel), b.Listeners[0].Address, b.Draining}
	}
	for _, c := range img.Defaults() {
		m.defaults[c.Name] = c.Value
	}
	m.accessOf(img)
	for _, t := range img.AllTopics() {
		mt := mTopic{name: t.Name, configs: map[string]string{}, deleting: t.Deleting, rf: t.Replication}
		for _, c := range t.Configs {
			mt.configs[c.Name] = c.Value
		}
		for _, p := range t.Partitions {
			mp := mPartition{group: uint64(p.Group), phase: p.Phase.String(), target: p.Target}
			for _, r := range p.Replicas {
				mp.replicas = append(mp.replicas, mReplica{r.Broker, r.Incarnation, r.Created, r.Deleted, r.Joining, r.Added, r.Lost})
			}
			for _, l := range p.Leaving {
				mp.leaving = append(mp.leaving, mLeaving{l.Broker, l.Incarnation, l.Removed})
			}
			mt.partitions = append(mt.partitions, mp)
		}
		m.topics[string(t.ID[:])] = mt
	}
	return m
}
