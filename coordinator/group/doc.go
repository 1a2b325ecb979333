// Package group is the life of one consumer group: members, generations, assignments, committed offsets.
//
// It is a machine: pure and deterministic, with no clock, no I/O, no lock and no goroutine. A [State] is one shard: all
// groups that one coordinator group looks after, and the producers whose transactions hold offsets of these groups. Every
// replica feeds it the same commands with the leader's time, and every replica gets the same answers and the
// same bytes from [State.AppendSnapshot].
//
// A command is a request as the client made it, or a decision of the coordinator about what only it can see: that a
// session has ended, that a rebalance is complete. [State.Apply] decides, against what is committed;
// [State.Check] says what Apply would say, without changing anything.
//
// The rule ids (G19, T10, R2 ...) are explained in DESIGN.md, the bytes in docs/formats/groups.md.
package group
