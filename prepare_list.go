package main

import "strings"

// cleanTable is all that prepare removes, whoever left it, a row each:
// how | patterns as for glob | why.
//
//	all    file, link, or directory with all that is in it
//	file   a regular file; a link or directory is the image's layout
//	empty  keep the file, without content
//	logs   below a directory: empty logs, remove rotated ones
const cleanTable = `all|/var/lib/azprov/ /var/run/azprov/|state of azprov: a VM made from the image is new
file|/etc/ssh/sshd_config.d/10-azprov.conf|sshd's password setting of one VM
all|/var/lib/waagent/ /var/run/waagent.pid|state of the Linux agent
all|/var/log/azure/ /var/log/waagent.log*|log of the Linux agent
all|/var/lib/cloud/[^s]* /var/lib/cloud/se[^e]* /var/run/cloud-init /var/log/cloud-init*.log*|state of cloud-init (seed and scripts are the image's)
file|/etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* /etc/systemd/network/10-cloud-init-* /etc/NetworkManager/conf.d/??-cloud-init*.conf /etc/NetworkManager/system-connections/cloud-init-*.nmconnection|network of one VM, written by cloud-init
file|/etc/ssh/sshd_config.d/50-cloud-init.conf /etc/ssh/sshd_config.d/50-azure-init.conf|sshd's password setting of one VM
all|/var/lib/azure-init/ /var/log/azure-init*|state of azure-init
file|/etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /etc/ssh/ssh_host_key /etc/ssh/ssh_host_key.pub /etc/dropbear/dropbear_*_host_key|SSH host key: every VM needs its own
all|/var/lib/dhclient/ /var/lib/dhcp/dhclient* /var/lib/dhcp3/dhclient* /var/db/dhclient.leases.* /var/lib/dhcpcd/ /var/lib/dhcpcd5/ /var/db/dhcpcd/ /etc/dhcpcd.duid /etc/dhcpcd.secret /var/lib/udhcpc/ /var/lib/misc/udhcpc*|DHCP lease or client identity of one VM
all|/var/run/systemd/netif/leases/ /var/lib/systemd/network/* /var/lib/wicked/lease-*.xml /var/lib/wicked/duid.xml /var/lib/wicked/iaid.xml|DHCP lease or client identity of one VM
all|/var/lib/NetworkManager/dhclient* /var/lib/NetworkManager/*.lease /var/lib/NetworkManager/secret_key /var/lib/NetworkManager/seen-bssids /var/lib/NetworkManager/timestamps|DHCP lease or client identity of one VM
file|/var/lib/dbus/machine-id|machine id: every VM needs its own
empty|/etc/machine-id|machine id: every VM needs its own; the empty file is filled at boot
file|/var/lib/systemd/random-seed /var/lib/random-seed /var/lib/urandom/random-seed /var/lib/misc/random-seed /var/lib/seedrng/seed.* /boot/loader/random-seed /boot/efi/loader/random-seed /efi/loader/random-seed|random seed: no two VMs may start from the same
file|/var/lib/systemd/credential.secret|secret of one machine
file|/var/lib/hyperv/.kvp_pool_*|what one VM and its host told each other
file|/etc/udev/rules.d/70-persistent-net.rules /etc/udev/rules.d/30-net_persistent-names.rules|network names of one VM's MAC addresses
file|/mnt/resource/swapfile /mnt/resource/DATALOSS_WARNING_README.txt|of the temporary disk, which is no part of an image
file|/root/.*_history /root/.lesshst /root/.viminfo /root/.wget-hsts|history of one user
all|/var/lib/systemd/coredump/ /var/crash/|memory of programs
all|/var/log/journal/ /run/log/journal/|log of one VM
logs|/var/log|log of one VM`

// historyFiles are what shells and pagers remember, below every home (H).
const historyFiles = "H/.*_history H/.lesshst H/.viminfo H/.wget-hsts"

// userFiles belong to an account (U), outside of its home.
const userFiles = "/var/spool/mail/U /var/mail/U /var/spool/cron/U /var/spool/cron/crontabs/U /var/lib/systemd/linger/U /var/lib/AccountsService/users/U"

// lineTable is what loses the lines of one VM, a row each:
// which lines | patterns | why. What dropLine says decides.
const lineTable = `fstab|/etc/fstab|mount of the temporary disk, made for one VM
hosts|/etc/hosts|address of one VM's host name
ifcfg|/etc/sysconfig/network-scripts/ifcfg-*|network card or name of one VM
dhclient|/etc/dhcp/dhclient.conf /etc/dhcp3/dhclient.conf /etc/dhclient.conf|host name of one VM
forced|/root/.ssh/authorized_keys|key that cloud-init put here to send its owner elsewhere
resolv|/etc/resolv.conf|name servers of one VM's lease
sudo|/etc/sudoers.d/azprov /etc/sudoers.d/waagent /etc/sudoers.d/90-cloud-init-users /etc/sudoers.d/azure-init-user|right of the removed account
doas|/etc/doas.conf /etc/doas.d/azprov.conf|right of the removed account`

// dropLine says whether a line goes. whole is that of a file which goes itself
// when nothing but comments is left of it.
func (p *preparation) dropLine(which, line string) (drop, whole bool) {
	f := strings.Fields(line)
	n := len(f)
	switch which {
	case "fstab":
		return n >= 4 && f[0][0] != '#' && (strings.Contains(","+f[3]+",", ",comment=cloudconfig,") || strings.Contains(f[3], fstabComment)), false
	case "hosts":
		if n < 2 || f[0] != "127.0.1.1" || p.hostName == "localhost" {
			return false, false
		}
		for _, name := range f[1:] {
			short, _, _ := strings.Cut(name, ".")
			drop = drop || short == p.hostName
		}
	case "ifcfg":
		return strings.HasPrefix(line, "HWADDR=") || strings.HasPrefix(line, "DHCP_HOSTNAME="), false
	case "dhclient":
		return n == 3 && p.hostName != "" && strings.Join(f, " ") == `send host-name "`+p.hostName+`";`, false
	case "forced":
		return strings.Contains(line, "Please login as the user"), true
	case "resolv":
		return p.leasedResolver, true
	case "sudo":
		return n > 1 && f[0] == p.user, true
	case "doas":
		return n > 1 && f[0] == "permit" && f[n-1] == p.user, true
	}
	return drop, false
}

// rotated says whether a log was put aside: syslog.1, syslog.2.gz, messages-20260101.
func rotated(name string) bool {
	for _, s := range []string{".gz", ".xz", ".zst", ".bz2", ".old"} {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	stem := strings.TrimRight(name, "0123456789")
	return len(stem) < len(name) && len(stem) > 1 && (strings.HasSuffix(stem, ".") || strings.HasSuffix(stem, "-"))
}
