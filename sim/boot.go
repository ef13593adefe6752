package sim

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// BootOptions say what is booted, and beside which platform. The machine's
// UUID, MAC, DVD and network are filled in from the description of the VM.
type BootOptions struct {
	VM, Faults   string // files; "" for the defaults
	Log          string // where the platform's log goes; "" for nowhere
	Timeline     string // SVG to draw; "" for none
	Machine      Machine
	ResourceSize int64 // bytes of an empty resource disk, 0 for none
	Keep         bool  // go on after Ready, until the machine ends
	Timeout      time.Duration
	Forward      int // port on 127.0.0.1 that leads to the VM's port 22; 0 for a free one
}

// Boot boots a virtual machine beside a platform of its own. QEMU and the
// platform live in a network namespace, so that no address of this machine is
// touched; only one port of 127.0.0.1 leads in. It returns 0 when Ready was
// reported, and with Keep when the machine has ended after that.
func Boot(o BootOptions) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("a boot needs root, for the network namespace")
	}
	for tool, pkg := range map[string]string{"ip": "iproute2", "qemu-system-x86_64": "qemu-system-x86"} {
		if _, err := exec.LookPath(tool); err != nil {
			return 0, fmt.Errorf("a boot needs %s (package %s)", tool, pkg)
		}
	}
	vm, _, err := describe(&SandboxOptions{VM: o.VM, Faults: o.Faults})
	if err != nil {
		return 0, err
	}
	port, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(o.Forward))
	if err != nil {
		return 0, err
	}
	defer port.Close()
	o.Forward = port.Addr().(*net.TCPAddr).Port
	options, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	runtime.LockOSThread() // Pdeathsig is of the thread
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), stageVariable+"=boot", "SIM_BOOT="+string(options))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	forwardSignals(cmd.Process)
	go forward(port, cmd.Process.Pid, vm.address().Addr().String()+":22")
	return exitCode(cmd.Wait())
}

// forward passes connections on into the namespace of a process.
func forward(port net.Listener, pid int, to string) {
	for {
		outside, err := port.Accept()
		if err != nil {
			return
		}
		go func() {
			defer outside.Close()
			inside, err := dialInside(pid, to)
			if err != nil {
				return
			}
			defer inside.Close()
			go func() {
				_, _ = io.Copy(inside, outside)
				_ = inside.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(outside, inside)
		}()
	}
}

// dialInside connects from the network namespace of a process.
func dialInside(pid int, to string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		var r result
		if r.err = err; err == nil {
			r.conn, r.err = net.DialTimeout("tcp4", to, 10*time.Second)
		}
		done <- r
	}()
	r := <-done
	return r.conn, r.err
}

// watch is a log's writer that keeps the events and tells of Ready.
type watch struct {
	mu     sync.Mutex
	file   io.Writer
	events []Event
	ready  chan struct{}
	// missing is how many more times Ready must be reported: a VM that leaves a pool
	// does so twice.
	missing int
}

func (w *watch) Write(line []byte) (int, error) {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
	if e.State == "Ready" && e.Status < 300 {
		if w.missing--; w.missing == 0 {
			close(w.ready)
		}
	}
	if w.file != nil {
		return w.file.Write(line)
	}
	return len(line), nil
}

// bootStage is the process in the namespace: the platform, and QEMU.
func bootStage() (int, error) {
	var o BootOptions
	if err := json.Unmarshal([]byte(os.Getenv("SIM_BOOT")), &o); err != nil {
		return 0, err
	}
	os.Unsetenv("SIM_BOOT")
	vm, faults, err := describe(&SandboxOptions{VM: o.VM, Faults: o.Faults})
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "azuresim-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	m := &o.Machine
	if err := prepareMachine(m, vm, faults, dir, o.ResourceSize); err != nil {
		return 0, err
	}
	w := &watch{ready: make(chan struct{}), missing: 1}
	if len(vm.Assigned) > 0 {
		w.missing++
	}
	if o.Log != "" {
		f, err := os.OpenFile(o.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		w.file = f
	}
	ctx := context.Background()
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Timeout)
		defer cancel()
	}
	p := New([]*VM{vm}, NewLog(w), faults)
	if len(vm.Assigned) > 0 {
		m.Monitor = filepath.Join(dir, "qmp")
		p.Switch = p.machineSwitch(m)
	}
	if err := p.serveVM(ctx, vm, m.Tap, faults); err != nil {
		return 0, err
	}
	return o.run(ctx, vm, p, w)
}

