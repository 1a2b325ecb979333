// Package producer decides whether a batch is new, a duplicate, out of order or fenced, and which transactions are open.
//
// It is a machine: pure and deterministic, with no clock, no I/O, no lock and no goroutine. Every replica of
// a partition feeds it the same batches and markers at the same offsets with the leader's time stamps, and every
// replica gets the same verdicts, the same evictions and the same bytes from [State.AppendTo].
//
// [State] is the committed truth, changed by apply only. [State.Check] asks it without changing it. [Speculation]
// is the leader's own note of what it has proposed and not yet seen applied; it is never replicated.
//
// The rule ids (P5, L9, R3 ...) are explained in DESIGN.md, the encoding in docs/formats/producer-state.md.
package producer
