package group

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/machinetest"
)

var tooLong = strings.Repeat("x", MaxIDLength+1)

// commandsOf makes commands out of lines that scripts have, and changes them: what is wrong may be what no line can say.
func commandsOf(t *testing.T) func(line string, change func(*statev1.GroupCommand)) *statev1.GroupCommand {
	p := newPlayer(t)
	return func(line string, change func(*statev1.GroupCommand)) *statev1.GroupCommand {
		c := p.parse(strings.Fields(line))
		change(c)
		return c
	}
}

func same(*statev1.GroupCommand) {}

// mustRefuse wants that commands are neither encoded nor applied.
func mustRefuse(t *testing.T, commands map[string]*statev1.GroupCommand) {
	t.Helper()
	for what, cmd := range commands {
		if _, err := EncodeCommand(cmd); !errors.Is(err, ErrInvalidCommand) {
			t.Errorf("%s: encoded with %v", what, err)
		}
		b, err := proto.Marshal(cmd)
		if err != nil {
			continue // what is not UTF-8 cannot even be written
		}
		if _, err := New().Apply(1, 1, b); !errors.Is(err, ErrInvalidCommand) && !errors.Is(err, statev1.ErrNewer) {
			t.Errorf("%s: applied with %v", what, err)
		}
	}
}

func TestOffsetCommandsAreChecked(t *testing.T) {
	c := commandsOf(t)
	mustRefuse(t, map[string]*statev1.GroupCommand{
		"member":          c("commit g t/0=1", func(c *statev1.GroupCommand) { c.GetCommit().Committer.MemberId = tooLong }),
		"instance":        c("txn g 1/0 t/0=1", func(c *statev1.GroupCommand) { c.GetCommitInTransaction().Committer.InstanceId = tooLong }),
		"expiry":          c("commit g t/0=1 expire=-2", same),
		"topic":           c("commit g t/0=1", func(c *statev1.GroupCommand) { c.GetCommit().Topics[0].Topic = "" }),
		"topic id":        c("commit g t/0=1", func(c *statev1.GroupCommand) { c.GetCommit().Topics[0].TopicId = nil }),
		"topic twice":     c("commit g t/0=1,u/0=1", func(c *statev1.GroupCommand) { c.GetCommit().Topics[1].Topic = "t" }),
		"no partitions":   c("commit g t/0=1", func(c *statev1.GroupCommand) { c.GetCommit().Topics[0].Partitions = nil }),
		"partition":       c("commit g t/-1=1", same),
		"partition twice": c("commit g t/0=1,t/0=2", same),
		"leader epoch":    c("commit g t/0=1 leader=-2", same),
		"metadata":        c("commit g t/0=1:"+strings.Repeat("x", MaxMetadataUnits+1), same),
		"metadata, pairs": c("commit g t/0=1:"+strings.Repeat("\U0001f600", MaxMetadataUnits/2+1), same),
		"too many": c("commit g t/0=1", func(c *statev1.GroupCommand) {
			for n := range int32(MaxCommitted) {
				c.GetCommit().Topics[0].Partitions = append(c.GetCommit().Topics[0].Partitions, &statev1.PartitionOffset{Partition: n + 1})
			}
		}),
		"producer":            c("txn g -1/0 t/0=1", same),
		"producer epoch":      c("txn g 1/-1 t/0=1", same),
		"marker: version":     c("marker 1/1 commit tv=3", same),
		"marker: group":       c("marker 1/1 commit", func(c *statev1.GroupCommand) { c.GroupId = "g" }),
		"marker: coordinator": c("marker 1/1 commit ce=-1", same),
		"marker: producer":    c("marker -1/1 commit", same),
		"delete: order":       c("delete-offsets g u/0,t/0", same),
		"delete: partition":   c("delete-offsets g t/1,t/0", same),
		"delete: topic":       c("delete-offsets g t/1", func(c *statev1.GroupCommand) { c.GetDeleteOffsets().Topics[0].Topic = "" }),
	})
}

func TestConsumerCommandsAreChecked(t *testing.T) {
	c := commandsOf(t)
	mustRefuse(t, map[string]*statev1.GroupCommand{
		"join: member":     c("join g a", func(c *statev1.GroupCommand) { c.GetHeartbeat().MemberId = "" }),
		"join: no topics":  c("join g a", func(c *statev1.GroupCommand) { c.GetHeartbeat().Subscription.Topics = nil }),
		"join: nothing":    c("join g a", func(c *statev1.GroupCommand) { c.GetHeartbeat().Subscription = nil }),
		"join: partitions": c("join g a", func(c *statev1.GroupCommand) { c.GetHeartbeat().Owned = nil }),
		"join: owns":       c("join g a owns=t/0", same),
		"join: timeout":    c("join g a timeout=0", same),
		"join: pattern":    c("join g a pattern="+tooLong, same),
		"join: topics":     c("join g a topics=u,t", same),
		"join: topic":      c("join g a topics="+tooLong, same),
		"join: client":     c("join g a by="+tooLong+"@x", same),
		"join: assignor":   c("join g a assignor="+tooLong, same),
		"beat: -3":         c("beat g a@-3", same),
		"beat: away":       c("beat g a@-2", same),
		"beat: owned":      c("beat g a@1 owns=t/1", func(c *statev1.GroupCommand) { c.GetHeartbeat().Owned.Topics[0].Partitions = []int32{1, 1} }),
		"beat: owned id":   c("beat g a@1 owns=t/1", func(c *statev1.GroupCommand) { c.GetHeartbeat().Owned.Topics[0].TopicId = nil }),
		"fence: order":     c("fence g b,a", same),
		"fence: nobody":    c("fence g b", func(c *statev1.GroupCommand) { c.GetFence().Members[0].MemberId = "" }),
		"assign: twice":    c("assign g a=t/0 b=t/0", same),
		"assign: topic":    c("assign g a=t/0", func(c *statev1.GroupCommand) { c.GetAssign().Topics = nil }),
		"assign: name":     c("assign g a=t/0", func(c *statev1.GroupCommand) { c.GetAssign().Topics[0].Topic = "" }),
		"assign: id":       c("assign g a=t/0", func(c *statev1.GroupCommand) { c.GetAssign().Topics[0].TopicId = nil }),
		"assign: numbers":  c("assign g a=t/0", func(c *statev1.GroupCommand) { c.GetAssign().Members[0].Topics[0].Partitions = nil }),
		"assign: members":  c("assign g a=t/0 b=t/1", func(c *statev1.GroupCommand) { c.GetAssign().Members[1].MemberId = "a" }),
		"assign: matched":  c("assign g matched=u,t", same),
	})
}

