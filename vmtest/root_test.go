package vmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rootDisk makes a disk image of a directory: one GPT partition with ext4, named
// and labelled.
func (l *lab) rootDisk(t *testing.T, tree, label string) (disk, uuid, partUUID string) {
	t.Helper()
	const mib, size = 1 << 20, 900
	part := filepath.Join(l.dir, label+".ext4")
	disk = filepath.Join(l.dir, label+".img")
	for path, n := range map[string]int64{part: size * mib, disk: (size + 2) * mib} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(n); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	uuid, partUUID = "5e0c7c8e-4d4a-4c8f-9d35-3c0a7d1f2b11", "0A1B2C3D-4E5F-4607-8192-A3B4C5D6E7F8"
	must(t, "mkfs.ext4", "-q", "-L", label, "-U", uuid, "-d", tree, part)
	must(t, "sh", "-c", "printf 'label: gpt\\nstart=2048, size="+"1843200"+", name=\""+label+"\", uuid="+partUUID+"\\n' | sfdisk -q "+disk)
	must(t, "dd", "if="+part, "of="+disk, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
	if err := os.Remove(part); err != nil {
		t.Fatal(err)
	}
	return disk, uuid, partUUID
}

// (b) A Debian root, provisioned from the initramfs; systemd and sshd take over,
// and the key opens the door.
func TestDebianRootWithSystemd(t *testing.T) {
	l := newLab(t, "debootstrap", "mkfs.ext4", "sfdisk")
	tree := strings.TrimSpace(must(t, "../scripts/debianroot", "../build/debian-root"))
	disk, _, _ := l.rootDisk(t, tree, "rootfs")
	image := l.image(t, "b.img", "-modules", l.modules, "-without", "udf,isofs")
	b := l.boot(t, "root=PARTLABEL=rootfs rw rootwait", "-initrd", image, "-disk", disk, "-keep", "-memory", "512", "-cpus", "2")
	b.expect(t, "Ready acknowledged", "executing /sbin/init of PARTLABEL=rootfs")
	out := b.ssh(t, l, "id -un; hostname; cat /proc/1/comm; findmnt -no FSTYPE / ; ls /sysroot /init 2>&1; true")
	for _, want := range []string{l.user, "edge-7", "systemd", "ext4", "cannot access '/sysroot'", "cannot access '/init'"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(b.console(), "[FAILED]") {
		t.Error("a service of the real root has failed")
	}
}

// systemd runs azprov by init/systemd/azprov.service; the initramfs only finds
// the root.
func TestSystemdService(t *testing.T) {
	l := newLab(t, "debootstrap", "mkfs.ext4", "sfdisk", "depmod")
	tree := strings.TrimSpace(must(t, "../scripts/debianroot", "../build/debian-root"))
	system := filepath.Join(l.dir, "tree")
	must(t, "cp", "-a", tree, system)
	must(t, "install", "-m", "0755", l.azprov, filepath.Join(system, "usr/sbin/azprov"))
	must(t, "install", "-m", "0644", "../init/systemd/azprov.service", filepath.Join(system, "etc/systemd/system/azprov.service"))
	must(t, "chroot", system, "systemctl", "enable", "azprov.service")
	if out := must(t, "chroot", system, "sh", "-c", "systemd-analyze verify azprov.service 2>&1 | grep -v 'man azprov' || true"); strings.Contains(out, "azprov.service") {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	must(t, "mkdir", "-p", filepath.Join(system, "lib/modules"))
	must(t, "cp", "-a", l.modules, filepath.Join(system, "lib/modules/"))
	must(t, "depmod", "-b", system, filepath.Base(l.modules))
	disk, _, _ := l.rootDisk(t, system, "service")
	start := l.write(t, "switch", "#!/bin/busybox sh\nexport PATH=/bin\nb=/bin/busybox\n$b mkdir -p /proc /sys /dev /new\n$b mount -t proc proc /proc\n$b mount -t sysfs sysfs /sys\n$b mount -t devtmpfs dev /dev\n"+
		"for m in virtio_pci virtio_scsi sd_mod ext4; do $b modprobe $m; done\nwhile ! [ -b /dev/sda1 ]; do $b sleep 0.1; done\n$b mount /dev/sda1 /new && exec $b switch_root /new /sbin/init\n", 0o755)
	image := l.image(t, "s.img", append(l.busyboxFiles(t), "-azprov", "", "-modules", l.modules, "-file", start+":/init")...)
	b := l.boot(t, "", "-initrd", image, "-disk", disk, "-keep", "-memory", "512", "-cpus", "2")
	b.expect(t, "Ready acknowledged")
	if out := b.ssh(t, l, "id -un; hostname; systemctl is-active azprov.service"); out != l.user+"\nedge-7\nactive\n" {
		t.Errorf("login: %s", out)
	}
}

// A root of busybox alone, found in every way that root= can name it.
func TestRootNames(t *testing.T) {
	l := newLab(t, "mkfs.ext4", "sfdisk")
	tree := t.TempDir()
	for _, dir := range []string{"bin", "sbin", "dev", "proc", "sys", "run", "etc", "var", "tmp"} {
		if err := os.Mkdir(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox := strings.TrimSpace(must(t, "sh", "-c", "command -v busybox"))
	must(t, "cp", busybox, filepath.Join(tree, "bin/busybox"))
	if err := os.WriteFile(filepath.Join(tree, "sbin/init"), []byte("#!/bin/busybox sh\necho \"init of the root: $0 $*\"\n"+
		"/bin/busybox grep ' / ' /proc/mounts\n/bin/busybox cat /etc/hostname\n/bin/busybox poweroff -f\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	disk, uuid, partUUID := l.rootDisk(t, tree, "tiny")
	image := l.image(t, "r.img", "-modules", l.modules, "-without", "udf,isofs")
	for _, root := range []string{"UUID=" + strings.ToUpper(uuid) + " rw", "LABEL=tiny ro", "PARTUUID=" + partUUID + " rw single", "/dev/sda1 ro rootfstype=xfs,ext4 rootflags=noatime", "8:1 rw"} {
		t.Run(strings.ReplaceAll(root, "/", "_"), func(t *testing.T) {
			b := l.boot(t, "root="+root, "-initrd", image, "-disk", disk, "-keep")
			b.expect(t, "init of the root: /sbin/init", "edge-7", "Power down")
			b.end(t)
			mode := strings.Fields(root)[1]
			if !strings.Contains(b.console(), " / ext4 "+mode+",") {
				t.Errorf("the root is not mounted %s", mode)
			}
			if strings.Contains(root, "noatime") && !strings.Contains(b.console(), " / ext4 ro,noatime") {
				t.Error("rootflags= are lost")
			}
			if strings.HasSuffix(root, "single") && !strings.Contains(b.console(), "/sbin/init single") {
				t.Error("the word for init is lost")
			}
		})
	}
}
