package cluster

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
)

// The addresses of peers are saved by several goroutines while a broker joins. Before, they renamed each other's file away.
func TestAddressesAreSavedByOneAtATime(t *testing.T) {
	var log bytes.Buffer
	file := filepath.Join(t.TempDir(), hintsFile)
	logger := slog.New(slog.NewTextHandler(&log, nil))
	book := openAddressBook(vfs.OS(), file, logger)
	const n = 8
	var wg sync.WaitGroup
	for i := range int32(n) {
		wg.Go(func() {
			for round := range 20 {
				book.set(addressEntry{Broker: i, Incarnation: 1, Address: fmt.Sprintf("10.0.0.%d:%d", i, 9000+round)})
				book.save()
			}
		})
	}
	wg.Wait()
	if again := openAddressBook(vfs.OS(), file, logger); len(again.all()) != n || log.Len() > 0 {
		t.Errorf("%d of %d addresses are remembered\n%s", len(again.all()), n, log.String())
	}
}
