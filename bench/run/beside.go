package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// other is a cluster with other settings beside the one that all rows share.
type other struct {
	name string
	// set are settings of its brokers, on top of those that all have.
	set []string
	// flags make brokerctl a client of it, config a client in this program.
	flags  []string
	config client.Config
}

// beside gives a bench of another cluster, which is started when it is first asked for and stays until the end, so that both see the same
// minutes.
func (b *bench) beside(ctx context.Context, o other) (*bench, error) {
	if had := b.others[o.name]; had != nil {
		return had, nil
	}
	dir := filepath.Join(b.dir, o.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	set := append(append([]string(nil), b.options.set...), o.set...)
	c, err := brokerproc.New(brokerproc.Options{Binary: filepath.Join(b.dir, "brokerd"), Dir: dir, Brokers: 3, Set: set})
	if err != nil {
		return nil, err
	}
	if b.others == nil {
		b.others = make(map[string]*bench)
	}
	n := &bench{dir: b.dir, cluster: c, flags: o.flags, options: b.options}
	b.others[o.name] = n // from now on close ends it
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	o.config.Bootstrap = c.GRPCAddrs()
	if n.client, err = client.New(o.config); err != nil {
		return nil, err
	}
	return n, nil
}

// close ends the clusters beside.
func (b *bench) close(ctx context.Context) {
	for _, o := range b.others {
		if o.client != nil {
			_ = o.client.Close(ctx) // what it did is done
		}
		o.cluster.Close()
	}
}
