package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A sandbox is three processes: the one that was called; the platform, in a
// network and mount namespace of its own; and the guest's init, in namespaces for
// network, mounts, host name, processes and IPC. A veth pair joins the two
// networks and nothing else does. What is mounted is gone with the processes.

// SandboxOptions say what runs where.
type SandboxOptions struct {
	VM      string   // description of the VM; "" for the defaults
	Faults  string   // file of faults; "" for none
	Log     string   // where the platform's log goes; "" for Dir/platform.jsonl
	Dir     string   // keeps guest root and log; "" for a temporary one
	Binds   []string // HOST:GUEST: files that the guest sees, read-only
	Late    time.Duration
	Command []string
}

// Stages are given to the program itself in this variable.
const stageVariable = "AZURESIM_STAGE"

// RunStage takes over when the program was started as a part of a sandbox. A
// command that calls Sandbox must call it first.
func RunStage() {
	stage := os.Getenv(stageVariable)
	if stage == "" {
		return
	}
	os.Unsetenv(stageVariable)
	code, err := 1, error(nil)
	switch stage {
	case "platform":
		code, err = platformStage()
	case "guest":
		code, err = guestStage()
	case "boot":
		code, err = bootStage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "azuresim:", err)
		code = 125
	}
	os.Exit(code)
}

// stage is a command that runs this program as a part of a sandbox.
func stage(name string, flags uintptr, o *SandboxOptions) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), stageVariable+"="+name, "SIM_VM="+o.VM, "SIM_FAULTS="+o.Faults, "SIM_LOG="+o.Log, "SIM_DIR="+o.Dir,
		"SIM_BINDS="+strings.Join(o.Binds, "\n"), "SIM_LATE="+o.Late.String(), "SIM_COMMAND="+strings.Join(o.Command, "\x1f"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func stageOptions() *SandboxOptions {
	late, _ := time.ParseDuration(os.Getenv("SIM_LATE"))
	o := &SandboxOptions{VM: os.Getenv("SIM_VM"), Faults: os.Getenv("SIM_FAULTS"), Log: os.Getenv("SIM_LOG"), Dir: os.Getenv("SIM_DIR"), Late: late,
		Command: strings.Split(os.Getenv("SIM_COMMAND"), "\x1f")}
	if b := os.Getenv("SIM_BINDS"); b != "" {
		o.Binds = strings.Split(b, "\n")
	}
	for _, name := range []string{"VM", "FAULTS", "LOG", "DIR", "BINDS", "LATE", "COMMAND"} {
		os.Unsetenv("SIM_" + name)
	}
	return o
}

// Sandbox runs a command in a guest of its own, beside a platform of its own,
// and returns its exit code.
func Sandbox(o SandboxOptions) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("a sandbox needs root, for namespaces and mounts")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return 0, errors.New("a sandbox needs the ip command of iproute2")
	}
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "azuresim-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		o.Dir = dir
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return 0, err
	}
	if o.Log == "" {
		o.Log = filepath.Join(o.Dir, "platform.jsonl")
	}
	if _, _, err := describe(&o); err != nil {
		return 0, err
	}
	if err := makeRoot(filepath.Join(o.Dir, "root")); err != nil {
		return 0, fmt.Errorf("make guest root: %w", err)
	}
	runtime.LockOSThread() // Pdeathsig is of the thread
	cmd := stage("platform", unix.CLONE_NEWNET|unix.CLONE_NEWNS, &o)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	forwardSignals(cmd.Process)
	return exitCode(cmd.Wait())
}

// describe loads the VM and the faults of a sandbox.
func describe(o *SandboxOptions) (*VM, *Faults, error) {
	faults, err := LoadFaults(o.Faults)
	if err != nil {
		return nil, nil, err
	}
	if o.VM == "" {
		vm := &VM{}
		return vm, faults, vm.Defaults(0)
	}
	vms, err := LoadVMs(o.VM)
	if err != nil {
		return nil, nil, err
	}
	return vms[0], faults, nil
}

func forwardSignals(p *os.Process) {
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for s := range ch {
			p.Signal(s)
		}
	}()
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// ip runs the ip command.
func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %s: %w", strings.Join(args, " "), strings.TrimSpace(string(out)), err)
	}
	return nil
}

