package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rootParams is what the kernel command line says about the real root
// (Documentation/admin-guide/kernel-parameters.txt).
type rootParams struct {
	device string // root=
	fstype string // rootfstype=, "" = find out
	flags  string // rootflags=
	write  bool   // rw; the kernel's default is ro
	wait   bool   // rootwait
	delay  time.Duration
	init   string // init=
}

func parseRootParams(cmdline string) rootParams {
	var p rootParams
	for _, word := range splitCommandLine(cmdline) {
		if word == "--" {
			break
		}
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "root":
			p.device = value
		case "rootfstype":
			p.fstype = value
		case "rootflags":
			p.flags = value
		case "ro":
			p.write = false
		case "rw":
			p.write = true
		case "rootwait":
			p.wait = true
		case "rootdelay":
			if n, err := strconv.Atoi(value); err == nil && n > 0 {
				p.delay = time.Duration(min(n, 3600)) * time.Second
			}
		case "init":
			p.init = value
		}
	}
	return p
}

// sysroot is where the real root is mounted.
const sysroot = "/sysroot"

// blockDevice is a candidate for the root.
type blockDevice struct{ name, node string }

// blockDevices lists what may hold a root: everything in sysfs but loop devices,
// RAM disks, floppies and optical drives.
func (m *machine) blockDevices() []blockDevice {
	var list []blockDevice
	for _, dir := range listDir(m.sys("class/block")) {
		name := filepath.Base(dir)
		kind := strings.TrimRight(name, "0123456789")
		if slices.Contains([]string{"loop", "ram", "fd", "sr", "zram"}, kind) || sysAttr(dir+"/size") == "0" {
			continue
		}
		list = append(list, blockDevice{name, m.dev(strings.ReplaceAll(name, "!", "/"))})
	}
	return list
}

// findRoot looks for what root= names among the devices that are there now; ""
// when it is not.
func (m *machine) findRoot(root string) string {
	tag, value, tagged := strings.Cut(root, "=")
	if !tagged || strings.HasPrefix(root, "/") {
		return m.findNode(root)
	}
	for _, d := range m.blockDevices() {
		f, err := os.Open(d.node)
		if err != nil {
			continue
		}
		var id identity
		partUUID, partLabel := "", ""
		if strings.HasPrefix(tag, "PART") {
			partUUID, partLabel = m.partition(d.name)
		} else {
			id = identify(f)
		}
		f.Close()
		if tagMatches(tag, value, id, partUUID, partLabel) {
			return d.node
		}
	}
	return ""
}

// findNode resolves /dev/NAME, MAJOR:MINOR and the kernel's hexadecimal MMmm.
func (m *machine) findNode(root string) string {
	node := root
	if rest, ok := strings.CutPrefix(root, "/dev/"); ok {
		node = m.dev(rest)
	} else {
		number := root
		if v, err := strconv.ParseUint(root, 16, 32); err == nil {
			number = strconv.FormatUint(v>>8&0xfff, 10) + ":" + strconv.FormatUint(v&0xff|v>>12&0xfff00, 10)
		}
		link, err := os.Readlink(m.sys("dev/block", number))
		if err != nil {
			return ""
		}
		node = m.dev(strings.ReplaceAll(filepath.Base(link), "!", "/"))
	}
	if info, err := os.Stat(node); err != nil || info.Mode()&os.ModeDevice == 0 {
		return ""
	}
	return node
}

// partition reads the table of a partition's disk, and returns "" for both when
// the device is no partition.
func (m *machine) partition(name string) (uuid, label string) {
	// The link's target is .../block/DISK/PARTITION.
	dir := m.sys("class/block", name)
	target, err := os.Readlink(dir)
	if err != nil {
		return "", ""
	}
	parent := filepath.Dir(target)
	number, err1 := strconv.Atoi(sysAttr(dir + "/partition"))
	sector, err2 := strconv.Atoi(sysAttr(m.sys("class/block", filepath.Base(parent), "queue/logical_block_size")))
	if err1 != nil || err2 != nil {
		return "", ""
	}
	f, err := os.Open(m.dev(strings.ReplaceAll(filepath.Base(parent), "!", "/")))
	if err != nil {
		return "", ""
	}
	defer f.Close()
	return partitionIdentity(f, int64(sector), number)
}

var errNoRoot = errors.New("no such device")

// awaitRoot waits for the root device; every block device that comes is a reason
// to look again.
func (m *machine) awaitRoot(p rootParams, changed <-chan struct{}) (string, error) {
	wait := m.cfg.RootWait
	if p.wait {
		wait = m.cfg.Deadline
	}
	if p.delay > 0 {
		time.Sleep(p.delay)
	}
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		if node := m.findRoot(p.device); node != "" {
			return node, nil
		}
		select {
		case <-changed:
		case <-deadline.C:
			var seen []string
			for _, d := range m.blockDevices() {
				seen = append(seen, d.name)
			}
			hint := "block devices are: " + strings.Join(seen, " ")
			if len(seen) == 0 {
				hint = "there is no block device at all"
			}
			for _, d := range m.undriven() {
				hint += "; no driver for " + d
			}
			return "", failureHint("wait "+wait.String()+" for root", p.device, errNoRoot, hint)
		}
	}
}

