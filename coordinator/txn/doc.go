// Package txn is the life of one transactional id, from first epoch to completed marker.
//
// It is a machine: pure and deterministic, with no clock, no I/O, no lock and no goroutine. A [State] is
// one shard: all transactional ids that one coordinator group looks after. Every replica of the group
// feeds it the same commands with the leader's time, and every replica gets the same answers and the same
// bytes from [State.AppendSnapshot].
//
// A command is a request as the client made it, not a decision: [State.Apply] decides, against what is
// committed. [State.Check] says what Apply would say, without changing anything. Beside the request a command
// carries the version of the id that its sender saw (R2); if the id has moved on since, nothing happens and
// the answer is [Stale].
//
// The rule ids (I5, T19, R2 ...) are explained in DESIGN.md, the bytes in docs/formats/transactions.md.
package txn
