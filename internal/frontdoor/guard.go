package frontdoor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/sasl"
)

// Anonymous is the user that a client is which has proven nothing.
const Anonymous = "ANONYMOUS"

// Caller is who asks for something. The zero value may do everything: it is the broker itself.
type Caller struct {
	// User has a name without "User:".
	User string
	// Host is the address that the client comes from, without a port.
	Host string
	// Door is "kafka" or "grpc".
	Door      string
	principal string
}

// NewCaller makes one; an empty user is Anonymous.
func NewCaller(door, user string, from net.Addr) Caller {
	if user == "" {
		user = Anonymous
	}
	host := from.String()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return Caller{User: user, Host: acl.CanonicalHost(host), Door: door, principal: "User:" + user}
}

// Principal is "User:NAME".
func (c Caller) Principal() string { return c.principal }

// GuardConfig is what a Guard needs.
type GuardConfig struct {
	// Image gives the newest metadata here.
	Image func() *metadata.Image
	// Enforce has rules decide; else everybody may do everything.
	Enforce bool
	// SuperUsers may do everything: "User:NAME".
	SuperUsers []string
	// Mechanisms are those of SASL by which clients of a listener, by the name of the door and its own, have to prove who they are.
	// A listener without any demands nothing.
	Mechanisms map[string][]string
	// MaxSession is for how long a proof is good (Kafka: connections.max.reauth.ms, KIP-368); 0: for as long as the connection.
	MaxSession time.Duration
	// Audit takes what is refused, and what is done by administrators; nil: nothing does.
	Audit      *Audit
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Guard decides who may come in and what they may do, by whatever door. Its methods may be called from many goroutines. A nil Guard
// lets everybody do everything.
type Guard struct {
	c      GuardConfig
	supers map[string]bool
	sasl   *sasl.Server
	tokens tokens
	lobby  lobby
	// hashing are the passwords that are hashed at once: PLAIN has the broker do it.
	hashing chan struct{}

	attempts *prometheus.CounterVec
	denied   *prometheus.CounterVec
}

// Bounds before a client has proven who it is.
const (
	// LoginTime is how long it may take.
	LoginTime = 15 * time.Second
	// LoginDelay is how long after the message the answer to a wrong proof comes, as Kafka's connection.failed.authentication.delay.ms. It
	// is longer than finding out takes, so that the time tells nothing of what was wrong.
	LoginDelay = 100 * time.Millisecond
	// MaxLogins and MaxLoginsPerAddress are the connections, or streams, on which it has not happened yet.
	MaxLogins           = 1024
	MaxLoginsPerAddress = 128
	maxHashing          = 4
)

// NewGuard makes one.
func NewGuard(c GuardConfig) *Guard {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Guard{c: c, supers: make(map[string]bool), tokens: newTokens(), hashing: make(chan struct{}, maxHashing),
		lobby: lobby{from: make(map[string]int)},
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_authentications_total",
			Help: "Attempts of clients to prove who they are."}, []string{"door", "mechanism", "result"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_authorization_denied_total",
			Help: "What clients were not allowed to do."}, []string{"door", "operation", "resource_type"}),
	}
	g.lobby.waiting = prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_unauthenticated_connections",
		Help: "Connections whose client has to prove who it is and has not yet."})
	if c.Registerer != nil {
		c.Registerer.MustRegister(g.attempts, g.denied, g.lobby.waiting)
		if c.Audit != nil {
			c.Registerer.MustRegister(c.Audit.leftOut)
		}
	}
	for _, s := range c.SuperUsers {
		g.supers[s] = true
	}
	g.sasl = sasl.NewServer(g.credential, func() string { return c.Image().ClusterID() })
	return g
}

// credential is sasl.Lookup.
func (g *Guard) credential(user, mechanism string) (sasl.Credential, bool) {
	m := metadata.ScramSHA256
	if mechanism == sasl.ScramSHA512 {
		m = metadata.ScramSHA512
	}
	c, ok := g.c.Image().Credential(user, m)
	if !ok {
		return sasl.Credential{}, false
	}
	return sasl.Credential{Salt: c.Salt, Iterations: c.Iterations, StoredKey: c.StoredKey, ServerKey: c.ServerKey}, true
}

