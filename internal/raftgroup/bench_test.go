package raftgroup

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
)

// benchCluster is three brokers in this process over TCP, each group on a record log.
func benchCluster(b *testing.B, groups int) []*replica {
	b.Helper()
	var listeners []net.Listener
	var hosts []*Host
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	resolve := func(id ServerID) (string, bool) {
		broker, _, err := ParseServerID(id)
		return listeners[broker-1].Addr().String(), err == nil
	}
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	all := make([][]*replica, groups)
	for i := range 3 {
		dir := b.TempDir()
		h, err := NewHost(Config{Broker: int32(i + 1), Dir: dir, Listener: listeners[i], Dial: dial, Resolve: resolve, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		hosts = append(hosts, h)
		for g := range groups {
			gdir := filepath.Join(dir, fmt.Sprint(g))
			if err := os.MkdirAll(gdir, 0o750); err != nil {
				b.Fatal(err)
			}
			log, err := recordlog.Open(recordlog.Options{FS: vfs.OS(), Dir: filepath.Join(gdir, "log")})
			if err != nil {
				b.Fatal(err)
			}
			r := &replica{machine: &journal{log: log, drop: true}, log: log}
			r.group, err = h.Open(GroupConfig{ID: GroupID(g + 10), Self: MakeServerID(int32(i+1), 1), Dir: gdir, Log: log, Machine: r.machine, Bootstrap: members(3)})
			if err != nil {
				b.Fatal(err)
			}
			all[g] = append(all[g], r)
		}
	}
	b.Cleanup(func() {
		for _, h := range hosts {
			_ = h.Close()
		}
		for _, g := range all {
			for _, r := range g {
				_ = r.log.Close()
			}
		}
	})
	leaders := make([]*replica, groups)
	for g := range all {
		for leaders[g] == nil {
			for _, r := range all[g] {
				if _, ok := r.group.IsReady(); ok {
					leaders[g] = r
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return leaders
}

func BenchmarkPropose(b *testing.B) {
	for _, x := range []struct{ groups, size, inFlight int }{
		{1, 100, 1}, {1, 1 << 10, 64}, {1, 16 << 10, 5}, {1, 100 << 10, 5}, {8, 100 << 10, 5},
	} {
		b.Run(fmt.Sprintf("groups=%d/size=%d/inflight=%d", x.groups, x.size, x.inFlight), func(b *testing.B) {
			leaders := benchCluster(b, x.groups)
			data := make([]byte, x.size)
			b.SetBytes(int64(x.size))
			b.ResetTimer()
			var wg sync.WaitGroup
			for g, r := range leaders {
				n := b.N / x.groups
				if g == 0 {
					n += b.N % x.groups
				}
				slots := make(chan struct{}, x.inFlight)
				wg.Go(func() {
					for range n {
						slots <- struct{}{}
						r.group.ProposeAsync(Command{Data: data}, func(_ any, err error) {
							if err != nil {
								b.Error(err)
							}
							<-slots
						})
					}
					for range x.inFlight {
						slots <- struct{}{}
					}
				})
			}
			wg.Wait()
		})
	}
}
