package main

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// power is how a machine ends.
type power int

const (
	reboot power = iota
	poweroff
	halt
)

func (p power) String() string { return [...]string{"reboot", "poweroff", "halt"}[p] }

func (p power) command() int {
	return [...]int{unix.LINUX_REBOOT_CMD_RESTART, unix.LINUX_REBOOT_CMD_POWER_OFF, unix.LINUX_REBOOT_CMD_HALT}[p]
}

// powerSignals are what busybox init, and so its reboot, poweroff and halt, use.
// SIGINT is also what the kernel sends for ctrl-alt-del.
func powerSignal(s os.Signal) (power, bool) {
	switch s {
	case unix.SIGTERM, unix.SIGINT:
		return reboot, true
	case unix.SIGUSR2:
		return poweroff, true
	case unix.SIGUSR1:
		return halt, true
	}
	return 0, false
}

// stopGrace is how long processes have between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// help runs a command as the helper that every PID 1 owes its machine: signals
// go to the command, orphans are reaped. As PID 1 of the machine the signals of
// busybox init end the machine. In a container or without being PID 1 all
// signals are the command's.
func (in *initRun) help(command []string) (exitStatus, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	defer signal.Stop(signals)
	pid, err := startCommand(command)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	var end *power
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				return
			case s := <-signals:
				p, asked := powerSignal(s)
				switch {
				case s == unix.SIGCHLD || s == unix.SIGURG || s == unix.SIGPIPE:
				case asked && in.machinePID1:
					mu.Lock()
					first := end == nil
					end = &p
					mu.Unlock()
					if first {
						in.m.log.note("init", p.String()+" asked for by "+s.String())
						go stopAll(ended)
					}
				default:
					_ = unix.Kill(pid, s.(syscall.Signal))
				}
			}
		}
	}()
	status := reap(pid, nil)
	mu.Lock()
	asked := end
	mu.Unlock()
	if asked != nil {
		reap(0, nil)
	}
	close(ended)
	if asked != nil {
		in.end(*asked)
	}
	return status, nil
}

// stopAll asks every process to end, and after a while makes them.
func stopAll(ended <-chan struct{}) {
	_ = unix.Kill(-1, unix.SIGTERM)
	_ = unix.Kill(-1, unix.SIGCONT)
	select {
	case <-ended:
	case <-time.After(stopGrace):
		_ = unix.Kill(-1, unix.SIGKILL)
	}
}

// end brings the file systems to rest and ends the machine. It does not return.
func (in *initRun) end(p power) {
	in.m.log.note("init", p.String())
	unix.Sync()
	unmountAll(in.m.procfs)
	if err := unix.Reboot(p.command()); err != nil {
		in.m.log.fail("init", failure(p.String(), "", err).Error())
	}
	sleepForever()
}

// unmountAll unmounts what it can, last mounted first, and makes the rest
// read-only, so that no file system needs a repair.
func unmountAll(procfs string) {
	data, _ := os.ReadFile(procfs + "/self/mounts")
	lines := strings.Split(string(data), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		words := strings.Fields(lines[i])
		if len(words) < 3 || !strings.HasPrefix(words[0], "/") {
			continue // a virtual file system
		}
		path := unescapeMount(words[1])
		if unix.Unmount(path, unix.UMOUNT_NOFOLLOW) != nil {
			_ = unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
}

// unescapeMount undoes the octal escapes of /proc/mounts.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				c = byte(n)
				i += 3
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// sleepForever is what PID 1 does when nothing is left to do: it must not exit.
func sleepForever() {
	for {
		_ = unix.Pause()
	}
}