// Enforces says whether rules decide.
func (g *Guard) Enforces() bool { return g != nil && g.c.Enforce }

// Mechanisms are those by which clients of a listener have to prove who they are; none: they need not.
func (g *Guard) Mechanisms(door, listener string) []string {
	if g == nil {
		return nil
	}
	return g.c.Mechanisms[door+"."+listener]
}

// MaxSession is for how long a proof is good; 0: for as long as its connection.
func (g *Guard) MaxSession() time.Duration { return g.c.MaxSession }

// Action is something that a caller wants to do.
type Action struct {
	Operation acl.Operation
	Type      acl.ResourceType
	Name      string
}

// OnCluster is an action on the cluster itself.
func OnCluster(op acl.Operation) Action { return Action{op, acl.Cluster, acl.ClusterName} }

// Decides says whether there is anything to decide or to note: where not, May allows everything, and nobody need ask.
func (g *Guard) Decides() bool { return g != nil && (g.c.Enforce || g.c.Audit != nil) }

// rules are those that decide now.
func (g *Guard) rules() *acl.Set { return g.c.Image().Rules() }

// May says whether a caller may do something in a call, and notes in the audit log what it may not, and what only administrators do.
func (g *Guard) May(c Caller, call string, op acl.Operation, t acl.ResourceType, name string) bool {
	return g.MayAny(c, call, Action{op, t, name})
}

// MayAny says whether a caller may do any of several things in a call, one of which is enough, as with topics that are created by a right
// on the cluster or on the topic. The audit log is told of the last, which is the one that names what is meant.
func (g *Guard) MayAny(c Caller, call string, actions ...Action) bool {
	if !g.Decides() {
		return true
	}
	allowed := false
	for _, a := range actions {
		if allowed = g.allows(c, a.Operation, a.Type, a.Name); allowed {
			break
		}
	}
	last := actions[len(actions)-1]
	switch {
	case !allowed:
		g.deny(c, call, last.Operation, last.Type, last.Name)
	case administrative(last.Operation):
		g.c.Audit.call(c, call, last.Operation, last.Type, last.Name, outcomeAllowed)
	}
	return allowed
}

// Sees is May for what is left out of an answer rather than refused: nothing is noted.
func (g *Guard) Sees(c Caller, op acl.Operation, t acl.ResourceType, name string) bool {
	return g == nil || g.allows(c, op, t, name)
}

// MaySome says whether there is any resource of a type to which a caller may do something.
func (g *Guard) MaySome(c Caller, call string, op acl.Operation, t acl.ResourceType) bool {
	if g == nil || !g.c.Enforce || c.principal == "" || g.supers[c.principal] {
		return true
	}
	if !g.rules().AllowsSome(c.principal, c.Host, op, t) {
		g.deny(c, call, op, t, "")
		return false
	}
	return true
}

// Operations are those that a caller may do to a resource, of all that there are for its type.
func (g *Guard) Operations(c Caller, t acl.ResourceType, name string) []acl.Operation {
	all := acl.Operations(t)
	if !g.Enforces() {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(op acl.Operation) bool { return !g.allows(c, op, t, name) })
}

func (g *Guard) allows(c Caller, op acl.Operation, t acl.ResourceType, name string) bool {
	return !g.c.Enforce || c.principal == "" || g.supers[c.principal] || g.rules().Allows(c.principal, c.Host, op, t, name)
}

func (g *Guard) deny(c Caller, call string, op acl.Operation, t acl.ResourceType, name string) {
	g.denied.WithLabelValues(c.Door, op.String(), t.String()).Inc()
	g.c.Audit.call(c, call, op, t, name, outcomeDenied)
}

