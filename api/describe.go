package api

import (
	"context"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/buildinfo"
)

// DescribeBroker shows how this broker is.
func (s *service) DescribeBroker(ctx context.Context, _ *clientv1.DescribeBrokerRequest) (*clientv1.DescribeBrokerResponse, error) {
	if refusal := s.refuseCluster(ctx, acl.Describe); refusal != nil {
		return nil, s.failed(refusal)
	}
	d := s.c.Self.Describe()
	answer := &clientv1.DescribeBrokerResponse{
		BrokerId: s.c.Cluster.Self(), Version: buildinfo.Get().Version,
		TimeMs: d.Now.UnixMilli(), ClockJumpMs: d.ClockJump.Milliseconds(), MaxFeatureLevel: uint32(d.MaxFeatureLevel),
		Disk: &clientv1.Disk{
			FreeBytes: d.Disk.Free, TotalBytes: d.Disk.Total, Full: d.Disk.Full,
			StalledMs: d.Disk.Stalled.Milliseconds(), SlowestSyncMs: d.Disk.SlowestSync.Milliseconds(),
		},
	}
	for _, r := range d.Reasons {
		answer.Reasons = append(answer.Reasons, valid(r))
	}
	for _, w := range d.Warnings {
		answer.Warnings = append(answer.Warnings, valid(w))
	}
	return answer, nil
}
