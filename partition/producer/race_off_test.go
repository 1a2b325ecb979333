//go:build !race

package producer

// raceEnabled says that the race detector is on, which makes random tests several times slower.
const raceEnabled = false