// administrative are the operations whose every use is noted.
func administrative(op acl.Operation) bool {
	switch op {
	case acl.Create, acl.Delete, acl.Alter, acl.AlterConfigs, acl.ClusterAction:
		return true
	}
	return false
}

// Login is one client's attempt to prove who it is. It belongs to one goroutine.
type Login struct {
	guard    *Guard
	exchange *sasl.Exchange
	door     string
	from     net.Addr
	// print is the fingerprint of the user's credentials when they were proven.
	print [8]byte
}

// Begin begins an attempt by a mechanism, which must be among those of the listener.
func (g *Guard) Begin(door string, from net.Addr, mechanism string, allowed []string) (*Login, error) {
	if !slices.Contains(allowed, mechanism) {
		return nil, fmt.Errorf("SASL mechanism %.32q is not among %v", mechanism, allowed)
	}
	e, err := g.sasl.Begin(mechanism)
	if err != nil {
		return nil, err
	}
	return &Login{guard: g, exchange: e, door: door, from: from}, nil
}

// Next takes the client's next message. done: the caller is proven. An error ends the attempt; that of a wrong proof has been noted, and
// comes after LoginDelay, or when ctx ends.
func (l *Login) Next(ctx context.Context, message []byte) (answer []byte, caller Caller, done bool, err error) {
	g := l.guard
	due := time.NewTimer(LoginDelay)
	defer due.Stop()
	answer, done, err = l.step(ctx, message)
	if err != nil && errors.Is(err, ctx.Err()) { // it was not looked at
		return nil, Caller{}, false, err
	}
	if err != nil {
		g.attempts.WithLabelValues(l.door, l.exchange.Mechanism(), outcomeFailed).Inc()
		g.c.Audit.login(NewCaller(l.door, l.exchange.Attempted(), l.from), l.exchange.Mechanism(), outcomeFailed)
		select {
		case <-due.C:
		case <-ctx.Done():
		}
		return nil, Caller{}, false, err
	}
	if done {
		caller = NewCaller(l.door, l.exchange.User(), l.from)
		g.attempts.WithLabelValues(l.door, l.exchange.Mechanism(), outcomeSucceeded).Inc()
		g.c.Audit.login(caller, l.exchange.Mechanism(), outcomeSucceeded)
	}
	return answer, caller, done, nil
}

// step takes a message, after others whose password the broker hashes.
func (l *Login) step(ctx context.Context, message []byte) (answer []byte, done bool, err error) {
	if l.exchange.Mechanism() == sasl.Plain {
		select {
		case l.guard.hashing <- struct{}{}:
			defer func() { <-l.guard.hashing }()
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	answer, done, err = l.exchange.Next(message)
	if err == nil && done && !l.stillValid() {
		err = sasl.ErrRefused
	}
	return answer, done, err
}

// stillValid says whether what was proven is a credential of the user still: an exchange takes time, in which it may have been changed.
func (l *Login) stillValid() bool {
	img, user := l.guard.c.Image(), l.exchange.User()
	l.print = fingerprint(img, user)
	for _, m := range []metadata.Mechanism{metadata.ScramSHA256, metadata.ScramSHA512} {
		if c, ok := img.Credential(user, m); ok && bytes.Equal(c.StoredKey, l.exchange.ProvenKey()) {
			return true
		}
	}
	return false
}

// lobby counts those who have not proven yet who they are.
type lobby struct {
	waiting prometheus.Gauge

	// mu guards what follows.
	mu   sync.Mutex
	all  int
	from map[string]int
}

// Enter lets somebody wait, who must leave, once; false: there is no room.
func (g *Guard) Enter(from net.Addr) (leave func(), ok bool) {
	host := NewCaller("", "", from).Host
	b := &g.lobby
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all >= MaxLogins || b.from[host] >= MaxLoginsPerAddress {
		return nil, false
	}
	b.all++
	b.from[host]++
	b.waiting.Inc()
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all--
		b.waiting.Dec()
		if b.from[host]--; b.from[host] == 0 {
			delete(b.from, host)
		}
	}), true
}
