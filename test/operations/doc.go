// Package operations walks through docs/operations.md and docs/security.md: its tests run every command that these tell operators to run,
// against real brokers, and the programs of examples. make operations does it; without -binaries, it is only looked whether every command has its step.
package operations
