package main

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// make does what the change says, whole or not at all where it is one file.
func (c *change) make(g *guest) error {
	switch c.action {
	case actRemove:
		return g.removeTree(c.path)
	case actEdit:
		return g.write(c.path, c.new, keepFile(0o644))
	}
	// A log is emptied in place: who has it open goes on writing to it.
	f, err := g.open(c.rel, os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return failure("open", c.path, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return failure("empty", c.path, errors.New("not a regular file with one name"))
	}
	if err := f.Truncate(0); err != nil {
		return failure("empty", c.path, err)
	}
	return nil
}

// text is the change as a line.
func (c *change) text() string {
	s := sprintf("%-6s %s", c.action, oneLine(c.path, 300))
	if c.files > 1 {
		s += sprintf(" with %d files, %d bytes", c.files-1, c.bytes)
	}
	return s + ": " + c.why + "\n"
}

// diff is an edit as patch(1) takes it; passwords' hashes are not shown.
func (c *change) diff() string {
	if c.action != actEdit {
		return ""
	}
	if strings.HasPrefix(c.path, "/etc/shadow") || strings.HasPrefix(c.path, "/etc/gshadow") || strings.HasPrefix(c.path, "/etc/passwd") {
		return unifiedDiff(c.path, withoutHashes(c.old), withoutHashes(c.new))
	}
	return unifiedDiff(c.path, c.old, c.new)
}

// withoutHashes hides the second field of account lines, but for a lock before it.
func withoutHashes(data []byte) []byte {
	var b strings.Builder
	for _, line := range strings.SplitAfter(string(data), "\n") {
		name, rest, _ := strings.Cut(line, ":")
		hash, rest, more := strings.Cut(rest, ":")
		if secret := strings.TrimLeft(hash, "!*"); more && len(secret) > 1 {
			line = name + ":" + hash[:len(hash)-len(secret)] + "[redacted]:" + rest
		}
		b.WriteString(line)
	}
	return []byte(b.String())
}
