package raftgroup

import (
	"errors"
	"reflect"

	"github.com/hashicorp/raft"
)

// A future of Raft may never be answered: entries that wait in one of Raft's channels when it
// shuts down are forgotten, and Error then blocks for ever. Raft's futures have a field for this,
// ShutdownCh, which ends the wait and which Raft sets for some kinds only. endWith sets it for the
// others. The type is Raft's own and not exported, the field is.

// endWith makes f.Error return raft.ErrRaftShutdown once done is closed, if f is still open then.
// It is called before Error is. False: f is an answer already, and nothing was handed to Raft.
func endWith(f raft.Future, done chan struct{}) bool {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	field := v.Elem().FieldByName("ShutdownCh")
	if !field.IsValid() {
		return false
	}
	field.Set(reflect.ValueOf(done))
	return true
}

// checkFutures makes sure that the library in use is one that endWith works with.
func checkFutures() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("raftgroup: this version of hashicorp/raft has other futures")
		}
	}()
	f := (&raft.Raft{}).GetConfiguration()
	if !endWith(f, make(chan struct{})) {
		return errors.New("raftgroup: this version of hashicorp/raft has other futures")
	}
	return nil
}
