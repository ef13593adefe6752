package main

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// exitStatus is how a process ended, as a shell counts it: its code, or 128 and
// the signal.
type exitStatus int

func exitStatusOf(ws unix.WaitStatus) exitStatus {
	if ws.Signaled() {
		return exitStatus(128 + int(ws.Signal()))
	}
	return exitStatus(ws.ExitStatus())
}

func (s exitStatus) String() string {
	if s > 128 {
		return "was killed by signal " + strconv.Itoa(int(s)-128)
	}
	return "ended with " + strconv.Itoa(int(s))
}

// reap waits for children, our own and the orphans that PID 1 is given, until
// one with this id has ended; with id 0 until there is none. seen is called for
// each.
func reap(pid int, seen func(pid int, s exitStatus)) exitStatus {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // ECHILD: nobody is left
			return 0
		case ws.Exited() || ws.Signaled():
			if seen != nil {
				seen(got, exitStatusOf(ws))
			}
			if got == pid {
				return exitStatusOf(ws)
			}
		}
	}
}

// selfExe is this program, also when its file has been deleted or replaced.
const selfExe = "/proc/self/exe"

// runSelf runs azprov with other arguments in a process of its own, so that no
// fault of it can take PID 1 along, and copies what it prints to out. Orphans
// are reaped meanwhile. The console is PID 1's own.
func runSelf(out io.Writer, args ...string) (exitStatus, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, failure("make pipe", "", err)
	}
	pid, err := syscall.ForkExec(selfExe, append(append([]string{"azprov"}, args...), "-console", "kernel"), &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, uintptr(p[1]), uintptr(p[1])}})
	unix.Close(p[1])
	if err != nil {
		unix.Close(p[0])
		return 0, failure("start", selfExe, err)
	}
	ended, copied := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(copied)
		defer unix.Close(p[0])
		copyLines(out, p[0], ended)
	}()
	status := reap(pid, nil)
	close(ended)
	<-copied
	return status, nil
}

// copyLines copies a pipe until its end, or until nothing more is in it although
// ended is closed: what a process has left running may hold it open, and is not
// waited for.
func copyLines(out io.Writer, fd int, ended <-chan struct{}) {
	buf := make([]byte, 4096)
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, lastWords)
		if n == 0 && err == nil {
			select {
			case <-ended:
				return
			default:
				continue
			}
		}
		n, err = unix.Read(fd, buf)
		if n > 0 {
			_, _ = out.Write(buf[:n])
		} else if err != unix.EINTR && err != unix.EAGAIN {
			return
		}
	}
}

// lastWords is how often, in milliseconds, it is seen whether the process has ended.
const lastWords = 200

// startCommand starts a program on the console in a session of its own, with
// the console as its terminal if it is one.
func startCommand(command []string) (int, error) {
	path, err := lookPath(command[0])
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}}
	pid, err := syscall.ForkExec(path, command, attr)
	if err != nil {
		attr.Sys = &syscall.SysProcAttr{Setsid: true}
		pid, err = syscall.ForkExec(path, command, attr)
	}
	if err != nil {
		return 0, failure("start", path, err)
	}
	return pid, nil
}

// lookPath finds a program in PATH, or in the usual places if there is none.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		if unix.Access(name, unix.X_OK) != nil {
			return "", failure("find program", name, unix.ENOENT)
		}
		return name, nil
	}
	dirs := os.Getenv("PATH")
	if dirs == "" {
		dirs = "/sbin:/usr/sbin:/bin:/usr/bin"
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		if path := dir + "/" + name; dir != "" && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", failure("find program", name, errors.New("not in "+dirs))
}
