package cluster

import (
	"context"
	"fmt"
	"time"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// Quorum is the metadata group as its leader knows it.
type Quorum struct {
	// Leader is the controller.
	Leader  int32
	Term    record.Term
	Commit  record.Index
	Members []raftgroup.Member
}

// Quorum asks the controller how far the members of the metadata group are. Nothing is changed by it.
func (c *Cluster) Quorum(ctx context.Context) (Quorum, error) {
	if q, err := c.quorumHere(); err == nil {
		return q, nil
	}
	leader, _, ok := c.Controller()
	to, known := c.PeerTarget(leader)
	if !ok || !known || leader == c.config.Broker {
		return Quorum{}, notController(nil, "no leader of the metadata group is known")
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	resp, err := c.client.DescribeQuorum(ctx, to, &peerv1.DescribeQuorumRequest{})
	if err != nil {
		return Quorum{}, &Error{Code: NotController, Message: err.Error(), Outcome: raftgroup.DidNotHappen, Cause: err}
	}
	if f := resp.GetFailure(); f != nil {
		return Quorum{}, errorFromProto(f)
	}
	q := Quorum{Leader: leader, Term: record.Term(resp.GetTerm()), Commit: record.Index(resp.GetCommitIndex())}
	for _, m := range resp.GetMembers() {
		q.Members = append(q.Members, raftgroup.Member{ID: raftgroup.MakeServerID(m.GetBrokerId(), m.GetIncarnation()), Voter: m.GetVoter(),
			LastIndex: record.Index(m.GetLastIndex()), Heard: timeOf(m.GetLastHeardMs()), Level: timeOf(m.GetLastCaughtUpMs())})
	}
	return q, nil
}

// quorumHere answers if this broker leads the metadata group.
func (c *Cluster) quorumHere() (Quorum, error) {
	g := c.group.Load()
	if g == nil {
		return Quorum{}, notController(nil, "broker %d has not opened the metadata group", c.config.Broker)
	}
	status, members, err := (*g).Members()
	if err != nil {
		return Quorum{}, notController(c.leaderHint(), "%v", err)
	}
	return Quorum{Leader: c.config.Broker, Term: status.Term, Commit: status.CommitIndex, Members: members}, nil
}

// DescribeQuorum answers another broker, if we lead the metadata group (peer.Handler).
func (c *Cluster) DescribeQuorum(context.Context, peer.Identity, *peerv1.DescribeQuorumRequest) (*peerv1.DescribeQuorumResponse, error) {
	q, err := c.quorumHere()
	if err != nil {
		return &peerv1.DescribeQuorumResponse{Failure: errorToProto(err)}, nil
	}
	resp := &peerv1.DescribeQuorumResponse{Term: uint64(q.Term), CommitIndex: uint64(q.Commit)}
	for _, m := range q.Members {
		broker, incarnation, err := raftgroup.ParseServerID(m.ID)
		if err != nil {
			return nil, fmt.Errorf("member of the metadata group: %w", err)
		}
		resp.Members = append(resp.Members, &peerv1.QuorumMember{BrokerId: broker, Incarnation: incarnation, Voter: m.Voter,
			LastIndex: uint64(m.LastIndex), LastHeardMs: millisOf(m.Heard), LastCaughtUpMs: millisOf(m.Level)})
	}
	return resp, nil
}

// millisOf is a time as Unix milliseconds; the zero time is 0.
func millisOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
