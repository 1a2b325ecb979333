package broker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/cluster"
)

// A directory whose cluster part is gone, or empty, beside votes or records is refused by name; one that is new, or that died
// in its first start, is not.
func TestDirectoryWithoutIdentityIsRefused(t *testing.T) {
	for _, x := range []struct {
		name    string
		files   []string
		refused bool
	}{
		{"nothing", nil, false},
		{"a first start that died", []string{"raft/", "partitions/", "coordinators/", "cluster/"}, false},
		{"a whole one", []string{"cluster/node.id", "raft/stable-0.db", "partitions/1-1/"}, false},
		{"votes alone", []string{"raft/stable-0.db"}, true},
		{"records beside an empty cluster directory", []string{"cluster/", "partitions/1-1/log/"}, true},
		{"coordinators alone", []string{"raft/", "coordinators/3-1/"}, true},
	} {
		cfg := DefaultConfig()
		cfg.DataDir = t.TempDir()
		for _, f := range x.files {
			path := filepath.Join(cfg.DataDir, f)
			err := os.MkdirAll(filepath.Dir(path), 0o750)
			if strings.HasSuffix(f, "/") {
				err = os.MkdirAll(path, 0o750)
			} else if err == nil {
				err = os.WriteFile(path, nil, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		b := &Broker{cfg: cfg}
		b.options.setDefaults()
		err := b.checkWhole()
		if (err != nil) != x.refused || x.refused && (!errors.Is(err, cluster.ErrForeignData) || !strings.Contains(err.Error(), "remove the whole data directory")) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}
