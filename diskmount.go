package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// readMe is put on a disk that azprov mounts, under the name that others look for.
const (
	readMeName = "DATALOSS_WARNING_README.txt"
	readMe     = "This is the temporary disk of an Azure virtual machine.\n\n" +
		"Everything on it can be lost at any time without notice: when the VM is stopped, resized,\n" +
		"redeployed or moved to another host. Keep nothing here that can't be made again.\n"
)

// mountPoint is the directory below the guest's root, with its links followed.
func (m *machine) mountPoint() (string, error) {
	rel, err := m.guest.resolve(m.cfg.ResourceMount)
	if err != nil {
		return "", err
	}
	return filepath.Join(m.guest.dir, rel), nil
}

// checkMountPoint makes the directory, and fails if something is mounted there or
// it is not a directory.
func (m *machine) checkMountPoint() error {
	if err := m.guest.mkdir(m.cfg.ResourceMount, 0o755, 0, 0); err != nil {
		return err
	}
	dir, err := m.mountPoint()
	if err == nil && isMountPoint(dir) {
		err = failureHint("mount resource disk on", m.cfg.ResourceMount, unix.EBUSY, "something else is mounted there")
	}
	return err
}

// deviceNumber is the number of a sysfs block device, as stat has it; 0 if none.
func deviceNumber(dir string) uint64 {
	major, minor, ok := parseDeviceNumber(sysAttr(dir + "/dev"))
	if !ok {
		return 0
	}
	return unix.Mkdev(major, minor)
}

// mountedOn is the name of what is mounted at the mount point, if that is the disk
// or a partition of it.
func (m *machine) mountedOn(disk string) string {
	dir, err := m.mountPoint()
	var st unix.Stat_t
	if err != nil || unix.Lstat(dir, &st) != nil || !isMountPoint(dir) {
		return ""
	}
	block := m.sys("block", disk)
	for _, d := range append([]string{block}, listDir(block)...) {
		if n := deviceNumber(d); n != 0 && n == st.Dev {
			return filepath.Base(d)
		}
	}
	return ""
}

// needFileSystem fails unless the kernel can mount a type of file system. A module
// is loaded where there is one.
func (m *machine) needFileSystem(fstype string) error {
	known := func() bool {
		data, err := os.ReadFile(m.proc("filesystems"))
		return err != nil || strings.Contains(string(data), "\t"+fstype+"\n")
	}
	if known() {
		return nil
	}
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	ms, err := openModules("/", unix.ByteSliceToString(uts.Release[:]), "")
	if err == nil {
		err = ms.load(fstype)
	}
	if known() {
		return nil
	}
	if err == nil {
		err = unix.ENODEV
	}
	return failureHint("mount resource disk as", fstype, errnoError(err), "this kernel has no "+fstype)
}

// mountDisk gives up the claim on the disk and mounts its file system.
func (m *machine) mountDisk(ctx context.Context, d *openedDisk) error {
	if err := m.checkMountPoint(); err != nil {
		return err
	}
	if err := m.needFileSystem(d.view.id.fstype); err != nil {
		return err
	}
	sysDir, node := m.sys("block", d.name), d.node
	if p := d.view.part; p.number > 0 {
		name := partitionName(d.name, p.number)
		sysDir, node = filepath.Join(sysDir, name), m.dev(strings.ReplaceAll(name, "!", "/"))
		if err := d.showPartition(ctx, sysDir); err != nil {
			return failure("show partition", node, err)
		}
	}
	if err := m.awaitNode(sysDir, node); err != nil {
		return err
	}
	d.close()
	dir, err := m.mountPoint()
	if err != nil {
		return err
	}
	flags, data := mountOptions(m.cfg.ResourceOpts)
	if err := unix.Mount(node, dir, d.view.id.fstype, flags, data); err != nil {
		return failure("mount "+node+" on", m.cfg.ResourceMount, errnoError(err))
	}
	d.node = node
	return nil
}

// damagedFS says whether a mount failed by what is on the disk. EINVAL is also
// what wrong options lead to.
func damagedFS(err error, options string) bool {
	no := errnoOf(err)
	return no == unix.EUCLEAN || no == unix.EBADMSG || no == unix.EINVAL && options == ""
}

// furnish puts read-me and swap on the mounted disk, as far as they are missing,
// and keeps the line in /etc/fstab.
func (m *machine) furnish(d *openedDisk) (string, error) {
	dir, err := m.mountPoint()
	if err != nil {
		return "", err
	}
	root, err := openRootDir(dir)
	if err != nil {
		return "", failure("open", m.cfg.ResourceMount, err)
	}
	defer root.close()
	if m.mountedOn(d.name) == "" {
		return "", failure("use", m.cfg.ResourceMount, errors.New("the resource disk is not mounted there any more"))
	}
	f, err := root.openFile(readMeName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = io.WriteString(f, readMe)
		err = errors.Join(err, f.Close())
	}
	if err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, unix.EROFS) {
		return "", failure("write", m.cfg.ResourceMount+"/"+readMeName, err)
	}
	if err := m.keepFstab(d); err != nil {
		return "", err
	}
	if m.cfg.Swap == 0 {
		return "", nil
	}
	return m.swapFile(root, dir)
}
