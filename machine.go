package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// machine is the VM as the steps see it. Nothing in azprov reaches for a path,
// a clock or an output but through it, so that a test can hand over a fixture.
type machine struct {
	cfg    *config
	guest  *guest // the root directory that is provisioned
	sysfs  string // /sys
	procfs string // /proc
	devfs  string // /dev
	runfs  string // /run of the machine, also when another root is provisioned
	log    *console
	now    func() time.Time

	mu       sync.Mutex
	warnings []warning

	reload   sync.Mutex
	reloaded time.Time // when sshd was told to read its configuration again
}

// warning is something that was left undone without failing its step. It is
// printed, kept in status.json and told to Azure.
type warning struct{ Step, Text string }

// warn prints a warning and keeps it for the report. The text never holds a secret.
func (m *machine) warn(step, format string, args ...any) {
	text := oneLine(sprintf(format, args...), 900)
	m.log.warn(step, text)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.warnings = append(m.warnings, warning{step, text})
}

// sys joins path elements below sysfs; proc and dev do the same for theirs.
func (m *machine) sys(elem ...string) string {
	return filepath.Join(append([]string{m.sysfs}, elem...)...)
}
func (m *machine) proc(elem ...string) string {
	return filepath.Join(append([]string{m.procfs}, elem...)...)
}
func (m *machine) dev(elem ...string) string {
	return filepath.Join(append([]string{m.devfs}, elem...)...)
}

// sysAttr reads a sysfs or procfs attribute of at most 4096 bytes and trims
// white space; it is "" when the attribute can't be read or is all 0xff.
func sysAttr(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var b [4096]byte
	n, _ := f.Read(b[:])
	s := strings.TrimSpace(strings.TrimRight(string(b[:n]), "\x00"))
	if strings.Count(s, "\xff") == len(s) {
		return ""
	}
	return s
}

// chassisTag is the SMBIOS chassis asset tag of every Azure VM.
const chassisTag = "7783-7084-3265-9085-8269-3286-77"

// platform tells where the machine runs: "azure" by its chassis tag, "hyperv"
// by its vendor, else "".
func (m *machine) platform() string {
	id := m.sys("class/dmi/id")
	switch {
	case sysAttr(filepath.Join(id, "chassis_asset_tag")) == chassisTag:
		return "azure"
	case sysAttr(filepath.Join(id, "sys_vendor")) == "Microsoft Corporation" &&
		sysAttr(filepath.Join(id, "product_name")) == "Virtual Machine":
		return "hyperv"
	}
	return ""
}

// generation is 2 when the VM was started by UEFI, else 1.
func (m *machine) generation() int {
	if _, err := os.Stat(m.sys("firmware/efi")); err == nil {
		return 2
	}
	return 1
}

// instanceID is the SMBIOS product UUID as the kernel prints it, in lower
// case, or "" when there is none.
func (m *machine) instanceID() string {
	return strings.ToLower(sysAttr(m.sys("class/dmi/id/product_uuid")))
}

// vmID is the VM's id as Azure shows it: the product UUID, with the first
// three fields byte-swapped on generation 1.
func (m *machine) vmID() string {
	id := m.instanceID()
	if m.generation() == 1 {
		return swapUUID(id)
	}
	return id
}

// swapUUID reverses the bytes of the first three groups of a UUID, which is how
// SMBIOS before 2.6 and since 2.6 differ. Text that is not a UUID is returned as
// it is.
func swapUUID(id string) string {
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' {
		return id
	}
	order := [...]int{6, 4, 2, 0, 8, 11, 9, 13, 16, 14, 18}
	var b strings.Builder
	for _, i := range order {
		if id[i] == '-' {
			b.WriteByte('-')
			continue
		}
		b.WriteString(id[i : i+2])
	}
	return b.String() + id[19:]
}

// currentWarnings returns the warnings so far.
func (m *machine) currentWarnings() []warning {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.warnings)
}
