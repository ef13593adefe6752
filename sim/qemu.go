package sim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// chassisTag is the SMBIOS chassis asset tag by which every Azure VM is known.
const chassisTag = "7783-7084-3265-9085-8269-3286-77"

// Machine describes the hardware of a virtual machine in QEMU. The guest sees what Azure shows: the
// chassis tag, a product UUID, a DVD drive, a SCSI disk and a network card. The
// bus below them is QEMU's (virtio, ATA), since QEMU has no VMBus.
type Machine struct {
	Kernel, Initrd, Append string
	Disk                   string // image of the OS disk (raw), "" for none
	ResourceDisk           string // image of the resource disk (raw), "" for none: /dev/vda of the guest
	DVD                    string // image of the provisioning medium, "" for none
	OEM0                   string // what the ACPI table OEM0 holds, "" for no such table
	Generation             int    // 1: BIOS, DVD on ATA; 2: UEFI if Firmware is given, DVD on SCSI
	Firmware               string // UEFI image for generation 2
	MemoryMB, CPUs         int
	Accelerator            string // tcg, kvm, or "" for what works
	UUID                   string
	Input                  io.Reader // typed on the console
	MAC, Tap               string    // network card and the host's end of it, "" for no network
	Monitor                string    // socket on which QEMU takes orders (QMP), "" for none
}

// args is the command line of QEMU.
func (m *Machine) args(accelerator string) []string {
	firmware := []string{}
	machine := "pc"
	if m.Generation == 2 {
		machine = "q35"
		if m.Firmware != "" {
			firmware = []string{"-bios", m.Firmware}
		}
	}
	console := "console=ttyS0 "
	if strings.Contains(m.Append, "console=tty") {
		console = "" // an image whose boot loader has its own idea
	}
	words := ""
	if m.ResourceDisk != "" {
		// Without VMBus nothing in the guest says which disk is the resource disk. It
		// is the only one of its bus, so that its name is certain.
		words = "azprov.resourcedisk=/dev/vda "
	}
	cpu := "max"
	if accelerator == "kvm" {
		cpu = "host"
	} else {
		accelerator = "tcg,thread=multi"
	}
	a := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", machine, "-accel", accelerator, "-cpu", cpu,
		"-m", strconv.Itoa(max(m.MemoryMB, 32)), "-smp", strconv.Itoa(max(m.CPUs, 1)), "-serial", "stdio",
		"-kernel", m.Kernel, "-append", console + "panic=-1 " + words + m.Append,
		"-smbios", "type=1,manufacturer=Microsoft Corporation,product=Virtual Machine,uuid=" + m.UUID,
		"-smbios", "type=3,asset=" + chassisTag}
	a = append(a, firmware...)
	if m.OEM0 != "" {
		a = append(a, "-acpitable", "sig=OEM0,rev=1,oem_id=VRTUAL,oem_table_id=MICROSFT,data="+escape(m.OEM0))
	}
	if m.Initrd != "" {
		a = append(a, "-initrd", m.Initrd)
	}
	if m.Disk != "" || m.Generation == 2 {
		a = append(a, "-device", "virtio-scsi-pci,id=scsi")
	}
	if m.Disk != "" {
		a = append(a, "-drive", "if=none,format=raw,id=os,file="+escape(m.Disk), "-device", "scsi-hd,vendor=Msft,product=Virtual Disk,bus=scsi.0,scsi-id=0,lun=0,drive=os")
	}
	if m.ResourceDisk != "" {
		a = append(a, "-drive", "if=none,format=raw,discard=unmap,id=resource,file="+escape(m.ResourceDisk), "-device", "virtio-blk-pci,drive=resource")
	}
	if m.DVD != "" {
		a = append(a, "-drive", "if=none,format=raw,readonly=on,media=cdrom,id=dvd,file="+escape(m.DVD))
		if m.Generation == 2 {
			a = append(a, "-device", "scsi-cd,bus=scsi.0,scsi-id=0,lun=2,drive=dvd")
		} else {
			a = append(a, "-device", "ide-cd,drive=dvd")
		}
	}
	if m.Tap != "" {
		a = append(a, "-netdev", "tap,id=net,script=no,downscript=no,ifname="+m.Tap, "-device", "virtio-net-pci,id="+firstNIC+",netdev=net,romfile=,mac="+m.MAC)
	}
	if m.Monitor != "" {
		a = append(a, "-qmp", "unix:"+escape(m.Monitor)+",server=on,wait=off")
	}
	return a
}

// escape doubles the commas of a file name, as QEMU's options want it.
func escape(file string) string { return strings.ReplaceAll(file, ",", ",,") }

// ConsoleLine is a line of the serial console and when it was printed, counted
// from the start of QEMU.
type ConsoleLine struct {
	At   time.Duration
	Text string
}

