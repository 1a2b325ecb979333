package api

import (
	"context"
	"path"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// What a caller must be allowed to do is asked in the handler of each call, of the same operation and resource as the Kafka API of the same
// meaning, once the request is well formed and before anything is looked up: who may not see a resource does not learn whether it exists.
// Rules decide in frontdoor.Guard, each time anew: a right that is taken away counts from the next request of a stream on.

// rights are what the caller of one call may do. The zero value is for where nothing is decided, and costs nothing.
type rights struct {
	guard *frontdoor.Guard
	by    frontdoor.Caller
	call  string
}

// rights of who calls.
func (s *service) rights(ctx context.Context) rights {
	if !s.c.Guard.Decides() {
		return rights{}
	}
	method, _ := grpc.Method(ctx)
	return rights{guard: s.c.Guard, by: callerOf(ctx), call: path.Base(method)}
}

// callerOf is who calls: nobody in particular, where admit has found nobody.
func callerOf(ctx context.Context) frontdoor.Caller {
	if c, ok := ctx.Value(callerKey{}).(frontdoor.Caller); ok {
		return c
	}
	from, _, _ := origin(ctx)
	return frontdoor.NewCaller("grpc", "", from)
}

// refuse says why the caller may not do something; nil: it may.
func (r *rights) refuse(op acl.Operation, t acl.ResourceType, name string) *clientv1.Error {
	if r.guard == nil || r.guard.May(r.by, r.call, op, t, name) {
		return nil
	}
	return r.denial(op, t, name)
}

// refuseCluster is refuse for the cluster.
func (r *rights) refuseCluster(op acl.Operation) *clientv1.Error {
	return r.refuse(op, acl.Cluster, acl.ClusterName)
}

// refuseCluster says why who calls may not do something to the cluster; nil: it may.
func (s *service) refuseCluster(ctx context.Context, op acl.Operation) *clientv1.Error {
	by := s.rights(ctx)
	return by.refuseCluster(op)
}

// refuseBoth is refuse where one of two rights is enough; the last is the one that is named.
func (r *rights) refuseBoth(one, other frontdoor.Action) *clientv1.Error {
	if r.guard == nil || r.guard.MayAny(r.by, r.call, one, other) {
		return nil
	}
	return r.denial(other.Operation, other.Type, other.Name)
}

// refuseProducer says why the caller may not have a producer id of no transactional id: it may, if it may write to any topic, or has the right
// that clusters of before had for it.
func (r *rights) refuseProducer() *clientv1.Error {
	if r.guard == nil || r.guard.Sees(r.by, acl.IdempotentWrite, acl.Cluster, acl.ClusterName) || r.guard.MaySome(r.by, r.call, acl.Write, acl.Topic) {
		return nil
	}
	return r.denial(acl.Write, acl.Topic, "")
}

// sees says whether something is in an answer rather than left out of it without a word.
func (r *rights) sees(op acl.Operation, t acl.ResourceType, name string) bool {
	return r.guard == nil || r.guard.Sees(r.by, op, t, name)
}

func (r *rights) denial(op acl.Operation, t acl.ResourceType, name string) *clientv1.Error {
	e := refused(frontdoor.Denied(t), "", "", "%s", frontdoor.DenialText(r.by, op, t, name))
	e.Metadata = map[string]string{"principal": valid(r.by.Principal()), "operation": op.String(), "resource_type": t.String(), "resource": valid(name)}
	return e
}

// denied says whether an error is one of denial.
func denied(e *clientv1.Error) bool { return e.Metadata["principal"] != "" }

// topicRights says, for one request, to which topics the caller may do something, and why not.
type topicRights struct {
	rights
	frontdoor.Permits
	op acl.Operation
}

// topics says to which topics the caller may do something.
func (s *service) topics(r rights, op acl.Operation) topicRights {
	return topicRights{r, r.guard.Topics(r.by, r.call, op, false), op}
}

// refuse says why the caller may not do it to a topic; nil: it may.
func (t *topicRights) refuse(topic string) *clientv1.Error {
	if t.Allow(topic) {
		return nil
	}
	return t.denial(t.op, acl.Topic, topic)
}
