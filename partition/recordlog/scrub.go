package recordlog

import (
	"errors"

	"github.com/oncelog/oncelog/record"
)

// Scrub reads entries from an index on from the disk, about maxBytes of them, and checks every
// frame. It gives the index to go on with; 0: the end was reached. An index that retention has
// dropped meanwhile is followed by the log's begin. A *CorruptionError is damage that nobody had
// read yet.
func (l *Log) Scrub(from record.Index, maxBytes int64) (record.Index, error) {
	if l.closed.Load() {
		return 0, ErrClosed
	}
	l.mu.RLock()
	from = max(from, l.live.begin)
	last := l.live.last()
	l.mu.RUnlock()
	next := from
	for next <= last && maxBytes > 0 {
		err := l.at(next, peerReader, func(c *cursor) error {
			for c.more() && maxBytes > 0 {
				_, h, err := c.take()
				if err != nil {
					return err
				}
				maxBytes -= int64(h.length)
				next = h.index + 1
			}
			return nil
		})
		if errors.Is(err, ErrNotFound) {
			return next, nil // dropped or cut off meanwhile; the next call sees what is there
		}
		if err != nil {
			return next, err
		}
	}
	if next > last {
		return 0, nil
	}
	return next, nil
}
