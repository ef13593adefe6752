package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const busyboxTab = "::sysinit:/etc/init.d/rcS\n#ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\ntty1::respawn:/sbin/getty 38400 tty1\n::ctrlaltdel:/sbin/reboot"

func TestAddGetty(t *testing.T) {
	const sysv = "id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 tty1\n#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100\n"
	for tab, want := range map[string]string{
		"":         "ttyS0::respawn:/g -L ttyS0 115200 vt100\n",
		busyboxTab: "\nttyS0::respawn:/g -L ttyS0 115200 vt100\n",
		sysv:       "S0:2345:respawn:/g -L ttyS0 115200 vt100\n",
		"ttyS0::respawn:/sbin/getty -L 115200 ttyS0\n":               "",
		"ttyS0::askfirst:-/bin/sh\n":                                 "",
		"id:3:initdefault:\nT0:23:respawn:/sbin/agetty ttyS0 9600\n": "",
		"ttyS00::respawn:/x\nttyS0::once:/bin/echo\n":                "ttyS0::respawn:/g -L ttyS0 115200 vt100\n",
	} {
		if got := addGetty(tab, "ttyS0", "/g"); got != tab+want {
			t.Errorf("%q:\n%q", tab, got)
		}
	}
}

func TestSerialLogin(t *testing.T) {
	needRoot(t)
	const unit = "usr/lib/systemd/system/serial-getty@.service"
	for name, c := range map[string]struct {
		files, links map[string]string
		want         string // of the result, or of the error
		made         string // what is in the guest then
	}{
		"busybox":            {map[string]string{"sbin/getty": "x", "etc/inittab": busyboxTab}, nil, "added to /etc/inittab", "etc/inittab"},
		"getty is a link":    {map[string]string{"bin/busybox": "x", "etc/inittab": "x"}, map[string]string{"sbin/getty": "/bin/busybox"}, "added to /etc/inittab", "etc/inittab"},
		"systemd":            {map[string]string{"sbin/agetty": "x", unit: "x"}, nil, "by systemd", "etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"},
		"systemd, inittab":   {map[string]string{"sbin/agetty": "x", unit: "x", "etc/inittab": "x", "usr/lib/systemd/systemd": "x"}, map[string]string{"sbin/init": "/usr/lib/systemd/systemd"}, "by systemd", "etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"},
		"sysvinit, systemd":  {map[string]string{"sbin/agetty": "x", unit: "x", "etc/inittab": "id:2:initdefault:\n", "sbin/init": "x"}, nil, "added to /etc/inittab", "etc/inittab"},
		"no getty":           {map[string]string{"etc/inittab": busyboxTab}, nil, "the image has no getty", ""},
		"an init of its own": {map[string]string{"sbin/getty": "x"}, nil, "neither /etc/inittab nor serial-getty@.service (let its init start: /sbin/getty -L ttyS0 115200 vt100)", ""},
	} {
		m := newTestMachine(t)
		m.cfg.ConsoleLogin = true
		writeTree(t, m.sysfs, map[string]string{"class/tty/ttyS0/type": "4\n", "class/tty/ttyS1/type": "0\n"})
		writeTree(t, m.guest.dir, c.files)
		for link, target := range c.links {
			writeTree(t, m.guest.dir, map[string]string{filepath.Dir(link) + "/": ""})
			if err := os.Symlink(target, filepath.Join(m.guest.dir, link)); err != nil {
				t.Fatal(err)
			}
		}
		b := &boot{machine: m}
		text, err := b.stepConsole(t.Context())
		if c.made == "" && err == nil || c.made != "" && err != nil {
			t.Errorf("%s: %q, %v", name, text, err)
			continue
		}
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
		if c.made == "" {
			continue
		}
		path := filepath.Join(m.guest.dir, c.made)
		if target, err := os.Readlink(path); err == nil && target != "/"+unit {
			t.Errorf("%s: the link leads to %s", name, target)
		}
		before := manifest(t, m.guest.dir)
		if _, err := b.stepConsole(t.Context()); err != nil || manifest(t, m.guest.dir) != before {
			t.Errorf("%s: a second run: %v\n%s", name, err, lineDiff(before, manifest(t, m.guest.dir)))
		}
	}
}

func TestSerialPort(t *testing.T) {
	m := newTestMachine(t)
	writeTree(t, m.sysfs, map[string]string{"class/tty/ttyS0/type": "0\n", "class/tty/console/active": "tty0\n"})
	b := &boot{machine: m}
	m.cfg.Console, m.cfg.ConsoleLogin = "serial", true
	if _, err := b.stepConsole(t.Context()); !errors.Is(err, errNoSerial) {
		t.Errorf("a port without hardware: %v", err)
	}
	writeTree(t, m.sysfs, map[string]string{"class/tty/ttyAMA0/type": "45\n"})
	if port, err := m.serialPort(); port != "ttyAMA0" || err != nil {
		t.Errorf("%q, %v", port, err)
	}
	// /dev/console leads there already: nothing is opened.
	writeTree(t, m.sysfs, map[string]string{"class/tty/console/active": "tty0 ttyAMA0\n"})
	if text, err := m.consoleToSerial(); text != "" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}
