package main

import (
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelTable is what a kernel needs on Azure, a row each:
// weight | option | module, "" where it must be built in | what | what its lack costs.
//
//	need   the VM is not provisioned without
//	want   something is lost without
//	early  as a module, it must be in the initramfs
//
// The drivers of UDF and ISO 9660 are no part of it: azprov reads the DVD itself.
const kernelTable = `need|ACPI||ACPI|the VM's devices are not found
need early|HYPERV|hv_vmbus|VMBus|no disk and no network is seen
need early|HYPERV_STORAGE|hv_storvsc|disks|the root file system is not found, nor the DVD of a generation 2 VM
need early|BLK_DEV_SD|sd_mod|disks|the root file system is not found
need|BLK_DEV_SR|sr_mod|DVD|nothing is provisioned: the provisioning DVD can't be read
want|ATA_PIIX|ata_piix|DVD of generation 1|a generation 1 VM is not provisioned: its DVD is not found
need|HYPERV_NET|hv_netvsc|network|no network: Azure never hears that the VM is ready and gives it up
want|HYPERV_UTILS|hv_utils|KVP, shutdown, time|Azure can't shut the VM down cleanly or learn why provisioning failed; the clock drifts
want early|PCI_HYPERV|pci_hyperv|PCI pass-through|no accelerated networking, and no disks on sizes with NVMe alone
want|MICROSOFT_MANA|mana|accelerated network|newer hosts: the slower hv_netvsc path
want|MLX5_CORE|mlx5_core|accelerated network|older hosts: the slower hv_netvsc path
want early|BLK_DEV_NVME|nvme|NVMe disks|sizes with NVMe disks alone (v6 and later) don't boot
need|INET||IPv4|no network
need|PACKET|af_packet|DHCP|no DHCP lease: azprov sends the first packets by packet sockets
need|UNIX|unix|local sockets|no system log, no systemd
need|EPOLL||Go programs|azprov does not start
need|EVENTFD||Go programs|azprov does not start
need|FUTEX||Go programs|azprov does not start
need|PROC_FS||/proc|azprov does not run
need|SYSFS||/sys|azprov finds no devices
want|TMPFS||tmpfs|no /run
want|DEVTMPFS||/dev|azprov init finds no devices
want|DMI||SMBIOS|azprov can't tell that this is Azure, or one VM from another: -force yes is needed
want|EXT4_FS|ext4|ext4|the temporary disk is not mounted
want|VFAT_FS|vfat|FAT|the EFI partition is not mounted
want|PTP_1588_CLOCK|ptp|clock of the host|time is kept only by the network
want|BINFMT_SCRIPT|binfmt_script|scripts|custom data that is a script does not run`

// imageKernel is the kernel that is looked at.
type imageKernel struct {
	release string
	config  string // "" when it is not known
	source  string // where the configuration is from
	dir     string // /lib/modules/RELEASE in the guest; "" when there is none
	files   map[string]moduleFile
	builtin map[string]bool
	// initramfs is the image's for this kernel; early are the modules in it, nil
	// when they are not known.
	initramfs string
	early     map[string]bool
}

// checkKernel judges the kernel that the user names, or the newest of the image.
func (c *checkup) checkKernel(kernelFile, configFile string) {
	k := &imageKernel{}
	if named := kernelFile + configFile; named != "" { // one of them at most
		c.readConfig(k, named)
	}
	if c.image {
		c.findKernel(k)
	}
	if k.config == "" && k.files == nil && k.builtin == nil {
		if kernelFile+configFile == "" {
			c.add("kernel", unknown, "no kernel with modules or configuration in the image", "-kernel or -config names one")
		}
		return
	}
	text := k.release
	if k.config != "" {
		text = joinTexts(text, "configuration: "+k.source)
	}
	c.add("kernel", fine, text, "")
	rows := strings.Split(kernelTable, "\n")
	serial := "want|SERIAL_8250_CONSOLE||serial console|no messages in boot diagnostics, no serial console in the portal"
	if strings.Contains(k.config[:min(len(k.config), 200)], "Linux/arm64") || k.config == "" && c.m.imageArchitecture() == "arm64" {
		serial = strings.Replace(serial, "SERIAL_8250_CONSOLE", "SERIAL_AMBA_PL011_CONSOLE", 1)
	}
	rows = append(rows, serial)
	if fs := c.rootType(); fs != "" && fs != "ext4" {
		rows = append(rows, "need early|"+strings.ToUpper(fs)+"_FS|"+fs+"|root file system|the root file system is not mounted")
	}
	for _, row := range rows {
		c.checkOption(k, strings.Split(row, "|"))
	}
	if v := kernelVersion(k.release); v != 0 && v < firstNUMA {
		c.add("numa", doubt, k.release, "before 2.6.37 the kernel needs numa=off: azprov prepare sets it")
	}
}

// readConfig reads the configuration out of a file of the builder's machine.
func (c *checkup) readConfig(k *imageKernel, file string) {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		k.config, err = readKernelConfig(f)
	}
	name := path.Base(file)
	if _, release, _ := strings.Cut(name, "-"); kernelVersion(release) != 0 {
		k.release = release
	}
	if err != nil {
		k.config = ""
		c.failed = !c.image
		c.add("kernel configuration", unknown, name+": "+unwrapPath(err).Error(), "-config names the configuration of this kernel")
		return
	}
	k.source = name
	if k.release == "" {
		k.release = kernelConfigRelease(k.config)
	}
}

