package vmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// busyboxFiles puts a static busybox into an image, as /bin/sh too.
func (l *lab) busyboxFiles(t *testing.T) []string {
	t.Helper()
	link := filepath.Join(l.dir, "sh")
	if _, err := os.Lstat(link); err != nil {
		if err := os.Symlink("busybox", link); err != nil {
			t.Fatal(err)
		}
	}
	path := strings.TrimSpace(must(t, "sh", "-c", "command -v busybox"))
	return []string{"-file", path + ":/bin/busybox", "-file", link + ":/bin/sh"}
}

// (a) The kernel and our initramfs alone, without the modules udf and isofs, in
// 96 MB. An archive behind it holds busybox, which shows that the account works.
func TestKernelAndInitramfsAlone(t *testing.T) {
	l := newLab(t)
	if info, err := os.Stat(l.image(t, "alone.img")); err != nil || info.Size() > 1300000 {
		t.Errorf("an initramfs of azprov alone: %v, %v; the limit is 1.3 MB", info, err)
	}
	base := l.image(t, "base.img", "-modules", l.modules, "-without", "udf,isofs")
	check := l.write(t, "check", "#!/bin/sh\nexport PATH=/bin\nbusybox find /lib/modules -name udf.ko -o -name isofs.ko\nbusybox hostname\n"+
		"busybox su "+l.user+" -c 'busybox id; busybox cat ~/.ssh/authorized_keys'\nbusybox cat /var/lib/azprov/instance\n", 0o755)
	image := l.image(t, "a.img", append(l.busyboxFiles(t), "-azprov", "", "-append-to", base, "-file", check+":/check")...)
	b := l.boot(t, "azprov.init.command=/check", "-initrd", image, "-keep")
	b.expect(t, "Ready acknowledged", "edge-7", "("+l.user+")", l.key, "progress=acknowledged", "/check ended with 0", "Power down")
	b.end(t)
	if text := b.console(); strings.Contains(text, "udf.ko") || strings.Contains(text, "isofs.ko") {
		t.Error("the file system modules are in the image")
	}
	if h := b.health(t); len(h) != 1 || h[0].State != "Ready" {
		t.Errorf("health reports: %+v", h)
	}
}

// (a) on the other generation: the DVD is a SCSI drive. The timeline has the
// kernel, azprov's steps and what the platform saw.
func TestGenerationTwo(t *testing.T) {
	l := newLab(t)
	image := l.image(t, "a.img", "-modules", l.modules, "-without", "udf,isofs")
	b := l.boot(t, "azprov.rescue=poweroff", "-initrd", image, "-gen", "2", "-keep", "-timeline", filepath.Join(l.dir, "boot.svg"))
	b.expect(t, "Ready acknowledged", "neither root= nor a command is given", "Power down")
	b.end(t)
	picture, err := os.ReadFile(filepath.Join(l.dir, "boot.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{">kernel<", ">media<", ">lease<", "dhcp DISCOVER edge-7", "wire POST"} {
		if !strings.Contains(string(picture), text) {
			t.Errorf("no %q in the timeline", text)
		}
	}
}

// (c) A busybox image with azprov as the PID-1 helper of its own script, and
// dropbear.
func TestBusyboxWithHelperAndDropbear(t *testing.T) {
	l := newLab(t, "dropbear", "ldd")
	start := l.write(t, "start", "#!/bin/sh\nexport PATH=/bin\nbusybox mkdir -p /etc/dropbear\n/sbin/dropbear -R -E\n"+
		// Orphans for PID 1 to reap; then signals that must not end it.
		"(busybox sleep 0 &)\nbusybox kill -9 1; busybox kill -SEGV 1; busybox kill -HUP 1\n"+
		"trap 'echo command got USR2' USR2\nwhile :; do busybox sleep 1; done\n", 0o755)
	wrapper := l.write(t, "wrapper", "#!/bin/sh\nexec /bin/azprov init -- /bin/sh -c 'trap \"\" HUP SEGV; exec /start'\n", 0o755)
	dropbear := strings.TrimSpace(must(t, "sh", "-c", "command -v dropbear"))
	flags := append(l.busyboxFiles(t), "-azprov", "", "-modules", l.modules, "-file", start+":/start", "-file", wrapper+":/init",
		"-file", l.azprov+":/bin/azprov", "-file", dropbear+":/sbin/dropbear")
	for line := range strings.Lines(must(t, "ldd", dropbear)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				real := strings.TrimSpace(must(t, "readlink", "-f", word))
				flags = append(flags, "-file", real+":"+word)
			}
		}
	}
	b := l.boot(t, "", "-initrd", l.image(t, "c.img", flags...), "-keep")
	b.expect(t, "Ready acknowledged")
	out := b.ssh(t, l, "busybox id -un; busybox hostname; busybox ps -o pid,stat,comm | busybox grep -c ' Z'; busybox ps -o pid,comm | busybox head -2")
	for _, want := range []string{l.user, "edge-7", "\n0\n", "azprov"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// busybox's own init runs azprov by init/busybox.
func TestBusyboxInit(t *testing.T) {
	l := newLab(t)
	inittab, err := os.ReadFile("../init/busybox/inittab")
	if err != nil {
		t.Fatal(err)
	}
	tab := l.write(t, "inittab", string(inittab)+"::once:/show\n", 0o644)
	show := l.write(t, "show", "#!/bin/sh\n/bin/busybox hostname\n/bin/busybox id "+l.user+"\n/bin/busybox poweroff -f\n", 0o755)
	flags := append(l.busyboxFiles(t), "-azprov", "", "-modules", l.modules, "-file", tab+":/etc/inittab", "-file", show+":/show",
		"-file", "../init/busybox/rcS:/etc/init.d/rcS", "-file", l.azprov+":/sbin/azprov")
	for _, name := range []string{"init", "sbin/init", "bin/mount", "sbin/modprobe"} {
		link := filepath.Join(l.dir, filepath.Base(name)+"-link")
		if err := os.Symlink("/bin/busybox", link); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		flags = append(flags, "-file", link+":/"+name)
	}
	b := l.boot(t, "", "-initrd", l.image(t, "i.img", flags...), "-keep")
	b.expect(t, "Ready acknowledged", "edge-7", "("+l.user+")", "Power down")
	b.end(t)
}

// u-root's init runs azprov by initramfs/u-root/uinit.
func TestURoot(t *testing.T) {
	l := newLab(t)
	base := filepath.Join(l.dir, "u.cpio")
	must(t, "../scripts/uroot", "../build/u-root", base, l.azprov)
	image := l.image(t, "u.img", "-azprov", "", "-modules", l.modules, "-append-to", base)
	b := l.boot(t, "", "-initrd", image, "-keep", "-memory", "256")
	b.expect(t, "Welcome to u-root!", "Ready acknowledged", "provisioned, Ready acknowledged")
	if h := b.health(t); len(h) != 1 || h[0].State != "Ready" {
		t.Errorf("health reports: %+v", h)
	}
}