func TestClassicCommandsAreChecked(t *testing.T) {
	c := commandsOf(t)
	mustRefuse(t, map[string]*statev1.GroupCommand{
		"begin: generation": c("begin g a previous=-1", same),
		"begin: type":       c("begin g a", func(c *statev1.GroupCommand) { c.GetBeginGeneration().ProtocolType = "" }),
		"begin: protocol":   c("begin g a", func(c *statev1.GroupCommand) { c.GetBeginGeneration().Protocol = "" }),
		"begin: long":       c("begin g a protocol="+tooLong, same),
		"begin: leader":     c("begin g a leader=b", same),
		"begin: order":      c("begin g a,b", func(c *statev1.GroupCommand) { c.GetBeginGeneration().Members[0].MemberId = "c" }),
		"begin: instances":  c("begin g a/i,b/i", same),
		"begin: session":    c("begin g a", func(c *statev1.GroupCommand) { c.GetBeginGeneration().Members[0].SessionTimeoutMs = 0 }),
		"begin: rebalance":  c("begin g a", func(c *statev1.GroupCommand) { c.GetBeginGeneration().Members[0].RebalanceTimeoutMs = -1 }),
		"begin: metadata":   c("begin g a", func(c *statev1.GroupCommand) { c.GetBeginGeneration().Members[0].Metadata = make([]byte, MaxOpaque+1) }),
		"begin: together": c("begin g a,b,c", func(c *statev1.GroupCommand) {
			for _, m := range c.GetBeginGeneration().Members {
				m.Metadata = make([]byte, MaxOpaque)
			}
		}),
		"give: order":      c("give g b=x,a=x", same),
		"give: nobody":     c("give g =x", same),
		"give: long":       c("give g a="+strings.Repeat("x", MaxOpaque+1), same),
		"give: together":   c("give g a="+strings.Repeat("x", MaxOpaque)+",b="+strings.Repeat("x", MaxOpaque)+",c="+strings.Repeat("x", MaxOpaque), same),
		"replace: dynamic": c("replace g a b", same),
		"go: nobody":       c("go g a", func(c *statev1.GroupCommand) { c.GetLeaveGeneration().MemberIds[0] = "" }),
		"go: order":        c("go g b,a", same),
		"go: none":         c("go g a", func(c *statev1.GroupCommand) { c.GetLeaveGeneration().MemberIds = nil }),
		"replace: nobody":  c("replace g a b/i", func(c *statev1.GroupCommand) { c.GetReplaceMember().OldId = "" }),
	})
}

func TestShardCommandsAreChecked(t *testing.T) {
	c := commandsOf(t)
	mustRefuse(t, map[string]*statev1.GroupCommand{
		"nothing":       {GroupId: "a"},
		"long id":       c("commit g t/0=1", func(c *statev1.GroupCommand) { c.GroupId = tooLong }),
		"not UTF-8":     c("commit g t/0=1", func(c *statev1.GroupCommand) { c.GroupId = "\xff" }),
		"forget: group": c("forget t", func(c *statev1.GroupCommand) { c.GroupId = "g" }),
		"forget: id":    c("forget t", func(c *statev1.GroupCommand) { c.GetForgetTopics().TopicIds[0] = []byte{1} }),
		"forget: many":  c("forget t", func(c *statev1.GroupCommand) { c.GetForgetTopics().TopicIds = make([][]byte, MaxForgotten+1) }),
		"expire: group": c("expire-producers", func(c *statev1.GroupCommand) { c.GroupId = "g" }),
		"limits":        c("limits 1 1 0 1 1", same),
		"limits: bytes": c("limits 1 1 1 1 0", same),
		"limits: group": c("limits 1 1 1 1 1", func(c *statev1.GroupCommand) { c.GroupId = "g" }),
	})
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	if _, err := New().Apply(1, 1, machinetest.UnknownField()); !errors.Is(err, statev1.ErrNewer) {
		t.Error(err)
	}
}

func TestMetadataUnits(t *testing.T) {
	if n := MetadataUnits("aé\U0001f600"); n != 4 {
		t.Errorf("%d units", n)
	}
}
