package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// disks of a fixture: /sys/block and /sys/class/block with the kernel's links.
type disks struct {
	t *testing.T
	m *machine
}

// device makes one, below devices/PATH, with attributes, as a block device of the
// number.
func (d disks) device(path, number string, attrs map[string]string) {
	d.t.Helper()
	name := filepath.Base(path)
	files := map[string]string{"dev": number + "\n"}
	maps.Copy(files, attrs)
	writeTree(d.t, filepath.Join(d.m.sysfs, "devices", path), files)
	links := map[string]string{"class/block/" + name: "../../devices/" + path, "dev/block/" + number: "../../devices/" + path}
	if _, part := attrs["partition"]; !part {
		links["block/"+name] = "../devices/" + path
	}
	d.links(links)
}

func (d disks) links(links map[string]string) {
	d.t.Helper()
	for link, target := range links {
		link = filepath.Join(d.m.sysfs, link)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			d.t.Fatal(err)
		}
		if err := os.Symlink(target, link); err != nil {
			d.t.Fatal(err)
		}
	}
}

const vmbus = "LNXSYSTM:00/VMBUS:01/f8b3781a/host0/target0:0:0/0:0:0:"

// hyperV is a disk of the host with partitions, at a LUN.
func (d disks) hyperV(name, lun, minor string, partitions ...string) {
	d.disk(vmbus+lun+"/block/"+name, "8:"+minor, map[string]string{"device/vendor": "Msft    \n", "device/model": "Virtual Disk    \n", "device/timeout": "30\n"}, partitions...)
}

func (d disks) disk(path, number string, attrs map[string]string, partitions ...string) {
	d.device(path, number, attrs)
	for _, p := range partitions {
		d.device(path+"/"+p, number+p[len(p)-1:], map[string]string{"partition": p[len(p)-1:] + "\n"})
	}
}

func (d disks) nvme(name, number, model string, partitions ...string) {
	d.disk("pci0000:00/nvme/"+name, number, map[string]string{"device/model": model, "queue/io_timeout": "30000\n"}, partitions...)
}

func (d disks) below(name string, slaves ...string) {
	for _, s := range slaves {
		d.links(map[string]string{"devices/virtual/block/" + name + "/slaves/" + s: "../../../../" + s})
	}
}

