package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sysDisk is a disk in a fixture of sysfs.
type sysDisk struct {
	name   string
	bus    string // device_id of the VMBus device; "" for NVMe and others
	lun    int
	model  string // of an NVMe controller
	kind   string // SCSI type, "0" if empty
	layout string // "" for today's; "vmbus_0_1" for the names of old kernels; "flat" where block/X is a directory
	want   diskRole
}

// sysTree makes the sysfs of a VM with these disks.
func sysTree(t *testing.T, m *machine, disks ...sysDisk) {
	t.Helper()
	link := func(target, name string) {
		t.Helper()
		name = m.sys(name)
		// As kernfs makes links: by way of the target's parent.
		rel, err := filepath.Rel(filepath.Dir(name), filepath.Dir(m.sys(target)))
		rel += "/" + filepath.Base(target)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(name), 0o755)
		}
		if err == nil {
			err = os.Symlink(rel, name)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	for i, d := range disks {
		number := fmt.Sprintf("8:%d\n", 16*i)
		block := map[string]string{"size": "2097152\n", "dev": number, "ro": "0\n", "queue/logical_block_size": "512\n"}
		var dir, device string
		switch {
		case d.bus != "":
			busName := d.bus
			top := "devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/" + d.bus
			if d.layout != "" {
				busName = "vmbus_0_" + fmt.Sprint(i+1)
				top = "devices/" + busName
			}
			kind := d.kind
			if kind == "" {
				kind = "0"
			}
			device = fmt.Sprintf("%s/host%d/target%d:0:0/%d:0:0:%d", top, i, i, i, d.lun)
			writeTree(t, m.sysfs, map[string]string{top + "/device_id": "{" + strings.ToUpper(d.bus) + "}\n", device + "/type": kind + "\n", device + "/vendor": "Msft    \n", device + "/model": "Virtual Disk    \n"})
			link(top, "bus/vmbus/devices/"+busName)
			link("bus/vmbus/drivers/hv_storvsc", top+"/driver")
			writeTree(t, m.sysfs, map[string]string{"bus/vmbus/drivers/hv_storvsc/": ""})
			dir = device + "/block/" + d.name
		case d.model != "":
			controller, _, _ := strings.Cut(d.name[4:], "n")
			device = fmt.Sprintf("devices/pci%04x:00/%04x:00:00.0/nvme/nvme%s", 0xc05b-i, 0xc05b-i, controller)
			writeTree(t, m.sysfs, map[string]string{device + "/model": d.model + "                \n", device + "/state": "live\n"})
			link(device, "class/nvme/nvme"+controller)
			dir = device + "/" + d.name
		default:
			dir, device = "devices/virtual/block/"+d.name, ""
		}
		if d.layout == "flat" {
			dir = "block/" + d.name
		}
		for name, text := range block {
			writeTree(t, m.sysfs, map[string]string{dir + "/" + name: text})
		}
		if device != "" {
			link(device, dir+"/device")
		}
		link(dir, "block/"+d.name)
		link(dir, "dev/block/"+strings.TrimSpace(number))
	}
}

const (
	ideOS, ideResource = "00000000-0000-8899-0000-000000000000", "00000000-0001-8899-0000-000000000000"
	scsiData           = "f8b3781b-1e82-4818-a1c3-63d806ec15bb"
	accelerator        = "MSFT NVMe Accelerator v1.0"
	directDisk         = "Microsoft NVMe Direct Disk"
)

