package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	path string // of the device, which stays the same from boot to boot
}

// vmbusID is the id of the VMBus device at a sysfs directory, in lower case
// without braces.
func vmbusID(dir string) string {
	return strings.ToLower(strings.Trim(sysAttr(dir+"/device_id"), "{}"))
}

// diskRole tells what a whole disk is by sysfs alone. Both layouts lead there:
// block/X is a directory or a link, its device a link to the SCSI device or NVMe
// controller, below the VMBus device in whatever depth.
func (m *machine) diskRole(name string) foundDisk {
	d := foundDisk{name: name}
	path, err := realPath(m.sys("block", name, "device"))
	if err != nil {
		return d
	}
	d.path = path
	if isNVMe(name) {
		model := sysAttr(path + "/model")
		switch {
		case localNVMe(model):
			d.role = roleLocal
		case strings.HasPrefix(model, "MSFT NVMe Accelerator"):
			d.role = roleRemote
		}
		return d
	}
	address := strings.Split(filepath.Base(path), ":") // host:channel:target:LUN
	if len(address) != 4 || sysAttr(path+"/type") != "0" {
		return d
	}
	top := filepath.Clean(m.sysfs)
	for dir := path; len(dir) > len(top); dir = filepath.Dir(dir) {
		if id := vmbusID(dir); id != "" {
			d.role = scsiRole(id, address[3], m.hasIDE())
			break
		}
	}
	return d
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
	var local []foundDisk
	for _, dir := range listDir(m.sys("block")) {
		d := m.diskRole(filepath.Base(dir))
		switch {
		case sysAttr(dir+"/size") == "0" || sysAttr(dir+"/hidden") == "1":
		case d.role == roleResource:
			list = append(list, d)
		case d.role == roleLocal:
			local = append(local, d)
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
	sortFew(local, func(a, b foundDisk) bool { return a.path < b.path })
	return local, wait
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
		luns := 0
		for _, lun := range children(children(children([]string{dir}, "host"), "target"), "") {
			if !strings.Contains(filepath.Base(lun), ":") {
				continue // target/HOST:CHANNEL:TARGET:LUN is a disk
			}
			luns++
			if strings.HasSuffix(lun, ":1") && sysAttr(lun+"/type") == "0" {
				return diskWait
			}
		}
		if luns == 0 {
			wait = diskDoubt
		}
	}
	return wait
}

// children returns what is in directories, where its name starts so.
func children(dirs []string, prefix string) (list []string) {
	for _, dir := range dirs {
		for _, path := range listDir(dir) {
			if strings.HasPrefix(filepath.Base(path), prefix) {
				list = append(list, path)
			}
		}
	}
	return list
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
	link, err := realPath(m.sys("dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))))
	if err != nil {
		return d, false, nil
	}
	d = m.diskRole(filepath.Base(link))
	switch {
	case sysAttr(link+"/partition") != "":
		err = errors.New("it is a partition: name the whole disk")
	case d.role == roleOS || d.role == roleData || d.role == roleRemote:
		err = fmt.Errorf("it is a %s of this VM", d.role)
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
	var events *ueventSocket
	for end := time.Now().Add(wait); ; {
		if ok, err := ready(); ok || err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Not every kernel and namespace tells: it is looked again all the same.
		left = min(left, 100*time.Millisecond)
		if events == nil {
			var err error
			if events, err = listenUevents(); err != nil {
				time.Sleep(left)
				continue
			}
			defer events.close()
			continue // what came before the socket was open
		}
		if _, _, err := events.receiveWithin(left); err != nil {
			return err
		}
	}
}
