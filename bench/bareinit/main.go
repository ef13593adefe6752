// Command bareinit is the init to measure azprov's against: it loads the kernel
// modules that /modules.list names, in that order, and becomes /bare. Called as
// anything but init it prints the names of the modules that are loaded, in the
// order in which they were, for such a list.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	run := boot
	if filepath.Base(os.Args[0]) != "init" {
		run = list
	}
	if err := run(); err != nil {
		fmt.Println("bareinit:", err)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func list() error {
	text, err := os.ReadFile("/proc/modules")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		fmt.Println("module", strings.Fields(line)[0])
	}
	fmt.Println("modules listed")
	return nil
}

func boot() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	files := map[string]string{}
	err := filepath.WalkDir("/lib/modules", func(path string, _ os.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	names, err := os.ReadFile("/modules.list")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(names)) {
		f, err := os.Open(files[name])
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return unix.Exec("/bare", []string{"/bare"}, nil)
}
