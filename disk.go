package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// diskRole is what Azure has a disk for, by the device that shows it.
type diskRole string

const (
	roleResource diskRole = "SCSI resource disk"
	roleLocal    diskRole = "local NVMe disk"
	roleOS       diskRole = "OS disk"
	roleData     diskRole = "data disk"
	roleRemote   diskRole = "remote NVMe disk" // OS or data
	roleOther    diskRole = ""                 // none of Azure's
)

// Ids of VMBus devices. Generation 1 has a device for every IDE disk; generation
// 2 has one SCSI controller for what comes with the VM, and others for data disks.
const (
	vmbusIDE       = "00000000-000" // then the channel, 0 or 1
	vmbusResource  = "00000000-0001-"
	vmbusOS        = "00000000-0000-"
	vmbusSCSI      = "f8b3781a-1e82-4818-a1c3-63d806ec15bb"
	vmbusDataDisks = "-1e82-4818-a1c3-63d806ec15bb" // f8b3781b, f8b3781c, f8b3781d
)

// localNVMe are the models of local disks. The remote ones are "MSFT NVMe
// Accelerator v1.0".
func localNVMe(model string) bool {
	return model == "Microsoft NVMe Direct Disk" || model == "Microsoft NVMe Direct Disk v2"
}

// foundDisk is a whole disk in sysfs.
type foundDisk struct {
	name string // in /sys/block
	role diskRole
}

// vmbusID is the id of the VMBus device at a sysfs directory, in lower case
// without braces.
func vmbusID(dir string) string {
	return strings.ToLower(strings.Trim(sysAttr(dir+"/device_id"), "{}"))
}

// diskRole tells what a whole disk is by sysfs alone. Both layouts lead there:
// block/X is a directory or a link, its device a link to the SCSI device or NVMe
// controller, below the VMBus device in whatever depth.
func (m *machine) diskRole(name string) diskRole {
	dir := m.sys("block", name) + "/device"
	if isNVMe(name) {
		model := sysAttr(dir + "/model")
		switch {
		case localNVMe(model):
			return roleLocal
		case strings.HasPrefix(model, "MSFT NVMe Accelerator"):
			return roleRemote
		}
		return roleOther
	}
	link, _ := os.Readlink(dir)
	lun, isSCSI := scsiLUN(link)
	if !isSCSI || sysAttr(dir+"/type") != "0" {
		return roleOther
	}
	for range 12 { // the kernel follows the link, then goes up
		dir += "/.."
		if id := vmbusID(dir); id != "" {
			return scsiRole(id, lun, m.hasIDE())
		}
	}
	return roleOther
}

// scsiLUN is the LUN of a SCSI device: host:channel:target:LUN is the last part of
// its path.
func scsiLUN(path string) (lun string, ok bool) {
	if address := strings.Split(filepath.Base(path), ":"); len(address) == 4 {
		return address[3], true
	}
	return "", false
}

// scsiRole is the role of a LUN of a VMBus device. ide says that the VM is of
// generation 1, where the SCSI controllers hold data disks only.
func scsiRole(id, lun string, ide bool) diskRole {
	switch {
	case strings.HasPrefix(id, vmbusResource):
		return roleResource
	case strings.HasPrefix(id, vmbusOS):
		return roleOS
	case id == vmbusSCSI && !ide && lun == "1":
		return roleResource
	case id == vmbusSCSI && !ide && lun == "0":
		return roleOS
	case strings.HasSuffix(id, vmbusDataDisks):
		return roleData
	}
	return roleOther
}

// hasIDE says whether VMBus shows IDE disks: a VM of generation 1.
func (m *machine) hasIDE() bool {
	for _, dir := range listDir(m.sys("bus/vmbus/devices")) {
		if strings.HasPrefix(vmbusID(dir), vmbusIDE) {
			return true
		}
	}
	return false
}

// How long a disk is waited for: one that is announced, and one of a controller
// whose disks may not have been looked for yet.
const (
	diskWait  = 10 * time.Second
	diskDoubt = 3 * time.Second
)

// resourceDisks lists the disks that auto may choose from: the SCSI resource disk,
// or without one the local NVMe disks. wait is how long one that sysfs announces is
// worth waiting for.
func (m *machine) resourceDisks() (list []foundDisk, wait time.Duration) {
	var local []string // place on the bus, which stays the same from boot to boot, and name
	for _, dir := range listDir(m.sys("block")) {
		name := filepath.Base(dir)
		role := m.diskRole(name)
		switch {
		case sysAttr(dir+"/size") == "0" || sysAttr(dir+"/hidden") == "1":
		case role == roleResource:
			list = append(list, foundDisk{name: name, role: role})
		case role == roleLocal:
			place, _ := os.Readlink(dir)
			local = append(local, place+" "+name)
		}
	}
	if len(list) > 0 {
		return list, 0
	}
	wait = m.awaitsSCSI()
	if m.cfg.ResourceNVMe == "none" {
		return nil, wait
	}
	if m.awaitsNVMe(len(local)) {
		wait = diskWait
	}
	sortNames(local)
	for _, l := range local {
		list = append(list, foundDisk{name: l[strings.LastIndexByte(l, ' ')+1:], role: roleLocal})
	}
	return list, wait
}

