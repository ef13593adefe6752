package main

import (
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// preparation makes an image of a provisioned root: what belongs to one VM is
// taken out, the boot loader is told what Azure needs. It is planned as a list of
// changes, which are printed or made; planned again after that, the list is empty.
type preparation struct {
	m              *machine
	user           string // account to remove; "" for none
	hostName       string // the image's, short
	leasedResolver bool   // resolv.conf is of a DHCP client
	changes        []*change
	notes          []warning // what is left alone, by path
	boot           int       // boot loader files that were found
	wants          *bootWants
}

// change is one file, link or tree that prepare removes, empties or edits.
type change struct {
	action, path, why string
	rel               string // resolved
	old, new          []byte // of an edit
	files             int    // that a removal takes, and their bytes
	bytes             int64
}

const (
	actRemove = "remove"
	actEmpty  = "empty"
	actEdit   = "edit"
)

// prepare is the command: it prints the changes, with dry as a diff alone, or
// makes them.
func prepare(m *machine, a *arguments, stdout io.Writer, stdin *os.File) int {
	if err := m.mayPrepare(a, stdin); err != nil {
		m.log.fail("prepare", err.Error())
		return exitUsage
	}
	if !a.dry {
		if m.guest.isDir(stateDir) {
			lock, err := lockState(m.guest)
			if err != nil {
				m.log.fail("prepare", err.Error())
				return exitFailed
			}
			defer lock.Close()
			defer m.guest.remove(stateDir + "/lock")
		}
		if (a.user != "" || m.cfg.RootLock) && m.guest.isDir("/etc") {
			unlock, err := lockAccounts(m.guest, []string{"group", "gshadow", "passwd", "shadow", "subuid", "subgid"})
			if err != nil {
				m.log.fail("prepare", err.Error())
				return exitFailed
			}
			defer unlock()
		}
	}
	p, err := m.planPreparation(a.user)
	code := exitOK
	if err != nil {
		m.log.fail("prepare", err.Error())
		code = exitFailed
	}
	for _, c := range p.changes {
		if a.dry {
			io.WriteString(stdout, c.text()+c.diff())
			continue
		}
		if err := c.make(m.guest); err != nil {
			m.log.fail("prepare", err.Error())
			code = exitFailed
			continue
		}
		m.log.note("prepare", strings.TrimSuffix(c.text(), "\n"))
	}
	for _, n := range p.notes {
		m.log.note("prepare", n.Step+": "+n.Text)
	}
	if code == exitFailed {
		m.log.fail("prepare", "not all could be done: run it again after the cause is gone")
	} else if len(p.changes) == 0 {
		m.log.note("prepare", "nothing to change")
	}
	return code
}

// mayPrepare refuses what is no root file system, and the running system's own
// unless the user means it.
func (m *machine) mayPrepare(a *arguments, stdin *os.File) error {
	g := m.guest
	if !g.isDir("/etc") || !g.isFile("/etc/passwd") && !g.isFile("/etc/os-release") && !g.isExecutable("/sbin/init") && !g.isExecutable("/bin/busybox") {
		return failureHint("prepare", g.dir, errors.New("it is no root file system"), "it has no /etc with passwd or os-release, no /sbin/init")
	}
	here, err1 := os.Stat("/")
	there, err2 := g.lstat(".")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if a.dry || m.cfg.Force || !os.SameFile(here, there) {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(stdin.Fd()), unix.TCGETS); err != nil {
		return failureHint("prepare", g.dir, errors.New("it is the running system"), "-root DIR names an image; -force yes prepares this system all the same")
	}
	io.WriteString(os.Stderr, "azprov: this removes keys, state and logs of the running system. Type yes to go on: ")
	var b [16]byte
	if n, _ := stdin.Read(b[:]); strings.TrimSpace(string(b[:n])) != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// planPreparation lists all changes. What could not be looked at is an error;
// the other changes are planned all the same.
func (m *machine) planPreparation(user string) (*preparation, error) {
	p := &preparation{m: m, user: user, hostName: m.shortHostName()}
	for _, row := range strings.Split(cleanTable, "\n") {
		f := strings.Split(row, "|")
		for _, name := range m.guest.glob(f[1]) {
			if name != stateDir+"/lock" { // ours, for as long as we run
				p.clean(f[0], name, f[2])
			}
		}
	}
	for _, row := range strings.Split(lineTable, "\n") {
		f := strings.Split(row, "|")
		for _, name := range m.guest.glob(f[1]) {
			p.dropLines(f[0], name, f[2])
		}
	}
	if m.cfg.EntropySeed != "" {
		p.clean("file", m.cfg.EntropySeed, "random seed: no two VMs may start from the same")
	}
	// The account's line is the last to go, so that a run that was cut off finds
	// again what belongs to it.
	gid, err := p.planHome()
	errs := []error{err, p.planHistories(), p.planHostName(), p.planGenerator()}
	if err == nil {
		errs = append(errs, p.planAccounts(gid))
	}
	p.wants = m.bootWants()
	p.boot, err = m.editBootLoader(p.wants, func(name, old, new string) {
		p.edit(name, []byte(old), []byte(new), "kernel command line for Azure")
	}, p.note)
	switch {
	case p.boot == 0:
		p.note("/boot", "no boot loader configuration that is known")
	case p.wants.console == "":
		p.note("/boot", "the image's architecture is not known: no console= is set")
	}
	return p, errors.Join(append(errs, err)...)
}

func (p *preparation) note(name, text string) {
	p.notes = append(p.notes, warning{name, text})
}

// planned says whether a path is removed, or something that it is in.
func (p *preparation) planned(rel string) bool {
	for _, c := range p.changes {
		if c.rel == rel || c.action == actRemove && strings.HasPrefix(rel, c.rel+"/") {
			return true
		}
	}
	return false
}

func (p *preparation) add(c *change) {
	dir, err := p.m.guest.resolve(path.Dir(c.path))
	if err != nil {
		return
	}
	if c.rel = path.Join(dir, path.Base(c.path)); !p.planned(c.rel) {
		p.changes = append(p.changes, c)
	}
}

// remove plans the removal of what stands at a path.
func (p *preparation) remove(name, why string) {
	w := &treeWalk{visit: func(int, string, string, *unix.Stat_t) error { return nil }}
	if err := p.m.guest.walkTree(name, w); err != nil {
		p.note(name, "left alone: "+err.Error())
		return
	}
	p.add(&change{action: actRemove, path: name, why: why, files: w.files, bytes: w.bytes})
}

func (p *preparation) edit(name string, old, new []byte, why string) {
	if string(old) != string(new) {
		if new == nil {
			new = []byte{}
		}
		p.add(&change{action: actEdit, path: name, why: why, old: old, new: new})
	}
}

// clean plans what a row of cleanTable says for one path.
func (p *preparation) clean(how, name, why string) {
	info, err := p.m.guest.at(name)
	if err != nil || how != "all" && how != "logs" && !info.Mode().IsRegular() {
		return
	}
	switch how {
	case "all", "file":
		p.remove(name, why)
	case "empty":
		old, err := p.m.guest.read(name, 4096)
		if err != nil {
			p.note(name, err.Error())
		} else if strings.TrimSpace(string(old)) != "uninitialized" {
			p.edit(name, old, []byte{}, why)
		}
	case "logs":
		err := p.m.guest.walkTree(name, &treeWalk{visit: func(_ int, base, full string, st *unix.Stat_t) error {
			switch {
			case st.Mode&unix.S_IFMT != unix.S_IFREG:
			case rotated(base):
				p.add(&change{action: actRemove, path: full, why: why, files: 1, bytes: st.Size})
			case st.Size > 0:
				p.add(&change{action: actEmpty, path: full, why: why, bytes: st.Size})
			}
			return nil
		}})
		if err != nil {
			p.note(name, err.Error())
		}
	}
}

// maxLinesFile bounds a file that is edited by lines.
const maxLinesFile = 1 << 20

func (p *preparation) dropLines(which, name, why string) {
	if info, err := p.m.guest.at(name); err != nil || !info.Mode().IsRegular() {
		return
	}
	old, err := p.m.guest.read(name, maxLinesFile)
	if err != nil {
		p.note(name, err.Error())
		return
	}
	if name == "/etc/resolv.conf" {
		text := string(old)
		p.leasedResolver = strings.Contains(text, defaultWireServer) || strings.Contains(text, "enerated by") || strings.Contains(text, resolvMark)
	}
	var kept strings.Builder
	left, whole := false, false // something but comments; a file to remove without
	for _, line := range strings.SplitAfter(string(old), "\n") {
		text := strings.TrimSpace(line)
		drop, all := p.dropLine(which, text)
		whole = whole || all
		if drop {
			continue
		}
		kept.WriteString(line)
		left = left || text != "" && text[0] != '#'
	}
	if kept.Len() == len(old) {
		return
	}
	if whole && !left {
		p.remove(name, why)
		return
	}
	p.edit(name, old, []byte(kept.String()), why)
}

// shortHostName is the image's host name without its domain.
func (m *machine) shortHostName() string {
	data, _ := m.guest.read("/etc/hostname", 256)
	short, _, _ := strings.Cut(strings.TrimSpace(string(data)), ".")
	return short
}

// planHostName puts localhost in the place of the VM's name.
func (p *preparation) planHostName() error {
	e := p.m.guest.edit()
	if p.m.guest.isFile("/etc/hostname") {
		if err := e.put("/etc/hostname", []byte("localhost\n"), keepFile(0o644)); err != nil {
			return err
		}
	}
	if err := p.m.putOtherHostnames(e, "localhost"); err != nil {
		return err
	}
	for _, f := range e.pending {
		old, err := p.m.guest.read(f.path, 64<<10)
		if err != nil {
			return err
		}
		p.edit(f.path, old, f.data, "host name of one VM")
	}
	return nil
}

// planGenerator switches off the generator of persistent network names that old
// udevs have, as an empty file of its name does.
func (p *preparation) planGenerator() error {
	const name = "75-persistent-net-generator.rules"
	own := "/etc/udev/rules.d/" + name
	if _, err := p.m.guest.at(own); err == nil || !p.m.guest.isFile("/lib/udev/rules.d/"+name) {
		return nil
	}
	p.add(&change{action: actEdit, path: own, why: "else each VM would get rules for its MAC addresses", new: []byte{}})
	return nil
}

// bootWants looks up what the image's kernels and boot loader need.
func (m *machine) bootWants() *bootWants {
	w := &bootWants{args: m.cfg.PrepareArgs, initrd: len(m.guest.glob("/boot/init* /boot/*/*/initrd")) > 0}
	switch m.imageArchitecture() {
	case "amd64", "386":
		w.console = "console=ttyS0,115200n8"
	case "arm64":
		w.console = "console=ttyAMA0"
	}
	for _, release := range m.imageKernels() {
		if v := kernelVersion(release); v != 0 && v < firstNUMA {
			w.old = true
		}
	}
	return w
}

// imageKernels lists the releases of the image's kernels, the newest last.
func (m *machine) imageKernels() []string {
	var list []string
	for _, p := range m.guest.glob("/boot/vmlinu[xz]-* /boot/kernel-* /boot/Image-* /lib/modules/* /usr/lib/modules/*") {
		name := path.Base(p)
		for _, prefix := range []string{"vmlinuz-", "vmlinux-", "kernel-", "Image-"} {
			name = strings.TrimPrefix(name, prefix)
		}
		if kernelVersion(name) != 0 && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	sortFew(list, func(a, b string) bool { return kernelVersion(a) < kernelVersion(b) })
	return list
}

// imageArchitecture names what a program of the image was built for, by the
// machine of its ELF header; "" when it is none of those that azprov knows.
func (m *machine) imageArchitecture() string {
	for _, p := range []string{"/bin/busybox", "/bin/sh", "/sbin/init", "/usr/lib/systemd/systemd", "/usr/bin/env"} {
		h := m.head(p, 20)
		if len(h) < 20 || string(h[:4]) != "\x7fELF" || h[5] != 1 {
			continue
		}
		switch le.Uint16(h[18:]) {
		case 3:
			return "386"
		case 62:
			return "amd64"
		case 183:
			return "arm64"
		}
	}
	return ""
}

// head returns the first n bytes of a regular file, fewer if it is shorter; none
// when it can't be read.
func (m *machine) head(p string, n int) []byte {
	f, err := m.guest.openFile(p)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, n)
	n, _ = io.ReadFull(f, b)
	return b[:n]
}
