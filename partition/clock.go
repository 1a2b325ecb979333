package partition

import (
	"sync"
	"time"

	"github.com/oncelog/oncelog/record"
)

// Clocks jump: they are set by hand, by time services, by machines that are moved or put to sleep. What waits goes by
// the process's own time, which does not jump. What deletes (retention, forgotten producers) must go by the time of
// day, since it reaches over restarts; a jump forward would make everything old at once. So two things are held
// against it here: judge, for jumps while the process runs, and marks, for stamps and clocks that
// were wrong from the beginning.

// jumpTolerance is how far the time of day may move against the process's own time, between two looks, without being
// taken for a jump. A time service that slews moves it by some ms in a minute.
const jumpTolerance = time.Minute

// steadyClock gives the time of day for decisions that delete. After a jump forward it goes on from the time before,
// until the clock comes back or the process is started again; a jump back it follows at once, since
// being late deletes nothing.
type steadyClock struct {
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

func newSteadyClock(wall func() time.Time) *steadyClock {
	return &steadyClock{wall: wall, day: wall().Round(0), at: time.Now()}
}

// judge gives the time to judge ages by. news says that a jump has begun or ended, by how much.
func (c *steadyClock) judge() (now time.Time, jump time.Duration, news bool) {
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

// judge gives the time to judge ages by, and tells of jumps.
func (h *Host) judge() time.Time {
	now, jump, news := h.clock.judge()
	h.metrics.clockJump.Set(jump.Seconds())
	switch {
	case news && jump > 0:
		h.logger.Error("the clock has jumped forward; records and producers are judged by the time before. If the clock is right now, start the broker again",
			"jump", jump.String(), "judged_by", now.UTC().Format(time.RFC3339))
	case news:
		h.logger.Info("the clock is back")
	}
	return now
}

// idleWatch is how long, by its own time, a leader must have seen a producer write nothing before it has it forgotten, if
// the limit for idle producers is not shorter. It covers the longest retries.
const idleWatch = time.Hour

// marks remember where a partition's log ended at moments of the process's own time.
type marks struct {
	list []mark
}

type mark struct {
	at  time.Time
	end record.Offset
}

// note adds a mark, and gives the log's end at the newest mark that is at least age old; 0: there is none. Nothing below it has been
// written within that time.
func (m *marks) note(now time.Time, end record.Offset, age time.Duration) record.Offset {
	m.list = append(m.list, mark{now, end})
	for len(m.list) > 1 && now.Sub(m.list[1].at) >= age {
		m.list = m.list[1:]
	}
	if now.Sub(m.list[0].at) < age {
		return 0
	}
	return m.list[0].end
}