// awaitsSCSI says how long to wait for a resource disk that VMBus has but no block
// device shows.
func (m *machine) awaitsSCSI() (wait time.Duration) {
	ide := m.hasIDE()
	for _, dir := range listDir(m.sys("bus/vmbus/devices")) {
		id := vmbusID(dir)
		if _, err := os.Stat(dir + "/driver"); err != nil {
			continue // no driver: nothing will come by itself
		}
		if strings.HasPrefix(id, vmbusResource) {
			return diskWait
		}
		if id != vmbusSCSI || ide {
			continue
		}
		found := 0
		for _, host := range listDir(dir) {
			for _, target := range listDir(host) {
				for _, device := range listDir(target) {
					lun, ok := scsiLUN(device)
					if !ok {
						continue
					}
					if found++; lun == "1" && sysAttr(device+"/type") == "0" {
						return diskWait
					}
				}
			}
		}
		if found == 0 {
			wait = diskDoubt
		}
	}
	return wait
}

// awaitsNVMe says whether a controller has yet to show its disk.
func (m *machine) awaitsNVMe(found int) bool {
	controllers := 0
	for _, dir := range listDir(m.sys("class/nvme")) {
		switch sysAttr(dir + "/state") {
		case "new", "connecting", "resetting":
			return true
		}
		if localNVMe(sysAttr(dir + "/model")) {
			controllers++
		}
	}
	return controllers > found
}

// namedDisk is the whole disk that resourcedisk names, which must not be one that
// Azure shows as OS or data disk. ok is false while there is no such device.
func (m *machine) namedDisk(path string) (d foundDisk, ok bool, err error) {
	var st unix.Stat_t
	if unix.Stat(m.dev(strings.TrimPrefix(path, "/dev/")), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return d, false, nil
	}
	dir := m.sys("dev/block", strconv.Itoa(int(unix.Major(st.Rdev)))+":"+strconv.Itoa(int(unix.Minor(st.Rdev))))
	link, err := os.Readlink(dir)
	if err != nil {
		return d, false, nil
	}
	d.name = filepath.Base(link)
	d.role = m.diskRole(d.name)
	switch {
	case sysAttr(dir+"/partition") != "":
		err = errors.New("it is a partition: name the whole disk")
	case d.role == roleOS || d.role == roleData || d.role == roleRemote:
		err = errors.New("it is this VM's " + string(d.role))
	}
	if err != nil {
		return d, true, failureHint("use resource disk", path, err, "see resourcedisk")
	}
	return d, true, nil
}

// findDisks returns the disks to choose from, and waits for those that are
// announced.
func (m *machine) findDisks(ctx context.Context) ([]foundDisk, error) {
	var list []foundDisk
	named := m.cfg.ResourceDisk
	start := time.Now()
	err := awaitDevice(ctx, diskWait+time.Second, func() (bool, error) {
		if named == "auto" {
			var wait time.Duration
			list, wait = m.resourceDisks()
			return time.Since(start) >= wait, nil
		}
		d, ok, err := m.namedDisk(named)
		list = []foundDisk{d}
		return ok, err
	})
	if err == unix.ETIMEDOUT && named != "auto" {
		err = failureHint("find resource disk", named, unix.ENODEV, "see resourcedisk")
	}
	return list, err
}

// awaitDevice calls ready until it is true or fails, at once and whenever the
// kernel says that a device has changed; ETIMEDOUT when that takes too long.
func awaitDevice(ctx context.Context, wait time.Duration, ready func() (bool, error)) error {
	end := time.Now().Add(wait)
	if ok, err := ready(); ok || err != nil {
		return err
	}
	events, listenErr := listenUevents()
	if listenErr == nil {
		defer events.close()
	}
	for {
		// What came before the socket was open is seen now.
		if ok, err := ready(); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// Not every kernel and namespace tells: it is looked again all the same.
		left := min(time.Until(end), 100*time.Millisecond)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		if listenErr != nil {
			time.Sleep(left)
		} else if _, _, err := events.receiveWithin(left); err != nil {
			return err
		}
	}
}
