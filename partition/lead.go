package partition

import (
	"context"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/timeofday"
	"github.com/oncelog/oncelog/record"
)

// lead does what only the leader does, until its term ends: it brings the replicated settings in
// line with the configuration, forgets idle producers, lets old records go and has logs compacted.
func (r *Replica) lead(ctx context.Context) {
	select {
	case <-r.opened:
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(r.host.config.ExpirationCheckInterval)
	defer ticker.Stop()
	retention := time.NewTicker(r.host.config.RetentionCheckInterval)
	defer retention.Stop()
	compaction := time.NewTicker(r.host.config.CompactionInterval)
	defer compaction.Stop()
	r.looks.Store(0)
	r.proposeSettings(ctx)
	var seen timeofday.Marks[record.Offset]
	seen.Note(time.Now(), r.bounds.Load().highWatermark, 0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.host.stopping:
			return
		case <-r.admission.configured:
			r.proposeSettings(ctx)
			r.retain(ctx, r.host.judge())
		case <-ticker.C:
			watch := min(r.config.Load().ProducerExpiration, timeofday.IdleWatch)
			r.expireProducers(ctx, r.host.judge(), seen.Note(time.Now(), r.bounds.Load().highWatermark, watch))
		case <-retention.C:
			r.retain(ctx, r.host.judge())
		case <-compaction.C:
			r.proposeCompaction(ctx, r.host.judge())
		}
	}
}

// proposeSettings makes the configuration that apply needs a part of the log (R5). A failure is
// left to the next change or the next leader: until then the old bound holds. How long producers are kept is only raised, and only where
// that may come to matter soon (look).
func (r *Replica) proposeSettings(ctx context.Context) {
	most := max(r.config.Load().MaxProducers, 1)
	r.mu.RLock()
	have, producers := r.state.settings, r.state.producers.Len()
	r.mu.RUnlock()
	want := settings{maxProducers: uint32(most), minIdle: have.minIdle}
	if crowded(producers, most) {
		want.minIdle = max(want.minIdle, keptIdleMS)
	}
	if want == have {
		return
	}
	_, err := r.group.Propose(ctx, raftgroup.Command{
		Meta: []byte{commandVersion, cmdSettings}, Data: want.encode(), AppendTime: r.host.config.Wall().UnixMilli()})
	if err != nil && ctx.Err() == nil {
		r.logger.Warn("settings not agreed", "err", err)
	}
}

// expireProducers names the producers idle for longer than the limit, with nothing at or above an
// offset; apply checks each again (P25, R5).
func (r *Replica) expireProducers(ctx context.Context, now time.Time, below record.Offset) {
	cutoff := now.Add(-r.config.Load().ProducerExpiration).UnixMilli()
	for ctx.Err() == nil {
		r.mu.RLock()
		idle := r.state.producers.Idle(cutoff, below, maxExpiredPerCommand)
		r.mu.RUnlock()
		if len(idle) == 0 {
			return
		}
		n, err := r.group.Propose(ctx, raftgroup.Command{
			Meta: []byte{commandVersion, cmdExpireProducers}, Data: encodeExpire(cutoff, below, idle), AppendTime: now.UnixMilli()})
		if err != nil {
			if ctx.Err() == nil {
				r.logger.Warn("idle producers not expired", "err", err)
			}
			return
		}
		expired, _ := n.(int)
		r.host.metrics.expired.Add(float64(expired))
		if expired == 0 {
			return
		}
	}
}
