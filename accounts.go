package main

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
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
		return failure("read", f.path, errorf("more than %d lines", maxAccountLines))
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

// dropLine removes the lines of a name.
func (f *accountFile) dropLine(name string) {
	for i := f.find(name); i >= 0; i = f.find(name) {
		f.lines = append(f.lines[:i], f.lines[i+1:]...)
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
	return 0, errorf("no free id from %d to %d", low, high)
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
// account files of /etc: the fcntl lock of lckpwdf(3), and the FILE.lock of each
// file, made as shadow-utils' commonio.c does by a link to a file that holds our
// process id. A lock whose process is gone, after a power cut say, is removed.
// It gives up after 15 seconds.
func lockAccounts(g *guest, names []string) (unlock func(), err error) {
	rel, err := g.resolve("/etc")
	if err != nil {
		return nil, err
	}
	d, err := g.open(rel, os.O_RDONLY, 0)
	if err != nil {
		return nil, failure("open", "/etc", err)
	}
	l := &accountLocks{dir: d, end: time.Now().Add(15 * time.Second)}
	if err := l.take(names); err != nil {
		l.release()
		return nil, err
	}
	return l.release, nil
}

// accountLocks are the locks that are held.
type accountLocks struct {
	dir   *os.File
	pwd   int // descriptor of .pwd.lock, 0 until it is open
	links []string
	end   time.Time
}

func (l *accountLocks) release() {
	for _, name := range l.links {
		unix.Unlinkat(int(l.dir.Fd()), name, 0)
	}
	if l.pwd != 0 {
		unix.Close(l.pwd)
	}
	l.dir.Close()
}

func (l *accountLocks) take(names []string) error {
	at := int(l.dir.Fd())
	fd, err := unix.Openat(at, ".pwd.lock", unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return failure("open lock", "/etc/.pwd.lock", err)
	}
	l.pwd = fd
	err = l.patiently(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}) })
	if err != nil {
		return failureHint("lock", "/etc/.pwd.lock", err, "another program is changing accounts")
	}
	temp := "passwd." + strconv.Itoa(os.Getpid())
	// One that exists is of an earlier process with this id, and perhaps its locks too.
	unix.Unlinkat(at, temp, 0)
	tempFD, err := unix.Openat(at, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return failure("create lock", "/etc/"+temp, err)
	}
	_, err = unix.Write(tempFD, []byte(strconv.Itoa(os.Getpid())+"\x00"))
	unix.Close(tempFD)
	defer unix.Unlinkat(at, temp, 0)
	if err != nil {
		return failure("write lock", "/etc/"+temp, err)
	}
	for _, name := range names {
		lock := name + ".lock"
		err := l.patiently(func() error {
			err := unix.Linkat(at, temp, at, lock, 0)
			if errors.Is(err, unix.EEXIST) && lockIsStale(at, lock) {
				unix.Unlinkat(at, lock, 0)
				err = unix.Linkat(at, temp, at, lock, 0)
			}
			return err
		})
		if err != nil {
			return failureHint("make lock", "/etc/"+lock, err, "another program is changing accounts, or remove the file")
		}
		l.links = append(l.links, lock)
	}
	return nil
}

// patiently tries again while someone else has a lock.
func (l *accountLocks) patiently(try func() error) error {
	for {
		err := try()
		held := errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES)
		if !held || time.Now().After(l.end) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// lockIsStale says whether a lock is of a process that is gone: there is none of
// its id, or the one of that id, this one say, has begun after the lock was made.
func lockIsStale(at int, lock string) bool {
	fd, err := unix.Openat(at, lock, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var b [64]byte
	var st unix.Stat_t
	n, err := unix.Read(fd, b[:])
	if err != nil || unix.Fstat(fd, &st) != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimRight(string(b[:n]), "\x00\n "))
	if err != nil || pid <= 0 || pid == os.Getpid() || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return true
	}
	start, ok := processStart(pid)
	return ok && start.Add(-100*time.Millisecond).After(time.Unix(st.Mtim.Unix()))
}

// processStart is when a process began: field 22 of /proc/PID/stat, in hundredths
// of a second since the kernel started (proc_pid_stat(5)).
func processStart(pid int) (time.Time, bool) {
	var since unix.Timespec
	stat := sysAttr("/proc/" + strconv.Itoa(pid) + "/stat")
	if i := strings.LastIndexByte(stat, ')'); i >= 0 {
		if f := strings.Fields(stat[i+1:]); len(f) > 19 && unix.ClockGettime(unix.CLOCK_BOOTTIME, &since) == nil {
			ticks, err := strconv.ParseInt(f[19], 10, 64)
			return time.Now().Add(time.Duration(ticks)*10*time.Millisecond - time.Duration(since.Nano())), err == nil
		}
	}
	return time.Time{}, false
}
