package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/oncelog/oncelog/client"
)

// copyJSON is a replica that is being filled, as -o json shows it.
type copyJSON struct {
	Name   string `json:"name"`
	Broker int32  `json:"broker"`
	// Copied of Total bytes are there; the log may grow meanwhile.
	Copied int64 `json:"copied_bytes"`
	Total  int64 `json:"total_bytes"`
	// PerSecond is how fast it goes now, SecondsLeft how long it takes at that pace; null: nothing was copied while it was looked at.
	PerSecond   int64  `json:"bytes_per_second"`
	SecondsLeft *int64 `json:"seconds_left"`
}

// copiesOf are the replicas that copy what their leaders have: those that have no vote yet, and those that lack so much that they cannot
// be brought level entry by entry.
func copiesOf(groups []client.RaftGroup) (list []copyJSON) {
	for _, g := range groups {
		i := slices.IndexFunc(groups, func(l client.RaftGroup) bool { return l.GroupID == g.GroupID && l.Role == "leader" })
		if i < 0 || g.Role == "leader" || g.Problem != "" {
			continue
		}
		lead := groups[i]
		if fills(lead, g) || g.LastIndex < lead.FirstIndex {
			list = append(list, copyJSON{Name: g.Name, Broker: g.Broker, Copied: max(0, min(g.LogBytes, lead.LogBytes)), Total: max(0, lead.LogBytes)})
		}
	}
	return list
}

// fills tells whether a replica without a vote is being filled. Those of the metadata stay without one where enough brokers vote: only
// one that lies behind gets what it lacks.
func fills(lead, g client.RaftGroup) bool {
	return slices.Contains(brokersOf(lead.Learners), g.Broker) && (lead.GroupID != metadataGroup || g.LastIndex+behindAllowed < lead.CommitIndex)
}

// copyLook is how long copies are watched to see how fast they go.
const copyLook = time.Second

// copies shows how fast replicas are being filled, for which it looks twice; none: it has looked at what it was given alone.
func (p *program) copies(ctx context.Context, c *client.Client, groups []client.RaftGroup) []copyJSON {
	before, began := copiesOf(groups), time.Now()
	if len(before) == 0 || !wait(ctx, copyLook) {
		return before
	}
	groups, _, err := c.RaftGroups(ctx, "")
	if err != nil {
		return before
	}
	now := copiesOf(groups)
	for i := range now {
		n := &now[i]
		if j := slices.IndexFunc(before, func(b copyJSON) bool { return b.Name == n.Name && b.Broker == n.Broker }); j >= 0 {
			n.pace(n.Copied-before[j].Copied, time.Since(began))
		}
	}
	return now
}

// pace enters how fast it goes.
func (c *copyJSON) pace(bytes int64, took time.Duration) {
	if bytes <= 0 || took <= 0 {
		return
	}
	c.PerSecond = int64(float64(bytes) / took.Seconds())
	if c.PerSecond > 0 {
		left := (c.Total - c.Copied + c.PerSecond - 1) / c.PerSecond
		c.SecondsLeft = &left
	}
}

// words says how far a copy is.
func (c *copyJSON) words() string {
	text := fmt.Sprintf("%s of %s copied", size(c.Copied), size(c.Total))
	if c.SecondsLeft != nil {
		text += fmt.Sprintf(", %s/s, %s left", size(c.PerSecond), time.Duration(*c.SecondsLeft)*time.Second)
	}
	return text
}

// copyTable shows replicas that are being filled.
func copyTable(list []copyJSON) *table {
	t := newTable("BEING FILLED", ">BROKER", ">COPIED", ">OF", ">PER SECOND", ">LEFT")
	for _, c := range list {
		left := "-"
		if c.SecondsLeft != nil {
			left = (time.Duration(*c.SecondsLeft) * time.Second).String()
		}
		t.row(c.Name, c.Broker, size(c.Copied), size(c.Total), size(c.PerSecond), left)
	}
	return t
}

// copyPace remembers how far a copy was, to say how fast it goes. It forgets what is older than paceOver.
type copyPace struct {
	seen []paceSample
}

type paceSample struct {
	at   time.Time
	have int64
}

const paceOver = 20 * time.Second

// words says how far it is now, and how fast it went lately.
func (p *copyPace) words(now time.Time, have, want int64) string {
	if n := len(p.seen); n > 0 && have < p.seen[n-1].have {
		p.seen = nil // another replica, or begun anew
	}
	p.seen = append(p.seen, paceSample{now, have})
	for len(p.seen) > 2 && now.Sub(p.seen[0].at) > paceOver {
		p.seen = p.seen[1:]
	}
	c := copyJSON{Copied: have, Total: want}
	c.pace(have-p.seen[0].have, now.Sub(p.seen[0].at))
	return c.words()
}
