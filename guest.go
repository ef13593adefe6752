package main

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// guest is the root directory that is provisioned: "/" or, from an initramfs,
// "/sysroot". Every path is the guest's own ("/etc/passwd") and can't leave the
// root: an absolute link in the image is followed below the root, as the guest
// itself would.
type guest struct {
	dir  string
	root *rootDir

	mu   sync.Mutex
	dirs map[string]string   // resolved directories
	subs map[string]*rootDir // opened directories, by resolved path

	// What is written but not yet durable: settle waits for it.
	later   sync.WaitGroup
	slots   chan struct{} // bounds the syncs under way, each of which takes a thread
	lateErr error
}

// maxSyncs is how many files are synced at once behind the steps' backs.
const maxSyncs = 4

func openGuest(dir string) (*guest, error) {
	r, err := openRootDir(dir)
	if err != nil {
		return nil, failureHint("open root directory", dir, err, "give an existing directory with -root")
	}
	return &guest{dir: dir, root: r, dirs: map[string]string{}, subs: map[string]*rootDir{".": r}, slots: make(chan struct{}, maxSyncs)}, nil
}

func (g *guest) close() {
	for _, r := range g.subs {
		r.close()
	}
}

// in opens the directory of a resolved path, once for all, and returns it with
// the last part of the path.
func (g *guest) in(rel string) (*rootDir, string, error) {
	dir, name := path.Split(rel)
	dir = path.Clean(dir)
	if rel == "." {
		dir, name = ".", "."
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.subs[dir]; r != nil {
		return r, name, nil
	}
	r, err := g.root.openDir(dir)
	if err != nil {
		return nil, "", failure("open directory", "/"+dir, err)
	}
	g.subs[dir] = r
	return r, name, nil
}

// syncLater makes a file or directory durable behind the caller's back and closes it.
func (g *guest) syncLater(f *os.File) {
	g.later.Go(func() {
		g.slots <- struct{}{}
		defer func() { <-g.slots }()
		err := f.Sync()
		f.Close()
		if err != nil && !errors.Is(err, unix.EINVAL) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.lateErr == nil {
				g.lateErr = failure("sync", f.Name(), err)
			}
		}
	})
}

// settle waits until all that was left to syncLater is durable.
func (g *guest) settle() error {
	g.later.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lateErr
}

// lstat looks at a resolved path.
func (g *guest) lstat(rel string) (os.FileInfo, error) {
	r, name, err := g.in(rel)
	if err != nil {
		return nil, err
	}
	return r.lstat(name)
}

// open opens a resolved path.
func (g *guest) open(rel string, flag int, mode os.FileMode) (*os.File, error) {
	r, name, err := g.in(rel)
	if err != nil {
		return nil, err
	}
	return r.openFile(name, flag, mode)
}

// unlink removes a file or empty directory of a resolved path.
func (g *guest) unlink(rel string) error {
	r, name, err := g.in(rel)
	if err != nil {
		return err
	}
	return r.remove(name)
}

// resolve follows every link of p below the root and returns the path relative
// to it, ready for the methods of rootDir. What doesn't exist yet is kept as it
// is. Directories are looked up once: rootDir guards the way all the same.
func (g *guest) resolve(p string) (string, error) {
	p = path.Clean("/" + p)
	dir := path.Dir(p)
	g.mu.Lock()
	known, has := g.dirs[dir]
	g.mu.Unlock()
	if !has {
		var err error
		if known, err = g.walk("", dir); err != nil {
			return "", err
		}
		if info, err := g.lstat(known); err == nil && info.IsDir() {
			g.mu.Lock()
			g.dirs[dir] = known
			g.mu.Unlock()
		}
	}
	return g.walk(known, path.Base(p))
}

