package history

import (
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// TestRemote: what two processes note comes in the order in which it was noted, half a line is dropped, and nonsense is not passed over.
func TestRemote(t *testing.T) {
	dir := t.TempDir()
	h, err := CreateFile(filepath.Join(dir, "history.jsonl"), "")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "history"))
	if err != nil {
		t.Fatal(err)
	}
	var told atomic.Int64
	go h.Serve(l, func(*Event) { told.Add(1) })
	dial := func(first Process) *Recorder {
		r, err := Dial("unix", l.Addr().String(), first, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	key := record.TopicPartition{Topic: "t"}
	a, b := dial(100), dial(200)
	p, c := a.NewProducer(), b.NewConsumer(false)
	for range 50 {
		s := p.Send(key)
		s.Written(record.Offset(s.N), false)
		c.Poll(key, []Got{{record.Offset(s.N), s.Payload(0)}}, record.Offset(s.N)+1)
	}
	if _, err := b.remote.Write([]byte(`{"event":"po`)); err != nil {
		t.Fatal(err)
	}
	_ = b.remote.Close()
	h.NewConsumer(false).Final(key, 0, 50, 50)
	var kinds []Kind
	for e, err := range h.Source() {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, e.Kind)
	}
	want := append(slices.Repeat([]Kind{Send, Written, Poll}, 50), Final)
	if r, err := Check(h.Source(), Options{}); err != nil || !r.OK() || !slices.Equal(kinds, want) || told.Load() != 150 {
		t.Errorf("%v, %v, told of %d, %v", err, r, told.Load(), kinds)
	}
	if _, err := a.remote.Write([]byte("nonsense\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.remote.Read(make([]byte, 1)); err == nil {
		t.Error("nonsense was taken down")
	}
	if err := h.Close(); err == nil {
		t.Error("nonsense was passed over")
	}
	_ = l.Close()
}
