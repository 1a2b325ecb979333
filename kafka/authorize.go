package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// What a client must be allowed to do is asked in the handler of each key, of the same operation and resource as Kafka does, before
// anything is looked up: who may not see a resource does not learn whether it exists. Rules decide in frontdoor.Guard; how the answer
// is asked for, and what is said to who may not, is here.

// noOperations stands for operations that were not asked for.
const noOperations = -1 << 31

// may says whether the client may do something to a resource.
func (c *conn) may(r *request, op acl.Operation, t acl.ResourceType, name string) bool {
	return c.c.Guard.May(c.caller, r.endpoint.name, op, t, name)
}

// mayAny says whether the client may do any of several things.
func (c *conn) mayAny(r *request, actions ...frontdoor.Action) bool {
	return c.c.Guard.MayAny(c.caller, r.endpoint.name, actions...)
}

// mayCluster says whether the client may do something to the cluster.
func (c *conn) mayCluster(r *request, op acl.Operation) bool {
	return c.may(r, op, acl.Cluster, acl.ClusterName)
}

// sees says whether something is in an answer rather than left out of it without a word.
func (c *conn) sees(op acl.Operation, t acl.ResourceType, name string) bool {
	return c.c.Guard.Sees(c.caller, op, t, name)
}

// denied is the code for who may not get at a resource of a type.
func (c *conn) denied(r *request, t acl.ResourceType) int16 { return c.refuse(r, frontdoor.Denied(t)) }

// denial is denied with a text that says what is missing.
func (c *conn) denial(r *request, op acl.Operation, t acl.ResourceType, name string) (code int16, message *string) {
	text := frontdoor.DenialText(c.caller, op, t, name)
	return c.denied(r, t), &text
}

// clusterDenial is denial for the cluster.
func (c *conn) clusterDenial(r *request, op acl.Operation) (code int16, message *string) {
	return c.denial(r, op, acl.Cluster, acl.ClusterName)
}

// operations are those that the client may do to a resource, as Kafka's answers have them: one bit for each.
func (c *conn) operations(t acl.ResourceType, name string) int32 {
	bits := int32(0)
	for _, op := range c.c.Guard.Operations(c.caller, t, name) {
		bits |= 1 << op
	}
	return bits
}

// clusterOperations are the client's on the cluster, or none if it must not even describe it.
func (c *conn) clusterOperations(r *request) int32 {
	if !c.mayCluster(r, acl.Describe) {
		return 0
	}
	return c.operations(acl.Cluster, acl.ClusterName)
}

// topics says to which topics the client may do something.
func (c *conn) topics(r *request, op acl.Operation) frontdoor.Permits {
	return c.c.Guard.Topics(c.caller, r.endpoint.name, op, false)
}

// topicsSeen is topics for what is left out of an answer.
func (c *conn) topicsSeen(r *request, op acl.Operation) frontdoor.Permits {
	return c.c.Guard.Topics(c.caller, r.endpoint.name, op, true)
}

// ofConfigs is what a resource that has configs is to the rules: those of brokers, and of what brokers do, are the cluster's. A type that
// nothing is known of is the cluster's too.
func ofConfigs(t kmsg.ConfigResourceType, name string) (acl.ResourceType, string) {
	switch t {
	case kmsg.ConfigResourceTypeTopic:
		return acl.Topic, name
	case kmsg.ConfigResourceTypeGroupConfig:
		return acl.Group, name
	}
	return acl.Cluster, acl.ClusterName
}

// mayConfigs says whether the client may do something to a resource's configs.
func (c *conn) mayConfigs(r *request, op acl.Operation, t kmsg.ConfigResourceType, name string) bool {
	of, called := ofConfigs(t, name)
	return c.may(r, op, of, called)
}

// configsDenial is what is said to who may not.
func (c *conn) configsDenial(op acl.Operation, t kmsg.ConfigResourceType, name string) (reason, message string) {
	of, called := ofConfigs(t, name)
	return frontdoor.Denied(of), frontdoor.DenialText(c.caller, op, of, called)
}
