package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loopMachine is a machine whose resource disk is a loop device, named by the
// configuration.
func loopMachine(t *testing.T, file string, sector int) *machine {
	t.Helper()
	needRoot(t)
	need(t, "losetup")
	// Mounts of this thread alone: a copy of them in a namespace that someone makes
	// meanwhile would keep the file system mounted.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	loop, free := attach(t, file, sector)
	m := newTestMachine(t)
	m.sysfs, m.procfs, m.devfs = "/sys", "/proc", "/dev"
	m.cfg.ResourceDisk = loop
	t.Cleanup(func() {
		dir, _ := m.mountPoint()
		swapSyscall(unix.SYS_SWAPOFF, filepath.Join(dir, swapName))
		unix.Unmount(dir, 0)
		forgetPartitions(loop)
		free()
	})
	return m
}

// forgetPartitions has the kernel drop the partitions of a disk, as a reboot does.
func forgetPartitions(disk string) {
	f, err := os.Open(disk)
	if err != nil {
		return
	}
	defer f.Close()
	for n := range 4 {
		_ = blkpg(int(f.Fd()), blkpgDel, blkpgPartition{number: int32(n + 1)})
	}
}

func setUp(t *testing.T, m *machine) string {
	t.Helper()
	text, err := m.setUpDisk(context.Background(), false, func(*openedDisk) {})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The whole way on a loop device: formatted, mounted, swap; kept at the next boot;
// formatted again when it was replaced.
func TestSetUpDisk(t *testing.T) {
	needRoot(t)
	need(t, "mkntfs", "ntfs-3g", "sfdisk", "sgdisk", "e2fsck", "losetup", "blkid")
	for _, sector := range []int{512, 4096} {
		t.Run(fmt.Sprint(sector), func(t *testing.T) {
			b := makeImage(t, diskImage{size: 128 * mib, make: func(*imageMaker) {}})
			m := loopMachine(t, b.file, sector)
			m.cfg.Swap = 12<<20 + 4096
			m.cfg.ResourceFstab, m.cfg.ResourceOpts = true, "nosuid,nodev,noatime,commit=7"
			writeTree(t, m.guest.dir, map[string]string{"etc/fstab": "/dev/vda1 / ext4 defaults 0 1"})
			if text := setUp(t, m); !strings.Contains(text, "formatted: it is empty, swap 12 MiB") {
				t.Errorf("first boot: %s", text)
			}
			dir := filepath.Join(m.guest.dir, "mnt/resource")
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			for name, want := range map[string]int64{readMeName: int64(len(readMe)), swapName: 12<<20 + 4096} {
				if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != want {
					t.Errorf("%s: %v", name, err)
				}
			}
			mounts, _ := os.ReadFile("/proc/thread-self/mounts")
			if !strings.Contains(string(mounts), dir+" ext4 rw,nosuid,nodev,noatime,commit=7") {
				t.Errorf("mounts:\n%s", mounts)
			}
			swaps, _ := os.ReadFile("/proc/swaps")
			if !strings.Contains(string(swaps), dir+"/swapfile") {
				t.Errorf("swaps:\n%s", swaps)
			}
			loop := m.cfg.ResourceDisk
			uuid := strings.TrimSpace(command(t, "blkid", "-p", "-s", "UUID", "-o", "value", "-O", fmt.Sprint(mib), loop))
			fstab := "/dev/vda1 / ext4 defaults 0 1\nUUID=" + uuid + " /mnt/resource ext4 nosuid,nodev,noatime,commit=7,nofail,comment=azprov 0 0\n"
			if got, _ := os.ReadFile(filepath.Join(m.guest.dir, "etc/fstab")); string(got) != fstab {
				t.Errorf("fstab %q, want %q", got, fstab)
			}
			checkTables(t, loop)
			os.WriteFile(filepath.Join(dir, "mine"), []byte("data"), 0o644)

			// A second run in the same boot, with another size of swap.
			m.cfg.Swap = 16 << 20
			if text := setUp(t, m); !strings.Contains(text, "on /mnt/resource, swap 16 MiB") || strings.Contains(text, "formatted") {
				t.Errorf("second run: %s", text)
			}
			if got, _ := os.ReadFile(filepath.Join(m.guest.dir, "etc/fstab")); string(got) != fstab {
				t.Errorf("fstab %q", got)
			}
			// The next boot.
			leave(t, m, dir)
			if text := setUp(t, m); strings.Contains(text, "formatted") {
				t.Errorf("second boot: %s", text)
			}
			if data, _ := os.ReadFile(filepath.Join(dir, "mine")); string(data) != "data" {
				t.Errorf("a file is %q", data)
			}
			if swaps, _ := os.ReadFile("/proc/swaps"); !strings.Contains(string(swaps), dir+"/swapfile") {
				t.Errorf("swaps:\n%s", swaps)
			}
			leave(t, m, dir)
			command(t, "e2fsck", "-fn", loop+"?offset="+fmt.Sprint(mib))
			if sector != 512 {
				return
			}
			// Another host: Azure's disk again.
			b.truncate()
			b.sfdisk("label: dos\nstart=2048,size=258048,type=7\n")
			b.inside(mib, 126*mib, ntfsWith(azureLabel, azure))
			if text := setUp(t, m); !strings.Contains(text, "formatted: its one partition is Azure's NTFS") {
				t.Errorf("replaced: %s", text)
			}
			if _, err := os.Stat(filepath.Join(dir, "mine")); !errors.Is(err, os.ErrNotExist) {
				t.Error("the old file is there")
			}
			checkTables(t, loop)
			leave(t, m, dir)
			command(t, "e2fsck", "-fn", loop+"?offset="+fmt.Sprint(mib))
		})
	}
}

// leave is the end of a boot.
func leave(t *testing.T, m *machine, dir string) {
	t.Helper()
	swapSyscall(unix.SYS_SWAPOFF, filepath.Join(dir, swapName))
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	forgetPartitions(m.cfg.ResourceDisk)
}

// checkTables has other programs judge a partition table.
func checkTables(t *testing.T, disk string) {
	t.Helper()
	if out := command(t, "sfdisk", "--verify", disk); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk: %s", out)
	}
	if out := command(t, "sgdisk", "-v", disk); !strings.Contains(out, "No problems found") || strings.Contains(out, "Caution") {
		t.Errorf("sgdisk: %s", out)
	}
}

