package main

import (
	"bytes"
	"flag"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// bootCase is a file of testdata/bootloader: "-- PATH" starts a file of the
// image, "link TARGET" makes it a link, "-- want PATH" what is expected of it,
// "-- notes" what is left alone. A first line "arm64" sets the architecture.
type bootCase struct {
	arch        string
	files, want map[string]string
	order       []string
	notes       string
}

func readBootCase(t *testing.T, name string) *bootCase {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut("\n"+strings.TrimSuffix(string(data), "\n"), "\n-- ")
	c := &bootCase{arch: strings.TrimSpace(head), files: map[string]string{}, want: map[string]string{}}
	for section := range strings.SplitSeq(rest, "\n-- ") {
		path, text, _ := strings.Cut(section, "\n")
		if text != "" && !strings.HasSuffix(path, "grubenv") { // which has no line end at its end
			text += "\n"
		}
		if path == "notes" {
			c.notes = text
		} else if p, ok := strings.CutPrefix(path, "want "); ok {
			c.want[p] = text
		} else {
			c.files[path] = text
			c.order = append(c.order, path)
		}
	}
	return c
}

// elf is the start of a program of a machine.
func elf(machine byte) string {
	return "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x03\x00" + string([]byte{machine}) + strings.Repeat("\x00", 45)
}

// machineOf is a machine with a root directory, whose console is discarded.
func machineOf(t *testing.T, root string) *machine {
	t.Helper()
	g, err := openGuest(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	return &machine{cfg: defaultConfig(), guest: g, sysfs: root + "/sys", procfs: root + "/proc", devfs: root + "/dev", log: &console{w: io.Discard}, now: time.Now}
}

func (c *bootCase) root(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	put := func(p, text string) {
		p = filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(text, "link "); ok {
			if err := os.Symlink(strings.TrimSpace(target), p); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for p, text := range c.files {
		put(p, text)
	}
	program := elf(62)
	if c.arch == "arm64" {
		program = elf(183)
	}
	put("/bin/sh", program)
	return machineOf(t, dir)
}

// Configuration files as distributions ship them, and what becomes of them.
func TestBootLoaderFiles(t *testing.T) {
	cases, _ := filepath.Glob("testdata/bootloader/*.txt")
	if len(cases) < 20 {
		t.Fatalf("only %d files", len(cases))
	}
	for _, name := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			c := readBootCase(t, name)
			m := c.root(t)
			changed := map[string]string{}
			notes := ""
			run := func() {
				_, err := m.editBootLoader(m.bootWants(), func(p, old, new string) {
					changed[p] = new
					if err := m.guest.write(p, []byte(new), keepFile(0o644)); err != nil {
						t.Error(err)
					}
				}, func(p, text string) { notes += p + ": " + text + "\n" })
				if err != nil {
					t.Error(err)
				}
			}
			run()
			if *update {
				c.write(t, name, changed, notes)
				c = readBootCase(t, name)
			}
			if !maps.Equal(changed, c.want) {
				for p := range c.files {
					if changed[p] != c.want[p] {
						t.Errorf("%s\n%s", p, unifiedDiff(p, []byte(c.want[p]), []byte(changed[p])))
					}
				}
			}
			if notes != c.notes {
				t.Errorf("notes %q, want %q", notes, c.notes)
			}
			for p, text := range changed {
				if strings.HasSuffix(p, "grub.cfg") {
					need(t, "grub-script-check")
					cmd := exec.Command("grub-script-check")
					cmd.Stdin = strings.NewReader(text)
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("grub-script-check %s: %v %s", p, err, out)
					}
				}
				if strings.HasPrefix(p, "/etc/default/") {
					if out, err := exec.Command("sh", "-n", filepath.Join(m.guest.dir, p)).CombinedOutput(); err != nil {
						t.Errorf("sh -n %s: %v %s", p, err, out)
					}
				}
				if strings.HasSuffix(p, "grubenv") {
					need(t, "grub-editenv")
					out, err := exec.Command("grub-editenv", filepath.Join(m.guest.dir, p), "list").CombinedOutput()
					if err != nil || !bytes.Contains(out, []byte("rootdelay=300")) || len(text) != grubEnvSize {
						t.Errorf("grub-editenv: %v %s", err, out)
					}
				}
			}
			changed = map[string]string{}
			run()
			if len(changed) > 0 {
				t.Errorf("a second run changes %v", changed)
			}
		})
	}
}

func (c *bootCase) write(t *testing.T, name string, changed map[string]string, notes string) {
	t.Helper()
	var b strings.Builder
	if c.arch != "" {
		b.WriteString(c.arch + "\n")
	}
	end := func(s string) string {
		if s == "" {
			return ""
		}
		return strings.TrimSuffix(s, "\n") + "\n"
	}
	for _, p := range c.order {
		b.WriteString("-- " + p + "\n" + end(c.files[p]))
	}
	for _, p := range slices.Sorted(maps.Keys(changed)) {
		b.WriteString("-- want " + p + "\n" + end(changed[p]))
	}
	if notes != "" {
		b.WriteString("-- notes\n" + notes)
	}
	if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
