package main

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/oncelog/oncelog/compat/apachekafka"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// system is a cluster that runs.
type system struct {
	name  string
	kafka bool
	addrs []string
	pids  func() []int
	// kill kills a broker; revive starts it again and waits until the cluster is whole.
	kill   func(id int32) error
	revive func(ctx context.Context, id int32) error
	close  func()
	// http are the addresses that have our profiles.
	http []string
}

// ourSettings are those that Kafka's cluster has, too: groups do not wait for more members (compat/apachekafka).
var ourSettings = []string{"log.level=warn", "groups.initial_rebalance_delay=0s"}

func startOurs(ctx context.Context, dir string, profiles bool) (*system, error) {
	set := slices.Clone(ourSettings)
	if profiles {
		set = append(set, "http.profiles=true")
	}
	c, err := brokerproc.New(brokerproc.Options{Binary: filepath.Join(dir, "brokerd"), Dir: dir, Brokers: 3, Set: set})
	if err != nil {
		return nil, err
	}
	s := &system{name: "oncelog", addrs: c.KafkaAddrs(), close: c.Close}
	for _, p := range c.Brokers() {
		s.http = append(s.http, p.HTTP)
	}
	s.pids = func() (list []int) {
		for _, p := range c.Brokers() {
			list = append(list, p.PID())
		}
		return list
	}
	s.kill = func(id int32) error { return c.Broker(id).Kill() }
	s.revive = func(ctx context.Context, id int32) error {
		if err := c.Broker(id).Start(); err != nil {
			return err
		}
		return c.Broker(id).WaitReady(ctx)
	}
	if err := c.Start(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// newKafka formats the brokers' directories.
func newKafka(ctx context.Context, dir string) (kafkaCluster, error) {
	c, err := apachekafka.New(ctx, apachekafka.Options{Dir: dir, Heap: "1g"})
	return kafkaCluster{c}, err
}

type kafkaCluster struct{ *apachekafka.Cluster }

func (c kafkaCluster) start(ctx context.Context) (*system, error) {
	s := &system{name: "kafka", kafka: true, addrs: c.KafkaAddrs(), close: c.Close}
	s.pids = func() (list []int) {
		for _, p := range c.Brokers() {
			list = append(list, p.PID())
		}
		return list
	}
	s.kill = func(id int32) error { return c.Broker(id).Kill() }
	s.revive = func(ctx context.Context, id int32) error {
		if err := c.Broker(id).Start(); err != nil {
			return err
		}
		return c.WaitReady(ctx)
	}
	if err := c.Start(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}