// The trees of every VM generation: which disk is what, and which may be chosen.
func TestFindResourceDisk(t *testing.T) {
	for _, c := range []struct {
		name  string
		disks []sysDisk
		want  string // names that auto may choose from
	}{
		{"generation 1", []sysDisk{{name: "sda", bus: ideOS, want: roleOS}, {name: "sdb", bus: ideResource, want: roleResource}, {name: "sdc", bus: scsiData, want: roleData}}, "sdb"},
		{"generation 1, names turned round", []sysDisk{{name: "sdb", bus: ideOS, want: roleOS}, {name: "sda", bus: ideResource, want: roleResource}, {name: "sdc", bus: scsiData, lun: 1, want: roleData}}, "sda"},
		{"generation 1, old kernel", []sysDisk{{name: "sda", bus: ideOS, layout: "vmbus", want: roleOS}, {name: "sdb", bus: ideResource, layout: "vmbus", want: roleResource}, {name: "sdc", bus: scsiData, layout: "vmbus", lun: 1, want: roleData}}, "sdb"},
		{"generation 1, deprecated sysfs", []sysDisk{{name: "sda", bus: ideOS, layout: "flat", want: roleOS}, {name: "sdb", bus: ideResource, layout: "flat", want: roleResource}}, "sdb"},
		{"generation 1 without, a data disk on the first controller", []sysDisk{{name: "sda", bus: ideOS, want: roleOS}, {name: "sdb", bus: vmbusSCSI, lun: 1, want: roleData}}, ""},
		{"generation 2", []sysDisk{{name: "sda", bus: vmbusSCSI, lun: 0, want: roleOS}, {name: "sdb", bus: vmbusSCSI, lun: 1, want: roleResource}, {name: "sr0", bus: vmbusSCSI, lun: 2, kind: "5", want: roleOther},
			{name: "sdc", bus: scsiData, lun: 0, want: roleData}, {name: "sdd", bus: scsiData, lun: 1, want: roleData}, {name: "sde", bus: "f8b3781c-1e82-4818-a1c3-63d806ec15bb", lun: 1, want: roleData}}, "sdb"},
		{"generation 2, odd names", []sysDisk{{name: "sdb", bus: vmbusSCSI, lun: 0, want: roleOS}, {name: "sdba", bus: scsiData, lun: 1, want: roleData}, {name: "sda", bus: scsiData, lun: 0, want: roleData}, {name: "sdz", bus: vmbusSCSI, lun: 1, want: roleResource}}, "sdz"},
		{"generation 2, old kernel", []sysDisk{{name: "sda", bus: vmbusSCSI, layout: "vmbus", want: roleOS}, {name: "sdb", bus: vmbusSCSI, layout: "vmbus", lun: 1, want: roleResource}}, "sdb"},
		{"generation 2 without", []sysDisk{{name: "sda", bus: vmbusSCSI, lun: 0, want: roleOS}, {name: "sr0", bus: vmbusSCSI, lun: 2, kind: "5", want: roleOther}, {name: "sdb", bus: scsiData, lun: 1, want: roleData}}, ""},
		{"generation 2, the dvd at 1", []sysDisk{{name: "sda", bus: vmbusSCSI, lun: 0, want: roleOS}, {name: "sr0", bus: vmbusSCSI, lun: 1, kind: "5", want: roleOther}}, ""},
		{"local nvme and scsi", []sysDisk{{name: "sda", bus: vmbusSCSI, lun: 0, want: roleOS}, {name: "sdb", bus: vmbusSCSI, lun: 1, want: roleResource}, {name: "nvme0n1", model: directDisk, want: roleLocal}}, "sdb"},
		{"all nvme", []sysDisk{{name: "nvme0n1", model: accelerator, want: roleRemote}, {name: "nvme0n2", model: accelerator, want: roleRemote}, {name: "nvme1n1", model: directDisk + " v2", want: roleLocal}}, "nvme1n1"},
		{"remote nvme only", []sysDisk{{name: "nvme0n1", model: accelerator, want: roleRemote}, {name: "nvme0n2", model: accelerator, want: roleRemote}}, ""},
		{"several local nvme, by place", []sysDisk{{name: "nvme0n1", model: directDisk, want: roleLocal}, {name: "nvme1n1", model: accelerator, want: roleRemote}, {name: "nvme2n1", model: directDisk, want: roleLocal}}, "nvme2n1 nvme0n1"},
		{"other nvme", []sysDisk{{name: "nvme0n1", model: "QEMU NVMe Ctrl", want: roleOther}, {name: "nvme1n1", model: directDisk + " v3", want: roleOther}}, ""},
		{"no azure at all", []sysDisk{{name: "sda"}, {name: "vda"}, {name: "loop0"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newTestMachine(t)
			sysTree(t, m, c.disks...)
			for _, d := range c.disks {
				if got := m.diskRole(d.name); got != d.want {
					t.Errorf("%s is %q, want %q", d.name, got, d.want)
				}
			}
			list, wait := m.resourceDisks()
			var names []string
			for _, d := range list {
				names = append(names, d.name)
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
			if wait != 0 {
				t.Errorf("waits %s", wait)
			}
			m.cfg.ResourceNVMe = "none"
			for list, _ := m.resourceDisks(); len(list) > 0; list = list[1:] {
				if list[0].role != roleResource {
					t.Errorf("with resourcedisk.nvme=none: %s", list[0].name)
				}
			}
		})
	}
}

// What is announced is waited for; what is not, is not.
func TestAwaitedDisks(t *testing.T) {
	for _, c := range []struct {
		name  string
		disks []sysDisk
		gone  string // removed from the tree
		want  time.Duration
	}{
		{"ide disk without block device", []sysDisk{{name: "sda", bus: ideOS}, {name: "sdb", bus: ideResource}}, "block/sdb", diskWait},
		{"without driver", []sysDisk{{name: "sdb", bus: ideResource}}, "devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/" + ideResource + "/driver block/sdb", 0},
		{"scsi disk without block device", []sysDisk{{name: "sda", bus: vmbusSCSI}, {name: "sdb", bus: vmbusSCSI, lun: 1}}, "block/sdb", diskWait},
		{"controller before its scan", []sysDisk{{name: "sda", bus: vmbusSCSI}}, "devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/" + vmbusSCSI + "/host0 block/sda", diskDoubt},
		{"controller of generation 1", []sysDisk{{name: "sda", bus: ideOS}, {name: "sdb", bus: vmbusSCSI}}, "devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/" + vmbusSCSI + "/host1 block/sdb", 0},
		{"nvme without namespace", []sysDisk{{name: "nvme0n1", model: directDisk}}, "block/nvme0n1", diskWait},
		{"no disk", []sysDisk{{name: "sda", bus: vmbusSCSI}}, "block/none", 0},
	} {
		m := newTestMachine(t)
		sysTree(t, m, c.disks...)
		for _, name := range strings.Fields(c.gone) {
			os.RemoveAll(m.sys(name))
		}
		if _, got := m.resourceDisks(); got != c.want {
			t.Errorf("%s: waits %s, want %s", c.name, got, c.want)
		}
	}
}

// A VM without a resource disk: nothing is said, and nothing waited for; unless it
// is required.
func TestNoResourceDisk(t *testing.T) {
	m := newTestMachine(t)
	sysTree(t, m, sysDisk{name: "sda", bus: vmbusSCSI})
	if text, err := m.setUpDisk(context.Background(), false, func(*openedDisk) { t.Error("a disk") }); text != "" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	m.cfg.ResourceNeeded = true
	if _, err := m.setUpDisk(context.Background(), false, func(*openedDisk) {}); !errors.Is(err, unix.ENODEV) {
		t.Errorf("required: %v", err)
	}
	for _, c := range [][2]string{{"yes", "required"}, {"no", "best effort"}} {
		cfg := defaultConfig()
		if err := cfg.set("test", "resourcedisk.required", c[0]); err != nil {
			t.Fatal(err)
		}
		if err := checkPlan(plan(cfg)); err != nil {
			t.Error(err)
		}
		for _, s := range plan(cfg) {
			if s.name == "disk" && (s.weight.String() != c[1] || len(s.needs)+len(s.wants) > 0) {
				t.Errorf("required=%s: %s, needs %v", c[0], s.weight, s.needs)
			}
		}
	}
}
