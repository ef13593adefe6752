package main

import (
	"errors"
	"os"
	"strings"
)

// sudoersFile is ours as a whole. A dot in its name would make sudo skip it.
const sudoersFile = "/etc/sudoers.d/azprov"

// allowRoot plans how the user becomes root: sudo, else doas, with a password
// iff the account has one. The result says which, for the summary.
func (m *machine) allowRoot(e *edit, a *account) (string, error) {
	switch {
	case m.hasProgram("sudo"):
		return "sudo", m.allowSudo(e, a)
	case m.hasProgram("doas"):
		return "doas", m.allowDoas(e, a)
	}
	return "no sudo in the image", nil
}

// hasProgram looks where programs are.
func (m *machine) hasProgram(name string) bool {
	for _, dir := range []string{"/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/", "/usr/local/bin/"} {
		if m.guest.isExecutable(dir + name) {
			return true
		}
	}
	return false
}

func (m *machine) allowSudo(e *edit, a *account) error {
	if err := m.guest.mkdir("/etc/sudoers.d", 0o750, 0, 0); err != nil {
		return err
	}
	right := "ALL"
	if !a.HasPassword {
		right = "NOPASSWD: ALL"
	}
	rule := sprintf("# Written by azprov: the account that this VM was created with.\n%s ALL=(ALL:ALL) %s\n", a.Name, right)
	if err := e.put(sudoersFile, []byte(rule), rootFile(0o440)); err != nil {
		return err
	}
	main, err := m.guest.read("/etc/sudoers", 1<<20)
	if errors.Is(err, os.ErrNotExist) {
		main, err = []byte("root ALL=(ALL:ALL) ALL\n"), nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(main)) {
		f := strings.Fields(line)
		if len(f) == 2 && (f[0] == "#includedir" || f[0] == "@includedir") && strings.TrimSuffix(f[1], "/") == "/etc/sudoers.d" {
			return nil
		}
	}
	if len(main) > 0 && main[len(main)-1] != '\n' {
		main = append(main, '\n')
	}
	return e.put("/etc/sudoers", append(main, "#includedir /etc/sudoers.d\n"...), keepFile(0o440))
}

// allowDoas writes a file of its own where doas reads a folder, else the user's
// line in doas.conf.
func (m *machine) allowDoas(e *edit, a *account) error {
	rule := "permit persist " + a.Name + "\n"
	if !a.HasPassword {
		rule = "permit nopass " + a.Name + "\n"
	}
	if m.guest.isDir("/etc/doas.d") {
		return e.put("/etc/doas.d/azprov.conf", []byte(rule), rootFile(0o640))
	}
	old, err := m.guest.read("/etc/doas.conf", 1<<20)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var b strings.Builder
	for line := range strings.Lines(string(old)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "permit" && f[2] == a.Name {
			continue
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	return e.put("/etc/doas.conf", []byte(b.String()+rule), keepFile(0o640))
}
