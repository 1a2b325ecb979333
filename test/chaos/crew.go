package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/oncelog/oncelog/internal/history"
)

// crew is the worker processes: one seat for each transactional id. A seat whose process has ended gets another one.
type crew struct {
	binary    string
	addrs     []string
	notes     string // socket
	from, to  string
	group     string
	seed      uint64
	deathRate int
	transform bool // the first seat uses client.Transform

	mu      sync.Mutex // guards what follows
	next    history.Process
	seats   []*seat
	zombies int // replaced while they were paused
	fenced  int // ended because another process has the id
	died    int // of themselves, in the middle of a transaction
	wrong   error
	closing bool
	running sync.WaitGroup
}

// seat is one transactional id.
type seat struct {
	number int
	now    *workerProcess
}

// workerProcess is one process.
type workerProcess struct {
	cmd *exec.Cmd
	// replaced: another one has its seat. killed: it was killed from outside.
	replaced, killed bool
	ended            chan struct{}
}

func (w *crew) start(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = 1000
	for i := range n {
		s := &seat{number: i}
		w.seats = append(w.seats, s)
		if err := w.fill(s); err != nil {
			return err
		}
	}
	return nil
}

// fill starts a process for a seat. Held: mu.
func (w *crew) fill(s *seat) error {
	args := []string{
		"worker", "-bootstrap", strings.Join(w.addrs, ","), "-notes", w.notes, "-process", fmt.Sprint(w.next), "-seed", fmt.Sprint(w.seed),
		"-id", fmt.Sprintf("%s-%d", w.group, s.number), "-group", w.group, "-from", w.from, "-to", w.to, "-death-rate", fmt.Sprint(w.deathRate),
		fmt.Sprintf("-transform=%t", w.transform && s.number == 0),
	}
	w.next += 10
	cmd := exec.Command(w.binary, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &workerProcess{cmd: cmd, ended: make(chan struct{})}
	s.now = p
	w.running.Go(func() { w.await(s, p) })
	return nil
}

// await waits for the end of a process, judges it, and fills its seat.
func (w *crew) await(s *seat, p *workerProcess) {
	err := p.cmd.Wait()
	close(p.ended)
	w.mu.Lock()
	defer w.mu.Unlock()
	var exit *exec.ExitError
	switch code := p.cmd.ProcessState.ExitCode(); {
	case err == nil, p.killed:
	case !errors.As(err, &exit):
		w.wrong = errors.Join(w.wrong, err)
	case code == exitReplaced:
		w.fenced++
	case exit.Sys().(syscall.WaitStatus).Signaled():
		w.died++
	default:
		w.wrong = errors.Join(w.wrong, fmt.Errorf("a worker ended: %w", err))
	}
	if s.now != p || w.closing {
		return
	}
	if err := w.fill(s); err != nil {
		w.wrong = errors.Join(w.wrong, err)
	}
}

// kill kills the process of a seat.
func (w *crew) kill(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seats[n].now.killed = true
	_ = w.seats[n].now.cmd.Process.Kill() // it may have died a moment ago
}

// pause stops the process of a seat without its knowledge; wake has it go on. With replace another process takes the seat meanwhile.
func (w *crew) pause(n int, replace bool) (wake func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.seats[n]
	p := s.now
	_ = p.cmd.Process.Signal(syscall.SIGSTOP) // it may have died a moment ago
	if replace {
		p.replaced = true
		w.zombies++
		err = w.fill(s)
	}
	return func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }, err
}

// stop tells all to stop, and kills those that do not.
func (w *crew) stop() error {
	w.mu.Lock()
	w.closing = true
	for _, s := range w.seats {
		_ = s.now.cmd.Process.Signal(syscall.SIGTERM) // it may have died a moment ago
	}
	seats := w.seats
	w.mu.Unlock()
	late := 0
	for _, s := range seats {
		select {
		case <-s.now.ended:
		case <-time.After(30 * time.Second):
			late++
			w.kill(s.number)
		}
	}
	w.running.Wait() // zombies find out that they were replaced
	w.mu.Lock()
	defer w.mu.Unlock()
	if late > 0 {
		w.wrong = errors.Join(w.wrong, fmt.Errorf("%d workers did not stop within 30 s", late))
	}
	return w.wrong
}
