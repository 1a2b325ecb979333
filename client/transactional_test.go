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
