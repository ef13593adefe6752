package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

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
			err = in.rename(path.Base(f.temp), name)
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
