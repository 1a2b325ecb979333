package test

import (
	"testing"

	"github.com/oncelog/oncelog/client"
)

// Two of three brokers are lost for ever. The third is made the cluster; what it has is all there, it takes more, brokers
// come in place of the lost ones, and in the end everything has three replicas again.
func TestMajorityIsLost(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{})
	s.send(p, numbers(500))
	s.inTransaction("before", "500")
	survivor := int32(1)
	s.until("the survivor to have it all", func() bool {
		g := s.raftGroup(survivor)
		return g.HighWatermark == s.raftGroup(s.leader()).HighWatermark && g.HighWatermark > 501
	})
	before := s.raftGroup(survivor).Term
	s.c.Kill(2)
	s.c.Kill(3)
	s.c.Kill(survivor)

	planned := s.c.Recover(survivor, true)
	done := s.c.Recover(survivor, false)
	if len(planned) < 3 || len(done) != len(planned) { // metadata, the partition, shards of coordinators
		t.Fatalf("%d groups are planned, %d done", len(planned), len(done))
	}
	for i, g := range done {
		if g.Err != nil || !g.Changed || !planned[i].Changed || len(g.Voters) != 3 || planned[i].Last+1 != g.Last {
			t.Errorf("%+v, planned %+v", g, planned[i])
		}
	}
	for _, g := range s.c.Recover(survivor, false) {
		if g.Changed {
			t.Errorf("%s is recovered twice", g.Name)
		}
	}
	s.c.StartAgain(survivor)
	s.until("the survivor to lead", func() bool { return s.leader() == survivor })
	// R7: the lost ones may have been at a higher term, which clients and partitions have heard of.
	if term := s.raftGroup(survivor).Term; term < before+1000 {
		t.Errorf("the survivor leads at term %d, after %d", term, before)
	}
	s.wantStored(append(numbers(500), "500")...)
	s.write(s.producer(client.ProducerConfig{}), "501")
	s.inTransaction("before", "502") // the coordinator is there, too

	s.c.Add()
	s.c.Add()
	for _, lost := range []int32{2, 3} {
		if err := s.cl.DrainBroker(s.ctx, lost, true); err != nil {
			t.Fatal(err)
		}
	}
	for _, lost := range []int32{2, 3} {
		s.until("a lost broker to be forgotten", func() bool { return s.cl.UnregisterBroker(s.ctx, lost) == nil })
	}
	s.settled(1, 4, 5)
	s.replicasAgree()
	s.wantStored(append(numbers(500), "500", "501", "502")...)
}

// inTransaction writes values in a transaction of an id.
func (s *scenario) inTransaction(id string, values ...string) {
	s.t.Helper()
	p, err := s.cl.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: id})
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.Close(s.ctx)
	if err := p.InitTransactions(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	if err := p.Begin(); err != nil {
		s.t.Fatal(err)
	}
	for _, v := range values {
		if err := p.Send(s.ctx, rec(v), nil); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := p.Commit(s.ctx); err != nil {
		s.t.Fatal(err)
	}
}
