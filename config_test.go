package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConfigOrder(t *testing.T) {
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"etc/azprov.conf": "# comment\n\n media.wait = 5s\nuser.groups=adm, docker\nroot.lock = yes\n"})
	writeTree(t, m.procfs, map[string]string{"cmdline": "console=ttyS0 azprov.media.wait=7s quiet azprov.user.shell=\"/bin/my shell\"\n"})
	c, err := loadConfig(m.guest, "", m.procfs)
	if err != nil {
		t.Fatal(err)
	}
	if c.MediaWait != 7*time.Second || !slices.Equal(c.UserGroups, []string{"adm", "docker"}) || !c.RootLock || c.UserShell != "/bin/my shell" {
		t.Errorf("got %+v", c)
	}
}

func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"media.wait = soon":           "azprov.conf:1: media.wait: \"soon\" is no duration",
		"\n\nmedai = x":               "azprov.conf:3: medai: unknown key",
		"media":                       "azprov.conf:1: media: no =",
		"customdata = exec":           "azprov.conf:1: customdata: \"exec\" is none of store, run",
		"root.lock = maybe":           "azprov.conf:1: root.lock: \"maybe\" is neither",
		"password.rounds = 999":       "azprov.conf:1: password.rounds",
		strings.Repeat("#\n", 40<<10): "larger than 64 KiB",
	} {
		err := defaultConfig().readFile("azprov.conf", strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: error %v, want %q", text, err, want)
		}
	}
	if err := defaultConfig().readCommandLine("root=/dev/sda azprov.nonsense=1"); !errors.Is(err, errUnknownKey) {
		t.Errorf("command line: %v", err)
	}
	if _, err := loadConfig(newTestMachine(t).guest, filepath.Join(t.TempDir(), "none"), "/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a named file that is missing: %v", err)
	}
}

func TestSplitCommandLine(t *testing.T) {
	got := splitCommandLine("a  b=\"c d\" \"e f\"=g h\x00")
	if want := []string{"a", "b=c d", "e f=g", "h"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("media = /dev/sr0\nskip = disk", "azprov.health=json \"azprov.media=a b\"")
	f.Fuzz(func(t *testing.T, file, line string) {
		c := defaultConfig()
		c.readFile("f", strings.NewReader(file))
		c.readCommandLine(line)
	})
}
