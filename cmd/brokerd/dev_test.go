package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
)

func TestDevConfigsFitTogether(t *testing.T) {
	listeners, err := listenDev(3, true)
	if err != nil {
		t.Fatal(err)
	}
	defer listeners.closeUntaken()
	configs, err := devConfigs(devOptions{logLevel: "error", set: []string{"limits.max_partitions=5"}}, "/data", listeners)
	if err != nil {
		t.Fatal(err)
	}
	for i, cfg := range configs {
		if cfg.BrokerID != int32(i+1) || cfg.DataDir != filepath.Join("/data", "broker-"+string(rune('1'+i))) {
			t.Errorf("broker %d is number %d in %s", i+1, cfg.BrokerID, cfg.DataDir)
		}
		if !cfg.Founder() || len(cfg.Seeds) != 3 {
			t.Errorf("broker %d: founder %v, seeds %v", i+1, cfg.Founder(), cfg.Seeds)
		}
		if cfg.Log.Level != "error" || cfg.Limits.MaxPartitions != 5 {
			t.Errorf("broker %d: log level %q, %d partitions", i+1, cfg.Log.Level, cfg.Limits.MaxPartitions)
		}
	}
}

func TestDevListenersAreHandedOverOnce(t *testing.T) {
	listeners, err := listenDev(1, true)
	if err != nil {
		t.Fatal(err)
	}
	address := listeners.brokers[0].peer
	first, err := listeners.take("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if first.Addr().String() != address {
		t.Errorf("took %s, want %s", first.Addr(), address)
	}
	if second, err := listeners.take("tcp", address); err == nil {
		t.Errorf("took %s twice", second.Addr())
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	again, err := listeners.take("tcp", address)
	if err != nil {
		t.Fatalf("a broker that opens its port anew: %v", err)
	}
	_ = again.Close()
	grpc := listeners.brokers[0].grpc
	listeners.closeUntaken()
	free, err := net.Listen("tcp", grpc)
	if err != nil {
		t.Fatalf("closeUntaken left %s open: %v", grpc, err)
	}
	_ = free.Close()
}

func TestDevNamesTheTakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = listenDevAt(1, func(int) int { return taken.Addr().(*net.TCPAddr).Port })
	if err == nil || !strings.Contains(err.Error(), "is taken: is another cluster running?") {
		t.Fatalf("got %v", err)
	}
}

func TestDevData(t *testing.T) {
	path, remove, err := devData("")
	if err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the temporary directory %s is left: %v", path, err)
	}
	kept, remove, err := devData(filepath.Join(t.TempDir(), "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the named directory is gone: %v", err)
	}
}

func TestBanner(t *testing.T) {
	var text strings.Builder
	cfg := broker.DefaultConfig()
	cfg.BrokerID = 1
	second := cfg
	second.BrokerID, second.HTTP.Listen = 2, "127.0.0.1:10644"
	writeBanner(&text, banner{configs: []broker.Config{cfg, second}, data: "/tmp/x", temporary: true, took: 412345 * time.Microsecond})
	golden(t, "banner.txt", text.String())
}
