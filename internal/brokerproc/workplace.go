package brokerproc

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// Workplace makes a directory in parent for one run of a program of this repository, with the executables of packages in it, which are
// built from the working directory. remove takes it away again, unless it is to be kept; then it is named on stderr now.
func Workplace(parent string, keep bool, packages ...string) (dir string, remove func(), err error) {
	if dir, err = os.MkdirTemp(parent, ".bench-"); err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	if keep {
		fmt.Fprintln(os.Stderr, "directory:", dir)
		remove = func() {}
	}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	if dir, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	for _, p := range packages {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, path.Base(p)), p)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return "", nil, fmt.Errorf("build %s: %w", p, err)
		}
	}
	return dir, remove, nil
}

// Download stores what the broker's HTTP listener answers to a path, a profile for instance, in a file.
func (p *Process) Download(ctx context.Context, path, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.HTTP+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", req.URL, resp.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
