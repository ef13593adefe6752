package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"
)

// writer makes the file by which some program learns how an interface is
// configured, so that it goes on with what azprov has begun.
type writer struct {
	name string
	// there says whether the image has the program and lets it configure the network.
	there func(*machine) bool
	file  func(*lease) (path string, mode uint32, text string)
}

// writers are the kinds of files, in the order in which an image is looked
// through: of the programs that own the network the first that is there gets one.
var writers = [...]writer{
	{"networkmanager", func(m *machine) bool {
		return (m.guest.isExecutable("/usr/sbin/NetworkManager") || m.guest.isExecutable("/usr/bin/NetworkManager")) &&
			len(m.guest.list("/etc/NetworkManager/system-connections")) == 0
	}, keyfile},
	{"networkd", func(m *machine) bool {
		const units = "/etc/systemd/system/"
		return m.guest.isFile(units+"multi-user.target.wants/systemd-networkd.service") || m.guest.isFile(units+"dbus-org.freedesktop.network1.service")
	}, networkdFile},
	{"interfaces", func(m *machine) bool { return m.guest.isFile(interfacesFile) }, nil},
	{"klibc", func(m *machine) bool { return m.guest.dir != "/" }, klibcFile},
}

func writerNames() (list []string) {
	for _, w := range writers {
		list = append(list, w.name)
	}
	return list
}

func setWriters(p *[]string) func(string) error {
	list := setList(p)
	return func(s string) error {
		_ = list(s)
		for _, name := range *p {
			if name != "auto" && name != "none" && !slices.Contains(writerNames(), name) {
				return errorf("%q is none of auto, none, %s", name, strings.Join(writerNames(), ", "))
			}
		}
		return nil
	}
}

// stepHandover writes the files for who configures the network next. What an
// image or its owner has configured is never replaced: all but the interfaces
// file stand in /run, behind files of the same program in /etc.
func (b *boot) stepHandover(context.Context) (string, error) {
	auto := slices.Contains(b.cfg.NetworkWrite, "auto")
	if b.lease == nil || b.lease.Configured || auto && b.cfg.Network == "release" {
		return "", nil
	}
	leases := append([]*lease{b.lease}, b.others...)
	var written []string
	var errs []error
	owned := false
	for _, w := range writers {
		owner := w.name != "klibc"
		if !slices.Contains(b.cfg.NetworkWrite, w.name) && !(auto && !(owner && owned) && w.there(b.machine)) {
			continue
		}
		owned = owned || owner
		for _, le := range leases {
			var err error
			if w.file == nil {
				err = b.writeInterfaces(le)
			} else {
				path, mode, text := w.file(le)
				dir, name := path[:strings.LastIndexByte(path, '/')], path[strings.LastIndexByte(path, '/')+1:]
				err = b.writeRun(dir, name, []byte(text), rootFile(os.FileMode(mode)))
			}
			errs = append(errs, err)
		}
		written = append(written, w.name)
	}
	return strings.Join(written, ", "), errors.Join(errs...)
}

// networkdFile is a .network file that keeps what is configured and goes on with
// DHCP (systemd.network(5)). It comes after an administrator's and before
// systemd's own.
func networkdFile(le *lease) (string, uint32, string) {
	match := "MACAddress=" + le.Link.MAC.String() + "\n"
	if le.Link.Driver != "" {
		match += "Driver=" + le.Link.Driver + "\n" // else the virtual function would match too
	}
	text := "# by azprov\n[Match]\n" + match + "\n[Network]\nDHCP=ipv4\nKeepConfiguration=yes\n\n[DHCPv4]\nClientIdentifier=mac\n"
	if le.Metric > 0 {
		text += sprintf("RouteMetric=%d\n", le.Metric)
	}
	if le.Secondary {
		text += "UseDNS=no\n"
	}
	return "/run/systemd/network/70-azprov-" + le.Link.Name + ".network", 0o644, text
}