// mountRoot mounts the root for writing, since it is to be provisioned. A device
// that can only be read is mounted that way.
func (m *machine) mountRoot(p rootParams, node string, load func(string)) error {
	fstypes := strings.FieldsFunc(p.fstype, func(r rune) bool { return r == ',' })
	if len(fstypes) == 0 {
		f, err := os.Open(node)
		if err != nil {
			return failure("open root", node, err)
		}
		id := identify(f)
		f.Close()
		if id.fstype == "" {
			return failureHint("mount root", node, errors.New("unknown file system"), "name it with rootfstype=")
		}
		fstypes = []string{id.fstype}
	}
	flags, data := mountOptions(p.flags)
	var err error
	for _, fstype := range fstypes {
		load("fs-" + fstype)
		if err = os.MkdirAll(sysroot, 0o755); err == nil {
			err = unix.Mount(node, sysroot, fstype, flags, data)
		}
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
			err = unix.Mount(node, sysroot, fstype, flags|unix.MS_RDONLY, data)
		}
		if err == nil {
			return nil
		}
	}
	hint := ""
	if errors.Is(err, unix.ENODEV) {
		hint = "this kernel has no " + strings.Join(fstypes, ",") + ": put its module into the initramfs"
	}
	return failureHint("mount root", node, errnoError(err), hint)
}

// mountOptions splits rootflags into the flags of mount(2) and what is the file
// system's own.
func mountOptions(options string) (flags uintptr, data string) {
	known := map[string]uintptr{"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME,
		"relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME,
		"rw": 0, "defaults": 0}
	var rest []string
	for word := range strings.SplitSeq(options, ",") {
		if flag, ok := known[word]; ok {
			flags |= flag
		} else if word != "" {
			rest = append(rest, word)
		}
	}
	return flags, strings.Join(rest, ",")
}

// findInit returns the program that becomes PID 1 of the real root: init=, or
// the first of the kernel's usual ones.
func findInit(dir string, p rootParams) (string, error) {
	g, err := openGuest(dir)
	if err != nil {
		return "", err
	}
	defer g.close()
	if p.init != "" {
		if !g.isExecutable(p.init) {
			return "", failureHint("find init", p.init, unix.ENOENT, "init= names no program of the root file system")
		}
		return p.init, nil
	}
	for _, path := range []string{"/sbin/init", "/etc/init", "/bin/init", "/bin/sh"} {
		if g.isExecutable(path) {
			return path, nil
		}
	}
	return "", failureHint("find init", "/sbin/init", unix.ENOENT, "the root file system has no init: name one with init=")
}

// switchRoot makes the real root the root and becomes its init. It returns only
// on failure before the point of no return.
func switchRoot(p rootParams, init string, args []string) error {
	for _, im := range initMounts {
		target := filepath.Join(sysroot, im.path)
		switch {
		case !isMountPoint(im.path):
		case im.moves && os.MkdirAll(target, 0o755) == nil && unix.Mount(im.path, target, "", unix.MS_MOVE, "") == nil:
		default:
			_ = unix.Unmount(im.path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
	}
	if !p.write {
		flags, data := mountOptions(p.flags)
		if err := unix.Mount("", sysroot, "", flags|unix.MS_REMOUNT|unix.MS_RDONLY, data); err != nil {
			return failure("make read-only", sysroot, err)
		}
	}
	freeInitramfs()
	for _, step := range []struct {
		op string
		do func() error
	}{
		{"change to", func() error { return unix.Chdir(sysroot) }},
		{"move to /", func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") }},
		{"change root to", func() error { return unix.Chroot(".") }},
		{"change to / of", func() error { return unix.Chdir("/") }},
	} {
		if err := step.do(); err != nil {
			return failure(step.op, sysroot, err)
		}
	}
	return failure("execute init", init, syscall.Exec(init, append([]string{init}, args...), os.Environ()))
}

// freeInitramfs deletes the files of the initramfs, which would hold memory for
// ever. It does nothing when "/" is no RAM file system.
func freeInitramfs() {
	var fs unix.Statfs_t
	if unix.Statfs("/", &fs) != nil || fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return
	}
	var st unix.Stat_t
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	if unix.Fstat(fd, &st) == nil {
		deleteBelow(os.NewFile(uintptr(fd), "/"), st.Dev, 0)
	}
}

// deleteBelow deletes what is in an open directory and on its device: mount
// points and links are not followed. It closes the directory.
func deleteBelow(dir *os.File, device uint64, depth int) {
	defer dir.Close()
	fd := int(dir.Fd())
	for {
		names, _ := dir.Readdirnames(256)
		if len(names) == 0 || depth > 64 {
			return
		}
		for _, name := range names {
			if unix.Unlinkat(fd, name, 0) == nil {
				continue
			}
			sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			var st unix.Stat_t
			if unix.Fstat(sub, &st) != nil || st.Dev != device {
				unix.Close(sub)
				continue
			}
			deleteBelow(os.NewFile(uintptr(sub), name), device, depth+1)
			_ = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
		}
	}
}
