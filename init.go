package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// initRun is azprov as PID 1: it makes a bare kernel fit for provisioning, has
// azprov do that in a process of its own, and hands the machine on.
type initRun struct {
	m           *machine
	out         *consoles
	pid1        bool // of the machine or of a container
	machinePID1 bool
	params      rootParams
	args        []string // for the real init
	prober      *prober
	events      *ueventSocket
	changed     chan struct{} // a block device has come
	followed    chan struct{} // closed when the events are no longer followed
}

const initUsage = "usage: azprov init [-- COMMAND [ARGUMENT ...]]"

// startedAsInit says whether this is azprov init: as PID 1, under the name init, or
// by the command.
func startedAsInit(argv []string, pid int) bool {
	return pid == 1 || len(argv) > 0 && filepath.Base(argv[0]) == "init" || len(argv) > 1 && argv[1] == "init"
}

// initCommand is azprov init, and azprov as PID 1 or under the name init. args
// are the program's arguments. With a command it is a PID-1 helper: what init
// does, then the command with its signals forwarded and its orphans reaped.
// Without one, and with root= on the kernel command line, it becomes the real
// root's init. PID 1 does not return.
func initCommand(args []string, stderr io.Writer) int {
	in := &initRun{pid1: os.Getpid() == 1, changed: make(chan struct{}, 1)}
	var command []string
	if len(args) > 0 && args[0] == "init" {
		if len(args) > 1 && args[1] == "--" {
			command = args[2:]
		}
		if len(args) > 1 && len(command) == 0 || len(args) == 1 && !in.pid1 {
			io.WriteString(stderr, "azprov: init is for PID 1, or takes a command\n"+initUsage+"\n")
			if !in.pid1 {
				return exitUsage
			}
		}
	} else {
		in.args = args // what the kernel did not understand is the real init's
	}
	if !in.pid1 {
		return in.helperOnly(command, stderr)
	}
	return in.runPID1(command)
}

// initialPIDNamespace is PROC_PID_INIT_INO of include/linux/proc_ns.h.
const initialPIDNamespace = "pid:[4026531836]"

// helperOnly provisions and runs the command, without being PID 1: orphans come
// to it all the same.
func (in *initRun) helperOnly(command []string, stderr io.Writer) int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fprintf(stderr, "azprov: %v\n", failure("become subreaper", "", err))
	}
	in.m = newInitMachine(&console{w: stderr})
	in.out = &consoles{out: []io.Writer{stderr}}
	in.redirectConsole()
	in.provision("/")
	return in.helperStatus(command)
}

func (in *initRun) helperStatus(command []string) int {
	status, err := in.help(command)
	if err != nil {
		in.m.log.fail("init", err.Error())
		return 127
	}
	return int(status)
}

// newInitMachine makes a machine with the configuration of "/" and of the
// kernel command line. A bad configuration is said, and the defaults are used:
// provisioning then fails by it, but the machine still starts.
func newInitMachine(log *console) *machine {
	m := &machine{cfg: defaultConfig(), sysfs: "/sys", procfs: "/proc", devfs: "/dev", runfs: "/run", log: log, now: time.Now}
	g, err := openGuest("/")
	if err == nil {
		m.guest = g
		var cfg *config
		if cfg, err = loadConfig(g, "", m.procfs); err == nil {
			m.cfg = cfg
		}
	}
	if err != nil {
		m.log.fail("init", err.Error())
	}
	return m
}

// runPID1 does not return but as PID 1 of a container.
func (in *initRun) runPID1(command []string) int {
	mountErr := mountAll("/", initMounts)
	cmdline := sysCommandLine()
	ns, err := os.Readlink("/proc/self/ns/pid")
	in.machinePID1 = err != nil || ns == initialPIDNamespace
	if in.machinePID1 {
		in.out = openConsoles("/dev", cmdline)
	} else {
		in.out = &consoles{out: []io.Writer{rawWriter(2)}} // what the container was given
	}
	in.m = newInitMachine(&console{w: in.out})
	if mountErr != nil {
		in.m.warn("init", "%v", strings.ReplaceAll(mountErr.Error(), "\n", "; "))
	}
	if !in.machinePID1 {
		in.provision("/")
		return in.helperStatus(command)
	}
	defer in.rescuePanic()
	in.redirectConsole()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	in.params = parseRootParams(cmdline)
	if len(command) == 0 && in.params.device == "" {
		command = strings.Fields(in.m.cfg.InitCommand)
	}
	in.probeDevices(cmdline)
	switch {
	case len(command) > 0:
		in.provision("/")
		in.runCommand(command)
	case in.params.device != "":
		in.bootRoot()
	default:
		in.provision("/")
		in.rescue(failureHint("boot", "", errors.New("neither root= nor a command is given"),
			"put root= or azprov.init.command= on the kernel command line"), false)
	}
	return exitFailed
}

// sysCommandLine reads the kernel command line whole.
func sysCommandLine() string {
	data, _ := os.ReadFile("/proc/cmdline")
	return strings.TrimSpace(string(data))
}