// platformStage is the host: it makes the network, serves, and starts the guest.
func platformStage() (int, error) {
	runtime.LockOSThread()
	o := stageOptions()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("make mounts private: %w", err)
	}
	vm, faults, err := describe(o)
	if err != nil {
		return 0, err
	}
	logFile, err := os.OpenFile(o.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	all, err := vm.interfaces()
	if err != nil {
		return 0, err
	}
	p := New(all, NewLog(logFile), faults)
	ready, started, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	guest := stage("guest", unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWPID|unix.CLONE_NEWIPC, o)
	guest.ExtraFiles = []*os.File{ready, logFile}
	if err := guest.Start(); err != nil {
		return 0, err
	}
	ready.Close()
	forwardSignals(guest.Process)
	stop := func(err error) (int, error) {
		started.Close()
		guest.Process.Kill()
		guest.Wait()
		return 0, err
	}
	pid := strconv.Itoa(guest.Process.Pid)
	p.Switch = p.sandboxSwitch(guest.Process.Pid, guest.Process.Kill)
	if err := ip("link", "set", "lo", "up"); err != nil {
		return stop(err)
	}
	// The host's own IPv6 addresses must be good at once.
	os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	devices, err := plug(all, pid)
	if err != nil {
		return stop(err)
	}
	if vm.IPv6 != "" {
		if err := p.serveIPv6(vm, "host0"); err != nil {
			return stop(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	failed := make(chan error, 1)
	listening := make(chan bool)
	go func() {
		close(listening)
		if err := p.Serve(ctx, devices...); err != nil {
			failed <- err
		}
	}()
	<-listening
	for range 200 { // until the services listen; they do so in this process
		if servicesListen(faults) {
			break
		}
		select {
		case err := <-failed:
			return stop(err)
		case <-time.After(time.Millisecond):
		}
	}
	if _, err := started.Write([]byte{1}); err != nil {
		return stop(err)
	}
	started.Close()
	if vm.Restarted {
		p.assignLater(vm)
	}
	return exitCode(guest.Wait())
}

// servicesListen looks whether the HTTP ports are open in this network.
func servicesListen(f *Faults) bool {
	data, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return true
	}
	want := 0
	for _, s := range []string{"wire", "imds"} {
		if f.Refused(s) == 0 {
			want++
		}
	}
	return strings.Count(string(data), ":0050 00000000:0000 0A") >= want
}

// guestStage is the guest's PID 1: it enters the guest root, runs the command
// and reaps what is left to it.
func guestStage() (int, error) {
	runtime.LockOSThread()
	o := stageOptions()
	ready, logFile := os.NewFile(3, "ready"), os.NewFile(4, "log")
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	if n, _ := ready.Read(make([]byte, 1)); n != 1 {
		return 0, errors.New("the platform did not start")
	}
	vm, faults, err := describe(o)
	if err != nil {
		return 0, err
	}
	log := NewLog(logFile)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("make mounts private: %w", err)
	}
	if err := ip("link", "set", "lo", "up"); err != nil {
		return 0, err
	}
	if err := enterRoot(filepath.Join(o.Dir, "root"), vm, o.Binds); err != nil {
		return 0, err
	}
	all, err := vm.interfaces()
	if err != nil {
		return 0, err
	}
	if vm.Impair != nil {
		if err := checksumInSoftware("eth0"); err != nil {
			return 0, err
		}
	}
	if err := mirrorNet("/sys", all); err != nil {
		return 0, fmt.Errorf("show the network: %w", err)
	}
	if err := insertMedium(vm, faults, o.Late); err != nil {
		return 0, err
	}
	unix.Sethostname([]byte("generalized"))
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	log.Add(Event{Service: "sandbox", VM: vm.Hostname, Type: "start", Text: strings.Join(o.Command, " ")})
	path, err := exec.LookPath(o.Command[0])
	if err != nil {
		return 127, fmt.Errorf("%s: not in the guest", o.Command[0])
	}
	pid, err := syscall.ForkExec(path, o.Command, &syscall.ProcAttr{Dir: "/", Env: guestEnv(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 126, fmt.Errorf("%s: %w", path, err)
	}
	go func() {
		for s := range signals {
			syscall.Kill(pid, s.(syscall.Signal))
		}
	}()
	for {
		var ws syscall.WaitStatus
		var usage syscall.Rusage
		got, err := syscall.Wait4(-1, &ws, 0, &usage)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		if got == pid && (ws.Exited() || ws.Signaled()) {
			code := ws.ExitStatus()
			if ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
			log.Add(Event{Service: "sandbox", VM: vm.Hostname, Type: "exit", Status: code,
				CPU: float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e6, RSS: usage.Maxrss})
			return code, nil
		}
	}
}

func guestEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LANG=C", "SHELL=/bin/sh"}
	if term := os.Getenv("TERM"); term != "" {
		env = append(env, "TERM="+term)
	}
	os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	return env
}

// insertMedium puts the provisioning DVD into the guest's drive, now or late.
func insertMedium(vm *VM, faults *Faults, late time.Duration) error {
	more, missing := faults.Media()
	if missing {
		return nil
	}
	now := time.Now()
	image, err := WriteDVD(FormatBridge, 0x0102, Label(now), vm.OVF(), now)
	if err != nil {
		return err
	}
	insert := func() error {
		if err := os.WriteFile("/dev/.dvd", image, 0o400); err != nil {
			return err
		}
		return os.Rename("/dev/.dvd", "/dev/sr0")
	}
	if late += more; late > 0 {
		time.AfterFunc(late, func() {
			if err := insert(); err != nil {
				fmt.Fprintln(os.Stderr, "azuresim:", err)
			}
		})
		return nil
	}
	return insert()
}

// copyFile copies a file with mode and owner; a missing one is no error.
func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if err := out.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return out.Chmod(info.Mode().Perm())
}