// Booted is a running virtual machine.
type Booted struct {
	cmd     *exec.Cmd
	started time.Time
	done    chan struct{}
	err     error

	mu    sync.Mutex
	lines []ConsoleLine
	more  chan struct{} // closed and made anew with every line
}

// Start starts a virtual machine. It ends with the context, or when the guest
// powers off or reboots. Each line of its console is handed to show, which may
// be nil.
func Start(ctx context.Context, m Machine, show func(ConsoleLine)) (*Booted, error) {
	accelerator := m.Accelerator
	if accelerator == "" {
		accelerator = "tcg"
		if kvmWorks(ctx, m) {
			accelerator = "kvm"
		}
	}
	v := &Booted{cmd: exec.CommandContext(ctx, "qemu-system-x86_64", m.args(accelerator)...), done: make(chan struct{}), more: make(chan struct{})}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	v.cmd.Stdin = m.Input
	var complaints bytes.Buffer
	v.cmd.Stderr = &complaints
	v.cmd.WaitDelay = 2 * time.Second
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	v.started = time.Now()
	start := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is of the thread, which stays until QEMU ends
		defer runtime.UnlockOSThread()
		err := v.cmd.Start()
		start <- err
		if err != nil {
			return
		}
		defer close(v.done)
		v.read(out, show)
		if err := v.cmd.Wait(); err != nil && ctx.Err() == nil {
			v.err = fmt.Errorf("QEMU: %w: %s", err, strings.TrimSpace(complaints.String()))
		}
	}()
	if err := <-start; err != nil {
		return nil, fmt.Errorf("start QEMU (package qemu-system-x86): %w", err)
	}
	return v, nil
}

// maxConsole is how many lines of a console are kept.
const maxConsole = 100000

func (v *Booted) read(r io.Reader, show func(ConsoleLine)) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := ConsoleLine{time.Since(v.started), cleanLine(s.Text())}
		v.mu.Lock()
		if len(v.lines) < maxConsole {
			v.lines = append(v.lines, line)
		}
		close(v.more)
		v.more = make(chan struct{})
		v.mu.Unlock()
		if show != nil {
			show(line)
		}
	}
}

// cleanLine drops carriage returns and terminal control sequences.
func cleanLine(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == 0x1b && i+1 < len(s) && s[i+1] == '[':
			for i += 2; i < len(s) && (s[i] < 0x40 || s[i] > 0x7e); i++ {
			}
		case c == 0x1b:
			i++
		case c >= ' ' || c == '\t':
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Console returns the lines so far.
func (v *Booted) Console() []ConsoleLine {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]ConsoleLine(nil), v.lines...)
}

// errEnded is how waiting ends when the machine does.
var errEnded = errors.New("the machine has ended")

// Expect waits for a text on the console.
func (v *Booted) Expect(ctx context.Context, text string) (ConsoleLine, error) {
	for seen := 0; ; {
		v.mu.Lock()
		lines, more := v.lines[seen:], v.more
		v.mu.Unlock()
		for _, l := range lines {
			if strings.Contains(l.Text, text) {
				return l, nil
			}
		}
		seen += len(lines)
		select {
		case <-more:
			continue
		case <-ctx.Done():
			return ConsoleLine{}, fmt.Errorf("wait for %q on the console: %w", text, ctx.Err())
		case <-v.done:
		}
		v.mu.Lock()
		ended := seen == len(v.lines)
		v.mu.Unlock()
		if ended {
			return ConsoleLine{}, fmt.Errorf("wait for %q on the console: %w", text, errEnded)
		}
	}
}

// Started is when QEMU was started.
func (v *Booted) Started() time.Time { return v.started }

// Wait waits until the machine has ended.
func (v *Booted) Wait() error {
	<-v.done
	return v.err
}

// Kill takes the power away.
func (v *Booted) Kill() {
	_ = v.cmd.Process.Kill()
	<-v.done
}

// kvmProbe is how long a kernel may take to say its first word under KVM.
const kvmProbe = 4 * time.Second

// kvmWorks says whether a kernel starts under KVM. Where this machine is itself
// virtual, /dev/kvm may be there and a guest kernel hang all the same: so the
// kernel is tried.
func kvmWorks(ctx context.Context, m Machine) bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	ctx, cancel := context.WithTimeout(ctx, kvmProbe)
	defer cancel()
	trial := Machine{Kernel: m.Kernel, Append: "earlyprintk=ttyS0", MemoryMB: 128, UUID: m.UUID, Accelerator: "kvm"}
	v, err := Start(ctx, trial, nil)
	if err != nil {
		return false
	}
	defer v.Kill()
	_, err = v.Expect(ctx, "Linux version")
	return err == nil
}
