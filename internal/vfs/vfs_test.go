package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

// both runs a test on the real file system and on the one in memory.
func both(t *testing.T, test func(t *testing.T, fsys FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, OS(), t.TempDir()) })
	t.Run("mem", func(t *testing.T) {
		m := NewMem(1)
		must(t, m.MkdirAll("root/dir"))
		test(t, m, "root/dir")
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, fsys FS, name string, data []byte) File {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	return f
}

func content(t testing.TB, fsys FS, name string) []byte {
	t.Helper()
	b, err := ReadFile(fsys, name)
	must(t, err)
	return b
}

func TestFiles(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "a")
		f := create(t, fsys, name, []byte("hello"))
		if _, err := fsys.Create(name); !errors.Is(err, fs.ErrExist) {
			t.Fatalf("creating twice: %v", err)
		}
		if _, err := fsys.Open(filepath.Join(dir, "b")); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("opening nothing: %v", err)
		}
		n, err := f.WritevAt([][]byte{[]byte(" "), []byte("wor"), nil, []byte("ld")}, 5)
		if err != nil || n != 6 {
			t.Fatalf("WritevAt: %d, %v", n, err)
		}
		must(t, f.Sync())
		if got := content(t, fsys, name); string(got) != "hello world" {
			t.Fatalf("content %q", got)
		}
		must(t, f.Truncate(4))
		must(t, f.Truncate(6))
		if got := content(t, fsys, name); string(got) != "hell\x00\x00" {
			t.Fatalf("content after truncation %q", got)
		}
		if err := f.Reserve(6, 1000); err != nil && !errors.Is(err, ErrNoReserve) {
			t.Fatal(err)
		}
		if size, err := f.Size(); err != nil || size != 6 {
			t.Fatalf("size %d, %v", size, err)
		}
		must(t, f.Close())
		must(t, fsys.Rename(name, filepath.Join(dir, "c")))
		must(t, fsys.SyncDir(dir))
		names, err := fsys.List(dir)
		if err != nil || len(names) != 1 || names[0] != "c" {
			t.Fatalf("names %v, %v", names, err)
		}
		if ok, err := Exists(fsys, filepath.Join(dir, "c")); !ok || err != nil {
			t.Fatalf("exists: %v, %v", ok, err)
		}
		if ok, err := Exists(fsys, filepath.Join(dir, "no", "c")); ok || err != nil {
			t.Fatalf("exists: %v, %v", ok, err)
		}
		must(t, fsys.Remove(filepath.Join(dir, "c")))
		must(t, fsys.MkdirAll(filepath.Join(dir, "x", "y")))
		must(t, create(t, fsys, filepath.Join(dir, "x", "y", "z"), []byte("z")).Close())
		if err := fsys.Remove(filepath.Join(dir, "x")); err == nil {
			t.Fatal("removed a directory that is not empty")
		}
		must(t, fsys.RemoveAll(filepath.Join(dir, "x")))
		must(t, fsys.RemoveAll(filepath.Join(dir, "x")))
	})
}

func TestManyBuffers(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "a")
		f := create(t, fsys, name, nil)
		defer f.Close()
		var bufs [][]byte
		var want []byte
		for i := range 3000 {
			b := bytes.Repeat([]byte{byte(i)}, i%7)
			bufs = append(bufs, b)
			want = append(want, b...)
		}
		n, err := f.WritevAt(bufs, 3)
		if err != nil || n != int64(len(want)) {
			t.Fatalf("%d, %v", n, err)
		}
		if got := content(t, fsys, name); !bytes.Equal(got[3:], want) {
			t.Fatal("content differs")
		}
	})
}

func TestWriteFileAtomic(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "a")
		for _, data := range []string{"one", "three", ""} {
			must(t, WriteFileAtomic(fsys, name, []byte(data)))
			if got := content(t, fsys, name); string(got) != data {
				t.Fatalf("content %q, want %q", got, data)
			}
		}
	})
}

func TestLock(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		l, err := fsys.Lock(dir)
		must(t, err)
		if _, err := fsys.Lock(dir); !errors.Is(err, ErrLocked) {
			t.Fatalf("locked twice: %v", err)
		}
		must(t, l.Close())
		l, err = fsys.Lock(dir)
		must(t, err)
		must(t, l.Close())
	})
}
