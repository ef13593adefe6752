package main

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// entry is a file of the archive. Everything belongs to root, and every time is
// the epoch or SOURCE_DATE_EPOCH, so that equal contents make equal archives.
type entry struct {
	mode         uint32 // file type and permissions as in st_mode
	data         []byte // contents, or the target of a link
	major, minor uint32 // of a device node
}

// File types of st_mode.
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
	typeLink = 0o120000
)

// archive is a tree of files by their path without the leading slash.
type archive struct {
	entries map[string]entry
	mtime   int64
}

func newArchive(mtime int64) *archive { return &archive{map[string]entry{}, mtime} }

// add puts a file at a path, with the directories above it.
func (a *archive) add(name string, e entry) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return
	}
	if dir := path.Dir(name); dir != "." {
		if _, exists := a.entries[dir]; !exists {
			a.add(dir, entry{mode: typeDir | 0o755})
		}
	}
	a.entries[name] = e
}

// write writes the archive as the kernel's "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst): a header of
// "070701" and thirteen numbers of eight hexadecimal digits, the name, the
// contents, each padded to four bytes.
func (a *archive) write(w io.Writer) error {
	names := make([]string, 0, len(a.entries))
	for name := range a.entries {
		names = append(names, name)
	}
	slices.Sort(names) // a directory comes before what is in it
	for i, name := range names {
		if err := writeEntry(w, i+1, name, a.entries[name], a.mtime); err != nil {
			return err
		}
	}
	return writeEntry(w, 0, "TRAILER!!!", entry{}, 0)
}

func writeEntry(w io.Writer, inode int, name string, e entry, mtime int64) error {
	if int64(len(e.data)) > 0xffffffff {
		return fmt.Errorf("%s is larger than the format allows", name)
	}
	links := 1
	if e.mode&typeDir == typeDir && e.mode&typeFile != typeFile {
		links = 2
	}
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		inode, e.mode, 0, 0, links, mtime, len(e.data), 0, 0, e.major, e.minor, len(name)+1, 0)
	b := append([]byte(header), name...)
	b = append(b, 0)
	b = append(b, make([]byte, pad(len(b)))...)
	b = append(b, e.data...)
	b = append(b, make([]byte, pad(len(e.data)))...)
	_, err := w.Write(b)
	return err
}

// pad is how many bytes are missing to a multiple of four.
func pad(n int) int { return -n & 3 }
