package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRootDirStaysInside(t *testing.T) {
	top := t.TempDir()
	inside, outside := filepath.Join(top, "root"), filepath.Join(top, "outside")
	for _, dir := range []string{filepath.Join(inside, "sub/deeper"), filepath.Join(outside, "dir")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"file-link": "../outside/secret", "dir-link": "../outside", "absolute": outside, "sub/up": "../..", "inner": "sub"} {
		if err := os.Symlink(target, filepath.Join(inside, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openRootDir(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	before := manifest(t, outside)
	for _, p := range []string{"../outside/secret", "..", "", "sub/..", "sub/../../outside/secret", "/etc/passwd", "sub//deeper", "file-link", "dir-link/secret", "absolute/secret", "sub/up/outside/secret", "inner/deeper/x"} {
		if f, err := d.openFile(p, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err == nil {
			f.Close()
			t.Errorf("opened %q", p)
		}
		if err := d.mkdir(p, 0o755); err == nil {
			t.Errorf("made directory %q", p)
		}
		if err := d.rename("sub/deeper", p); err == nil {
			t.Errorf("renamed to %q", p)
		}
		if r, err := d.openDir(p); err == nil {
			r.close()
			t.Errorf("opened directory %q", p)
		}
		if filepath.Base(p) == "secret" {
			if _, err := d.lstat(p); err == nil {
				t.Errorf("looked at %q", p)
			}
			if err := d.remove(p); err == nil {
				t.Errorf("removed %q", p)
			}
		}
	}
	if after := manifest(t, outside); after != before {
		t.Errorf("what is outside has changed:\n%s", lineDiff(before, after))
	}
}

func TestRootDirDoesWhatItIsTold(t *testing.T) {
	dir := t.TempDir()
	d, err := openRootDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	check(d.mkdir("a", 0o750))
	check(d.mkdir("a/b", 0o700))
	f, err := d.openFile("a/b/file", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	check(err)
	_, err = f.WriteString("content")
	check(errors.Join(err, f.Close()))
	if _, err := d.openFile("a/b/file", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640); !errors.Is(err, os.ErrExist) {
		t.Errorf("made anew: %v", err)
	}
	check(os.Symlink("b/file", filepath.Join(dir, "a/link")))
	if target, err := d.readlink("a/link"); err != nil || target != "b/file" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	for p, want := range map[string]os.FileMode{"a": os.ModeDir | 0o750, "a/b/file": 0o640, "a/link": os.ModeSymlink | 0o777, ".": os.ModeDir | 0o755} {
		if info, err := d.lstat(p); err != nil || info.Mode() != want && p != "." {
			t.Errorf("%s: %v, want %v", p, info, want)
		}
	}
	if _, err := d.lstat("none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	check(d.rename("a/b/file", "a/moved"))
	if data, err := os.ReadFile(filepath.Join(dir, "a/moved")); err != nil || string(data) != "content" {
		t.Errorf("the moved file: %q, %v", data, err)
	}
	if err := d.remove("a"); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a full directory is removed: %v", err)
	}
	for _, p := range []string{"a/moved", "a/link", "a/b", "a"} {
		check(d.remove(p))
	}
	if err := d.remove("a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
}
