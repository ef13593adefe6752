package main

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// home is a user's home directory held by descriptor. Everything below it may
// have been planted by the user: each component is opened without following
// links, and what is written belongs to the user.
type home struct {
	g        *guest
	dir      *os.File
	path     string
	uid, gid int
	label    string // SELinux label for files of ~/.ssh; "" without SELinux
}

// openHome opens the account's home.
func (m *machine) openHome(a *account) (*home, error) {
	rel, err := m.guest.resolve(a.Home)
	if err != nil {
		return nil, err
	}
	if rel == "." {
		return nil, failure("open home", a.Home, errors.New("the home is the root directory"))
	}
	d, err := m.guest.open(rel, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, failure("open home", a.Home, err)
	}
	h := &home{g: m.guest, dir: d, path: a.Home, uid: a.UID, gid: a.GID}
	if sysAttr(m.sys("fs/selinux/enforce")) != "" {
		h.label = "unconfined_u:object_r:ssh_home_t:s0"
	}
	info, err := d.Stat()
	if err == nil {
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != a.UID && st.Uid != 0 {
			err = errorf("it belongs to uid %d", st.Uid)
		}
	}
	if err != nil {
		d.Close()
		return nil, failure("open home", a.Home, err)
	}
	return h, nil
}

func (h *home) close() { h.dir.Close() }

// descend opens the directory of a path relative to the home; with create, what
// is missing is made 0700 for the user. A link or anything else in the way is an
// error.
func (h *home) descend(rel string, create bool) (*os.File, error) {
	fd, err := unix.FcntlInt(h.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, failure("open", h.path, err)
	}
	at := h.path
	for _, name := range strings.Split(path.Clean(rel), "/") {
		if name == "." || name == "" {
			continue
		}
		at = path.Join(at, name)
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) && create {
			if err = unix.Mkdirat(fd, name, 0o700); err == nil {
				if next, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
					h.setLabel(next)
					if err = unix.Fchown(next, h.uid, h.gid); err != nil {
						unix.Close(next)
					}
				}
			}
		}
		unix.Close(fd)
		if err != nil {
			return nil, failureHint("open directory", at, err, "a link or file in its place is not followed")
		}
		fd = next
	}
	return os.NewFile(uintptr(fd), at), nil
}

// read returns a regular file below the home with one name, of at most limit
// bytes. A missing one is os.ErrNotExist.
func (h *home) read(rel string, limit int64) ([]byte, error) {
	dir, err := h.descend(path.Dir(rel), false)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	full := path.Join(h.path, rel)
	fd, err := unix.Openat(int(dir.Fd()), path.Base(rel), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failure("open", full, err)
	}
	f := os.NewFile(uintptr(fd), full)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return nil, failure("read", full, errors.New("not a regular file with one name"))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, failure("read", full, err)
	}
	if int64(len(data)) > limit {
		return nil, failure("read", full, errorf("larger than %d bytes", limit))
	}
	return data, nil
}

// put replaces a file below the home: owned by the user, never through a link.
// It is durable when the guest has settled; a file that it replaces is not lost
// before.
func (h *home) put(rel string, data []byte, mode uint32) error {
	dir, err := h.descend(path.Dir(rel), true)
	if err != nil {
		return err
	}
	at, name := int(dir.Fd()), path.Base(rel)
	full, temp := path.Join(h.path, rel), "."+name+".azprov"
	unix.Unlinkat(at, temp, 0)
	fd, err := unix.Openat(at, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		dir.Close()
		return failure("create", full, err)
	}
	f := os.NewFile(uintptr(fd), full)
	h.setLabel(fd)
	_, err = f.Write(data)
	if err == nil {
		err = unix.Fchown(fd, h.uid, h.gid)
	}
	if err == nil {
		err = unix.Fchmod(fd, mode)
	}
	var st unix.Stat_t
	if err == nil && unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		err = f.Sync()
	}
	if err == nil {
		err = unix.Renameat(at, temp, at, name)
	}
	if err != nil {
		f.Close()
		dir.Close()
		unix.Unlinkat(at, temp, 0)
		return failure("write", full, err)
	}
	h.g.syncLater(f)
	h.g.syncLater(dir)
	return nil
}

// setLabel gives a file the label that sshd's policy wants; where the policy
// doesn't know it the file keeps its own.
func (h *home) setLabel(fd int) {
	if h.label != "" {
		unix.Fsetxattr(fd, "security.selinux", append([]byte(h.label), 0), 0)
	}
}

