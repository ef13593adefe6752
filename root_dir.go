package main

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// rootDir is an open directory, for files below it and nowhere else: no part of a
// path may be a link, "..", or absolute. os.Root does the same for paths with
// links, and takes 40 kB more; whoever has a path with links resolves it first.
type rootDir struct {
	f *os.File // opened with O_PATH
}

// openRootDir opens a directory, links followed: whoever calls trusts its path.
func openRootDir(dir string) (*rootDir, error) {
	return newRootDir(unix.AT_FDCWD, dir, 0)
}

func newRootDir(at int, name string, flags int) (*rootDir, error) {
	fd, err := openatRetry(at, name, unix.O_PATH|unix.O_DIRECTORY|flags, 0)
	if err != nil {
		return nil, err
	}
	return &rootDir{os.NewFile(uintptr(fd), name)}, nil
}

func openatRetry(at int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (d *rootDir) close() error { return d.f.Close() }

func (d *rootDir) fd() int { return int(d.f.Fd()) }

var errOutside = errors.New("the path leaves the directory")

// openDir opens a directory below; "." is the directory itself.
func (d *rootDir) openDir(rel string) (*rootDir, error) {
	r, err := newRootDir(d.fd(), ".", 0)
	if err != nil || rel == "." {
		return r, err
	}
	for part := range strings.SplitSeq(rel, "/") {
		if part == "" || part == ".." {
			r.close()
			return nil, errOutside
		}
		next, err := newRootDir(r.fd(), part, unix.O_NOFOLLOW)
		r.close()
		if err != nil {
			return nil, err
		}
		r = next
	}
	return r, nil
}

// entry calls f with the descriptor of the directory that rel's last part is in,
// and that part.
func (d *rootDir) entry(rel string, f func(at int, name string) error) error {
	dir, name := path.Split(rel)
	if name == "" || name == ".." {
		return errOutside
	}
	if dir == "" {
		return f(d.fd(), name)
	}
	r, err := d.openDir(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	defer r.close()
	return f(r.fd(), name)
}

// openFile is os.OpenFile; a link is ELOOP. The mode has permission bits alone.
func (d *rootDir) openFile(rel string, flag int, mode os.FileMode) (f *os.File, err error) {
	err = d.entry(rel, func(at int, name string) error {
		fd, err := openatRetry(at, name, flag|unix.O_NOFOLLOW, uint32(mode.Perm()))
		if err == nil {
			f = os.NewFile(uintptr(fd), rel)
		}
		return err
	})
	return f, err
}

// lstat is os.Lstat.
func (d *rootDir) lstat(rel string) (info os.FileInfo, err error) {
	err = d.entry(rel, func(at int, name string) error {
		fd, err := openatRetry(at, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), rel)
		defer f.Close()
		info, err = f.Stat()
		return err
	})
	return info, err
}

// remove is os.Remove: a file, a link, or an empty directory.
func (d *rootDir) remove(rel string) error {
	return d.entry(rel, func(at int, name string) error {
		err := unix.Unlinkat(at, name, 0)
		if err == unix.EISDIR || err == unix.EPERM {
			if dirErr := unix.Unlinkat(at, name, unix.AT_REMOVEDIR); dirErr != unix.ENOTDIR {
				return dirErr
			}
		}
		return err
	})
}

// mkdir is os.Mkdir.
func (d *rootDir) mkdir(rel string, mode os.FileMode) error {
	return d.entry(rel, func(at int, name string) error { return unix.Mkdirat(at, name, uint32(mode.Perm())) })
}

// rename is os.Rename.
func (d *rootDir) rename(from, to string) error {
	return d.entry(from, func(at int, name string) error {
		return d.entry(to, func(at2 int, name2 string) error { return unix.Renameat(at, name, at2, name2) })
	})
}

// readlink is os.Readlink, for targets of up to 4095 bytes.
func (d *rootDir) readlink(rel string) (target string, err error) {
	err = d.entry(rel, func(at int, name string) error {
		var b [4096]byte
		n, err := unix.Readlinkat(at, name, b[:])
		if err == nil && n == len(b) {
			err = unix.ENAMETOOLONG
		}
		target = string(b[:max(n, 0)])
		return err
	})
	return target, err
}
