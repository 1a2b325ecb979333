package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

// authority signs certificates, for a test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	name = filepath.Join(a.dir, name)
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return name
}

// issue makes a certificate for a host until a time, and gives the configuration with it.
func (a *authority) issue(host string, until time.Time) broker.TLSConfig {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	name := fmt.Sprintf("%s-%d", host, template.SerialNumber)
	return broker.TLSConfig{
		CertFile: a.write(name+".pem", "CERTIFICATE", der), KeyFile: a.write(name+".key", "EC PRIVATE KEY", keyDER),
		CAFile: filepath.Join(a.dir, "ca.pem"),
	}
}

// goesOn makes sure that the first three brokers take records and agree.
func (s *scenario) goesOn(p *client.Producer, value string) {
	s.t.Helper()
	s.write(p, value)
	s.replicasAgree()
	if m, err := s.cl.Metadata(s.ctx, topic); err != nil || len(m.Brokers) != 3 {
		s.t.Fatalf("%d brokers, %v", len(m.Brokers), err)
	}
}

// TestMutualTLS: brokers that prove who they are form a cluster. One that cannot is refused, with a line
// in the log of a broker that refuses it and one in its own that says why, and the cluster goes on.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	valid := time.Now().Add(time.Hour)
	// The brokers' certificates by id; the first three are the cluster.
	certs := map[int32]broker.TLSConfig{
		1: ours.issue("b1", valid), 2: ours.issue("b2", valid), 3: ours.issue("b3", valid),
		4: theirs.issue("b4", valid),
		5: ours.issue("b5", time.Now().Add(-time.Hour)),
		6: {},
	}
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) { c.Peer.TLS = certs[c.BrokerID] }}, nil)
	p := s.producer(client.ProducerConfig{Linger: client.NoLinger})
	s.goesOn(p, "with TLS")
	intruders := []struct {
		what string
		// The brokers of the cluster, and the intruder, log lines that hold these.
		refused, waits []string
	}{
		{"another authority", []string{"failed the TLS handshake", "certificate"}, []string{"waiting for all seeds to answer", "certificate"}},
		{"expired", []string{"failed the TLS handshake", "certificate has expired"}, []string{"waiting for all seeds to answer", "certificate"}},
		{"plain TCP", []string{"failed the TLS handshake", "does not look like a TLS handshake"}, []string{"waiting for all seeds to answer"}},
	}
	for _, i := range intruders {
		id := s.c.Add()
		s.until(i.what+" to be refused, and to say so", func() bool {
			logged := false
			for _, b := range []int32{1, 2, 3} {
				logged = logged || s.c.Logged(b, i.refused...)
			}
			return logged && s.c.Logged(id, i.waits...)
		})
		s.goesOn(p, "beside "+i.what)
		if s.c.Ready(id) {
			t.Fatalf("%s: it is ready", i.what)
		}
	}
}

// TestCertificateExpires: a broker that comes back with an expired certificate stays outside, the others
// go on, and with a new one it is back.
func TestCertificateExpires(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	valid := time.Now().Add(time.Hour)
	certs := map[int32]broker.TLSConfig{1: ours.issue("b1", valid), 2: ours.issue("b2", valid), 3: ours.issue("b3", valid)}
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) { c.Peer.TLS = certs[c.BrokerID] }}, nil)
	p := s.producer(client.ProducerConfig{Linger: client.NoLinger})
	s.write(p, "one")
	s.c.Stop(3)
	certs[3] = ours.issue("b3", time.Now().Add(-time.Hour))
	s.c.StartAgain(3)
	s.until("the broker to be refused", func() bool {
		return s.c.Logged(1, "certificate has expired") || s.c.Logged(2, "certificate has expired")
	})
	s.until("the broker to say why it is not ready", func() bool { return s.c.Logged(3, "certificate") })
	s.write(p, "two")
	if s.c.Ready(3) {
		t.Fatal("it is ready")
	}
	s.c.Kill(3)
	certs[3] = ours.issue("b3", valid)
	s.c.Restart(3)
	s.goesOn(p, "three")
	s.wantStored("one", "two", "three")
}
