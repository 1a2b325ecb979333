//go:build !race

package heapfloor

const raced = false
