package main

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// validHostName says why a name can't be this VM's. Dots separate labels, the
// first of which is the host's name.
func validHostName(name string) error {
	if name == "" || len(name) > 253 {
		return errors.New("a host name has 1 to 253 characters")
	}
	if _, err := parseAddr(name); err == nil {
		return errors.New("a host name is no address")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("each part of a host name has 1 to 63 characters and no hyphen at its ends")
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
				return errors.New("a host name holds only letters, digits, hyphens and dots")
			}
		}
	}
	return nil
}

// applyHostname sets the kernel's host name and the files that keep it. Of a
// name with dots the kernel gets the first part, /etc/hosts both.
func (m *machine) applyHostname(name string) (string, error) {
	if err := validHostName(name); err != nil {
		return "", failure("set host name", "HostName", err)
	}
	short, _, _ := strings.Cut(name, ".")
	if err := unix.Sethostname([]byte(short)); err != nil {
		return "", failure("set host name of the kernel to", short, err)
	}
	if err := m.guest.mkdir("/etc", 0o755, 0, 0); err != nil {
		return "", err
	}
	e := m.guest.edit()
	if err := e.put("/etc/hostname", []byte(short+"\n"), keepFile(0o644)); err != nil {
		return "", err
	}
	if err := m.putOtherHostnames(e, short); err != nil {
		return "", err
	}
	if m.cfg.Hosts {
		old, err := m.guest.read("/etc/hosts", 1<<20)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if err := e.put("/etc/hosts", editHosts(old, name, short), keepFile(0o644)); err != nil {
			return "", err
		}
	}
	return name, e.commitLater()
}

// putOtherHostnames writes what OpenRC, SUSE 11 and Red Hat 6 read instead of
// /etc/hostname, where it is there.
func (m *machine) putOtherHostnames(e *edit, short string) error {
	for _, f := range []struct{ path, key, quote string }{
		{"/etc/conf.d/hostname", "hostname=", `"`}, {"/etc/HOSTNAME", "", ""}, {"/etc/sysconfig/network", "HOSTNAME=", ""}} {
		if err := m.putHostnameLine(e, f.path, f.key, f.key+f.quote+short+f.quote); err != nil {
			return err
		}
	}
	return nil
}

// putHostnameLine replaces the line that starts with key in a file that exists;
// without a key, the whole file. A file without such a line is left alone.
func (m *machine) putHostnameLine(e *edit, p, key, line string) error {
	if !m.guest.isFile(p) {
		return nil
	}
	old, err := m.guest.read(p, 64<<10)
	if err != nil {
		return err
	}
	if key == "" {
		return e.put(p, []byte(line+"\n"), keepFile(0o644))
	}
	var b strings.Builder
	for l := range strings.Lines(string(old)) {
		if strings.HasPrefix(l, key) {
			l = line + "\n"
		}
		b.WriteString(l)
	}
	return e.put(p, []byte(b.String()), keepFile(0o644))
}

// editHosts returns /etc/hosts with the name at 127.0.1.1 and nowhere else there.
// An empty file gets the loopback lines too.
func editHosts(old []byte, name, short string) []byte {
	own := "127.0.1.1\t" + name
	if short != name {
		own += " " + short
	}
	own += "\n"
	var b strings.Builder
	done := false
	for line := range strings.Lines(string(old)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "127.0.1.1" {
			if !done {
				b.WriteString(own)
			}
			done = true
			continue
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	if done {
		return []byte(b.String())
	}
	text := b.String()
	if text == "" {
		text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	}
	// After the line of localhost, where Debian's installer puts it.
	head, tail, found := strings.Cut(text, "\n")
	if f := strings.Fields(head); found && len(f) > 0 && f[0] == "127.0.0.1" {
		return []byte(head + "\n" + own + tail)
	}
	return []byte(text + own)
}
