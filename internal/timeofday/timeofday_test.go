package timeofday

import (
	"testing"
	"testing/synctest"
	"time"
)

// A jump forward makes nothing old, a jump back is followed, small steps are taken, and slow ones too.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead time.Duration
		begin := time.Now()
		c := NewClock(func() time.Time { return time.Now().Add(ahead) })
		for i, step := range []struct {
			ahead, sleep   time.Duration
			judged, jumped time.Duration
			news           bool
		}{
			{0, time.Hour, 0, 0, false},
			{50 * time.Second, time.Hour, 50 * time.Second, 0, false},
			{100 * time.Second, time.Hour, 100 * time.Second, 0, false},
			{10 * 24 * time.Hour, time.Hour, 100 * time.Second, 10*24*time.Hour - 100*time.Second, true},
			{10 * 24 * time.Hour, 48 * time.Hour, 100 * time.Second, 10*24*time.Hour - 100*time.Second, false},
			{70 * time.Second, time.Minute, 70 * time.Second, 0, true},
			{-3 * time.Hour, time.Minute, -3 * time.Hour, 0, false},
			{-3 * time.Hour, time.Hour, -3 * time.Hour, 0, false},
			{60 * time.Second, time.Minute, 60 * time.Second, 0, false},
			{10 * time.Minute, time.Minute, 60 * time.Second, 9 * time.Minute, true},
		} {
			time.Sleep(step.sleep) // virtual
			ahead = step.ahead
			now, jump, news := c.judge()
			if off := now.Sub(begin) - time.Since(begin); off != step.judged || jump != step.jumped || news != step.news {
				t.Errorf("step %d: judged %v ahead, jump %v, news %t; want %v, %v, %t", i, off, jump, news, step.judged, step.jumped, step.news)
			}
		}
	})
}

func TestMarks(t *testing.T) {
	var m Marks[int64]
	begin := time.Now()
	for i, step := range []struct {
		at   time.Duration
		end  int64
		want int64
	}{
		{0, 10, 0},
		{20 * time.Minute, 20, 0},
		{40 * time.Minute, 30, 0},
		{59 * time.Minute, 40, 0},
		{60 * time.Minute, 50, 10},
		{79 * time.Minute, 60, 10},
		{80 * time.Minute, 60, 20},
		{10 * time.Hour, 70, 60},
	} {
		if got := m.Note(begin.Add(step.at), step.end, time.Hour); got != step.want {
			t.Errorf("step %d: below %d, want %d", i, got, step.want)
		}
	}
	if len(m.list) > 2 {
		t.Errorf("%d marks are kept", len(m.list))
	}
}
