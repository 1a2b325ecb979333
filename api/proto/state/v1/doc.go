// Package statev1 is what the control groups write in their Raft logs and snapshots.
//
// Beside the generated messages it holds what all of their machines do alike: bytes of a newer version
// are known as such ([HasUnknown], [ErrNewer]), and a snapshot is one message in a frame that shows any
// damage ([Format]).
package statev1
