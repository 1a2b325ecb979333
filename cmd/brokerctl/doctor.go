package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
)

// How bad a finding is.
const (
	levelOK     = "ok"
	levelWarn   = "warn"
	levelBroken = "BROKEN"
)

// finding is what was found at one listener of one broker.
type finding struct {
	Broker   int32  `json:"broker"`
	Listener string `json:"listener"`
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	// Level is ok, warn or BROKEN: of the last, some client does not work.
	Level   string `json:"level"`
	Problem string `json:"problem,omitempty"`
	// Breaks says which clients do not work, Try what to do.
	Breaks string `json:"breaks,omitempty"`
	Try    string `json:"try,omitempty"`
}

type doctorJSON struct {
	ClusterID string    `json:"cluster_id"`
	Healthy   bool      `json:"healthy"`
	Findings  []finding `json:"findings"`
}

const (
	// probeTimeout bounds each look at an address.
	probeTimeout = 3 * time.Second
	// skewWarn and skewBad are how far a broker's clock may be from the one here. What is measured is known to a second.
	skewWarn, skewBad = 3 * time.Second, 5 * time.Minute
)

func (p *program) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Find the listener that keeps a client from working",
		Long: `Clients begin with one address and are then sent to the addresses that brokers
advertise. Ask a broker for all of those and try each from here: does its name resolve,
does the port answer, in the protocol that its clients speak, does every broker have the
listener, no two the same address, and are the clocks near each other? What is found
holds for clients on this machine: run it where the client is that does not work.

If a listener is broken the exit code is 5; warnings alone give 0.`,
		Example: `  brokerctl doctor
  brokerctl doctor -b broker-1.example:9095 -o json | jq '.findings[] | select(.level != "ok")'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(c *client.Client) error {
				m, err := c.Metadata(cmd.Context())
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(m.Brokers, func(b client.Broker) bool { return len(b.Listeners) > 0 }) {
					return errors.New("the brokers tell no addresses of listeners, which takes a right: brokerctl acl create --principal User:NAME --operation describe --cluster")
				}
				d := p.examine(cmd.Context(), m)
				if err := p.printDoctor(d); err != nil {
					return err
				}
				if !d.Healthy {
					return &checkError{"some clients cannot work"}
				}
				return nil
			})
		},
	}
}

// examine looks at every listener, all at once.
func (p *program) examine(ctx context.Context, m client.Metadata) doctorJSON {
	brokers := slices.Clone(m.Brokers)
	slices.SortFunc(brokers, func(a, b client.Broker) int { return int(a.ID - b.ID) })
	lists := make([][]finding, len(brokers))
	var looks sync.WaitGroup
	for i, b := range brokers {
		lists[i] = make([]finding, len(b.Listeners))
		for j, l := range b.Listeners {
			f := &lists[i][j]
			*f = finding{Broker: b.ID, Listener: l.Name, Protocol: l.Protocol, Address: l.Address, Level: levelOK}
			if p.judgeAddress(f, brokers); f.Level != levelBroken {
				looks.Go(func() { p.look(ctx, f, b) })
			}
		}
	}
	looks.Wait()
	d := doctorJSON{ClusterID: m.ClusterID, Healthy: true}
	for _, list := range lists {
		d.Findings = append(d.Findings, list...)
	}
	d.Findings = append(d.Findings, missing(brokers)...)
	for _, f := range d.Findings {
		d.Healthy = d.Healthy && f.Level != levelBroken
	}
	return d
}

// breaks names the clients of a listener.
func (f *finding) breaks() string {
	switch f.Protocol {
	case "kafka":
		return "Kafka clients that begin with listener " + strings.TrimPrefix(f.Listener, "kafka.") + ", wherever this broker leads or coordinates"
	case "grpc":
		return "gRPC clients that begin with listener " + f.Listener + ", wherever this broker leads or coordinates"
	case "peer":
		return "the other brokers, if they cannot reach it either"
	}
	return "probes and metrics"
}

// setting is the key of the configuration file that holds the address.
func (f *finding) setting() string {
	switch f.Protocol {
	case "kafka":
		return f.Listener + ".advertise"
	case "grpc":
		return "grpc." + f.Listener + ".advertise"
	}
	return f.Protocol + ".advertise"
}

// level is that of an address that clients cannot use. Peer and HTTP ports are often not open to clients, and need not be.
func (f *finding) level() string {
	if f.Protocol == "kafka" || f.Protocol == "grpc" {
		return levelBroken
	}
	return levelWarn
}

// judgeAddress finds what can be seen without trying: addresses that mean another machine for everyone, or two brokers at once.
func (p *program) judgeAddress(f *finding, brokers []client.Broker) {
	say := func(level, problem, try string) {
		f.Level, f.Problem, f.Breaks, f.Try = level, problem, f.breaks(), try
	}
	host, _, err := net.SplitHostPort(f.Address)
	if err != nil {
		say(f.level(), "it is no host:port", "set "+f.setting()+" to a host and a port")
		return
	}
	if f.Protocol == "http" {
		return // advertised by where it listens
	}
	for _, b := range brokers {
		for _, l := range b.Listeners {
			if b.ID != f.Broker && l.Address == f.Address {
				say(levelBroken, fmt.Sprintf("broker %d advertises the same address", b.ID), "give each broker a "+f.setting()+" of its own: clients must reach the broker that leads, not any")
				return
			}
		}
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		say(levelBroken, "nobody can connect to "+host, "set "+f.setting()+" to a name or an address of that machine")
		return
	}
	if loopback(host) && !onOneMachine(brokers) {
		say(levelWarn, host+" is every machine's own", "set "+f.setting()+" to a name that clients on other machines resolve")
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// onOneMachine says that all brokers are where loopback is enough: on one machine, as in a trial.
func onOneMachine(brokers []client.Broker) bool {
	for _, b := range brokers {
		if host, _, err := net.SplitHostPort(b.PeerAddress); err != nil || !loopback(host) {
			return false
		}
	}
	return true
}

// missing finds listeners that some brokers have and others have not.
func missing(brokers []client.Broker) (list []finding) {
	has := func(b client.Broker, name string) bool {
		return slices.ContainsFunc(b.Listeners, func(l client.Listener) bool { return l.Name == name })
	}
	seen := make(map[string]bool)
	for _, b := range brokers {
		for _, l := range b.Listeners {
			if seen[l.Name] {
				continue
			}
			seen[l.Name] = true
			for _, other := range brokers {
				if has(other, l.Name) {
					continue
				}
				f := finding{Broker: other.ID, Listener: l.Name, Protocol: l.Protocol, Address: "-", Problem: fmt.Sprintf("broker %d has the listener, this one has not", b.ID)}
				f.Level, f.Breaks, f.Try = f.level(), f.breaks(), "configure the listener on all brokers, or on none"
				list = append(list, f)
			}
		}
	}
	return list
}

// look tries an address.
func (p *program) look(ctx context.Context, f *finding, b client.Broker) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	say := func(level, problem, try string) {
		if f.Level != levelBroken {
			f.Level, f.Problem, f.Breaks, f.Try = level, problem, f.breaks(), try
		}
	}
	host, port, _ := net.SplitHostPort(f.Address)
	if f.Protocol == "http" && (host == "" || host == "::" || host == "0.0.0.0") {
		if other, _, err := net.SplitHostPort(b.Address); err == nil {
			host = other // it listens everywhere
		}
	}
	addr := net.JoinHostPort(host, port)
	if _, err := netip.ParseAddr(host); err != nil && p.dialer == nil {
		if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
			say(f.level(), "the name does not resolve here", "set "+f.setting()+" to a name that clients resolve, or make "+host+" known here")
			return
		}
	}
	if f.Protocol == "peer" {
		conn, err := p.dial(ctx, addr)
		if err != nil {
			say(levelWarn, "it cannot be reached from here: "+cause(err), "if the other brokers can, nothing is wrong")
			return
		}
		_ = conn.Close() // nothing was said on it
		return
	}
	if f.Protocol == "http" {
		p.lookAtClock(ctx, addr, say)
		return
	}
	spoken, err := p.identify(ctx, addr, f.Protocol)
	switch {
	case err != nil:
		say(levelBroken, "it cannot be reached from here: "+cause(err), "is broker "+fmt.Sprint(f.Broker)+" up, and is "+f.setting()+" what clients here can reach?")
	case strings.HasPrefix(spoken, "tls"):
		if !strings.Contains(spoken, f.Protocol) && spoken != "tls" {
			say(levelBroken, "it is a port for "+spoken, "correct "+f.setting()+", or the port that is forwarded to it")
		}
	case spoken == "":
		say(levelBroken, "it answers in no protocol that is known", "is the port that of another program?")
	case spoken != f.Protocol:
		say(levelBroken, "it is a port for "+spoken, "correct "+f.setting()+", or the port that is forwarded to it")
	}
}

// lookAtClock compares the time of a broker with the time here, by what its HTTP port says.
func (p *program) lookAtClock(ctx context.Context, addr string, say func(level, problem, try string)) {
	skew, err := p.skew(ctx, addr)
	if err != nil {
		say(levelWarn, "it cannot be reached from here, and the clocks were not compared: "+cause(err), "")
		return
	}
	if off := skew.Abs(); off > skewWarn {
		level := levelWarn
		if off > skewBad {
			level = levelBroken
		}
		ahead := "ahead of"
		if skew < 0 {
			ahead = "behind"
		}
		say(level, fmt.Sprintf("its clock is %v %s the one here", off.Round(time.Second), ahead), "let both synchronise their clocks: timeouts of transactions and retention go by them")
	}
}

// brief is the last part of an error of the network: what failed.
func cause(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}

func (p *program) printDoctor(d doctorJSON) error {
	if p.json() {
		return p.writeJSON(d)
	}
	verdict := "clients here can use every listener"
	if !d.Healthy {
		verdict = "SOME CLIENTS CANNOT WORK"
	}
	if err := writeTo(p.stdout, fmt.Sprintf("cluster %s: %s\n\n", d.ClusterID, verdict)); err != nil {
		return err
	}
	t := newTable(">BROKER", "LISTENER", "PROTOCOL", "ADDRESS", "STATE")
	var details string
	for _, f := range d.Findings {
		t.row(f.Broker, f.Listener, f.Protocol, f.Address, f.Level)
		if f.Level == levelOK {
			continue
		}
		mark := "-"
		if f.Level == levelBroken {
			mark = "!"
		}
		details += "\n" + bullet("  "+mark+" ", fmt.Sprintf("broker %d, %s, %s: %s", f.Broker, f.Listener, f.Address, f.Problem)) + bullet("    breaks: ", f.Breaks)
		if f.Try != "" {
			details += bullet("    try: ", f.Try)
		}
	}
	if err := t.write(p.stdout); err != nil {
		return err
	}
	return writeTo(p.stdout, details)
}
