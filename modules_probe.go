package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// deviceBuses are the buses whose devices azprov loads drivers for. What else a
// machine has is for the real root's udev.
func deviceBuses() []string { return []string{"vmbus", "pci", "virtio", "scsi"} }

// defaultModules are loaded by name. On Hyper-V every VM needs the first four,
// and asking for them at once saves the detour by the device's event; the others
// are asked for only where no modules.alias says what a device needs.
func defaultModules(hyperv, aliases bool) []string {
	var names []string
	if hyperv {
		names = append(names, "hv_vmbus", "hv_storvsc", "hv_netvsc", "hv_utils")
	}
	if !aliases {
		names = append(names, "virtio_pci", "virtio_scsi", "virtio_blk", "virtio_net", "ata_piix", "cdrom", "sr_mod", "sd_mod",
			"nvme", "pci_hyperv", "mana", "mlx5_core", "mlx4_en")
	}
	return names
}

// prober loads the drivers of devices: those that are there, and those that the
// kernel announces later.
type prober struct {
	m       *machine
	ms      *modules
	tried   map[string]bool // modaliases
	changed func(uevent)    // called for every block device and network interface that comes
}

// loadDefaults loads the default set and the modules that the configuration names.
func (p *prober) loadDefaults() {
	_, err := os.Stat(filepath.Join(p.ms.dir, "modules.alias"))
	for _, name := range defaultModules(p.m.platform() != "", err == nil) {
		if p.ms.known(name) && !p.ms.conf.blacklist[name] {
			p.report(p.ms.load(name))
		}
	}
	for _, name := range p.m.cfg.Modules {
		if err := p.ms.load(name); err != nil {
			p.m.warn("modules", "%v", err)
		}
	}
}

// report says which module could not be loaded. That its device is missing is
// how a driver says that it is not needed.
func (p *prober) report(err error) {
	if err != nil && !errors.Is(err, unix.ENODEV) {
		p.m.warn("modules", "%v", err)
	}
}

// coldplug loads the drivers of the devices that sysfs has now. It reads sysfs
// again until nothing new has come, since a controller brings its devices.
func (p *prober) coldplug() {
	for range maxPasses {
		var fresh []string
		for _, bus := range deviceBuses() {
			for _, dir := range listDir(p.m.sys("bus", bus, "devices")) {
				fresh = append(fresh, sysAttr(dir+"/modalias"))
			}
		}
		if !p.loadFor(fresh) {
			return
		}
	}
}

// maxPasses bounds how deep buses are looked for behind each other: PCI, virtio,
// SCSI, and one more.
const maxPasses = 8

// loadFor loads what the modaliases ask for, and says whether any was new.
func (p *prober) loadFor(modaliases []string) bool {
	modaliases = slices.DeleteFunc(modaliases, func(s string) bool { return s == "" || p.tried[s] })
	if len(modaliases) == 0 {
		return false
	}
	if len(p.tried) < 4096 {
		for _, s := range modaliases {
			p.tried[s] = true
		}
	}
	for _, names := range p.ms.forAliases(modaliases) {
		for _, name := range names {
			if !p.ms.conf.blacklist[name] {
				p.report(p.ms.load(name))
			}
		}
	}
	return true
}

// forAliases looks the aliases up in modprobe.d and modules.alias.
func (ms *modules) forAliases(aliases []string) [][]string {
	found := matchAliases(ms.conf.aliases.String(), aliases)
	_ = readIndex(filepath.Join(ms.dir, "modules.alias"), func(text string) {
		for i, names := range matchAliases(text, aliases) {
			found[i] = append(found[i], names...)
		}
	})
	return found
}

// follow loads the drivers of devices that are announced, until the socket is
// interrupted.
func (p *prober) follow(s *ueventSocket) {
	for {
		events, lost, err := s.receive()
		if err == errInterrupted {
			return
		}
		if err != nil {
			p.m.warn("modules", "device events: %v", err)
			return
		}
		if lost {
			p.coldplug()
		}
		p.handle(events)
	}
}

func (p *prober) handle(events []uevent) {
	var fresh []string
	for _, e := range events {
		if e.Action != "add" && e.Action != "change" {
			continue
		}
		if e.Action == "add" && slices.Contains(deviceBuses(), e.Subsystem) {
			fresh = append(fresh, e.Modalias)
		}
		if p.changed != nil {
			p.changed(e)
		}
	}
	p.loadFor(fresh)
}

// undriven lists devices that have no driver although provisioning may need
// them: network interfaces and storage. It is what is said when a step found
// neither.
func (m *machine) undriven() []string {
	var list []string
	for _, bus := range deviceBuses() {
		for _, dir := range listDir(m.sys("bus", bus, "devices")) {
			alias := sysAttr(filepath.Join(dir, "modalias"))
			kind := deviceKind(alias)
			if kind == "" {
				continue
			}
			if _, err := os.Lstat(filepath.Join(dir, "driver")); err == nil {
				continue
			}
			list = append(list, kind+" "+filepath.Base(dir)+" ("+oneLine(alias, 80)+")")
		}
	}
	return list
}

// deviceKind tells what a modalias is the device of: "network", "storage", or "".
func deviceKind(alias string) string {
	for _, k := range []struct{ pattern, kind string }{
		{"pci:*bc02sc*", "network"}, {"pci:*bc01sc*", "storage"},
		// Virtio devices on PCI: the bus driver has to come first.
		{"pci:v00001AF4d*", "virtio"},
		{"virtio:d00000001v*", "network"}, {"virtio:d00000002v*", "storage"}, {"virtio:d00000008v*", "storage"},
		{"vmbus:635161f83edfc546913ff2d2f965ed0e", "network"},
		{"vmbus:d96361baa104294db60572e2ffb1dc7f", "storage"}, {"vmbus:32264132cb86a2449b5c50d1417354f5", "storage"},
		{"vmbus:1df6c444444400449d52802e27ede19f", "pci"},
		{"scsi:t-0x00*", "disk"}, {"scsi:t-0x04*", "dvd"}, {"scsi:t-0x05*", "dvd"},
	} {
		if matchGlob(k.pattern, strings.TrimSpace(alias)) {
			return k.kind
		}
	}
	return ""
}

// listDir returns the paths of what is in a directory, sorted, at most 4096;
// none when it can't be read.
func listDir(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(4096)
	sortNames(names)
	for i, name := range names {
		names[i] = dir + "/" + name
	}
	return names
}

// sortNames sorts a few thousand names at most, in place. The sort of package
// slices is 6 kB more of program for each type.
func sortNames(names []string) {
	for gap := len(names) / 2; gap > 0; gap /= 2 {
		for i := gap; i < len(names); i++ {
			for j := i; j >= gap && names[j] < names[j-gap]; j -= gap {
				names[j], names[j-gap] = names[j-gap], names[j]
			}
		}
	}
}
