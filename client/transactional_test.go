package client

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestTransactionalConfigIsChecked(t *testing.T) {
	good := TransactionalConfig{TransactionalID: "billing"}
	for _, c := range []struct {
		field string
		spoil func(*TransactionalConfig)
	}{
		{"TransactionalID", func(c *TransactionalConfig) { c.TransactionalID = "" }},
		{"TransactionalID", func(c *TransactionalConfig) { c.TransactionalID = strings.Repeat("x", 1025) }},
		{"DisableIdempotence", func(c *TransactionalConfig) { c.DisableIdempotence = true }},
		{"DisableIdempotence", func(c *TransactionalConfig) { c.Acks = AcksNone }},
		{"TransactionTimeout", func(c *TransactionalConfig) { c.TransactionTimeout = time.Microsecond }},
	} {
		cfg := good
		c.spoil(&cfg)
		err := cfg.Validate(Config{})
		if err == nil || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: error %v does not name the field", c.field, err)
		}
	}
}

func TestFirstMishapCounts(t *testing.T) {
	m := newMishap()
	if m.get() != nil {
		t.Fatal("a mishap before anything happened")
	}
	first := refusal(ReasonTransactionAbortable, "first")
	m.note(first)
	m.note(refusal(ReasonTransactionAbortable, "second"))
	if got := m.get(); !errors.Is(got, first) {
		t.Fatalf("mishap %v, want the first", got)
	}
}

// What became of a record is known before anybody can hear that it has been decided: a flush that returned
// in between would let a transaction commit without it.
func TestFailureIsNotedBeforeAnybodyHears(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		p.SendSync(bg, rec("a"))
		p.txn = &transactions{}
		p.txn.mishap.Store(newMishap())
		var l *lane
		p.eachLane(func(found *lane) { l = found })
		l.mu.Lock()
		l.led.resolved = append(l.led.resolved, resolution{b: &batch{records: 3}, outcome: NotWritten, err: refusal(ReasonMessageTooLarge, "too large")})
		done := l.settled(time.Now())
		if p.txn.mishap.Load().get() == nil || p.stats.notWritten.Load() != 3 {
			t.Error("a record that was not written is not noted while the lane is locked")
		}
		l.mu.Unlock()
		p.finish(done)
		p.txn = nil
	})
}
