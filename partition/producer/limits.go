package producer

// SetLimits changes the bounds from here on. All replicas do it at the same entry. What is above a
// lowered bound goes with the next new producer.
func (s *State) SetLimits(limits Limits) { s.limits = limits }
