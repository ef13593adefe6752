package vmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// (d) The images of Debian's own generators with our hook provision a Debian
// root before it takes over.
func TestInitramfsGenerators(t *testing.T) {
	l := newLab(t, "debootstrap", "mkfs.ext4", "sfdisk", "unshare")
	tree := strings.TrimSpace(must(t, "../scripts/debianroot", "../build/debian-root"))
	kernel := filepath.Dir(filepath.Dir(filepath.Dir(l.modules)))
	release := filepath.Base(l.modules)
	disk, _, _ := l.rootDisk(t, tree, "rootfs")
	for _, c := range []struct {
		pkg   string
		files map[string]string // ours by their place in the system
		make  string            // command in the tree that makes /boot/initrd.img
	}{
		{"initramfs-tools-core", map[string]string{"initramfs-tools/hook": "/etc/initramfs-tools/hooks/azprov",
			"initramfs-tools/init-bottom": "/etc/initramfs-tools/scripts/init-bottom/azprov"},
			"mkinitramfs -o /boot/initrd.img " + release},
		{"dracut-core", map[string]string{"dracut/95azprov/module-setup.sh": "/usr/lib/dracut/modules.d/95azprov/module-setup.sh",
			"dracut/95azprov/azprov.sh": "/usr/lib/dracut/modules.d/95azprov/azprov.sh"},
			"dracut --force --no-hostonly --quiet --omit systemd /boot/initrd.img " + release},
		{"dracut-core", map[string]string{"dracut/95azprov/module-setup.sh": "/usr/lib/dracut/modules.d/95azprov/module-setup.sh",
			"dracut/95azprov/azprov.sh": "/usr/lib/dracut/modules.d/95azprov/azprov.sh"},
			"dracut --force --no-hostonly --quiet --add systemd /boot/initrd.img " + release},
	} {
		name := strings.ReplaceAll(strings.Join(strings.Fields(c.make)[:1], "")+map[bool]string{true: " with systemd"}[strings.Contains(c.make, "--add systemd")], " ", "_")
		t.Run(name, func(t *testing.T) {
			system := strings.TrimSpace(must(t, "../scripts/debiantree", c.pkg, tree, kernel, "../build/debian-"+c.pkg))
			put := func(from, to string) {
				to = filepath.Join(system, to)
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					t.Fatal(err)
				}
				must(t, "install", "-m", "0755", from, to)
			}
			put(l.azprov, "/usr/sbin/azprov")
			for from, to := range c.files {
				put("../initramfs/"+from, to)
			}
			// In mount and process namespaces of its own: /proc and /dev of the
			// tree go with the command.
			must(t, "unshare", "--mount", "--pid", "--fork", "sh", "-c", "mount -t proc proc "+system+"/proc && mount -t tmpfs tmpfs "+system+
				"/dev && mknod -m 666 "+system+"/dev/null c 1 3 && ln -s /proc/self/fd "+system+"/dev/fd && exec chroot "+system+" "+c.make)
			image := filepath.Join(l.dir, name+".img")
			must(t, "cp", filepath.Join(system, "boot/initrd.img"), image)
			copyOfDisk := filepath.Join(l.dir, name+".disk")
			must(t, "cp", "--sparse=always", disk, copyOfDisk)
			b := l.boot(t, "root=LABEL=rootfs rw", "-initrd", image, "-disk", copyOfDisk, "-keep", "-memory", "768", "-cpus", "2")
			b.expect(t, "Ready acknowledged")
			if out := b.ssh(t, l, "id -un; hostname; cat /proc/1/comm"); out != l.user+"\nedge-7\nsystemd\n" {
				t.Errorf("login: %s", out)
			}
		})
	}
}