// Disks with data are byte for byte the same after a run that may format.
func TestDataIsLeftAlone(t *testing.T) {
	needRoot(t)
	need(t, imageTools...)
	for _, d := range diskImages() {
		if !d.data || d.want != diskRefuse {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			b := makeImage(t, d)
			m := loopMachine(t, b.file, 512)
			m.cfg.Swap = 8 << 20
			if d.more&signReformat != 0 {
				m.cfg.ResourceRedo = "damaged"
			}
			before := sum(t, b.file)
			_, err := m.setUpDisk(context.Background(), false, func(o *openedDisk) {
				if d.more&signNamed == 0 && o.verdict == diskMount {
					t.Skip("it is mounted when it is named, as here")
				}
			})
			if err == nil {
				t.Error("no error")
			}
			if after := sum(t, b.file); after != before {
				t.Error("the disk has changed")
			}
		})
	}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}

// A file system that the kernel refuses, though its superblock is whole: refused,
// and formatted anew only if the configuration says so. Options that are wrong are
// no damage.
func TestDamagedFileSystem(t *testing.T) {
	b := makeImage(t, diskImage{make: func(*imageMaker) {}})
	m := loopMachine(t, b.file, 512)
	setUp(t, m)
	dir := filepath.Join(m.guest.dir, "mnt/resource")
	leave(t, m, dir)
	try := func() (string, error) {
		return m.setUpDisk(context.Background(), false, func(*openedDisk) {})
	}
	m.cfg.ResourceRedo, m.cfg.ResourceOpts = "damaged", "nonsense"
	before := sum(t, b.file)
	if _, err := try(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("nonsense for options: %v", err)
	}
	if sum(t, b.file) != before {
		t.Error("the disk has changed")
	}
	forgetPartitions(m.cfg.ResourceDisk)
	b.write(mib+2048, random(mib)[:1024]) // group descriptors
	m.cfg.ResourceRedo, m.cfg.ResourceOpts = "none", ""
	before = sum(t, b.file)
	if _, err := try(); err == nil || !strings.Contains(err.Error(), "damaged beyond mounting") {
		t.Errorf("damaged: %v", err)
	}
	if sum(t, b.file) != before {
		t.Error("the disk has changed")
	}
	m.cfg.ResourceRedo = "damaged"
	if text, err := try(); err != nil || !strings.Contains(text, "formatted: azprov's file system is damaged") {
		t.Errorf("damaged, reformat: %s, %v", text, err)
	}
	leave(t, m, dir)
	command(t, "e2fsck", "-fn", m.cfg.ResourceDisk+"?offset="+fmt.Sprint(mib))
}

