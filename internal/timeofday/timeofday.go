// Package timeofday holds the time of day, and what is old by it, against clocks that jump.
//
// Clocks are set by hand, by time services, by machines that are moved or put to sleep. What waits goes by the
// process's own time, which does not jump. What deletes (retention, forgotten producers and transactional ids) must go by
// the time of day, since it reaches over restarts; a jump forward would make everything old at once. So two things
// are held against it here: a [Clock], for jumps while the process runs, and [Marks], for stamps and clocks that were
// wrong from the beginning.
package timeofday

import (
	"log/slog"
	"sync"
	"time"
)

// jumpTolerance is how far the time of day may move against the process's own time, between two looks, without being
// taken for a jump. A time service that slews moves it by some ms in a minute.
const jumpTolerance = time.Minute

// Clock gives the time of day for decisions that delete. After a jump forward it goes on from the time before,
// until the clock comes back or the process is started again; a jump back it follows at once, since
// being late deletes nothing. Its methods may be called from many goroutines.
type Clock struct {
	// wall gives the time of day.
	wall func() time.Time

	// mu guards what follows.
	mu sync.Mutex
	// day was the time of day at the moment at, of the process's own time.
	day time.Time
	at  time.Time
	// jump is by how much the time of day is not believed.
	jump time.Duration
}

// NewClock makes a clock that believes wall as it is now.
func NewClock(wall func() time.Time) *Clock {
	return &Clock{wall: wall, day: wall().Round(0), at: time.Now()}
}

// judge gives the time to judge ages by. news says that a jump has begun or ended, by how much.
func (c *Clock) judge() (now time.Time, jump time.Duration, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, at := c.wall().Round(0), time.Now()
	expected := c.day.Add(at.Sub(c.at))
	switch off := wall.Sub(expected); {
	case off > jumpTolerance:
		jump, now = off, expected
	case off < -jumpTolerance:
		now = wall
	default:
		now = wall
		c.day, c.at = wall, at
	}
	news = (jump > 0) != (c.jump > 0)
	c.jump = jump
	return now, jump, news
}

// Judge gives the time to judge ages by, and by how much the time of day is not believed: 0, or a jump forward. It tells the
// logger when a jump begins or ends.
func (c *Clock) Judge(logger *slog.Logger) (now time.Time, jump time.Duration) {
	now, jump, news := c.judge()
	switch {
	case news && jump > 0:
		logger.Error("the clock has jumped forward; ages are judged by the time before. If the clock is right now, start the broker again",
			"jump", jump.String(), "judged_by", now.UTC().Format(time.RFC3339))
	case news:
		logger.Info("the clock is back")
	}
	return now, jump
}

// IdleWatch is how long, by its own time, a leader must have seen something unused before it has it forgotten, if the limit for
// what is idle is not shorter. It covers the longest retries.
const IdleWatch = time.Hour

// Marks remember how far a log had come at moments of the process's own time. N counts what is in the log. The zero value is
// ready; one goroutine may use it at a time.
type Marks[N ~int64 | ~uint64] struct {
	list []mark[N]
}

type mark[N any] struct {
	at  time.Time
	end N
}

// Note adds a mark, and gives the log's end at the newest mark that is at least age old; 0: there is none. Nothing below it has been
// written within that time.
func (m *Marks[N]) Note(now time.Time, end N, age time.Duration) N {
	m.list = append(m.list, mark[N]{now, end})
	for len(m.list) > 1 && now.Sub(m.list[1].at) >= age {
		m.list = m.list[1:]
	}
	if now.Sub(m.list[0].at) < age {
		return 0
	}
	return m.list[0].end
}
