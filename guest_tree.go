package main

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// glob returns what exists of the patterns, which are separated by blanks: paths
// whose parts may hold *, ? and [. Links on the way are followed below the root,
// the last part is not. A pattern that ends with "/" is all that is in a
// directory. At most 4096 names of a directory are looked at.
func (g *guest) glob(patterns string) []string {
	var found []string
	for _, pattern := range strings.Fields(patterns) {
		if strings.HasSuffix(pattern, "/") {
			pattern += "*"
		}
		found = g.expand("/", pattern[1:], found)
	}
	return found
}

// expand adds what exists of a pattern below a directory.
func (g *guest) expand(dir, pattern string, found []string) []string {
	part, rest, more := strings.Cut(pattern, "/")
	names := []string{part}
	if strings.ContainsAny(part, "*?[") {
		names = g.list(dir)
	}
	for _, name := range names {
		if ok, err := path.Match(part, name); !ok || err != nil {
			continue
		}
		p := path.Join(dir, name)
		if more {
			found = g.expand(p, rest, found)
		} else if _, err := g.at(p); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// at looks at a path itself, be it a link.
func (g *guest) at(p string) (os.FileInfo, error) {
	dir, err := g.resolve(path.Dir(p))
	if err != nil {
		return nil, err
	}
	return g.lstat(path.Join(dir, path.Base(p)))
}

// treeWalk visits a tree by descriptors: no link is followed, no other file
// system entered, even if someone changes the tree meanwhile.
type treeWalk struct {
	dev   uint64
	files int
	bytes int64
	// visit is told every entry, a directory after what is in it.
	visit func(dir int, name, path string, st *unix.Stat_t) error
}

// Limits of a tree.
const (
	maxTreeDepth = 128
	maxTreeFiles = 10 << 20
)

// walkTree visits what stands at a path.
func (g *guest) walkTree(p string, w *treeWalk) error {
	rel, err := g.resolve(path.Dir(p))
	if err != nil {
		return err
	}
	d, err := g.open(rel, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return failure("open directory", path.Dir(p), err)
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), path.Base(p), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return failure("stat", p, err)
	}
	w.dev = st.Dev
	return w.walk(int(d.Fd()), path.Base(p), p, 0)
}

func (w *treeWalk) walk(dir int, name, p string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return failure("stat", p, err)
	}
	w.files++
	if depth > maxTreeDepth || w.files > maxTreeFiles {
		return failure("walk", p, errors.New("the tree is too large"))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		w.bytes += st.Size
		return w.visit(dir, name, p, &st)
	}
	if st.Dev != w.dev {
		return failureHint("walk", p, unix.EXDEV, "another file system is mounted there")
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return failure("open directory", p, err)
	}
	d := os.NewFile(uintptr(fd), p)
	names, err := d.Readdirnames(-1)
	for _, n := range names {
		if err == nil {
			err = w.walk(fd, n, p+"/"+n, depth+1)
		}
	}
	d.Close()
	if err != nil {
		return err
	}
	return w.visit(dir, name, p, &st)
}

// removeTree removes what stands at a path with all that is in it.
func (g *guest) removeTree(p string) error {
	return g.walkTree(p, &treeWalk{visit: func(dir int, name, p string, st *unix.Stat_t) error {
		flags := 0
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		if err := unix.Unlinkat(dir, name, flags); err != nil && err != unix.ENOENT {
			return failure("remove", p, err)
		}
		return nil
	}})
}

// openFile opens a regular file below the root.
func (g *guest) openFile(p string) (*os.File, error) {
	rel, err := g.resolve(p)
	if err != nil {
		return nil, err
	}
	f, err := g.open(rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, failure("open", p, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, failure("open", p, errors.New("not a regular file"))
	}
	return f, nil
}