// A disk that someone holds is left alone, empty as it may be, and so is one that
// has no place to be mounted on.
func TestDiskInUse(t *testing.T) {
	b := makeImage(t, diskImage{make: func(*imageMaker) {}})
	m := loopMachine(t, b.file, 512)
	f, err := os.OpenFile(m.cfg.ResourceDisk, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	before := sum(t, b.file)
	if text := setUp(t, m); !strings.Contains(text, "keep, because it is in use") {
		t.Errorf("held: %s", text)
	}
	m.cfg.Swap = 8 << 20
	if _, err := m.setUpDisk(context.Background(), false, func(*openedDisk) {}); err == nil {
		t.Error("held, with swap: no error")
	}
	f.Close()
	dir := filepath.Join(m.guest.dir, "mnt/resource")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.setUpDisk(context.Background(), false, func(*openedDisk) {}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("something is mounted there: %v", err)
	}
	if sum(t, b.file) != before {
		t.Error("the disk has changed")
	}
	if text, err := m.setUpDisk(context.Background(), true, func(*openedDisk) {}); err != nil || !strings.Contains(text, "format, because it is empty") || sum(t, b.file) != before {
		t.Errorf("only said: %s, %v", text, err)
	}
}

// A device that is named is refused when it is not the VM's to lose.
func TestNamedDisk(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	sysTree(t, m, sysDisk{name: "sda", bus: vmbusSCSI}, sysDisk{name: "sdb", bus: vmbusSCSI, lun: 1}, sysDisk{name: "sdc", bus: scsiData}, sysDisk{name: "nvme0n1", model: accelerator}, sysDisk{name: "vda"})
	for name, c := range map[string]struct {
		minor int
		want  string
	}{"sda": {0, "this VM's OS disk"}, "sdb": {16, ""}, "sdc": {32, "data disk"}, "nvme0n1": {48, "remote NVMe disk"}, "vda": {64, ""}, "vda1": {65, "partition"}} {
		if err := unix.Mknod(m.dev(name), unix.S_IFBLK|0o600, int(unix.Mkdev(8, uint32(c.minor)))); err != nil {
			t.Fatal(err)
		}
		if name == "vda1" {
			os.RemoveAll(m.sys("dev/block/8:65"))
			writeTree(t, m.sysfs, map[string]string{"devices/virtual/block/vda/vda1/partition": "1\n"})
			if err := os.Symlink("../../devices/virtual/block/vda/vda1", m.sys("dev/block/8:65")); err != nil {
				t.Fatal(err)
			}
		}
		d, found, err := m.namedDisk("/dev/" + name)
		if !found || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || err == nil && d.name != name {
			t.Errorf("%s: %+v, %v, %v", name, d, found, err)
		}
	}
	if _, found, err := m.namedDisk("/dev/none"); found || err != nil {
		t.Errorf("missing: %v, %v", found, err)
	}
}

// Without a resource disk a VM that requires one is not provisioned, and Azure is
// told why.
func TestRequiredDiskIsReported(t *testing.T) {
	b := newBox(t)
	o := b.run("", "/opt/azprov -resourcedisk.required yes")
	if o.code != exitFailed || o.reports() != "NotReady/ProvisioningFailed" || !strings.Contains(b.report(), "disk: find resource disk") {
		t.Errorf("exit %d, reports %q, %s\n%s", o.code, o.reports(), b.report(), o.output)
	}
}
