package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// memoryGroup is a memory control group of its own, of version 1 or 2.
type memoryGroup struct{ dir, limit, mount string }

func newMemoryGroup() (*memoryGroup, error) {
	for _, g := range []memoryGroup{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "mount -t cgroup -o memory none"},
		{"/sys/fs/cgroup", "memory.max", "mount -t cgroup2 none"},
	} {
		g.dir = filepath.Join(g.dir, "azprov-bench-"+strconv.Itoa(os.Getpid()))
		if os.Mkdir(g.dir, 0o755) != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(g.dir, g.limit)); err == nil {
			return &g, nil
		}
		os.Remove(g.dir)
	}
	return nil, fmt.Errorf("no memory control group can be made below /sys/fs/cgroup")
}

// benchMemory finds the least limit of a control group, in steps of 1 MB, in which
// azprov provisions a fresh guest. What counts is all that the kernel charges: the
// program's file, read inside of the group, its memory, and the pages of the files
// that it writes.
func benchMemory(dir, vm string) (int, error) {
	g, err := newMemoryGroup()
	if err != nil {
		return 0, err
	}
	defer os.Remove(g.dir)
	works := func(mb int) (bool, error) {
		if err := os.WriteFile(filepath.Join(g.dir, g.limit), []byte(strconv.Itoa(mb*1000000)), 0); err != nil {
			return false, err
		}
		root := filepath.Join(dir, fmt.Sprintf("memory-%d", mb))
		cmd := exec.Command("./azuresim", "sandbox", "-vm", vm, "-dir", root, "-bind", "azprov:/opt/program", "--", "sh", "-c", "mkdir /var/tmp/group && "+g.mount+
			" /var/tmp/group && echo 0 >/var/tmp/group/"+filepath.Base(g.dir)+"/cgroup.procs && umount /var/tmp/group && "+
			"cat /opt/program >/var/tmp/program && chmod 700 /var/tmp/program && exec /var/tmp/program")
		out, err := cmd.CombinedOutput()
		if _, ended := err.(*exec.ExitError); err != nil && !ended {
			return false, fmt.Errorf("%w: %s", err, out)
		}
		return err == nil, nil
	}
	for mb := 32; mb > 0; mb-- {
		good, err := works(mb)
		if err != nil {
			return 0, err
		}
		if !good {
			if mb == 32 {
				return 0, fmt.Errorf("azprov does not even run in 32 MB")
			}
			return mb + 1, nil
		}
	}
	return 1, nil
}
