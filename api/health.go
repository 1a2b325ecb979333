package api

import (
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// healthServices are the names that the health service knows; the empty one is the broker.
var healthServices = []string{"", clientv1.LogService_ServiceDesc.ServiceName, clientv1.AdminService_ServiceDesc.ServiceName}

// watchHealth keeps the health service in step with Config.Health until Stop.
func (s *Server) watchHealth() {
	serving, changed := s.c.Health.Serving()
	s.setHealth(serving)
	s.owned.Go(func() {
		for {
			select {
			case <-changed:
				serving, changed = s.c.Health.Serving()
				s.setHealth(serving)
			case <-s.stopping.Done():
				return
			}
		}
	})
}

func (s *Server) setHealth(serving bool) {
	st := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		st = healthpb.HealthCheckResponse_SERVING
	}
	for _, name := range healthServices {
		s.health.SetServingStatus(name, st)
	}
}
