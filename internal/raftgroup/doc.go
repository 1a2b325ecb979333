// Package raftgroup makes a deterministic state machine a replicated one; nothing else imports hashicorp/raft or raft-boltdb.
//
// A Host is one broker's end of every Raft group: it owns the connections to the other brokers,
// the stable stores and the groups themselves. A Group is one replica of one group: commands go
// in by Propose, come back through the StateMachine in the same order on every replica, and each
// failure says whether the command did not happen or may have happened (R2).
//
// DESIGN.md tells why the transport, the log adapter and the halting of a group are as they are.
package raftgroup
