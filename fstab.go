package main

import (
	"errors"
	"os"
	"strings"
)

// fstabComment marks azprov's line in /etc/fstab.
const fstabComment = "comment=azprov"

// keepFstab writes azprov's line where that is wanted, in place of an older one of
// its own. A line of others for the same directory is left alone, and enough.
func (m *machine) keepFstab(d *openedDisk) error {
	if !m.cfg.ResourceFstab {
		return nil
	}
	data, err := m.guest.read("/etc/fstab", maxConfig)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.Open(d.node)
	if err != nil {
		return failure("open", d.node, err)
	}
	id := identify(f)
	f.Close()
	if id.uuid == "" {
		return nil
	}
	options := "nofail," + fstabComment
	if m.cfg.ResourceOpts != "" {
		options = m.cfg.ResourceOpts + "," + options
	}
	line := "UUID=" + id.uuid + " " + m.cfg.ResourceMount + " " + id.fstype + " " + options + " 0 0\n"
	var b strings.Builder
	for _, old := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		fields := strings.Fields(old)
		if len(fields) > 3 && fields[0][0] != '#' {
			if strings.Contains(fields[3], fstabComment) {
				continue
			}
			if fields[1] == m.cfg.ResourceMount {
				return nil
			}
		}
		if old != "" || len(data) > 0 {
			b.WriteString(old + "\n")
		}
	}
	b.WriteString(line)
	return m.guest.write("/etc/fstab", []byte(b.String()), keepFile(0o644))
}