// Limits of a skeleton.
const (
	maxSkelEntries = 1024
	maxSkelBytes   = 64 << 20
	maxSkelDepth   = 16
)

// makeHome makes the home as useradd -m does, with a copy of the skeleton. A
// home that exists keeps its content; one that belongs to root and is empty is
// given to the user.
func (m *machine) makeHome(a *account, mode os.FileMode, skel string) error {
	if a.Home == "/" || a.Home == "/root" && a.UID != 0 {
		return failure("make home", a.Home, errors.New("not a home of its own"))
	}
	if info, err := m.guest.stat(a.Home); err == nil {
		if !info.IsDir() {
			return failure("make home", a.Home, unix.ENOTDIR)
		}
		if info.Sys().(*syscall.Stat_t).Uid != 0 || a.UID == 0 || len(m.guest.list(a.Home)) > 0 {
			return nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := m.guest.mkdir(a.Home, 0o700, 0, 0); err != nil {
		return err
	}
	h, err := m.openHome(a)
	if err != nil {
		return err
	}
	defer h.close()
	c := &skelCopy{m: m, uid: a.UID, gid: a.GID}
	if m.guest.isDir(skel) {
		if err := c.copy(skel, int(h.dir.Fd()), 0); err != nil {
			return err
		}
	}
	// The directory comes to the user last, so that a run that was cut off finds
	// it still root's.
	if err := h.dir.Chown(a.UID, a.GID); err != nil {
		return failure("change owner of", a.Home, err)
	}
	if err := h.dir.Chmod(mode); err != nil {
		return failure("change mode of", a.Home, err)
	}
	d, err := h.descend(".", false)
	if err != nil {
		return err
	}
	m.guest.syncLater(d)
	return nil
}

// skelCopy copies a tree of files, directories and links for a new owner.
type skelCopy struct {
	m        *machine
	uid, gid int
	entries  int
	bytes    int64
}

func (c *skelCopy) copy(from string, to, depth int) error {
	for _, name := range c.m.guest.list(from) {
		src := path.Join(from, name)
		if c.entries++; c.entries > maxSkelEntries || depth > maxSkelDepth {
			return failure("copy", src, errors.New("the skeleton is too large"))
		}
		if err := c.entry(src, name, to, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *skelCopy) entry(src, name string, to, depth int) error {
	dir, err := c.m.guest.resolve(path.Dir(src))
	if err != nil {
		return err
	}
	rel := path.Join(dir, name)
	info, err := c.m.guest.lstat(rel)
	if err != nil {
		return failure("copy", src, err)
	}
	switch {
	case info.IsDir():
		return c.directory(src, name, to, depth, info.Mode().Perm())
	case info.Mode()&os.ModeSymlink != 0:
		target, err := c.m.guest.root.readlink(rel)
		if err == nil {
			if err = unix.Symlinkat(target, to, name); errors.Is(err, unix.EEXIST) {
				err = nil
			}
		}
		if err == nil {
			err = unix.Fchownat(to, name, c.uid, c.gid, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return failure("copy link", src, err)
		}
		return nil
	case !info.Mode().IsRegular():
		return nil
	}
	if c.bytes += info.Size(); c.bytes > maxSkelBytes {
		return failure("copy", src, errors.New("the skeleton is too large"))
	}
	data, err := c.m.guest.read(src, maxSkelBytes)
	if err != nil {
		return err
	}
	unix.Unlinkat(to, name, 0) // of a run that was cut off
	fd, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return failure("copy", src, err)
	}
	f := os.NewFile(uintptr(fd), src)
	defer c.m.guest.syncLater(f)
	if _, err := f.Write(data); err != nil {
		return failure("copy", src, err)
	}
	if err := errors.Join(unix.Fchown(fd, c.uid, c.gid), unix.Fchmod(fd, uint32(info.Mode().Perm()))); err != nil {
		return failure("copy", src, err)
	}
	return nil
}

func (c *skelCopy) directory(src, name string, to, depth int, mode os.FileMode) error {
	if err := unix.Mkdirat(to, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return failure("copy", src, err)
	}
	fd, err := unix.Openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return failure("copy", src, err)
	}
	defer c.m.guest.syncLater(os.NewFile(uintptr(fd), src))
	if err := c.copy(src, fd, depth+1); err != nil {
		return err
	}
	if err := errors.Join(unix.Fchown(fd, c.uid, c.gid), unix.Fchmod(fd, uint32(mode))); err != nil {
		return failure("copy", src, err)
	}
	return nil
}
