package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// newTestMachine returns a machine whose trees are empty folders of the test:
// root, sys, proc, dev and run below one temporary directory.
func newTestMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"root", "sys", "proc", "dev", "run"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g, err := openGuest(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	return &machine{
		cfg: defaultConfig(), guest: g, log: &console{w: io.Discard}, now: time.Now,
		sysfs: filepath.Join(dir, "sys"), procfs: filepath.Join(dir, "proc"), devfs: filepath.Join(dir, "dev"), runfs: filepath.Join(dir, "run"),
	}
}

// writeTree writes files below a directory: path to content. A path that ends in
// a slash is a directory.
func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		full := filepath.Join(dir, name)
		parent := filepath.Dir(full)
		if name[len(name)-1] == '/' {
			parent = full
		}
		if err := os.MkdirAll(parent, 0o755); err != nil {
			t.Fatal(err)
		}
		if parent == full {
			continue
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSwapUUID(t *testing.T) {
	for in, want := range map[string]string{
		"527c2691-029f-fe4c-b1f4-a4da7ebac2cf": "91267c52-9f02-4cfe-b1f4-a4da7ebac2cf",
		"a219f727-76c1-2242-83c7-c6f08dee524a": "27f719a2-c176-4222-83c7-c6f08dee524a",
		"not a uuid":                           "not a uuid",
		"":                                     "",
	} {
		if got := swapUUID(in); got != want {
			t.Errorf("swapUUID(%q) = %q, want %q", in, got, want)
		}
	}
}