// prepareMachine gives the machine what the platform gives every VM.
func prepareMachine(m *Machine, vm *VM, faults *Faults, dir string, resource int64) error {
	m.UUID, m.MAC, m.Tap = vm.VMID, vm.MAC, "tap0"
	if m.Generation == 0 {
		m.Generation = vm.Generation
	}
	if _, missing := faults.Media(); !missing {
		now := time.Now()
		image, err := WriteDVD(FormatBridge, 0x0102, Label(now), vm.OVF(), now)
		if err != nil {
			return err
		}
		m.DVD = filepath.Join(dir, "dvd.iso")
		if err := os.WriteFile(m.DVD, image, 0o600); err != nil {
			return err
		}
	}
	random := make([]byte, 64)
	_, _ = rand.Read(random) // never fails
	m.OEM0 = filepath.Join(dir, "oem0")
	if err := os.WriteFile(m.OEM0, random, 0o600); err != nil {
		return err
	}
	if resource > 0 {
		m.ResourceDisk = filepath.Join(dir, "resource.img")
		f, err := os.Create(m.ResourceDisk)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Truncate(resource)
	}
	return nil
}

// serveVM makes the host's end of the network and starts the services.
func (p *Platform) serveVM(ctx context.Context, vm *VM, tap string, faults *Faults) error {
	commands := [][]string{
		{"link", "set", "lo", "up"},
		{"tuntap", "add", tap, "mode", "tap"},
		{"addr", "add", vm.Gateway + "/" + strconv.Itoa(vm.address().Bits()), "dev", tap},
		{"addr", "add", WireServerAddress + "/32", "dev", tap},
		{"addr", "add", MetadataAddress + "/32", "dev", tap},
		{"link", "set", tap, "up"},
	}
	if vm.address().Bits() == 32 {
		commands = append(commands, []string{"route", "add", vm.address().Addr().String(), "dev", tap})
	}
	for _, c := range commands {
		if err := ip(c...); err != nil {
			return err
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- p.Serve(ctx, tap) }()
	for range 500 {
		if servicesListen(faults) {
			return nil
		}
		select {
		case err := <-failed:
			return err
		case <-time.After(2 * time.Millisecond):
		}
	}
	return errors.New("the platform's services do not listen")
}

// run boots the machine and waits for Ready.
func (o *BootOptions) run(ctx context.Context, vm *VM, p *Platform, w *watch) (int, error) {
	o.Machine.Input = os.Stdin
	show := func(l ConsoleLine) { fmt.Printf("[%8.3f] %s\n", l.At.Seconds(), l.Text) }
	v, err := Start(ctx, o.Machine, show)
	if err != nil {
		return 0, err
	}
	code := 1
	select {
	case <-w.ready:
		code = 0
		p.describeReady(vm, v, o.Forward)
		if o.Keep {
			err = v.Wait()
			break
		}
		// The guest has yet to hear that its report was taken.
		settle, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, _ = v.Expect(settle, "Ready acknowledged")
		cancel()
		v.Kill()
	case <-v.done:
		err = v.Wait()
		if err == nil && ctx.Err() != nil {
			err = fmt.Errorf("no Ready within %s", o.Timeout)
		}
	}
	if err == nil && o.Timeline != "" {
		err = o.draw(v, w)
	}
	return code, err
}

// describeReady prints what a user wants to know next.
func (p *Platform) describeReady(vm *VM, v *Booted, port int) {
	fmt.Printf("Ready after %.3f s\n", time.Since(v.started).Seconds())
	p.mu.Lock()
	for name, a := range p.names {
		fmt.Printf("DNS: %s is %s\n", name, a)
	}
	p.mu.Unlock()
	fmt.Printf("login: ssh -p %d %s@127.0.0.1\n", port, vm.User)
}

// draw makes the timeline from the console and the platform's log.
func (o *BootOptions) draw(v *Booted, w *watch) error {
	steps := consoleSteps(v.Console())
	steps.Started = v.started
	steps.TookMS = float64(time.Since(v.started)) / 1e6
	status, err := json.Marshal(steps)
	if err != nil {
		return err
	}
	w.mu.Lock()
	events := slices.Clone(w.events)
	w.mu.Unlock()
	var svg bytes.Buffer
	if err := Timeline(&svg, status, events); err != nil {
		return err
	}
	return os.WriteFile(o.Timeline, svg.Bytes(), 0o644)
}
