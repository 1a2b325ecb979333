package main

import (
	"context"
	"os"

	"github.com/oncelog/oncelog/internal/brokerproc"
	"github.com/oncelog/oncelog/internal/netproxy"
)

// processes is a cluster of brokerd processes.
type processes struct {
	*brokerproc.Cluster
	dir string
}

func openProcesses(ctx context.Context, binary string, set ...string) (cluster, error) {
	dir, err := os.MkdirTemp("", "oncelog-chaos-")
	if err != nil {
		return nil, err
	}
	c, err := brokerproc.New(brokerproc.Options{Binary: binary, Dir: dir, Brokers: 3, Proxied: true, Set: append(set, "groups.session_timeout=3s", "groups.heartbeat_interval=500ms")})
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return &processes{c, dir}, nil
}

func (p *processes) Addrs() []string { return p.GRPCAddrs() }

func (p *processes) Brokers() []int32 { return []int32{1, 2, 3} }

func (p *processes) Kill(id int32) error { return p.Broker(id).Kill() }

func (p *processes) Start(id int32) error { return p.Broker(id).Start() }

func (p *processes) Pause(id int32) error { return p.Broker(id).Pause() }

func (p *processes) Resume(id int32) error { return p.Broker(id).Resume() }

func (p *processes) Cut(int32) (bool, error) { return false, nil }

func (p *processes) Heal(int32) error { return nil }

func (p *processes) Network() *netproxy.Network { return p.Cluster.Network }

func (p *processes) WaitReady(ctx context.Context, id int32) error {
	return p.Broker(id).WaitReady(ctx)
}

func (p *processes) Close() {
	p.Cluster.Close()
	if os.Getenv("ONCELOG_CHAOS_KEEP") == "" {
		_ = os.RemoveAll(p.dir) // What cannot be removed is in the temporary directory.
	}
}