// probeDevices loads the drivers of what is there and goes on doing so.
func (in *initRun) probeDevices(cmdline string) {
	m := in.m
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	ms, err := openModules("/", unix.ByteSliceToString(uts.Release[:]), cmdline)
	if err != nil {
		m.warn("modules", "%v", err)
		ms = &modules{done: map[string]error{}, insert: insertModule}
	}
	in.prober = &prober{m: m, ms: ms, tried: map[string]bool{}, changed: in.deviceChanged}
	if in.events, err = listenUevents(); err != nil {
		m.warn("modules", "%v", err)
	}
	start := time.Now()
	in.prober.loadDefaults()
	in.prober.coldplug()
	if n := ms.loaded(); n > 0 {
		m.log.step("modules", sprintf("%d loaded", n), time.Since(start))
	}
	if in.events == nil {
		return
	}
	in.followed = make(chan struct{})
	go func() {
		defer close(in.followed)
		defer func() {
			if p := recover(); p != nil {
				m.log.fail("modules", "internal error: "+panicText(p))
			}
		}()
		in.prober.follow(in.events)
	}()
}

// deviceChanged wakes who waits for the root device.
func (in *initRun) deviceChanged(e uevent) {
	if e.Subsystem != "block" {
		return
	}
	select {
	case in.changed <- struct{}{}:
	default:
	}
}

// stopProbing ends the listener before the machine is handed on.
func (in *initRun) stopProbing() {
	if in.followed != nil {
		in.events.interrupt()
		<-in.followed
		in.events.close()
		in.followed = nil
	}
}

// provision runs azprov on a root. How it ends is said, but stops nothing: a
// machine that starts can be looked into, and azprov in it reports again.
func (in *initRun) provision(root string) {
	args := []string{"-root", root}
	if root != "/" {
		// Custom data may expect the system's services: it is left to azprov there.
		args = append(args, "-skip", strings.Join(append(in.m.cfg.Skip, "script"), ","))
	}
	status, err := runSelf(in.out, args...)
	switch {
	case err != nil:
		in.m.log.fail("init", err.Error())
	case status > 128:
		in.m.log.fail("init", "azprov "+status.String())
		in.report("azprov " + status.String())
	case status == exitNotAzure:
		in.m.log.note("init", "not an Azure VM: nothing is provisioned")
	case status != exitOK:
		in.m.log.fail("init", "azprov "+status.String()+"; going on")
		for _, d := range in.m.undriven() {
			in.m.warn("modules", "no driver for %s: put its module into the initramfs", d)
		}
	}
}

// report tells Azure, if it can be reached soon, what has gone wrong.
func (in *initRun) report(text string) {
	if in.m.platform() == "" && !in.m.cfg.Force {
		return
	}
	_, err := runSelf(in.out, "-network.wait", "20s", "-deadline", "40s", "report", "failed", oneLine(text, 900))
	if err != nil {
		in.m.log.fail("init", err.Error())
	}
}

// bootRoot waits for the real root, provisions it and becomes its init.
func (in *initRun) bootRoot() {
	m := in.m
	start := time.Now()
	node, err := m.awaitRoot(in.params, in.changed)
	if err == nil {
		err = m.mountRoot(in.params, node, func(alias string) {
			for _, names := range in.prober.ms.forAliases([]string{alias}) {
				for _, name := range names {
					in.prober.report(in.prober.ms.load(name))
				}
			}
		})
	}
	if err != nil {
		in.rescue(err, true)
		return
	}
	m.log.step("root", node+" on "+sysroot, time.Since(start))
	init, err := findInit(sysroot, in.params)
	if err != nil {
		in.rescue(err, true)
		return
	}
	in.provision(sysroot)
	in.stopProbing()
	m.log.note("init", "executing "+init+" of "+in.params.device)
	in.rescue(switchRoot(in.params, init, in.args), false)
}

// runCommand is the PID-1 helper of a machine: it ends with the command.
func (in *initRun) runCommand(command []string) {
	status, err := in.help(command)
	if err == nil && status == 0 {
		in.m.log.note("init", command[0]+" "+status.String())
		in.end(poweroff)
	}
	if err == nil {
		err = failure("run", command[0], errors.New(status.String()))
	}
	in.rescue(err, false)
}

// rescuePanic keeps a defect of azprov from becoming a kernel panic.
func (in *initRun) rescuePanic() {
	if p := recover(); p != nil {
		in.rescue(failure("run init", "", errors.New("internal error: "+panicText(p))), true)
	}
}

// rescueDelay is how long the reason stands on the console before a reboot.
const rescueDelay = 10 * time.Second

// rescue says why it can't go on, to Azure too if that has not been told, and
// does what the configuration says. It does not return.
func (in *initRun) rescue(reason error, tell bool) {
	in.m.log.fail("init", reason.Error())
	if tell {
		in.report(reason.Error())
	}
	how := in.m.cfg.Rescue
	if how == "shell" {
		in.m.log.note("init", "rescue shell; its end reboots")
		if err := in.shell(); err != nil {
			in.m.log.fail("init", err.Error())
		}
		how = "reboot"
	}
	switch how {
	case "poweroff":
		in.end(poweroff)
	case "halt":
		in.end(halt)
	}
	in.m.log.note("init", "reboot in "+rescueDelay.String()+" (azprov.rescue=shell|reboot|poweroff|halt)")
	time.Sleep(rescueDelay)
	in.end(reboot)
}

// shell runs the first shell that the image has.
func (in *initRun) shell() error {
	for _, command := range [][]string{{"/bin/sh"}, {"/bin/busybox", "sh"}} {
		pid, err := startCommand(command)
		if err == nil {
			reap(pid, nil)
			return nil
		}
		if !errors.Is(err, syscall.ENOENT) {
			return err
		}
	}
	return failure("find shell", "/bin/sh", unix.ENOENT)
}
