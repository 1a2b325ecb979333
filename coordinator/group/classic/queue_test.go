package classic

import (
	"errors"
	"fmt"
	"testing"
)

// Requests that wait for a proposal hold no more memory than all members of a group may; more are refused, and told so at once.
func TestWhatWaitsIsBounded(t *testing.T) {
	c := DefaultConfig()
	c.InitialDelayMS = 0
	p := newPlayer(t, c)
	p.manual = true
	join := func(ticket Ticket, metadata int) Join {
		return Join{NewID: fmt.Sprint("m", ticket), ProtocolType: "consumer", Protocols: []Protocol{{"range", make([]byte, metadata)}},
			SessionTimeoutMS: 10_000, RebalanceTimeoutMS: 10_000}
	}
	p.conv.Join(0, 1, join(1, 10))
	p.conv.Tick(0)
	if !p.conv.Deciding() {
		t.Fatal("no generation is being written")
	}
	members := p.conv.Bytes()
	p.effects()
	const each = 1 << 20
	busy := 0
	for ticket := Ticket(2); ticket < 40; ticket++ {
		switch ticket % 3 {
		case 0:
			p.conv.Join(0, ticket, join(ticket, each))
		case 1:
			p.conv.Sync(0, ticket, Sync{MemberID: "x", Assignments: []Assignment{{"x", make([]byte, each)}}})
		default:
			p.conv.Leave(0, ticket, []Leaving{{MemberID: string(make([]byte, each))}})
		}
		for _, e := range p.conv.Effects() {
			var err error
			switch e := e.(type) {
			case Joined:
				err = e.Err
			case Synced:
				err = e.Err
			case Left:
				err = e.Err
			}
			if !errors.Is(err, ErrBusy) {
				t.Fatalf("answered %+v", e)
			}
			busy++
		}
	}
	if held := p.conv.Bytes() - members; held > maxQueuedBytes || held < maxQueuedBytes-2*each || busy < 20 {
		t.Errorf("%d bytes wait, %d requests were refused", held, busy)
	}
	for p.conv.Deciding() { // the generation, and what those who waited bring about
		p.decide(nil)
		p.effects()
	}
	if p.conv.queuedBytes != 0 || len(p.conv.queue) > 0 {
		t.Errorf("%d requests of %d bytes are left", len(p.conv.queue), p.conv.queuedBytes)
	}
}