// findKernel looks the kernel up in the image: its modules, its configuration,
// its initramfs.
func (c *checkup) findKernel(k *imageKernel) {
	g := c.m.guest
	if kernels := c.m.imageKernels(); !slices.Contains(kernels, k.release) && len(kernels) > 0 {
		k.release = kernels[len(kernels)-1]
	}
	if k.release == "" {
		return
	}
	for _, lib := range []string{"/usr/lib/modules/", "/lib/modules/"} {
		if g.isDir(lib + k.release) {
			k.dir = lib + k.release
		}
	}
	if text, err := g.read(k.dir+"/modules.dep", maxModuleIndex); k.dir != "" && err == nil {
		k.files = parseModulesDep(string(text))
	}
	if text, err := g.read(k.dir+"/modules.builtin", maxModuleIndex); k.dir != "" && err == nil {
		k.builtin = parseModulesBuiltin(string(text))
	}
	if k.dir != "" && k.files == nil {
		c.add("modules.dep", doubt, "not in "+k.dir, "no driver is loaded that depends on another: run depmod")
		k.files = map[string]moduleFile{}
		_ = g.walkTree(k.dir, &treeWalk{visit: func(_ int, name, p string, _ *unix.Stat_t) error {
			if strings.Contains(name, ".ko") {
				k.files[moduleName(name)] = moduleFile{path: p}
			}
			return nil
		}})
	}
	if k.config == "" {
		c.imageConfig(k)
	}
	for _, p := range g.glob(strings.ReplaceAll("/boot/initrd.img-R /boot/initramfs-R.img /boot/initrd-R /boot/initramfs-R /boot/*/R/initrd", "R", k.release)) {
		if g.isFile(p) {
			k.initramfs = p
			c.readInitramfs(k)
			return
		}
	}
}

// imageConfig reads the configuration from the image; of the running system's
// own kernel also from /proc/config.gz.
func (c *checkup) imageConfig(k *imageKernel) {
	g := c.m.guest
	why := ""
	for _, p := range []string{"/boot/config-" + k.release, k.dir + "/config", "/boot/vmlinuz-" + k.release, k.dir + "/vmlinuz"} {
		f, err := g.openFile(p)
		if err != nil {
			continue
		}
		k.config, err = readKernelConfig(f)
		f.Close()
		if err == nil {
			k.source = p
			return
		}
		k.config, why = "", p+": "+err.Error()
	}
	if g.dir == "/" && k.release == c.m.kernelRelease() {
		if f, err := os.Open(c.m.proc("config.gz")); err == nil {
			if k.config, err = readKernelConfig(f); err != nil {
				k.config = ""
			}
			k.source = f.Name()
			f.Close()
		}
	}
	if k.config == "" && why != "" {
		c.add("kernel configuration", unknown, oneLine(why, 300), "judged by the modules alone; -config names the configuration")
	}
}

func (c *checkup) readInitramfs(k *imageKernel) {
	early := map[string]bool{}
	f, err := c.m.guest.openFile(k.initramfs)
	if err == nil {
		err = initramfsNames(io.LimitReader(f, maxUnpacked), func(name string) {
			if strings.Contains(name, ".ko") {
				early[moduleName(name)] = true
			}
			c.early = c.early || path.Base(name) == "azprov"
		})
		f.Close()
	}
	if err != nil {
		c.add("initramfs", unknown, k.initramfs+": "+err.Error(), "whether the drivers of the root disk are in it; lsinitramfs or lsinitrd lists it")
		return
	}
	k.early = early
	c.add("initramfs", fine, k.initramfs, "")
}

// rootType is the type of the root file system by the image's fstab.
func (c *checkup) rootType() string {
	if !c.image {
		return ""
	}
	data, _ := c.m.guest.read("/etc/fstab", maxLinesFile)
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "/" && f[2] != "auto" && !strings.ContainsAny(f[2], ",.|") {
			return f[2]
		}
	}
	return ""
}

// checkOption judges a row of kernelTable.
func (c *checkup) checkOption(k *imageKernel, row []string) {
	need, option, module, what, cost := row[0], row[1], row[2], row[3], row[4]
	check, bad := "kernel "+option, lack
	if strings.HasPrefix(need, "want") {
		bad = doubt
	}
	add := func(result fitness, found string) { c.add(check, result, what+": "+found, cost) }
	file, known := k.files[moduleName(module)]
	known = known && module != ""
	state := ""
	if k.config != "" {
		state = configOption(k.config, option)
	}
	switch {
	case state == "y" || module != "" && k.builtin[moduleName(module)]:
		add(fine, "built in")
	case state == "n" && !known:
		add(bad, "CONFIG_"+option+" is not set")
	case state == "m" && k.files == nil:
		add(fine, "module")
	case state == "m" && module == "":
		add(bad, "a module, which is too late")
	case !known && (module == "" || k.files == nil && k.builtin == nil):
		add(unknown, "the kernel's configuration is not known")
	case !known:
		add(bad, "neither built in nor in "+k.dir)
	case !c.m.guest.isFile(file.path) && !c.m.guest.isFile(k.dir+"/"+file.path):
		add(bad, file.path+" is not in "+k.dir)
	case !strings.HasSuffix(need, "early"):
		add(fine, "module")
	case k.initramfs == "":
		add(bad, "a module, and no initramfs of this kernel is in the image")
	case k.early == nil:
		add(unknown, "module; the initramfs can't be opened")
	case !k.early[moduleName(module)]:
		add(bad, "module, not in the initramfs")
	default:
		add(fine, "module, in the initramfs")
	}
}
