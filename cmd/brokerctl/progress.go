package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// progress shows on stderr how long work is getting on: one line that is rewritten on a terminal, and
// a line every ten seconds elsewhere. Its goroutine ends with stop.
type progress struct {
	p    *program
	line func() string
	done chan struct{}
	wg   sync.WaitGroup
	last int // width of what is on the terminal
}

const (
	terminalPace = 250 * time.Millisecond
	filePace     = 10 * time.Second
)

// startProgress begins to show line. With --quiet it shows nothing.
func (p *program) startProgress(line func() string) *progress {
	g := &progress{p: p, line: line, done: make(chan struct{})}
	if p.flags.quiet {
		return g
	}
	pace := filePace
	if p.terminal {
		pace = terminalPace
	}
	g.wg.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				g.show()
			case <-g.done:
				return
			}
		}
	})
	return g
}

func (g *progress) show() {
	s := g.line()
	if !g.p.terminal {
		fmt.Fprintln(g.p.stderr, s)
		return
	}
	fmt.Fprintf(g.p.stderr, "\r%s%s", s, strings.Repeat(" ", max(0, g.last-len(s))))
	g.last = len(s)
}

// stop ends it and takes the line off the terminal.
func (g *progress) stop() {
	close(g.done)
	g.wg.Wait()
	if g.last > 0 {
		fmt.Fprintf(g.p.stderr, "\r%s\r", strings.Repeat(" ", g.last))
	}
}
