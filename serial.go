package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stepConsole does what the configuration wants of the serial port, which is
// what Azure shows of a VM: /dev/console leads there, and a login waits there.
func (b *boot) stepConsole(context.Context) (string, error) {
	var redirected, login string
	var err1, err2 error
	if b.cfg.Console == "serial" {
		redirected, err1 = b.consoleToSerial()
	}
	if b.cfg.ConsoleLogin {
		login, err2 = b.serialLogin()
	}
	return joinTexts(redirected, login), errors.Join(err1, err2)
}

var errNoSerial = errors.New("the kernel knows neither ttyS0 nor ttyAMA0")

// serialPort is the first serial port that has hardware behind it.
func (m *machine) serialPort() (string, error) {
	for _, name := range []string{"ttyS0", "ttyAMA0"} {
		// PORT_UNKNOWN of include/uapi/linux/serial_core.h is 0.
		if kind := sysAttr(m.sys("class/tty", name, "type")); kind != "" && kind != "0" {
			return name, nil
		}
	}
	return "", failureHint("find serial port", m.sys("class/tty"), errNoSerial, "the kernel needs CONFIG_SERIAL_8250, on arm64 CONFIG_SERIAL_AMBA_PL011")
}

// openSerial opens a serial port for writing at 115200 baud, without waiting for
// a carrier.
func (m *machine) openSerial(port string) (int, error) {
	fd, err := unix.Open(m.dev(port), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, failure("open", m.dev(port), err)
	}
	if t, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		t.Cflag = t.Cflag&^(unix.CBAUD|unix.CSIZE) | unix.B115200 | unix.CS8 | unix.CLOCAL
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	return fd, nil
}

// consoleToSerial makes what is written to /dev/console come out of the serial
// port (TIOCCONS), for images whose boot loader can't be given console=. It holds
// until a program hangs the port up. The kernel's own messages don't go through
// /dev/console: those so far are copied.
func (m *machine) consoleToSerial() (string, error) {
	port, err := m.serialPort()
	if err != nil {
		return "", err
	}
	// The last one is /dev/console.
	active := strings.Fields(sysAttr(m.sys("class/tty/console/active")))
	if len(active) > 0 && active[len(active)-1] == port {
		return "", nil
	}
	fd, err := m.openSerial(port)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	// The kernel writes through this descriptor, and is to wait for the port.
	_ = unix.SetNonblock(fd, false)
	err = unix.IoctlSetInt(fd, unix.TIOCCONS, 0)
	if err == unix.EBUSY {
		return "/dev/console is redirected already", nil
	}
	if err != nil {
		return "", failure("redirect /dev/console to", m.dev(port), err)
	}
	if !slices.Contains(active, port) {
		copyKernelLog(fd)
	}
	return "/dev/console to " + port, nil
}

// How much of the kernel's messages is copied, and how long the port may take.
const (
	maxKernelLog  = 32 << 10
	kernelLogTime = 3 * time.Second
)

// copyKernelLog writes the latest of the kernel's messages to a port, as far as
// it takes them in time.
func copyKernelLog(fd int) {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL of include/linux/syslog.h
	buf := make([]byte, maxKernelLog)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil {
		return
	}
	deadline := time.Now().Add(kernelLogTime)
	for rest := buf[:max(n, 0)]; len(rest) > 0 && time.Now().Before(deadline); {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(poll, 100); err == unix.EINTR || err == nil && n == 0 {
			continue
		}
		n, err := unix.Write(fd, rest[:min(len(rest), 256)])
		if err != nil && err != unix.EINTR {
			return
		}
		rest = rest[max(n, 0):]
	}
}

// serialVoice is a writer to the serial port for our own messages; nil when there
// is none, or when standard error leads there anyway. What the port does not
// take at once is lost.
func (m *machine) serialVoice() io.Writer {
	port, err := m.serialPort()
	if err != nil {
		return nil
	}
	var out, dev unix.Stat_t
	if unix.Fstat(2, &out) == nil && (out.Rdev == unix.Mkdev(5, 1) || unix.Stat(m.dev(port), &dev) == nil && out.Rdev == dev.Rdev) {
		return nil
	}
	fd, err := m.openSerial(port)
	if err != nil {
		return nil
	}
	return rawWriter(fd)
}

// serialLogin lets the image's init start a login on the serial port. An init
// that runs already does so from the next boot on.
func (b *boot) serialLogin() (string, error) {
	port, err := b.serialPort()
	if err != nil {
		return "", err
	}
	g := b.guest
	find := func(names ...string) string {
		i := slices.IndexFunc(names, g.isFile)
		if i < 0 {
			return ""
		}
		return names[i]
	}
	getty := find("/sbin/getty", "/usr/sbin/getty", "/sbin/agetty", "/usr/sbin/agetty")
	if getty == "" {
		return "", failure("set up a login on", port, errors.New("the image has no getty"))
	}
	unit := find("/usr/lib/systemd/system/serial-getty@.service", "/lib/systemd/system/serial-getty@.service")
	init, _ := g.resolve("/sbin/init")
	tab, err := g.read("/etc/inittab", 64<<10)
	switch {
	case unit != "" && (err != nil || strings.HasSuffix(init, "systemd/systemd")):
		const wants = "/etc/systemd/system/getty.target.wants"
		if err := g.symlink(unit, wants+"/serial-getty@"+port+".service"); err != nil {
			return "", err
		}
		return "login on " + port + " by systemd", nil
	case err != nil:
		return "", failureHint("set up a login on", port, errors.New("the image has neither /etc/inittab nor serial-getty@.service"),
			"let its init start: "+getty+" -L "+port+" 115200 vt100")
	}
	text := addGetty(string(tab), port, getty)
	if text == string(tab) {
		return "login on " + port + " by /etc/inittab", nil
	}
	if err := g.write("/etc/inittab", []byte(text), keepFile(0o644)); err != nil {
		return "", err
	}
	return "login on " + port + " added to /etc/inittab", nil
}

// addGetty adds a login on a port to an inittab that has none. sysvinit's lines
// are ID:RUNLEVELS:ACTION:PROCESS, and one says initdefault; busybox's are
// TTY::ACTION:PROCESS.
func addGetty(tab, port, getty string) string {
	start := port + "::respawn:"
	for _, line := range strings.Split(tab, "\n") {
		line = strings.TrimSpace(line)
		f := strings.SplitN(line, ":", 4)
		if len(f) < 4 || line[0] == '#' {
			continue
		}
		if f[2] == "initdefault" {
			start = strings.TrimPrefix(port, "tty") + ":2345:respawn:"
		}
		if (f[2] == "respawn" || f[2] == "askfirst") && (f[0] == port || slices.Contains(strings.Fields(f[3]), port)) {
			return tab
		}
	}
	if tab != "" && !strings.HasSuffix(tab, "\n") {
		tab += "\n"
	}
	return tab + start + getty + " -L " + port + " 115200 vt100\n"
}

// symlink makes a link below the root, with its directory; what stands in its
// place is left.
func (g *guest) symlink(target, p string) error {
	if err := g.mkdir(path.Dir(p), 0o755, 0, 0); err != nil {
		return err
	}
	dir, err := g.resolve(path.Dir(p))
	if err != nil {
		return err
	}
	d, err := g.open(dir, os.O_RDONLY, 0)
	if err != nil {
		return failure("open", path.Dir(p), err)
	}
	defer d.Close()
	if err := unix.Symlinkat(target, int(d.Fd()), path.Base(p)); err != nil && err != unix.EEXIST {
		return failure("make link", p, err)
	}
	return d.Sync()
}
