// Package brokertest runs a whole cluster inside a Go test, with a network, disks and a clock whose
// faults a seed decides.
package brokertest
