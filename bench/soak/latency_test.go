package main

import (
	"testing"
	"time"
)

func TestQuantilesOfLatencies(t *testing.T) {
	var l latencies
	l.add(time.Second)
	before := l.now()
	if got := before.since(before, 0.99); got != 0 {
		t.Errorf("nothing took %v ms", got)
	}
	for ms := range 1000 {
		l.add(time.Duration(ms+1) * time.Millisecond)
	}
	after := l.now()
	for q, want := range map[float64]float64{0.5: 500, 0.99: 990, 1: 1000} {
		if got := after.since(before, q); got < want || got > 1.05*want {
			t.Errorf("quantile %v is %v ms, want %v or a little more", q, got, want)
		}
	}
}

func TestLooksAsOneLine(t *testing.T) {
	w := window([]look{{At: 40, Written: 10, AckP99: 7, Memory: 1}, {At: 100, Written: 110, AckP99: 5, Memory: 2}}, 20)
	if w.Written != 85 || w.AckP99 != 7 || w.Memory != 2 || w.At != 100 {
		t.Errorf("%+v", w)
	}
}
