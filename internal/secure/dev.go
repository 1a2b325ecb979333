package secure

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// DevSet says which certificates to make for trying things out.
type DevSet struct {
	// Dir is where they go; it is made if it does not exist. Nothing in it is overwritten.
	Dir string
	// Hosts are the names and addresses that the brokers' certificate is good for.
	Hosts []string
	// Clients are the names of clients, one certificate each.
	Clients []string
	// From and Until bound the validity of all of them.
	From, Until time.Time
}

// Names of the files that a DevSet makes. Clients' are NAME.pem and NAME.key.
const (
	DevCA        = "ca.pem"
	DevCAKey     = "ca.key"
	DevBroker    = "broker.pem"
	DevBrokerKey = "broker.key"
)

// Make writes the files and gives their names. Keys are readable by their owner alone.
func (s DevSet) Make() ([]string, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	w := &devWriter{dir: s.Dir}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "oncelog development authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, MaxPathLenZero: true}
	caKey := w.issue(s, ca, ca, nil, DevCA, DevCAKey)
	broker := &x509.Certificate{Subject: pkix.Name{CommonName: "broker"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, host := range s.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			broker.IPAddresses = append(broker.IPAddresses, ip)
		} else {
			broker.DNSNames = append(broker.DNSNames, host)
		}
	}
	w.issue(s, broker, ca, caKey, DevBroker, DevBrokerKey)
	for _, name := range s.Clients {
		client := &x509.Certificate{Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		w.issue(s, client, ca, caKey, name+".pem", name+".key")
	}
	return w.names, w.err
}

// devWriter keeps the first error.
type devWriter struct {
	dir   string
	names []string
	err   error
}

func (w *devWriter) issue(s DevSet, cert, parent *x509.Certificate, by *ecdsa.PrivateKey, certName, keyName string) *ecdsa.PrivateKey {
	if w.err != nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.err = err
		return nil
	}
	if by == nil {
		by = key
	}
	cert.NotBefore, cert.NotAfter = s.From, s.Until
	if cert.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		w.err = err
		return nil
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, by)
	if err != nil {
		w.err = fmt.Errorf("%s: %w", certName, err)
		return nil
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.err = fmt.Errorf("%s: %w", keyName, err)
		return nil
	}
	w.write(certName, "CERTIFICATE", der, 0o644)
	w.write(keyName, "PRIVATE KEY", keyDER, 0o600)
	return key
}

func (w *devWriter) write(name, kind string, der []byte, mode os.FileMode) {
	if w.err != nil {
		return
	}
	path := filepath.Join(w.dir, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		w.err = err
		return
	}
	if err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der}); err == nil {
		err = f.Close()
	}
	w.err = err
	w.names = append(w.names, path)
}
