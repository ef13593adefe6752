package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// guest is the root directory that is provisioned: "/" or, from an initramfs,
// "/sysroot". Every path is the guest's own ("/etc/passwd") and can't leave the
// root: an absolute link in the image is followed below the root, as the guest
// itself would.
type guest struct {
	dir  string
	root *os.Root

	mu   sync.Mutex
	dirs map[string]string   // resolved directories
	subs map[string]*os.Root // opened directories, by resolved path

	// What is written but not yet durable: settle waits for it.
	later   sync.WaitGroup
	slots   chan struct{} // bounds the syncs under way, each of which takes a thread
	lateErr error
}

// maxSyncs is how many files are synced at once behind the steps' backs.
const maxSyncs = 4

func openGuest(dir string) (*guest, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, failureHint("open root directory", dir, err, "give an existing directory with -root")
	}
	return &guest{dir: dir, root: r, dirs: map[string]string{}, subs: map[string]*os.Root{".": r}, slots: make(chan struct{}, maxSyncs)}, nil
}

func (g *guest) close() {
	for _, r := range g.subs {
		r.Close()
	}
}

// in opens the directory of a resolved path, once for all, and returns it with
// the last part of the path: os.Root would open every directory on the way anew.
func (g *guest) in(rel string) (*os.Root, string, error) {
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
	r, err := g.root.OpenRoot(dir)
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
	return r.Lstat(name)
}

// open opens a resolved path.
func (g *guest) open(rel string, flag int, mode os.FileMode) (*os.File, error) {
	r, name, err := g.in(rel)
	if err != nil {
		return nil, err
	}
	return r.OpenFile(name, flag, mode)
}

// unlink removes a file or empty directory of a resolved path.
func (g *guest) unlink(rel string) error {
	r, name, err := g.in(rel)
	if err != nil {
		return err
	}
	return r.Remove(name)
}