func TestTimeouts(t *testing.T) {
	ata := map[string]string{"device/vendor": "ATA     \n", "device/timeout": "30\n"}
	for name, c := range map[string]struct {
		make func(disks)
		root string // MAJOR:MINOR of the root file system in mountinfo
		text string
		left string // disks that keep their timeout
	}{
		"generation 1": {func(d disks) {
			d.hyperV("sda", "0", "0", "sda1")
			d.hyperV("sdb", "1", "16", "sdb1")
			d.device("pci0000:00/ata2/block/sr0", "11:0", map[string]string{"device/vendor": "Msft\n", "device/timeout": "30\n"})
		}, "8:01", "sda 300 s, sdb 300 s", "sr0"},
		"generation 1 by ata_piix": {func(d disks) {
			d.disk("pci0000:00/ata1/block/sda", "8:0", ata, "sda1")
			d.disk("pci0000:00/ata1/block/sdb", "8:16", ata)
		}, "8:01", "sda 300 s", "sdb"},
		"generation 2": {func(d disks) {
			d.hyperV("sda", "0", "0", "sda1", "sda15")
			d.hyperV("sdb", "1", "16")
			d.hyperV("sdaa", "2", "160")
		}, "8:01", "sda 300 s, sdaa 300 s, sdb 300 s", ""},
		"nvme": {func(d disks) {
			d.nvme("nvme0n1", "259:0", "MSFT NVMe Accelerator v1.0              \n", "nvme0n1p1")
			d.nvme("nvme0n2", "259:5", "MSFT NVMe Accelerator v1.0\n")
			d.nvme("nvme1n1", "259:6", "Microsoft NVMe Direct Disk v2\n")
		}, "259:01", "nvme0n1 240 s, nvme0n2 240 s", "nvme1n1"},
		"root on a local nvme": {func(d disks) {
			d.nvme("nvme1n1", "259:6", "Microsoft NVMe Direct Disk\n", "nvme1n1p1")
		}, "259:61", "", "nvme1n1"},
		"root on an unknown nvme": {func(d disks) {
			d.nvme("nvme0n1", "259:0", "QEMU NVMe Ctrl\n", "nvme0n1p1")
			d.nvme("nvme1n1", "259:6", "QEMU NVMe Ctrl\n")
		}, "259:01", "nvme0n1 240 s", "nvme1n1"},
		"lvm": {func(d disks) {
			d.disk("pci0000:00/ata1/block/sda", "8:0", ata, "sda1", "sda2")
			d.disk("pci0000:00/ata1/block/sdb", "8:16", ata, "sdb1")
			d.disk("pci0000:00/ata1/block/sdc", "8:32", ata, "sdc1")
			d.device("virtual/block/dm-0", "253:0", nil)
			d.below("dm-0", "sda2", "sdc1")
		}, "253:0", "sda 300 s, sdc 300 s", "sdb"},
		"raid, crypt, lvm": {func(d disks) {
			d.disk("pci0000:00/ata1/block/sda", "8:0", ata, "sda1")
			d.disk("pci0000:00/ata1/block/sdb", "8:16", ata, "sdb1")
			d.hyperV("sdc", "2", "32")
			d.disk("virtual/block/md0", "9:0", nil, "md0p1")
			d.device("virtual/block/dm-0", "253:0", nil)
			d.device("virtual/block/dm-1", "253:1", nil)
			d.below("md0", "sda1", "sdb1")
			d.below("dm-0", "md0p1")
			d.below("dm-1", "dm-0")
		}, "253:1", "sda 300 s, sdb 300 s, sdc 300 s", ""},
		"a longer one stays": {func(d disks) {
			d.hyperV("sda", "0", "0", "sda1")
			writeTree(d.t, d.m.sysfs, map[string]string{"devices/" + vmbus + "0/block/sda/device/timeout": "3600\n"})
		}, "8:01", "", "sda"},
		"no root": {func(d disks) { d.hyperV("sda", "0", "0") }, "0:5", "sda 300 s", ""},
		"nothing": {func(disks) {}, "0:5", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTestMachine(t)
			c.make(disks{t, m})
			writeTree(t, m.procfs, map[string]string{"self/mountinfo": "20 1 0:2 / / rw - rootfs rootfs rw\n21 1 " + c.root + " / " + m.guest.dir +
				" rw,relatime shared:1 - ext4 /dev/root rw\n22 21 8:99 / " + m.guest.dir + "/boot rw - ext4 /dev/sdz9 rw\n"})
			b := &boot{machine: m}
			before := map[string]string{}
			timeout := func(disk string) string {
				return sysAttr(m.sys("block", disk, "device/timeout")) + sysAttr(m.sys("block", disk, "queue/io_timeout"))
			}
			for disk := range strings.FieldsSeq(c.left) {
				before[disk] = timeout(disk)
			}
			for range 2 { // every boot
				if text, err := b.stepTimeouts(t.Context()); text != c.text || err != nil {
					t.Errorf("%q, %v; want %q", text, err, c.text)
				}
			}
			for part := range strings.SplitSeq(c.text, ", ") {
				disk, _, _ := strings.Cut(part, " ")
				want := "300"
				if strings.HasPrefix(disk, "nvme") {
					want = "240000"
				}
				if got := timeout(disk); disk != "" && got != want {
					t.Errorf("%s: %q", disk, got)
				}
			}
			for disk, want := range before {
				if got := timeout(disk); got != want {
					t.Errorf("%s: %q, was %q", disk, got, want)
				}
			}
		})
	}
}

// A disk that refuses is named, and the others get theirs.
func TestTimeoutThatCanNotBeSet(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	d := disks{t, m}
	d.hyperV("sda", "0", "0")
	d.hyperV("sdb", "1", "16")
	attr := m.sys("block/sda/device/timeout")
	if err := os.Remove(attr); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/version", attr); err != nil { // readable, not writable
		t.Fatal(err)
	}
	b := &boot{machine: m}
	if text, err := b.stepTimeouts(t.Context()); text != "sdb 300 s" || err == nil || !strings.Contains(err.Error(), "block/sda/device/timeout") {
		t.Errorf("%q, %v", text, err)
	}
}

// A file system without a device number of its own is looked for by its source.
func TestRootDeviceOfBtrfs(t *testing.T) {
	m := newTestMachine(t)
	d := disks{t, m}
	d.hyperV("sda", "0", "0")
	d.device("virtual/mem/null", "1:3", nil)
	writeTree(t, m.procfs, map[string]string{"self/mountinfo": "21 1 0:30 /@ " + m.guest.dir + ` rw - btrfs /dev/mapper/a\040b rw` + "\n"})
	writeTree(t, m.devfs, map[string]string{"mapper/": ""})
	if err := os.Symlink("/dev/null", m.dev("mapper/a b")); err != nil {
		t.Fatal(err)
	}
	if got := m.rootDevice(); got != "null" {
		t.Errorf("%q", got)
	}
}
