package test

import (
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/vfs"
)

// TestTroubleWithDisks holds the table of docs/operations.md: each trouble has its metric, its line in the log and its sentence
// in /readyz, writing goes on meanwhile, nothing acknowledged is lost, and it ends as the table says.
func TestTroubleWithDisks(t *testing.T) {
	t.Parallel()
	ioError := fmt.Errorf("input/output error")
	for _, c := range []struct {
		name   string
		begin  func(*brokertest.Cluster, int32)
		metric string
		logged []string
		readyz string // in the reasons or, beside ready, the warnings
		end    func(*brokertest.Cluster, int32)
	}{
		{"full", func(c *brokertest.Cluster, id int32) { d := c.Disk(id); d.SetCapacity(d.Used()) }, "brokerd_disk_full", []string{"disk: full"}, "the disk is full, writes are refused",
			func(c *brokertest.Cluster, id int32) { c.Disk(id).SetCapacity(0) }},
		{"slow", func(c *brokertest.Cluster, id int32) { c.SlowDisk(id, 700*time.Millisecond) }, "", []string{"disk: slow"}, "ready; the disk is slow: a sync took 700ms",
			func(c *brokertest.Cluster, id int32) { c.SlowDisk(id, 0) }},
		{"hung", func(c *brokertest.Cluster, id int32) { c.SlowDisk(id, 6*time.Second) }, "brokerd_raft_disk_stalls_total", []string{"disk: does not answer"}, "the disk does not answer: a write has been under way for",
			func(c *brokertest.Cluster, id int32) { c.SlowDisk(id, 0) }},
		{"fsync fails", func(c *brokertest.Cluster, id int32) { c.Disk(id).FailNth(vfs.OpSync, ".seg", 1, ioError) }, "brokerd_log_failures_total", []string{"stopped by a fault", "input/output error"}, "replica of " + topic + "/0 is out of service",
			restart},
		{"read-only", readOnly, "brokerd_log_failures_total", []string{"stopped by a fault", "read-only file system"}, "replica of " + topic + "/0 is out of service",
			func(c *brokertest.Cluster, id int32) { c.Disk(id).ClearFaults(); restart(c, id) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			brokertest.Simulate(t, brokertest.Options{LogLevel: silent}, func(t *testing.T, cluster *brokertest.Cluster) {
				s := beginOn(t, cluster)
				p := s.producer(client.ProducerConfig{Linger: client.NoLinger})
				n := 0
				write := func() bool { s.write(p, fmt.Sprint(n)); n++; return true }
				write()
				id := s.leader()
				c.begin(s.c, id)
				s.until("its metric", func() bool { return write() && (c.metric == "" || s.c.Metric(id, c.metric) > 0) })
				s.until("its line in the log", func() bool { return write() && s.c.Logged(id, c.logged...) })
				s.until("its sentence in /readyz", func() bool { return write() && strings.Contains(s.readyz(id), c.readyz) })
				c.end(s.c, id)
				s.until("to be well", func() bool { return write() && s.readyz(id) == "ready" })
				s.wantStored(numbers(n)...)
			})
		})
	}
}

// silent is above all that brokers log.
const silent = slog.Level(100)

// readOnly is a file system that its kernel has remounted.
func readOnly(c *brokertest.Cluster, id int32) {
	for _, kind := range []vfs.OpKind{vfs.OpWrite, vfs.OpCreate, vfs.OpSync, vfs.OpTruncate, vfs.OpReserve, vfs.OpRename, vfs.OpRemove} {
		c.Disk(id).FailNth(kind, "", 0, syscall.EROFS)
	}
}

func restart(c *brokertest.Cluster, id int32) {
	c.Kill(id)
	c.Restart(id)
}

// readyz is what a broker answers there.
func (s *scenario) readyz(id int32) string {
	states, _, err := s.cl.DescribeBrokers(s.ctx)
	if err != nil {
		return err.Error()
	}
	for _, b := range states {
		if b.Broker == id && len(b.Reasons) > 0 {
			return strings.Join(b.Reasons, "; ")
		}
		if b.Broker == id {
			return strings.Join(append([]string{"ready"}, b.Warnings...), "; ")
		}
	}
	return "no answer"
}
