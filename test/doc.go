// Package test holds the tests of whole clusters: the promises of docs/guarantees.md, each under
// faults.
package test
