package vmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Debian that was provisioned as one VM is prepared; booted as another VM it
// provisions as new.
func TestPreparedImageBoots(t *testing.T) {
	l := newLab(t, "debootstrap", "mkfs.ext4", "sfdisk")
	debian := strings.TrimSpace(must(t, "../scripts/debianroot", "../build/debian-root"))
	box := t.TempDir()
	root := filepath.Join(box, "root")
	must(t, "cp", "-a", debian, root)
	first := l.write(t, "first.json", `{"hostname":"first-vm","user":"firstuser","password":"Not-in-the-1mage","sshKeys":[{"value":"`+l.key+`"}]}`, 0o600)
	must(t, l.azuresim, "sandbox", "-dir", box, "-vm", first, "-bind", l.azprov+":/opt/azprov", "--",
		"sh", "-c", "/opt/azprov && id firstuser && dd if=/dev/urandom of=/var/lib/systemd/random-seed bs=512 count=1 2>/dev/null && echo 0123456789abcdef0123456789abcdef > /etc/machine-id")
	must(t, l.azprov, "prepare", "-root", root, "-user", "firstuser")
	for _, gone := range []string{"etc/ssh/ssh_host_ed25519_key", "home/firstuser", "var/lib/azprov/instance", "var/lib/systemd/random-seed", "etc/ssh/sshd_config.d/10-azprov.conf"} {
		if _, err := os.Lstat(filepath.Join(root, gone)); err == nil {
			t.Errorf("%s is left", gone)
		}
	}
	disk, _, _ := l.rootDisk(t, root, "rootfs")
	image := l.image(t, "p.img", "-modules", l.modules, "-without", "udf,isofs")
	b := l.boot(t, "root=PARTLABEL=rootfs rw rootwait", "-initrd", image, "-disk", disk, "-keep", "-memory", "512", "-cpus", "2")
	b.expect(t, "Ready acknowledged", "executing /sbin/init of PARTLABEL=rootfs")
	out := b.ssh(t, l, "id -un; hostname; cat /proc/1/comm; ls /home /etc/ssh; stat -c %s /etc/machine-id; cat /etc/machine-id; systemctl is-system-running --wait; true")
	for _, want := range []string{l.user + "\nedge-7\nsystemd\n", "ssh_host_ed25519_key.pub", "\n33\n", "\nrunning\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "firstuser") || strings.Contains(out, "0123456789abcdef0123456789abcdef") {
		t.Errorf("of the first VM:\n%s", out)
	}
	if states := b.health(t); len(states) != 1 || states[0].State != "Ready" {
		t.Errorf("reported: %v", states)
	}
}
