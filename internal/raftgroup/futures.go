package raftgroup

import (
	"errors"
	"reflect"
	"sync"

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
	at := shutdownField(v.Type())
	if at == nil {
		return false
	}
	v.Elem().FieldByIndex(at).Set(reflect.ValueOf(done))
	return true
}

// shutdownFields are where the field lies in each type of future that was met: looking for it by name takes longer than all else that is
// done with a proposal.
var shutdownFields sync.Map // of reflect.Type, to []int, nil where there is none

func shutdownField(t reflect.Type) []int {
	if at, ok := shutdownFields.Load(t); ok {
		return at.([]int)
	}
	var at []int
	if t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct {
		if field, ok := t.Elem().FieldByName("ShutdownCh"); ok {
			at = field.Index
		}
	}
	shutdownFields.Store(t, at)
	return at
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
