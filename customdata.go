package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// customDataKind names what custom data are, by their first bytes.
func customDataKind(data []byte) string {
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		return "gzip"
	}
	if bytes.HasPrefix(data, []byte("\x7fELF")) {
		return "program"
	}
	text := strings.ToLower(string(bytes.TrimLeft(data[:min(len(data), 4096)], " \t\r\n")))
	for _, k := range []struct{ prefix, kind string }{{"#!", "script"}, {"#cloud-config-archive", "cloud-config archive"}, {"#cloud-config-jsonp", "cloud-config json patch"},
		{"#cloud-config", "cloud-config"}, {"#cloud-boothook", "boothook"}, {"#include", "include list"}, {"#part-handler", "part handler"}, {"## template: jinja", "template"}} {
		if strings.HasPrefix(text, k.prefix) {
			return k.kind
		}
	}
	switch {
	case strings.Contains(text, "mime-version:"):
		return "mime"
	case strings.HasPrefix(text, "{") && strings.Contains(text, `"ignition"`):
		return "ignition"
	}
	return "opaque"
}

// storeCustomData keeps the bytes as they are in the state directory, and in
// base64 where the Linux agent keeps them.
func (m *machine) storeCustomData(data secret, dir string) (string, error) {
	for _, d := range []string{dir, waagentDir} {
		if err := m.guest.mkdir(d, 0o700, 0, 0); err != nil {
			return "", err
		}
	}
	text := make([]byte, base64.StdEncoding.EncodedLen(len(data)))
	base64.StdEncoding.Encode(text, data)
	defer clear(text)
	e := m.guest.edit()
	if err := errors.Join(e.put(dir+"/custom-data", data, rootFile(0o600)), e.put(waagentDir+"/CustomData", text, rootFile(0o600))); err != nil {
		return "", err
	}
	return sprintf("%d bytes, %s", len(data), customDataKind(data)), e.commitLater()
}

// scriptLog is where the output of custom data goes.
const scriptLog = "/var/log/azprov-customdata.log"

// runCustomData runs stored custom data as root, as a process group of its own,
// and says how it ended: "exit N", "signal N" or "timeout". Its output goes to
// scriptLog (0600). When ctx ends first the whole group is killed.
func (m *machine) runCustomData(ctx context.Context, stored string) (string, error) {
	data, err := m.guest.read(stored, maxCustomData)
	if err != nil {
		return "", err
	}
	program := stored + ".run"
	defer m.guest.remove(program)
	if err := errors.Join(m.guest.mkdir("/var/log", 0o755, 0, 0), m.guest.write(program, data, rootFile(0o700))); err != nil {
		return "", err
	}
	clear(data)
	rel, err := m.guest.resolve(scriptLog)
	if err != nil {
		return "", err
	}
	log, err := m.guest.open(rel, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return "", failure("open", scriptLog, err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return "", failure("open", os.DevNull, err)
	}
	defer null.Close()
	attr := &os.ProcAttr{Dir: "/", Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "LANG=C", "INSTANCE_ID=" + m.instanceID()}}
	if m.guest.dir != "/" {
		attr.Sys.Chroot = m.guest.dir
	}
	p, err := os.StartProcess(program, []string{program}, attr)
	if err != nil {
		return "", failureHint("start", stored, err, "is its interpreter in the image?")
	}
	ended := make(chan string, 1)
	go func() {
		state, err := p.Wait()
		if err != nil {
			ended <- "unknown"
			return
		}
		if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
			ended <- sprintf("signal %d", int(ws.Signal()))
		} else {
			ended <- sprintf("exit %d", ws.ExitStatus())
		}
	}()
	select {
	case status := <-ended:
		return status, nil
	case <-ctx.Done():
		unix.Kill(-p.Pid, unix.SIGKILL)
		<-ended
		return "timeout", nil
	}
}
