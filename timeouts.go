package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What a request to a disk may take before the kernel resets the disk. While the
// host moves or repairs storage, longer than the kernel's defaults of 30 s.
const (
	scsiTimeout = 300    // seconds: OS.RootDeviceScsiTimeout of the Linux agent
	nvmeTimeout = 240000 // milliseconds: azure-vm-utils, for disks behind the network
)

// stepTimeouts sets the timeouts of all disks of the host, and of those that the
// root file system is on, whatever they are.
func (b *boot) stepTimeouts(context.Context) (string, error) {
	roots := b.disksBelow(b.rootDevice(), maxStack)
	var done []string
	var bad []error
	for _, dir := range listDir(b.sys("block")) {
		name := filepath.Base(dir)
		text, err := b.setTimeout(name, slices.Contains(roots, name))
		if err != nil {
			bad = append(bad, err)
		} else if text != "" {
			done = append(done, name+" "+text)
		}
	}
	return joinTexts(done...), errors.Join(bad...)
}

// setTimeout sets the timeout of a disk by its kernel name, as azprov does at
// boot and for a disk that is attached later, and returns what holds now; "" for
// a disk that is left as it is. A longer timeout is an administrator's and stays.
func (m *machine) setTimeout(name string, root bool) (string, error) {
	dir := m.sys("block", name)
	attr, want, text := "", 0, ""
	switch {
	case strings.HasPrefix(name, "sd"):
		if root || sysAttr(dir+"/device/vendor") == "Msft" {
			attr, want, text = dir+"/device/timeout", scsiTimeout, "300 s"
		}
	case strings.HasPrefix(name, "nvme"):
		// "MSFT NVMe Accelerator v1.0" is a disk behind the network, "Microsoft NVMe
		// Direct Disk" one in the host.
		model := sysAttr(dir + "/device/model")
		if strings.Contains(model, "NVMe Accelerator") || root && !strings.Contains(model, "Direct Disk") {
			attr, want, text = dir+"/queue/io_timeout", nvmeTimeout, "240 s"
		}
	}
	if attr == "" {
		return "", nil
	}
	// Kernels before 5.0 have no io_timeout.
	old := sysAttr(attr)
	if n, err := strconv.Atoi(old); old == "" || err == nil && n > want {
		return "", nil
	}
	if old != strconv.Itoa(want) {
		if err := os.WriteFile(attr, []byte(strconv.Itoa(want)+"\n"), 0o644); err != nil {
			return "", failure("set timeout", attr, err)
		}
	}
	return text, nil
}

// disksBelow returns the disks that a block device is on, by the kernel's names:
// through partitions, device mapper and RAID.
func (m *machine) disksBelow(name string, depth int) []string {
	dir := m.sys("class/block", name)
	below := listDir(dir + "/slaves")
	if sysAttr(dir+"/partition") != "" {
		// The link's target is .../block/DISK/PARTITION.
		target, _ := os.Readlink(dir)
		below = []string{filepath.Dir(target)}
	}
	if len(below) == 0 || depth == 0 {
		return []string{name}
	}
	var disks []string
	for _, b := range below {
		disks = append(disks, m.disksBelow(filepath.Base(b), depth-1)...)
	}
	return disks
}

// maxStack is how deep devices may lie on each other.
const maxStack = 8

// rootDevice returns the kernel's name of the device that is mounted where the
// guest's root is, or above it; "" when that is none.
func (m *machine) rootDevice() string {
	data, _ := os.ReadFile(m.proc("self/mountinfo"))
	best, number, source := "", "", ""
	// ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS
	for _, line := range strings.Split(string(data), "\n") {
		f := strings.Fields(line)
		i := slices.Index(f, "-")
		if i < 6 || i+2 >= len(f) {
			continue
		}
		point := unescapeMount(f[4])
		if len(point) < len(best) || !strings.HasPrefix(m.guest.dir+"/", strings.TrimSuffix(point, "/")+"/") {
			continue
		}
		best, number, source = point, f[2], unescapeMount(f[i+2])
	}
	if strings.HasPrefix(number, "0:") {
		// A file system that may span devices, as btrfs: it is mounted by one of them.
		var st unix.Stat_t
		rest, isNode := strings.CutPrefix(source, "/dev/")
		if !isNode || unix.Stat(m.dev(rest), &st) != nil {
			return ""
		}
		number = strconv.Itoa(int(unix.Major(st.Rdev))) + ":" + strconv.Itoa(int(unix.Minor(st.Rdev)))
	}
	link, err := os.Readlink(m.sys("dev/block", number))
	if err != nil {
		return ""
	}
	return filepath.Base(link)
}
