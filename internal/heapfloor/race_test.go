//go:build race

package heapfloor

// raced: the race detector's allocator touches what it hands out.
const raced = true
