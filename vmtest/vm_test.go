// Package vmtest boots azprov in virtual machines: Debian's cloud kernel, QEMU
// without acceleration, and the simulated platform beside it.
package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"azprov/sim"
)

// lab is what the tests share: the kernel, our binaries, a key, a description of
// the VM.
type lab struct {
	dir, kernel, modules           string
	azprov, mkinitramfs, azuresim  string
	keyFile, key, vm, user, faults string
}

// need skips a test when a program is missing; with CI=true that is a failure.
func need(t *testing.T, tools ...string) {
	t.Helper()
	why := ""
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			why = "needs " + tool
		}
	}
	if os.Geteuid() != 0 {
		why = "needs root"
	}
	if why == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s, and CI=true allows no skip", why)
	}
	t.Skip(why)
}

// newLab builds what a boot needs.
func newLab(t *testing.T, tools ...string) *lab {
	t.Helper()
	need(t, append(tools, "qemu-system-x86_64", "ip", "ssh-keygen", "ssh", "make", "dpkg", "apt-get", "busybox")...)
	l := &lab{dir: t.TempDir(), user: "opsadmin"}
	root := strings.TrimSpace(must(t, "../scripts/cloudkernel", "../build/cloudkernel"))
	l.kernel, l.modules = one(t, root+"/boot/vmlinuz-*"), one(t, root+"/lib/modules/*")
	must(t, "make", "-s", "-C", "..", "programs", "DIR="+l.dir)
	l.azprov, l.mkinitramfs, l.azuresim = filepath.Join(l.dir, "azprov"), filepath.Join(l.dir, "mkinitramfs"), filepath.Join(l.dir, "azuresim")
	l.keyFile = filepath.Join(l.dir, "key")
	must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm", "-f", l.keyFile)
	key, err := os.ReadFile(l.keyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	l.key = strings.TrimSpace(string(key))
	l.vm = l.write(t, "vm.json", fmt.Sprintf(`{"hostname":"edge-7","user":%q,"generation":1,"sshKeys":[{"value":%q}]}`, l.user, l.key), 0o600)
	return l
}

func (l *lab) write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, complaints.String())
	}
	return string(out)
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	found, _ := filepath.Glob(pattern)
	if len(found) != 1 {
		t.Fatalf("%d files are %s", len(found), pattern)
	}
	return found[0]
}

// image makes an initramfs.
func (l *lab) image(t *testing.T, name string, flags ...string) string {
	t.Helper()
	out := filepath.Join(l.dir, name)
	must(t, l.mkinitramfs, append([]string{"-azprov", l.azprov, "-o", out}, flags...)...)
	return out
}

// booted is a running azuresim boot.
type booted struct {
	cmd  *exec.Cmd
	log  string
	in   io.Writer
	done chan struct{}
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

// bootTime is how long a boot may take: generous, since software emulation on a
// busy machine is slow.
const bootTime = 4 * time.Minute

// boot starts azuresim boot in 96 MB and shows its console if the test fails.
func (l *lab) boot(t *testing.T, kernelWords string, args ...string) *booted {
	t.Helper()
	b := &booted{log: filepath.Join(t.TempDir(), "platform.jsonl"), done: make(chan struct{}), more: make(chan struct{})}
	b.cmd = exec.Command(l.azuresim, append([]string{"boot", "-kernel", l.kernel, "-vm", l.vm, "-log", b.log, "-accel", "tcg", "-memory", "96", "-cpus", "1",
		"-timeout", bootTime.String(), "-append", "quiet " + kernelWords}, args...)...)
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	b.cmd.Stderr = b.cmd.Stdout
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.done)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			b.mu.Lock()
			b.text.WriteString(s.Text() + "\n")
			close(b.more)
			b.more = make(chan struct{})
			b.mu.Unlock()
		}
		_ = b.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = b.cmd.Process.Kill() // the parts die with it
		<-b.done
		if t.Failed() {
			t.Logf("console:\n%s", b.console())
		}
	})
	return b
}

func (b *booted) console() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// expect waits until the console has said each text.
func (b *booted) expect(t *testing.T, texts ...string) {
	t.Helper()
	timeout := time.After(bootTime)
	for _, text := range texts {
		for {
			b.mu.Lock()
			found, more := strings.Contains(b.text.String(), text), b.more
			b.mu.Unlock()
			if found {
				break
			}
			select {
			case <-more:
				continue
			case <-timeout:
				t.Fatalf("the console never said %q", text)
			case <-b.done:
			}
			if !strings.Contains(b.console(), text) {
				t.Fatalf("the machine has ended, and never said %q", text)
			}
		}
	}
}

// say types on the console.
func (b *booted) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(b.in, text); err != nil {
		t.Fatal(err)
	}
}

// end waits for the machine's end, which must be the guest's own, without a
// kernel panic.
func (b *booted) end(t *testing.T) {
	t.Helper()
	<-b.done
	if strings.Contains(b.console(), "Kernel panic") {
		t.Error("kernel panic")
	}
}

// health lists the states that were reported, with substatus and text.
func (b *booted) health(t *testing.T) []sim.Event {
	t.Helper()
	f, err := os.Open(b.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []sim.Event
	for d := json.NewDecoder(f); ; {
		var e sim.Event
		if d.Decode(&e) != nil {
			return list
		}
		if e.State != "" {
			list = append(list, e)
		}
	}
}

// ssh logs in by key over the forwarded port and runs a command.
func (b *booted) ssh(t *testing.T, l *lab, command string) string {
	t.Helper()
	b.expect(t, "login: ssh -p ")
	_, rest, _ := strings.Cut(b.console(), "login: ssh -p ")
	port, _, _ := strings.Cut(rest, " ")
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	for {
		out, err := exec.CommandContext(ctx, "ssh", "-p", port, "-i", l.keyFile, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR", l.user+"@127.0.0.1", command).CombinedOutput()
		var exit *exec.ExitError
		if err == nil {
			return string(out)
		}
		if errors.As(err, &exit) && exit.ExitCode() != 255 {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		select {
		case <-b.done:
			t.Fatalf("login: %v: %s; the machine has ended", err, out)
		case <-ctx.Done():
			t.Fatalf("login: %v: %s", err, out)
		case <-time.After(time.Second): // the real root's sshd is still to start
		}
	}
}
