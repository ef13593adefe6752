package vmtest

import (
	"strings"
	"testing"
)

// What must be said, and done, when something is missing. None of these ends in
// a kernel panic.
func TestBootsThatCanNotSucceed(t *testing.T) {
	l := newLab(t)
	image := l.image(t, "n.img", append(l.busyboxFiles(t), "-modules", l.modules)...)
	noNet := l.image(t, "nonet.img", append(l.busyboxFiles(t), "-modules", l.modules, "-without", "virtio_net")...)
	noDVD := l.write(t, "nodvd.json", `[{"service":"media","action":"missing"}]`, 0o600)
	noSource := l.write(t, "nosource.json", `[{"service":"media","action":"missing"},{"service":"imds","action":"refuse","seconds":600}]`, 0o600)
	noDHCP := l.write(t, "nodhcp.json", `[{"service":"dhcp","action":"drop"}]`, 0o600)
	const short = "azprov.media.wait=2s azprov.network.wait=3s azprov.deadline=20s azprov.root.wait=2s azprov.rescue=poweroff "
	for _, c := range []struct {
		name, words string
		args        []string
		want        []string
		health      string // the last report's state and substatus
	}{
		{"root= names nothing", "root=UUID=dead", []string{"-initrd", image},
			[]string{"wait 2s for root UUID=dead: no such device", "there is no block device at all", "poweroff"}, "NotReady ProvisioningFailed"},
		{"no DVD, but the metadata service", "", []string{"-initrd", image, "-faults", noDVD},
			[]string{"spec       without a medium", "Ready acknowledged", "poweroff"}, "Ready "},
		{"no DVD, no metadata service", "azprov.imds.deadline=3s", []string{"-initrd", image, "-faults", noSource},
			[]string{"error: ", "azprov ended with 1; going on", "poweroff"}, "NotReady ProvisioningFailed"},
		{"no DHCP", "", []string{"-initrd", image, "-faults", noDHCP},
			[]string{"azprov: lease      error:", "azprov ended with 4; going on", "poweroff"}, ""},
		{"the network's module is missing", "", []string{"-initrd", noNet},
			[]string{"azprov: link       error:", "no driver for network virtio", "poweroff"}, ""},
		{"a command that does not exist", "azprov.init.command=/none", []string{"-initrd", image},
			[]string{"Ready acknowledged", "find program /none: no such file or directory", "poweroff"}, "Ready "},
		{"a command that fails", `azprov.init.command="/bin/busybox false"`, []string{"-initrd", image},
			[]string{"run /bin/busybox: ended with 1", "poweroff"}, "Ready "},
		{"a command asks for poweroff as busybox does", `azprov.init.command="/bin/busybox poweroff"`, []string{"-initrd", image},
			[]string{"poweroff asked for by user defined signal 2", "Power down"}, "Ready "},
		{"an unknown key", "azprov.nonsense=1", []string{"-initrd", image},
			[]string{"kernel command line: nonsense: unknown key", "azprov ended with 2; going on", "reboot in 10s", "Restarting system"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			words := short + c.words
			if strings.Contains(c.words, "nonsense") {
				words = c.words // the defaults apply: reboot
			}
			b := l.boot(t, words, append(c.args, "-keep")...)
			b.expect(t, c.want...)
			b.end(t)
			got := ""
			for _, h := range b.health(t) {
				got = h.State + " " + h.Sub
			}
			if got != c.health {
				t.Errorf("last health report %q, want %q", got, c.health)
			}
		})
	}
}

// init= that the root does not have: nothing is provisioned, and Azure is told.
func TestMissingInit(t *testing.T) {
	l := newLab(t, "mkfs.ext4", "sfdisk")
	disk, _, _ := l.rootDisk(t, t.TempDir(), "empty")
	image := l.image(t, "n.img", "-modules", l.modules)
	b := l.boot(t, "root=/dev/sda1 init=/sbin/none azprov.rescue=halt", "-initrd", image, "-disk", disk, "-keep")
	b.expect(t, "find init /sbin/none: no such file or directory", "System halted")
	if h := b.health(t); len(h) != 1 || h[0].State != "NotReady" || !strings.Contains(h[0].Text, "/sbin/none") {
		t.Errorf("health reports: %+v", h)
	}
}

// The process that provisions is killed: PID 1 says so, tells Azure, goes on.
func TestProvisionerKilled(t *testing.T) {
	l := newLab(t)
	killer := l.write(t, "killer", "#!/bin/sh\nexport PATH=/bin\nbusybox mount -t proc proc /proc\n"+
		"(while :; do for p in /proc/[0-9]*; do n=${p#/proc/}; [ $n != 1 ] && busybox grep -q azprov.-root $p/cmdline 2>/dev/null && busybox kill -9 $n && exit; done; done) &\n"+
		// The kernel drops what a session's leader has said when it ends: it stays a moment.
		"exec /bin/azprov init -- /bin/sh -c 'echo the command runs; busybox sleep 1'\n", 0o755)
	image := l.image(t, "k.img", append(l.busyboxFiles(t), "-azprov", "", "-modules", l.modules, "-file", killer+":/init", "-file", l.azprov+":/bin/azprov")...)
	// Without a DVD azprov waits for one, long enough to be found and killed.
	noDVD := l.write(t, "nodvd.json", `[{"service":"media","action":"missing"}]`, 0o600)
	b := l.boot(t, "azprov.media.wait=60s", "-initrd", image, "-faults", noDVD, "-keep", "-cpus", "2")
	b.expect(t, "azprov was killed by signal 9", "the command runs", "Power down")
	b.end(t)
	h := b.health(t)
	if len(h) == 0 || h[len(h)-1].State != "NotReady" || !strings.Contains(h[len(h)-1].Text, "killed by signal 9") {
		t.Errorf("health reports: %+v", h)
	}
}

// The rescue shell has the console; its end reboots.
func TestRescueShell(t *testing.T) {
	l := newLab(t)
	image := l.image(t, "s.img", append(l.busyboxFiles(t), "-modules", l.modules)...)
	b := l.boot(t, "azprov.rescue=shell", "-initrd", image, "-keep")
	b.expect(t, "rescue shell; its end reboots", "Enter 'help'")
	b.say(t, "echo shell is $((40 + 2))\n")
	b.expect(t, "shell is 42")
	b.say(t, "exit\n")
	b.expect(t, "reboot in 10s", "Restarting system")
	b.end(t)
}
