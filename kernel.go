package main

import (
	"os"
	"slices"
)

// kernelSteps is what azprov kernel runs, for an init that wants nothing else.
const kernelSteps = "entropy,timeouts,console"

// hyperV says whether the machine is one of Hyper-V: by SMBIOS, or where the
// kernel shows none by its VMBus, which it registers nowhere else.
func (m *machine) hyperV() bool {
	if m.platform() != "" {
		return true
	}
	_, err := os.Stat(m.sys("bus/vmbus"))
	return err == nil
}

// numa tells how the kernel sees the memory: "off" by its command line, "none"
// when it is built without, else the nodes that are online ("0-1").
func (m *machine) numa() string {
	cmdline, _ := os.ReadFile(m.proc("cmdline"))
	if slices.Contains(splitCommandLine(string(cmdline)), "numa=off") {
		return "off"
	}
	if nodes := sysAttr(m.sys("devices/system/node/online")); nodes != "" {
		return nodes
	}
	return "none"
}

// kernelRelease is the release of the running kernel, as uname -r prints it.
func (m *machine) kernelRelease() string { return sysAttr(m.proc("sys/kernel/osrelease")) }
