package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"

	"github.com/oncelog/oncelog/broker"
)

// devListeners are the open listeners of all brokers of brokerd dev. They are
// opened before any broker starts, because with free ports the brokers must
// know each other's before, and because a port that is taken is told at once.
type devListeners struct {
	brokers []devAddresses

	mu   sync.Mutex
	open map[string]net.Listener // by address, until a broker takes it
}

// devAddresses are those of one broker.
type devAddresses struct{ peer, grpc, kafka, http string }

// listenDev opens the listeners of so many brokers: on the ports people expect,
// or on any free ones.
func listenDev(brokers int, ephemeral bool) (*devListeners, error) {
	return listenDevAt(brokers, func(port int) int {
		if ephemeral {
			return 0
		}
		return port
	})
}

func listenDevAt(brokers int, choose func(port int) int) (*devListeners, error) {
	l := &devListeners{open: map[string]net.Listener{}}
	for i := range brokers {
		var set devAddresses
		for _, want := range []struct {
			address *string
			port    int
			what    string
		}{{&set.grpc, broker.GRPCPort, "gRPC"}, {&set.kafka, broker.KafkaPort, "Kafka"}, {&set.peer, broker.PeerPort, "peers"}, {&set.http, broker.HTTPPort, "HTTP"}} {
			port := choose(want.port + i*broker.PortStep)
			address, err := l.listen(port)
			if errors.Is(err, syscall.EADDRINUSE) {
				err = fmt.Errorf("port %d (%s of broker %d) is taken: is another cluster running? --ephemeral takes free ports", port, want.what, i+1)
			}
			if err != nil {
				l.closeUntaken()
				return nil, err
			}
			*want.address = address
		}
		l.brokers = append(l.brokers, set)
	}
	return l, nil
}

func (l *devListeners) listen(port int) (address string, err error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return "", err
	}
	address = listener.Addr().String()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[address] = listener
	return address, nil
}

// take gives an open listener to the broker that asks for its address. It is a
// broker's Options.Listen. A second call for an address opens it anew.
func (l *devListeners) take(network, address string) (net.Listener, error) {
	l.mu.Lock()
	listener, ok := l.open[address]
	delete(l.open, address)
	l.mu.Unlock()
	if ok {
		return listener, nil
	}
	return net.Listen(network, address)
}

// closeUntaken closes what no broker took.
func (l *devListeners) closeUntaken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for address, listener := range l.open {
		_ = listener.Close() // Nothing was accepted on it.
		delete(l.open, address)
	}
}
