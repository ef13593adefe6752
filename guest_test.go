package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGuestStaysBelowItsRoot(t *testing.T) {
	m := newTestMachine(t)
	outside := filepath.Join(t.TempDir(), "outside")
	writeTree(t, filepath.Dir(outside), map[string]string{"outside": "host"})
	writeTree(t, m.guest.dir, map[string]string{"etc/real": "guest", "run/": "", outside[1:]: "below"})
	for link, target := range map[string]string{
		"etc/absolute": "/etc/real", "etc/up": "../../../../etc/real", "etc/out": outside,
		"etc/loop": "loop", "etc/chain": "absolute", "lib": "etc", "etc/dangling": "/etc/made",
	} {
		if err := os.Symlink(target, filepath.Join(m.guest.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[string]string{
		"/etc/real": "guest", "/etc/absolute": "guest", "/etc/up": "guest", "/etc/out": "below",
		"/etc/chain": "guest", "/lib/absolute": "guest", "../../etc/real": "guest",
	} {
		if got, err := m.guest.read(p, 100); err != nil || string(got) != want {
			t.Errorf("read %s: %q, %v; want %q", p, got, err, want)
		}
	}
	if _, err := m.guest.read("/etc/loop", 100); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
	if err := m.guest.write("/etc/dangling", []byte("new"), rootFile(0o644)); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(m.guest.dir, "etc/made")); string(b) != "new" {
		t.Errorf("a dangling link was not written through: %q", b)
	}
	if err := m.guest.write("/etc/out", []byte("new"), rootFile(0o644)); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(outside); string(b) != "host" {
		t.Errorf("a file outside the root now holds %q", b)
	}
}

func TestEdit(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"etc/kept": "old", "etc/same": "same"})
	kept := filepath.Join(m.guest.dir, "etc/kept")
	if err := errors.Join(os.Chown(kept, 3, 4), os.Chmod(kept, 0o640)); err != nil {
		t.Fatal(err)
	}
	e := m.guest.edit()
	for p, mode := range map[string]fileMode{"/etc/kept": keepFile(0o600), "/etc/new": keepFile(0o604), "/etc/same": rootFile(0o644)} {
		data := "new"
		if p == "/etc/same" {
			data = "same"
		}
		if err := e.put(p, []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	if e.changes() != 2 {
		t.Errorf("%d changes, want 2", e.changes())
	}
	if err := e.commit(); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{"kept": "new 640 3:4", "new": "new 604 0:0", "same": "same 644 0:0"} {
		full := filepath.Join(m.guest.dir, "etc", p)
		data, err := os.ReadFile(full)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := os.Stat(full)
		st := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%s %o %d:%d", data, info.Mode().Perm(), st.Uid, st.Gid); got != want {
			t.Errorf("%s is %q, want %q", p, got, want)
		}
	}
	if names := m.guest.list("/etc"); len(names) != 3 {
		t.Errorf("left behind: %v", names)
	}
}

func TestEditFailsWhole(t *testing.T) {
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"etc/a": "old"})
	e := m.guest.edit()
	if err := errors.Join(e.put("/etc/a", []byte("new"), keepFile(0o644)), e.put("/none/b", []byte("new"), keepFile(0o644))); err != nil {
		t.Fatal(err)
	}
	if err := e.commit(); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("commit: %v", err)
	}
	if got, _ := m.guest.read("/etc/a", 10); string(got) != "old" {
		t.Errorf("/etc/a holds %q", got)
	}
	if names := m.guest.list("/etc"); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestGuestRefusesWhatIsNoFile(t *testing.T) {
	m := newTestMachine(t)
	if err := unix.Mkfifo(filepath.Join(m.guest.dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.guest.read("/fifo", 10); err == nil {
		t.Error("a fifo was read")
	}
	if err := m.guest.write("/fifo", nil, rootFile(0o600)); err == nil {
		t.Error("a fifo was replaced")
	}
	writeTree(t, m.guest.dir, map[string]string{"big": strings.Repeat("x", 11)})
	if _, err := m.guest.read("/big", 10); err == nil || !strings.Contains(err.Error(), "larger than 10 bytes") {
		t.Errorf("big: %v", err)
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	s := secret("hunter2")
	for _, format := range []string{"%v", "%s", "%q", "%x", "%d", "%w"} {
		for _, got := range []string{sprintf(format, s), errorf(format, s).Error(), encodeJSON(object{{"a", s}})} {
			if strings.Contains(got, "hunter2") || strings.Contains(got, "68") || strings.Contains(got, "104") {
				t.Errorf("%s prints %q", format, got)
			}
		}
		if got := sprintf(format, struct{ P secret }{s}); got != "!" {
			t.Errorf("%s of a struct prints %q", format, got)
		}
	}
	s.wipe()
	if strings.Contains(string(s), "hunter2") {
		t.Error("wipe left the bytes")
	}
}
