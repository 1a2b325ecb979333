// Package compaction decides what stays of a compacted log: the last record of each key, and what readers and
// producers need besides.
//
// What a pass leaves of a log follows from the log and the Pass alone, batch by batch, and it does not matter
// whether earlier passes came before it: a pass on what others left gives what it gives on the whole log. That is
// why a replica may skip passes, stop in the middle of one, or do one in several rounds, and still hold, byte
// for byte, what all others hold. docs/decisions/0011-compaction.md makes the argument.
package compaction