// keyfile is a NetworkManager connection (nm-settings-keyfile(5)), which must be
// readable by root alone.
func keyfile(le *lease) (string, uint32, string) {
	text := "# by azprov\n[connection]\nid=azprov-" + le.Link.Name + "\ntype=ethernet\n"
	if le.Link.Driver != "" {
		text += "\n[match]\ndriver=" + le.Link.Driver + "\n"
	}
	text += "\n[ethernet]\nmac-address=" + le.Link.MAC.String() + "\n\n[ipv4]\nmethod=auto\ndhcp-client-id=mac\n"
	if le.Metric > 0 {
		text += sprintf("route-metric=%d\n", le.Metric)
	}
	if le.Secondary {
		text += "ignore-auto-dns=true\n"
	}
	return "/run/NetworkManager/system-connections/azprov-" + le.Link.Name + ".nmconnection", 0o600, text + "\n[ipv6]\nmethod=auto\n"
}

// klibcFile is what klibc's ipconfig leaves in an initramfs, as shell variables.
// No value can hold a quote: addresses, and names that DNS allows.
func klibcFile(le *lease) (string, uint32, string) {
	addr := func(list []ipAddr, i int) string {
		if i < len(list) && list[i].IsValid() {
			return list[i].String()
		}
		return "0.0.0.0"
	}
	mask := [4]byte{}
	for i := range le.Prefix.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	seconds := uint32(0xffffffff)
	if le.Lifetime > 0 {
		seconds = uint32(le.Lifetime / time.Second)
	}
	var b strings.Builder
	for _, kv := range [...][2]string{
		{"DEVICE", le.Link.Name}, {"PROTO", "dhcp"}, {"IPV4ADDR", le.Prefix.Addr().String()}, {"IPV4BROADCAST", addr([]ipAddr{le.broadcast()}, 0)},
		{"IPV4NETMASK", addrFrom4(mask).String()}, {"IPV4GATEWAY", addr([]ipAddr{le.gateway()}, 0)},
		{"IPV4DNS0", addr(le.DNS, 0)}, {"IPV4DNS1", addr(le.DNS, 1)}, {"HOSTNAME", le.HostName}, {"DNSDOMAIN", le.Domain}, {"NISDOMAIN", ""},
		{"ROOTSERVER", addr([]ipAddr{le.Server}, 0)}, {"ROOTPATH", ""}, {"filename", ""}, {"DHCPLEASETIME", sprintf("%d", seconds)},
		{"DOMAINSEARCH", strings.Join(le.Search, " ")}} {
		b.WriteString(kv[0] + "='" + kv[1] + "'\n")
	}
	return "/run/net-" + le.Link.Name + ".conf", 0o644, b.String()
}

const interfacesFile = "/etc/network/interfaces"

// writeInterfaces adds a stanza for an interface to /etc/network/interfaces
// (ifupdown, busybox), unless one is there or in a file beside it.
func (m *machine) writeInterfaces(le *lease) error {
	old, err := m.guest.read(interfacesFile, 256<<10)
	if err != nil {
		if m.guest.isFile(interfacesFile) {
			return err
		}
		old = []byte("auto lo\niface lo inet loopback\n")
	}
	texts := []string{string(old)}
	for _, name := range m.guest.list(interfacesFile + ".d") {
		if data, err := m.guest.read(interfacesFile+".d/"+name, 256<<10); err == nil {
			texts = append(texts, string(data))
		}
	}
	for _, text := range texts {
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "iface" && f[1] == le.Link.Name {
				return nil
			}
		}
	}
	if err := m.guest.mkdir("/etc/network", 0o755, 0, 0); err != nil {
		return err
	}
	text := strings.TrimRight(string(old), "\n") + "\n\n# by azprov\nauto " + le.Link.Name + "\niface " + le.Link.Name + " inet dhcp\n"
	return m.guest.write(interfacesFile, []byte(text), keepFile(0o644))
}

// stepRelease takes back what azprov has done to the network.
func (b *boot) stepRelease(context.Context) (string, error) {
	if b.poolKind != "" {
		return "", nil // the VM is told by its network that it leaves the pool
	}
	var errs []error
	for _, le := range b.others {
		errs = append(errs, b.withdraw(le, true))
	}
	if b.lease != nil {
		errs = append(errs, b.withdraw(b.lease, true))
	}
	g, done, err := b.runtime()
	if err == nil {
		errs = append(errs, g.remove(leaseFile))
		done()
	}
	return "", errors.Join(append(errs, err)...)
}
