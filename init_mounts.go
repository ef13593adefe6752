package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// initMount is a file system that PID 1 mounts where nothing is mounted yet.
type initMount struct {
	fstype, path, data string
	flags              uintptr
	// moves says that it goes along to the real root.
	moves bool
}

// initMounts lists them in their order.
var initMounts = []initMount{
	{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
	{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
	{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID, true},
	{"devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC, false},
	{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV, true},
	{"tmpfs", "/tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, false},
}

// mountAll mounts what is not mounted below root, and returns what could not be.
// A kernel without devtmpfs gets a tmpfs with the nodes that sysfs names.
func mountAll(root string, mounts []initMount) error {
	var bad []error
	for _, im := range mounts {
		path := filepath.Join(root, im.path)
		if isMountPoint(path) {
			continue
		}
		mkdir := func() error { return os.MkdirAll(path, 0o755) }
		err := mkdir()
		if err == nil {
			err = unix.Mount(im.fstype, path, im.fstype, im.flags, im.data)
		}
		if errors.Is(err, unix.ENODEV) && im.fstype == "devtmpfs" {
			if err = unix.Mount("tmpfs", path, "tmpfs", im.flags, im.data); err == nil {
				err = makeNodes(filepath.Join(root, "sys"), path)
			}
		}
		if err != nil {
			bad = append(bad, failure("mount "+im.fstype+" on", im.path, errnoError(err)))
		}
	}
	return errors.Join(bad...)
}

// errnoError drops the texts around an errno, where there is one.
func errnoError(err error) error {
	if no := errnoOf(err); no != 0 {
		return no
	}
	return err
}

// isMountPoint compares the device of a directory with its parent's.
func isMountPoint(path string) bool {
	var st, parent unix.Stat_t
	return unix.Lstat(path, &st) == nil && unix.Lstat(filepath.Dir(path), &parent) == nil &&
		(st.Dev != parent.Dev || st.Ino == parent.Ino)
}

// makeNodes makes the device nodes that every program expects and those of the
// devices in sysfs, for a kernel without devtmpfs.
func makeNodes(sysfs, devfs string) error {
	for _, n := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"kmsg", 1, 11},
		{"tty", 5, 0}, {"console", 5, 1}, {"ptmx", 5, 2}} {
		mode := uint32(0o666)
		if n.name == "console" || n.name == "kmsg" {
			mode = 0o600
		}
		if err := makeNode(filepath.Join(devfs, n.name), unix.S_IFCHR|mode, n.major, n.minor); err != nil {
			return err
		}
	}
	for _, kind := range []string{"block", "char"} {
		for _, link := range listDir(filepath.Join(sysfs, "dev", kind)) {
			if err := makeDeviceNode(link, kind == "block", devfs); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeDeviceNode makes the node of one device of sysfs.
func makeDeviceNode(dir string, block bool, devfs string) error {
	name := ""
	for line := range strings.Lines(sysAttr(filepath.Join(dir, "uevent"))) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			name = filepath.Clean("/" + v)
		}
	}
	major, minor, ok := parseDeviceNumber(sysAttr(filepath.Join(dir, "dev")))
	if !ok || len(name) < 2 {
		return nil
	}
	mode := uint32(unix.S_IFCHR | 0o600)
	if block {
		mode = unix.S_IFBLK | 0o600
	}
	return makeNode(filepath.Join(devfs, name), mode, major, minor)
}

func makeNode(path string, mode, major, minor uint32) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return failure("make directory", filepath.Dir(path), err)
	}
	if err := unix.Mknod(path, mode, int(unix.Mkdev(major, minor))); err != nil && err != unix.EEXIST {
		return failure("make device node", path, err)
	}
	if mode&0o777 == 0o666 {
		return unix.Chmod(path, 0o666) // whatever the umask
	}
	return nil
}

// parseDeviceNumber reads "MAJOR:MINOR" as sysfs prints it.
func parseDeviceNumber(s string) (major, minor uint32, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	ma, err1 := strconv.ParseUint(a, 10, 12)
	mi, err2 := strconv.ParseUint(b, 10, 20)
	return uint32(ma), uint32(mi), ok && err1 == nil && err2 == nil
}
