package vmtest

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The kernel's duties in a machine whose boot loader says nothing of a serial
// console, and whose kernel believes nobody's entropy: a script as /init looks at
// the generator before azprov has run and, with the disks, after. This kernel
// (6.1) does not use the ACPI table OEM0 itself.
func TestKernelDuties(t *testing.T) {
	l := newLab(t, "mkfs.ext4", "sfdisk")
	disk, _, _ := l.rootDisk(t, t.TempDir(), "data")
	wrapper := l.write(t, "wrapper", "#!/bin/sh\nexport PATH=/bin\nbusybox mkdir -p /proc /sys /dev\nbusybox mount -t proc proc /proc\nbusybox mount -t sysfs sysfs /sys\n"+
		"busybox mount -t devtmpfs dev /dev\necho \"before: $(busybox cat /proc/sys/kernel/random/entropy_avail) bits\" >/dev/ttyS0\n"+
		"busybox ls -l /sys/firmware/acpi/tables/OEM0 >/dev/ttyS0\nexec /bin/azprov init -- /check\n", 0o755)
	check := l.write(t, "check", "#!/bin/sh\nexport PATH=/bin\nexec >/dev/console 2>&1\necho \"console: this came through $(busybox cat /sys/class/tty/console/active)\"\n"+
		"echo \"after: $(busybox cat /proc/sys/kernel/random/entropy_avail) bits\"\n"+
		"for d in /sys/block/sd*; do echo \"disk: ${d##*/} $(busybox cat $d/device/vendor) $(busybox cat $d/device/timeout) s\"; done\n"+
		"busybox mkdir -p /etc /sbin; busybox ln -sf /bin/busybox /sbin/getty; : >/etc/inittab\n"+
		"azprov kernel -console.login yes 2>&1 | busybox sed 's/^/again: /'; busybox cat /etc/inittab\n"+
		"busybox grep -e numa -e kernel /var/lib/azprov/status.json\n", 0o755)
	image := l.image(t, "k.img", append(l.busyboxFiles(t), "-azprov", "", "-modules", l.modules, "-file", wrapper+":/init", "-file", check+":/check", "-file", l.azprov+":/bin/azprov")...)
	b := l.boot(t, "random.trust_cpu=off random.trust_bootloader=off console=tty0 azprov.console=serial azprov.entropy.credit=yes",
		"-initrd", image, "-disk", disk, "-gen", "2", "-keep")
	b.expect(t, "Ready acknowledged", "/check ended with 0", "init       poweroff")
	b.end(t)
	text := b.console()
	for _, want := range []string{"/dev/console to ttyS0", "console: this came through tty0", "Run /init as init process", "64 bytes of the host, 256 bits credited",
		"disk: sda Msft 300 s", "again: azprov: timeouts   sda 300 s", "ttyS0::respawn:/sbin/getty -L ttyS0 115200 vt100", `"numa": "0"`, `"kernel": "`} {
		if !strings.Contains(regexp.MustCompile(` +`).ReplaceAllString(text, " "), regexp.MustCompile(` +`).ReplaceAllString(want, " ")) {
			t.Errorf("the console never said %q", want)
		}
	}
	if strings.Contains(text, "again: azprov: entropy") {
		t.Error("a second run in the same boot has added entropy")
	}
	bits := func(when string) int {
		m := regexp.MustCompile(when + `: (\d+) bits`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no entropy_avail %s", when)
		}
		n, _ := strconv.Atoi(m[1])
		return n
	}
	t.Logf("entropy_avail before %d, after %d", bits("before"), bits("after"))
	if before, after := bits("before"), bits("after"); before >= 256 || after != 256 {
		t.Errorf("entropy_avail was %d, and is %d", before, after)
	}
}
