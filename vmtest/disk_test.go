package vmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The resource disk of a VM through three boots: new, kept, and replaced as after a
// move to another host. It is set up from the initramfs, and has to be there after
// the switch to the real root.
func TestResourceDisk(t *testing.T) {
	l := newLab(t, "mkfs.ext4", "sfdisk", "mkntfs", "ntfs-3g")
	tree := filepath.Join(l.dir, "tree")
	for _, dir := range []string{"bin", "sbin", "etc", "proc", "sys", "dev", "run", "tmp", "mnt", "var/lib", "home", "root"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "cp", strings.TrimSpace(must(t, "sh", "-c", "command -v busybox")), filepath.Join(tree, "bin/busybox"))
	init := "#!/bin/busybox sh\nexport PATH=/bin\nbusybox grep resource /proc/mounts\nbusybox cat /proc/swaps\nbusybox ls /mnt/resource | busybox sed 's/^/holds /'\n" +
		"busybox cat /mnt/resource/kept\necho written by this VM >/mnt/resource/kept\nbusybox swapoff /mnt/resource/swapfile\nbusybox umount /mnt/resource && busybox poweroff -f\n"
	if err := os.WriteFile(filepath.Join(tree, "sbin/init"), []byte(init), 0o755); err != nil {
		t.Fatal(err)
	}
	disk, _, _ := l.rootDisk(t, tree, "tiny")
	image := l.image(t, "d.img", "-modules", l.modules, "-without", "udf,isofs")
	resource := filepath.Join(l.dir, "resource.img")
	must(t, "truncate", "-s", "2G", resource)
	boot := func() *booted {
		return l.boot(t, "root=LABEL=tiny rw azprov.swap=64M", "-initrd", image, "-disk", disk, "-resource-disk", resource, "-keep")
	}
	mounted := []string{"/dev/vda1 /mnt/resource ext4 rw", "/mnt/resource/swapfile", "holds DATALOSS_WARNING_README.txt", "holds swapfile", "Power down"}

	b := boot()
	b.expect(t, append([]string{"formatted: it is empty, swap 64 MiB", "Ready acknowledged"}, mounted...)...)
	b.end(t)

	// The VM's own state says that there is nothing to provision; Azure has nothing to hear.
	must(t, "sh", "-c", "sfdisk --verify "+resource)
	b = boot()
	b.expect(t, append([]string{"/dev/vda1, 2 GiB, on /mnt/resource, swap 64 MiB"}, mounted...)...)
	b.end(t)
	if text := b.console(); strings.Contains(text, "formatted") || !strings.Contains(text, "written by this VM") {
		t.Error("the file of the first boot is gone")
	}

	// Another host: a fresh disk as Azure delivers it.
	if err := os.Remove(resource); err != nil {
		t.Fatal(err)
	}
	must(t, "truncate", "-s", "2G", resource)
	part, dir := filepath.Join(l.dir, "ntfs"), t.TempDir()
	must(t, "truncate", "-s", "2046M", part)
	must(t, "mkntfs", "-F", "-Q", "-q", "-L", "Temporary Storage", part)
	must(t, "ntfs-3g", part, dir)
	must(t, "sh", "-c", "mkdir '"+dir+"/System Volume Information' && echo lost >"+dir+"/DATALOSS_WARNING_README.txt; umount "+dir)
	must(t, "sh", "-c", "printf 'label: dos\\nstart=2048,type=7\\n' | sfdisk -q "+resource)
	must(t, "dd", "if="+part, "of="+resource, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
	b = boot()
	b.expect(t, append([]string{"formatted: its one partition is Azure's NTFS", "swap 64 MiB"}, mounted...)...)
	b.end(t)
	if strings.Contains(b.console(), "written by this VM") {
		t.Error("a file of the old disk")
	}
}
