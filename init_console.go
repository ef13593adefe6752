package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// consoles is where PID 1 speaks: /dev/console, the other serial ports of the
// kernel command line, and for errors the kernel log. A console that is lost is
// no error.
type consoles struct {
	mu   sync.Mutex
	out  []io.Writer
	kmsg io.Writer
	rest []byte // an unfinished line
}

// Write passes whole lines on, and to the kernel log those that are errors.
func (c *consoles) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, p...)
	for {
		i := bytes.IndexByte(c.rest, '\n')
		if i < 0 && len(c.rest) < 4096 {
			return len(p), nil
		}
		line := c.rest
		if i >= 0 {
			line = c.rest[:i+1]
		}
		for _, w := range c.out {
			_, _ = w.Write(line)
		}
		if c.kmsg != nil && (len(c.out) == 0 || isErrorLine(line)) {
			_, _ = c.kmsg.Write(append([]byte("<3>"), line[:min(len(line), 900)]...))
		}
		c.rest = append(c.rest[:0], c.rest[len(line):]...)
	}
}

// isErrorLine knows an error of our console by its form: "azprov: STEP error: ...".
func isErrorLine(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("azprov: "))
	_, rest, _ = bytes.Cut(rest, []byte(" "))
	return ok && bytes.HasPrefix(bytes.TrimLeft(rest, " "), []byte("error: "))
}

// consoleNames returns what console= names on a kernel command line, without
// repeats; the last is what /dev/console stands for.
func consoleNames(cmdline string) []string {
	var names []string
	for _, word := range splitCommandLine(cmdline) {
		value, ok := strings.CutPrefix(word, "console=")
		name, _, _ := strings.Cut(value, ",")
		if !ok || name == "" || name == "null" || strings.ContainsAny(name, "/.") {
			continue
		}
		for i, n := range names {
			if n == name {
				names = append(names[:i], names[i+1:]...)
				break
			}
		}
		names = append(names, name)
	}
	return names
}

// openConsoles makes /dev/console the standard input, output and error of PID 1,
// unless it has been given a terminal, and opens the other consoles.
func openConsoles(devfs, cmdline string) *consoles {
	c := &consoles{}
	if fd, err := unix.Open(devfs+"/kmsg", unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0); err == nil {
		c.kmsg = rawWriter(fd)
	}
	if _, err := unix.IoctlGetTermios(2, unix.TCGETS); err != nil {
		if fd, err := unix.Open(devfs+"/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err == nil {
			for std := range 3 {
				_ = unix.Dup3(fd, std, 0)
			}
			unix.Close(fd)
		}
	}
	if _, err := unix.IoctlGetTermios(2, unix.TCGETS); err == nil {
		c.out = append(c.out, rawWriter(2))
	}
	names := consoleNames(cmdline)
	for i, name := range names {
		if i == len(names)-1 || strings.TrimRight(name, "0123456789") == "tty" {
			continue // that one is /dev/console, or a screen that nobody sees on Azure
		}
		if fd, err := unix.Open(devfs+"/"+name, unix.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err == nil {
			c.out = append(c.out, rawWriter(fd))
		}
	}
	return c
}

// redirectConsole is the console step for PID 1 itself, which speaks through
// /dev/console: what runSelf starts need not do it again. In a container it is not
// done, since the console is the host's.
func (in *initRun) redirectConsole() {
	if in.m.cfg.Console != "serial" {
		return
	}
	text, err := in.m.consoleToSerial()
	if err != nil {
		in.m.warn("console", "%v", err)
	} else if text != "" {
		in.m.log.note("console", text)
	}
}

// rawWriter writes to a descriptor without the runtime's poller: a console may
// vanish, and must not stop PID 1.
type rawWriter int

func (w rawWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n, err := unix.Write(int(w), p[done:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return done, os.NewSyscallError("write", err)
		}
		done += n
	}
	return len(p), nil
}