// walk follows a path from a directory that is resolved.
func (g *guest) walk(done, p string) (string, error) {
	if done == "." {
		done = ""
	}
	todo := strings.Split(p, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if done = path.Dir(done); done == "." {
				done = ""
			}
			continue
		}
		next := path.Join(done, name)
		info, err := g.lstat(next)
		if err != nil || info.Mode()&os.ModeSymlink == 0 {
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return "", failure("look up", "/"+next, err)
			}
			done = next
			continue
		}
		if links++; links > 40 {
			return "", failure("look up", "/"+next, unix.ELOOP)
		}
		var target string
		in, base, err := g.in(next)
		if err == nil {
			target, err = in.readlink(base)
		}
		if err != nil {
			return "", failure("read link", "/"+next, err)
		}
		if strings.HasPrefix(target, "/") {
			done = ""
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	if done == "" {
		done = "."
	}
	return done, nil
}

// stat is os.Stat below the root.
func (g *guest) stat(p string) (os.FileInfo, error) {
	rel, err := g.resolve(p)
	if err != nil {
		return nil, err
	}
	info, err := g.lstat(rel)
	if err != nil {
		return nil, failure("stat", p, err)
	}
	return info, nil
}

// isDir, isFile and isExecutable say what stands at a path; false when nothing does.
func (g *guest) isDir(p string) bool {
	info, err := g.stat(p)
	return err == nil && info.IsDir()
}

func (g *guest) isFile(p string) bool {
	info, err := g.stat(p)
	return err == nil && info.Mode().IsRegular()
}

func (g *guest) isExecutable(p string) bool {
	info, err := g.stat(p)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// read returns a regular file of at most limit bytes. A missing file is
// os.ErrNotExist.
func (g *guest) read(p string, limit int64) ([]byte, error) {
	rel, err := g.resolve(p)
	if err != nil {
		return nil, err
	}
	f, err := g.open(rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, failure("open", p, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, failure("read", p, errors.New("not a regular file"))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, failure("read", p, err)
	}
	if int64(len(data)) > limit {
		return nil, failure("read", p, errorf("larger than %d bytes", limit))
	}
	return data, nil
}

// list returns the sorted names in a directory, at most 4096 of them; none when
// it can't be read.
func (g *guest) list(p string) []string {
	rel, err := g.resolve(p)
	if err != nil {
		return nil
	}
	f, err := g.open(rel, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(4096)
	sortNames(names)
	return names
}

// mkdir makes a directory with its parents. The mode and owner are given to the
// directory itself when it is new; parents are 0755 root; what exists is kept.
func (g *guest) mkdir(p string, mode os.FileMode, uid, gid int) error {
	rel, err := g.resolve(p)
	if err != nil {
		return err
	}
	if info, err := g.lstat(rel); err == nil {
		if !info.IsDir() {
			return failure("make directory", p, unix.ENOTDIR)
		}
		return nil
	}
	if parent := path.Dir(rel); parent != "." {
		if err := g.mkdir("/"+parent, 0o755, 0, 0); err != nil {
			return err
		}
	}
	in, name, err := g.in(rel)
	if err != nil {
		return err
	}
	if err := in.mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return failure("make directory", p, err)
	}
	d, err := in.openFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return failure("open directory", p, err)
	}
	defer d.Close()
	if err := d.Chown(uid, gid); err != nil {
		return failure("change owner of", p, err)
	}
	if err := d.Chmod(mode); err != nil {
		return failure("change mode of", p, err)
	}
	return nil
}

// remove deletes a file or empty directory; a missing one is no error. A link is
// removed itself.
func (g *guest) remove(p string) error {
	dir, err := g.resolve(path.Dir(path.Clean("/" + p)))
	if err != nil {
		return err
	}
	if err := g.unlink(path.Join(dir, path.Base(p))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return failure("remove", p, err)
	}
	return nil
}

// inParallel runs f for every element at once and returns the first error in
// the elements' order. It is for a few elements: a goroutine each.
func inParallel[T any](list []T, f func(T) error) error {
	if len(list) == 1 {
		return f(list[0])
	}
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, v := range list {
		wg.Go(func() { errs[i] = f(v) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// sortFew sorts a short list in place, keeping the order of equals. The standard
// library's sort is made anew for every type, which costs more bytes than these
// lists are worth.
func sortFew[T any](list []T, less func(a, b T) bool) {
	for i := range list {
		for j := i; j > 0 && less(list[j], list[j-1]); j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
}
