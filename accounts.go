package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of an account file.
const (
	maxAccountFile  = 4 << 20
	maxAccountLines = 1 << 16
)

// accountFile is one of /etc/passwd, shadow, group, gshadow, subuid, subgid: its
// lines as they stand. Lines that are no entries (comments, NIS marks, broken
// ones) are kept.
type accountFile struct {
	path    string
	lines   []string
	exists  bool
	changed bool
	mode    os.FileMode // for a new file
}

func loadAccounts(g *guest, p string, mode os.FileMode) (*accountFile, error) {
	f := &accountFile{path: p, mode: mode}
	data, err := g.read(p, maxAccountFile)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	f.exists = true
	return f, f.parse(data)
}

func (f *accountFile) parse(data []byte) error {
	if bytes.IndexByte(data, 0) >= 0 {
		return failure("read", f.path, errors.New("it holds NUL bytes"))
	}
	if len(data) > 0 {
		f.lines = strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	}
	if len(f.lines) > maxAccountLines {
		return failure("read", f.path, fmt.Errorf("more than %d lines", maxAccountLines))
	}
	return nil
}

func (f *accountFile) encode() []byte {
	if len(f.lines) == 0 {
		return nil
	}
	return []byte(strings.Join(f.lines, "\n") + "\n")
}

// find returns the index of a name's first line, or -1.
func (f *accountFile) find(name string) int {
	for i, l := range f.lines {
		if strings.HasPrefix(l, name) && len(l) > len(name) && l[len(name)] == ':' {
			return i
		}
	}
	return -1
}

// fields splits a line into exactly n fields; nil when it has fewer.
func (f *accountFile) fields(i, n int) []string {
	list := strings.Split(f.lines[i], ":")
	if len(list) < n {
		return nil
	}
	return list
}

// set replaces a line's fields.
func (f *accountFile) set(i int, fields []string) {
	if line := strings.Join(fields, ":"); f.lines[i] != line {
		f.lines[i] = line
		f.changed = true
	}
}

// add appends a line: before NIS marks, as the C library stops reading there.
func (f *accountFile) add(fields ...string) {
	at := len(f.lines)
	for i, l := range f.lines {
		if strings.HasPrefix(l, "+") {
			at = i
			break
		}
	}
	line := strings.Join(fields, ":")
	f.lines = append(f.lines[:at:at], append([]string{line}, f.lines[at:]...)...)
	f.changed = true
}

// ids returns the numbers in a field of all entries.
func (f *accountFile) ids(field int) map[int]bool {
	used := map[int]bool{}
	for _, l := range f.lines {
		list := strings.Split(l, ":")
		if len(list) > field {
			if n, err := strconv.Atoi(list[field]); err == nil && n >= 0 {
				used[n] = true
			}
		}
	}
	return used
}

// newID picks an id as useradd does: one above the highest in use within the
// range, else the lowest free one.
func newID(used map[int]bool, low, high int) (int, error) {
	id := low
	for n := range used {
		if n >= id && n <= high {
			id = n + 1
		}
	}
	if id <= high {
		return id, nil
	}
	for id = low; id <= high; id++ {
		if !used[id] {
			return id, nil
		}
	}
	return 0, fmt.Errorf("no free id from %d to %d", low, high)
}

// newSubRange picks the first free range of subordinate ids.
func (f *accountFile) newSubRange(low, high, count int) (int, bool) {
	for start, moved := low, true; moved; {
		moved = false
		if start > high-count+1 {
			return 0, false
		}
		for _, l := range f.lines {
			list := strings.Split(l, ":")
			if len(list) != 3 {
				continue
			}
			first, err1 := strconv.Atoi(list[1])
			n, err2 := strconv.Atoi(list[2])
			if err1 == nil && err2 == nil && n > 0 && n < 1<<32 && first < start+count && first+n > start {
				start, moved = first+n, true
			}
		}
		if !moved {
			return start, true
		}
	}
	return 0, false
}

// settings is a file of "KEY value" (login.defs) or "KEY=value" (default/useradd) lines.
type settings map[string]string

func loadSettings(g *guest, p string) settings {
	data, err := g.read(p, 256<<10)
	if err != nil {
		return settings{}
	}
	return parseSettings(data)
}

func parseSettings(data []byte) settings {
	s := settings{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.IndexAny(line, " \t=")
		if i < 0 {
			continue
		}
		s[line[:i]] = strings.Trim(strings.TrimLeft(line[i:], " \t="), "\"' \t")
	}
	return s
}

// number returns a setting as a number, decimal, 0octal or 0xhex.
func (s settings) number(key string, standard int) int {
	n, err := strconv.ParseInt(s[key], 0, 64)
	if err != nil || n < 0 || n > 1<<32 {
		return standard
	}
	return int(n)
}

// lockAccounts takes the locks that other programs take before they change the
// account files: the fcntl lock of lckpwdf(3) and shadow-utils' lock files. It
// gives up after 15 seconds.
func lockAccounts(g *guest, files []string) (unlock func(), err error) {
	end := time.Now().Add(15 * time.Second)
	var undo []func()
	unlock = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	rel, err := g.resolve("/etc/.pwd.lock")
	if err != nil {
		return nil, err
	}
	f, err := g.root.OpenFile(rel, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, failure("open lock", "/etc/.pwd.lock", err)
	}
	undo = append(undo, func() { f.Close() })
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			unlock()
			return nil, failureHint("lock", "/etc/.pwd.lock", err, "another program is changing accounts")
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, p := range files {
		if !g.isFile(p) {
			continue
		}
		release, err := lockFile(g, p, end)
		if err != nil {
			unlock()
			return nil, err
		}
		undo = append(undo, release)
	}
	return unlock, nil
}

// lockFile makes FILE.lock as shadow-utils' commonio.c does: a file that holds
// our process id, linked to the lock's name, which fails when someone has it.
// A lock whose process is gone is removed.
func lockFile(g *guest, p string, end time.Time) (func(), error) {
	dir, err := g.resolve(path.Dir(p))
	if err != nil {
		return nil, err
	}
	lock := path.Join(dir, path.Base(p)+".lock")
	temp := path.Join(dir, path.Base(p)+"."+strconv.Itoa(os.Getpid()))
	f, err := g.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, failure("create lock", "/"+temp, err)
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\x00")
	f.Close()
	defer g.root.Remove(temp)
	if err != nil {
		return nil, failure("write lock", "/"+temp, err)
	}
	for {
		err := g.root.Link(temp, lock)
		if err == nil {
			return func() { g.root.Remove(lock) }, nil
		}
		if !errors.Is(err, os.ErrExist) {
			return nil, failure("make lock", "/"+lock, err)
		}
		if lockIsStale(g, lock) {
			g.root.Remove(lock)
			continue
		}
		if time.Now().After(end) {
			return nil, failureHint("make lock", "/"+lock, unix.EEXIST, "another program is changing accounts, or remove the file")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func lockIsStale(g *guest, lock string) bool {
	data, err := g.read("/"+lock, 64)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimRight(string(data), "\x00\n "))
	return err != nil || pid <= 0 || errors.Is(syscall.Kill(pid, 0), unix.ESRCH)
}