// resolve follows every link of p below the root and returns the path relative
// to it, ready for the methods of os.Root. What doesn't exist yet is kept as it
// is. Directories are looked up once: os.Root guards the way all the same.
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
			target, err = in.Readlink(base)
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
		return nil, failure("read", p, fmt.Errorf("larger than %d bytes", limit))
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
	sort.Strings(names)
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
	if err := in.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return failure("make directory", p, err)
	}
	if err := in.Lchown(name, uid, gid); err != nil {
		return failure("change owner of", p, err)
	}
	if err := in.Chmod(name, mode); err != nil {
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

// fileMode says how put treats mode and owner of the file that it replaces.
type fileMode struct {
	mode     os.FileMode
	uid, gid int
	// keep takes mode and owner from the file that exists, if one does.
	keep bool
}

// rootFile is a new root-owned file of a mode; keepFile the same, but an
// existing file's mode and owner are kept.
func rootFile(mode os.FileMode) fileMode { return fileMode{mode: mode} }
func keepFile(mode os.FileMode) fileMode { return fileMode{mode: mode, keep: true} }

// edit collects the new contents of files and puts all of them in place by one
// commit: temporary files, one round of fsync in parallel, renames in the order
// of the puts, then the fsync of their directories. A crash leaves each file
// whole, old or new, and the later ones old if an earlier one is.
type edit struct {
	g       *guest
	pending []*pendingFile
}

type pendingFile struct {
	path, rel, temp string
	data            []byte
	mode            fileMode
	replaces        bool   // a file that exists
	label           []byte // SELinux label of the file that is replaced
	file            *os.File
}

func (g *guest) edit() *edit { return &edit{g: g} }

// put plans the new content of a file. A file that already has this content,
// mode and owner is left alone. A link is followed below the root, so that what
// it points to is replaced and the link stays.
func (e *edit) put(p string, data []byte, mode fileMode) error {
	rel, err := e.g.resolve(p)
	if err != nil {
		return err
	}
	f := &pendingFile{path: p, rel: rel, data: data, mode: mode}
	f.temp = path.Join(path.Dir(rel), "."+path.Base(rel)+".azprov")
	if old, err := e.g.open(rel, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		f.replaces = true
		same, err := f.compare(old)
		old.Close()
		if err != nil {
			return err
		}
		if same {
			return nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return failure("open", p, err)
	}
	e.pending = append(e.pending, f)
	return nil
}

// compare takes over what is kept of an existing file and says whether nothing
// is left to change.
func (f *pendingFile) compare(old *os.File) (same bool, err error) {
	info, err := old.Stat()
	if err != nil {
		return false, failure("stat", f.path, err)
	}
	if !info.Mode().IsRegular() {
		return false, failure("replace", f.path, errors.New("not a regular file"))
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && f.mode.keep {
		f.mode = fileMode{mode: info.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky), uid: int(st.Uid), gid: int(st.Gid)}
	}
	label := make([]byte, 256)
	if n, err := unix.Fgetxattr(int(old.Fd()), "security.selinux", label); err == nil {
		f.label = label[:n]
	}
	if !ok || info.Size() != int64(len(f.data)) || info.Mode().Perm() != f.mode.mode.Perm() ||
		int(st.Uid) != f.mode.uid || int(st.Gid) != f.mode.gid {
		return false, nil
	}
	data, err := io.ReadAll(io.LimitReader(old, int64(len(f.data))+1))
	return err == nil && bytes.Equal(data, f.data), nil
}

// changes says how many files the commit will replace.
func (e *edit) changes() int { return len(e.pending) }

// commit puts every planned file in place and returns when that is durable. On an
// error nothing more is renamed and the temporary files are removed.
func (e *edit) commit() error { return e.commitAfter(func() error { return nil }) }

// commitAfter is commit with something else that must have ended well before
// the first file is put in place; it runs while the files are written.
func (e *edit) commitAfter(other func() error) error {
	otherErr := make(chan error, 1)
	go func() { otherErr <- other() }()
	dirs, err := e.place(func(*pendingFile) bool { return true }, otherErr)
	if err != nil {
		return err
	}
	return inParallel(dirs, e.g.syncDir)
}

// commitLater is commit for what the next run would write again if it were lost:
// only the content of files that replace others is durable before they do; all
// else is when settle returns.
func (e *edit) commitLater() error {
	dirs, err := e.place(func(f *pendingFile) bool { return f.replaces }, nil)
	if err != nil {
		return err
	}
	for _, rel := range dirs {
		d, err := e.g.open(rel, os.O_RDONLY, 0)
		if err != nil {
			return failure("open", "/"+rel, err)
		}
		e.g.syncLater(d)
	}
	return nil
}

// place writes the files, syncs those that it is told to at once and the others
// later, waits for other if there is one, and renames. It returns the
// directories that have changed.
func (e *edit) place(now func(*pendingFile) bool, other <-chan error) (dirs []string, err error) {
	defer func() {
		for _, f := range e.pending {
			if f.file != nil {
				f.file.Close()
				e.g.unlink(f.temp)
			}
		}
		e.pending = nil
	}()
	for _, f := range e.pending {
		if err := f.create(e.g); err != nil {
			return nil, err
		}
	}
	err = inParallel(e.pending, func(f *pendingFile) error {
		if !now(f) {
			return nil
		}
		if err := f.file.Sync(); err != nil {
			return failure("sync", f.path, err)
		}
		return nil
	})
	if other != nil {
		err = errors.Join(err, <-other)
	}
	if err != nil {
		return nil, err
	}
	for _, f := range e.pending {
		in, name, err := e.g.in(f.rel)
		if err == nil {
			err = in.Rename(path.Base(f.temp), name)
		}
		if err != nil {
			return nil, failure("replace", f.path, err)
		}
		if now(f) {
			f.file.Close()
		} else {
			e.g.syncLater(f.file)
		}
		f.file = nil
		if dir := path.Dir(f.rel); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

func (f *pendingFile) create(g *guest) error {
	file, err := g.open(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) { // of a run that was cut off
		g.unlink(f.temp)
		file, err = g.open(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return failure("create", "/"+f.temp, err)
	}
	f.file = file
	if _, err := file.Write(f.data); err != nil {
		return failure("write", f.path, err)
	}
	if err := file.Chown(f.mode.uid, f.mode.gid); err != nil {
		return failure("change owner of", f.path, err)
	}
	if err := file.Chmod(f.mode.mode); err != nil {
		return failure("change mode of", f.path, err)
	}
	if f.label != nil {
		if err := unix.Fsetxattr(int(file.Fd()), "security.selinux", f.label, 0); err != nil {
			return failure("set selinux label of", f.path, err)
		}
	}
	return nil
}

func (g *guest) syncDir(rel string) error {
	d, err := g.open(rel, os.O_RDONLY, 0)
	if err != nil {
		return failure("open", "/"+rel, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return failure("sync", "/"+rel, err)
	}
	return nil
}

// write replaces one file: an edit of one.
func (g *guest) write(p string, data []byte, mode fileMode) error {
	e := g.edit()
	if err := e.put(p, data, mode); err != nil {
		return err
	}
	return e.commit()
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
