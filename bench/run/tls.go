package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/secure"
)

// tlsRows measure what encryption costs producers.
var tlsRows = []row{{name: "tls", measure: besideTLS, ownProfiles: true}}

// secured are what is written with and without TLS, in turn.
var secured = []row{
	{name: "tls-100k-1", what: "1 partition", partitions: 1, ours: []string{"produce", "--batch", "102400", "--size", "1000"}},
	{name: "tls-100k-8", what: "8 partitions", partitions: 8, ours: []string{"produce", "--batch", "102400", "--size", "1000"}},
}

// besideTLS writes to a cluster with TLS everywhere, clients' listeners and between brokers, and to the one without.
func besideTLS(ctx context.Context, plain *bench) ([]figure, error) {
	o, err := withTLS(filepath.Join(plain.dir, "certificates"))
	if err != nil {
		return nil, err
	}
	encrypted, err := plain.beside(ctx, o)
	if err != nil {
		return nil, err
	}
	unprofiled := *plain
	unprofiled.options.profiles = ""
	var list []figure
	for _, r := range secured {
		without, burned, err := unprofiled.ours(ctx, &r)
		if err != nil {
			return nil, err
		}
		settle()
		with, burnedWith, err := encrypted.ours(ctx, &r)
		if err != nil {
			return nil, err
		}
		settle()
		list = append(list,
			figure{what: "TLS: produce, " + r.what + "; limit: without", unit: "MB/s", ours: with.MBPerSecond, limit: without.MBPerSecond, goal: "ratio >= 0.65"},
			figure{what: "TLS: the same, brokers' CPU for each GiB", unit: "s", ours: burnedWith / (with.Bytes / (1 << 30)), limit: burned / (without.Bytes / (1 << 30)), goal: "-"})
	}
	return list, nil
}

// withTLS makes certificates in a directory, if it is not there, and says how brokers and clients use them.
func withTLS(dir string) (other, error) {
	if _, err := os.Stat(dir); err != nil {
		set := secure.DevSet{Dir: dir, Hosts: []string{"127.0.0.1"}, From: time.Now().Add(-time.Minute), Until: time.Now().Add(24 * time.Hour)}
		if _, err := set.Make(); err != nil {
			return other{}, err
		}
	}
	ca := filepath.Join(dir, secure.DevCA)
	o := other{name: "tls", flags: []string{"--tls-ca", ca}}
	files := map[string]string{"cert_file": filepath.Join(dir, secure.DevBroker), "key_file": filepath.Join(dir, secure.DevBrokerKey)}
	for _, listener := range []string{"peer", "grpc.default", "kafka.default"} {
		for key, file := range files {
			o.set = append(o.set, fmt.Sprintf("%s.tls.%s=%s", listener, key, file))
		}
	}
	o.set = append(o.set, "peer.tls.ca_file="+ca)
	pem, err := os.ReadFile(ca)
	if err != nil {
		return other{}, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	o.config = client.Config{TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	return o, nil
}
