package main

import (
	"bytes"
	"context"
	"os"
	"syscall"
	"testing"
)

func TestSecondSignalEndsAtOnce(t *testing.T) {
	exited := make(chan int, 1)
	var stderr bytes.Buffer
	p := program{stderr: &stderr, exit: func(code int) { exited <- code }}
	ctx, stop := p.drainOnSignal(context.Background())
	kill(t, syscall.SIGTERM)
	<-ctx.Done()
	select {
	case code := <-exited:
		t.Fatalf("the first signal ended the process with %d", code)
	default:
	}
	kill(t, syscall.SIGINT)
	if code := <-exited; code != 128+int(syscall.SIGINT) {
		t.Errorf("exit code %d, want %d", code, 128+int(syscall.SIGINT))
	}
	stop()
	want := "brokerd: terminated: stopping; once more ends it at once\nbrokerd: second interrupt: ending at once\n"
	if stderr.String() != want {
		t.Errorf("stderr %q, want %q", stderr.String(), want)
	}
}

func TestStopWithoutSignal(t *testing.T) {
	p := program{exit: func(int) { t.Error("exit") }}
	ctx, stop := p.drainOnSignal(context.Background())
	stop()
	if ctx.Err() == nil {
		t.Error("stop leaves the context open")
	}
}

func kill(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), sig); err != nil {
		t.Fatal(err)
	}
}
