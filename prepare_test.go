package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"azprov/sim"
)

var hashes sync.Map

// treeManifest lists a tree: path to type, mode, owner, size and hash, or link target.
func treeManifest(t *testing.T, root string) map[string]string {
	t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		s := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			// What has the same times of change is read once.
			key := [4]uint64{st.Dev, st.Ino, uint64(st.Ctim.Nano()), uint64(st.Size)}
			sum, known := hashes.Load(key)
			if !known {
				data, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				sum = sha256.Sum256(data)
				hashes.Store(key, sum)
			}
			s += fmt.Sprintf(" %d %.4x", st.Size, sum)
		case info.Mode()&os.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			s += " -> " + target
		}
		list[strings.TrimPrefix(p, root)] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// differences lists what two manifests do not share, as "- path", "+ path" and
// "* path", without what is below a path that is listed itself.
func differences(before, after map[string]string) []string {
	var list []string
	for p, s := range before {
		if after[p] == "" {
			list = append(list, "- "+p)
		} else if after[p] != s {
			list = append(list, "* "+p)
		}
	}
	for p := range after {
		if before[p] == "" {
			list = append(list, "+ "+p)
		}
	}
	slices.Sort(list)
	var top []string
	for _, d := range list {
		if !slices.ContainsFunc(top, func(s string) bool { return s[0] == d[0] && strings.HasPrefix(d, s+"/") }) {
			top = append(top, d)
		}
	}
	return top
}

func expectDifferences(t *testing.T, what string, before, after map[string]string, want ...string) {
	t.Helper()
	got := differences(before, after)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	for _, d := range got {
		if d[0] == '*' {
			t.Logf("%s: %s: %s, then %s", what, d[2:], before[d[2:]], after[d[2:]])
		}
	}
}

// runPrepare runs the command in this process and returns what it printed.
func runPrepare(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out, complaints bytes.Buffer
	if got := run(append(args, "prepare"), &out, &complaints, time.Now()); got != code {
		t.Fatalf("azprov %v prepare: exit code %d, want %d: %s", args, got, code, complaints.String())
	}
	return out.String()
}

// prepared prepares a root, checks that the dry run has changed nothing and has
// said all, and that a second run has nothing to do.
func prepared(t *testing.T, root string, flags ...string) {
	t.Helper()
	flags = append([]string{"-root", root}, flags...)
	before := treeManifest(t, root)
	text := runPrepare(t, exitOK, append(flags, "-n")...)
	expectDifferences(t, "a dry run", before, treeManifest(t, root))
	patched := patchedBy(t, root, text)
	runPrepare(t, exitOK, flags...)
	after := treeManifest(t, root)
	for _, d := range differences(before, after) {
		if d == "- /var/lib/azprov/lock" || d == "+ /etc/.pwd.lock" { // locks while it ran
			continue
		}
		if !strings.Contains(text, " "+d[2:]+":") && !strings.Contains(text, " "+d[2:]+" with ") {
			t.Errorf("the dry run did not tell of %s\n%s", d, text)
		}
	}
	for p, data := range patched {
		got, err := os.ReadFile(filepath.Join(root, p))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s is not what patch makes of the dry run's diff: %v\n%s", p, err, unifiedDiff(p, data, got))
		}
	}
	if again := runPrepare(t, exitOK, append(flags, "-n")...); again != "" {
		t.Errorf("there is more to do:\n%s", again)
	}
	runPrepare(t, exitOK, flags...)
	expectDifferences(t, "a second run", after, treeManifest(t, root))
}

// patchedBy lets patch(1) make the edits of a diff to copies of the files, and
// returns the results. Those of account files, which show no hash, are left out.
func patchedBy(t *testing.T, root, diff string) map[string][]byte {
	t.Helper()
	need(t, "patch")
	dir := t.TempDir()
	result := map[string][]byte{}
	for line := range strings.Lines(diff) {
		p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "--- a")
		if !ok || strings.Contains(p, "shadow") || strings.HasPrefix(p, "/etc/passwd") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			t.Fatal(err)
		}
		writeTree(t, dir, map[string]string{p[1:]: string(data)})
		result[p] = nil
	}
	var wanted strings.Builder
	for part := range strings.SplitSeq(diff, "\n--- a") {
		p, _, _ := strings.Cut(part, "\n")
		if _, ok := result[p]; ok {
			wanted.WriteString("--- a" + part + "\n")
		}
	}
	cmd := exec.Command("patch", "-p1", "-d", dir, "--no-backup-if-mismatch", "-E")
	cmd.Stdin = strings.NewReader(wanted.String())
	if len(result) > 0 {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("patch: %v: %s\n%s", err, out, wanted.String())
		}
	}
	for p := range result {
		data, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		result[p] = append([]byte{}, data...)
	}
	return result
}

// copyRoot copies a file, or a tree, with owners, modes and times.
func copyRoot(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-aT", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// debianRoot is a copy of the minimal Debian that scripts/debianroot makes.
func debianRoot(t *testing.T, to string) {
	t.Helper()
	needRoot(t)
	need(t, "debootstrap")
	out, err := exec.Command("scripts/debianroot", "build/debian-root").Output()
	if err != nil {
		t.Fatal(err)
	}
	copyRoot(t, strings.TrimSpace(string(out)), to)
}

// A Debian is provisioned and prepared again: it is the image that it was, but
// for the folders that were made.
func TestPrepareDebian(t *testing.T) {
	b := newBox(t)
	root := filepath.Join(b.dir, "root")
	debianRoot(t, root)
	prepared(t, root)
	image := treeManifest(t, root)

	first := b.run("", "ssh-keygen -A >/dev/null; /opt/azprov; echo ls > /root/.bash_history; cp /etc/machine-id /var/log/app.log.1; echo one > /var/log/app.log; echo b > /etc/machine-id; mkdir -p /var/lib/dhcp; echo x > /var/lib/dhcp/dhclient.eth0.leases; su opsadmin -c 'echo pw > ~/.bash_history; mkdir ~/d; ln -s /etc ~/d/etc; ln -s /root ~/.lesshst'")
	if first.code != 0 {
		t.Fatalf("provisioning: %d\n%s", first.code, first.output)
	}
	provisioned := treeManifest(t, root)
	if len(differences(image, provisioned)) < 15 {
		t.Fatal("provisioning has changed too little to be undone")
	}
	prepared(t, root, "-user", "opsadmin")
	after := treeManifest(t, root)
	expectDifferences(t, "an image that was provisioned and prepared", image, after,
		"* /etc/group-", "* /etc/gshadow-", "* /etc/passwd-", "* /etc/shadow-", // what was there before the account
		"- /etc/resolv.conf", // was debootstrap's, then the lease's
		"+ /etc/hosts", "+ /opt/azprov", "+ /var/lib/azprov", "+ /var/lib/dhcp", "+ /var/lib/hyperv", "+ /var/lib/waagent", "+ /var/log/app.log")
	for p, s := range after {
		if strings.HasPrefix(p, "/var/lib/azprov/") || strings.HasPrefix(p, "/var/lib/waagent/") {
			t.Errorf("left: %s %s", p, s)
		}
	}
	again := b.run("", "/opt/azprov; id -un opsadmin; hostname")
	if again.code != 0 || again.reports() != "Ready" || !strings.Contains(again.output, "opsadmin\nedge-fra-07\n") {
		t.Errorf("the prepared image: %d %s\n%s", again.code, again.reports(), again.output)
	}
}

// A root of busybox alone, without accounts' shadow, sudo or a package manager.
func TestPrepareBusybox(t *testing.T) {
	b := newBox(t)
	need(t, "busybox")
	root := filepath.Join(b.dir, "root")
	writeTree(t, root, map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\nwheel:x:10:root\n", "etc/inittab": "::sysinit:/opt/azprov\n",
		"etc/hostname": "box\n", "proc/": "", "sys/": "", "dev/": "", "run/": "", "tmp/": "", "root/": "", "var/log/messages": "old\n", "var/log/messages.0": "older\n",
		"boot/syslinux.cfg": "DEFAULT linux\nLABEL linux\n  KERNEL /bzImage\n  APPEND root=/dev/sda1 quiet\n", "var/lib/seedrng/seed.credit": "seed", "sbin/": ""})
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyRoot(t, busybox, filepath.Join(root, "bin/busybox"))
	for _, name := range []string{"sh", "id", "hostname", "echo", "cat"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	before := treeManifest(t, root)
	if o := b.run("", "/opt/azprov"); o.code != 0 {
		t.Fatalf("provisioning: %d\n%s", o.code, o.output)
	}
	prepared(t, root, "-user", "opsadmin")
	expectDifferences(t, "prepared", before, treeManifest(t, root),
		"* /boot/syslinux.cfg", "* /etc/hostname", "* /var/log/messages", "- /var/log/messages.0", "- /var/lib/seedrng/seed.credit",
		"+ /etc/.pwd.lock", "+ /etc/hosts", "+ /home", "+ /opt", "+ /var/lib/azprov", "+ /var/lib/hyperv", "+ /var/lib/waagent")
	if data, _ := os.ReadFile(filepath.Join(root, "boot/syslinux.cfg")); !strings.Contains(string(data), "APPEND root=/dev/sda1 console=tty1 console=ttyS0,115200n8 rootwait\n") {
		t.Errorf("%s", data)
	}
	if o := b.run("", "/opt/azprov; id -un opsadmin; hostname"); o.code != 0 || !strings.Contains(o.output, "opsadmin\nedge-fra-07\n") {
		t.Errorf("the prepared image: %d\n%s", o.code, o.output)
	}
}

// mountImage makes a file system and mounts it.
func mountImage(t *testing.T, dir string, mkfs ...string) {
	t.Helper()
	need(t, mkfs[0], "mount")
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", mkfs, err, out)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("needs loop devices: %v: %s", err, out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
}

// A Debian whose root is LVM on LUKS, with /boot and the EFI partition of their
// own, mounted below the root as an image builder has them.
func TestPrepareEncryptedLayout(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	debianRoot(t, root)
	mountImage(t, filepath.Join(root, "boot"), "mkfs.ext4", "-q")
	// What matters is that the EFI partition is another file system.
	esp := []string{"mkfs.vfat"}
	if known, _ := os.ReadFile("/proc/filesystems"); !strings.Contains(string(known), "\tvfat\n") {
		esp = []string{"mkfs.ext2", "-q"}
	}
	mountImage(t, filepath.Join(root, "boot/efi"), esp...)
	mountImage(t, filepath.Join(root, "home/old/data"), "mkfs.ext4", "-q")
	c := readBootCase(t, "testdata/bootloader/debian-luks-lvm.txt")
	files := map[string]string{"etc/crypttab": "cryptroot UUID=0a1b2c3d-4e5f none luks,discard\n",
		"etc/fstab": "/dev/mapper/vg-root / ext4 errors=remount-ro 0 1\nUUID=77 /boot ext4 defaults 0 2\nUUID=AB-CD /boot/efi vfat umask=0077 0 1\n" +
			"/dev/disk/cloud/azure_resource-part1\t/mnt\tauto\tdefaults,nofail,x-systemd.after=cloud-init.service,_netdev,comment=cloudconfig\t0\t2\n",
		"boot/efi/EFI/debian/grub.cfg":   "search.fs_uuid 77 root cryptouuid/0a1b2c3d4e5f \nset prefix=($root)'/grub'\nconfigfile $prefix/grub.cfg\n",
		"boot/efi/loader/random-seed":    "0123456789abcdef0123456789abcdef",
		"boot/efi/loader/entries/a.conf": "title a\r\nlinux /vmlinuz-6.1.0-28-amd64\r\ninitrd /initrd.img-6.1.0-28-amd64\r\noptions root=/dev/mapper/vg-root quiet\r\n",
		"etc/lvm/lvm.conf":               "devices {\n}\n"}
	for p, text := range c.files {
		files[p[1:]] = text
	}
	writeTree(t, root, files)
	passwd, err := os.OpenFile(filepath.Join(root, "etc/passwd"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := passwd.WriteString("old:x:1500:1500::/home/old:/bin/sh\n"); err != nil {
		t.Fatal(err)
	}
	passwd.Close()
	if err := os.Chown(filepath.Join(root, "home/old"), 1500, 1500); err != nil {
		t.Fatal(err)
	}
	before := treeManifest(t, root)
	prepared(t, root, "-user", "old") // whose home has another file system in it
	expectDifferences(t, "prepared", before, treeManifest(t, root), "* /etc/passwd",
		"* /boot/efi/loader/entries/a.conf", "* /boot/grub/grub.cfg", "* /etc/default/grub", "* /etc/fstab", "* /etc/hostname", "* /etc/machine-id",
		"* /var/log/alternatives.log", "* /var/log/bootstrap.log", "* /var/log/dpkg.log", "- /boot/efi/loader/random-seed",
		"- /etc/ssh/ssh_host_ecdsa_key", "- /etc/ssh/ssh_host_ecdsa_key.pub", "- /etc/ssh/ssh_host_ed25519_key", "- /etc/ssh/ssh_host_ed25519_key.pub",
		"- /etc/ssh/ssh_host_rsa_key", "- /etc/ssh/ssh_host_rsa_key.pub", "- /var/lib/dbus/machine-id")
	for p, want := range map[string]string{"/boot/grub/grub.cfg": c.want["/boot/grub/grub.cfg"], "/etc/default/grub": c.want["/etc/default/grub"],
		"/boot/efi/loader/entries/a.conf": strings.Replace(files["boot/efi/loader/entries/a.conf"], "quiet", "console=tty1 console=ttyS0,115200n8 rootdelay=300", 1),
		"/etc/fstab":                      strings.Join(strings.SplitAfter(files["etc/fstab"], "\n")[:3], "")} {
		if got, _ := os.ReadFile(filepath.Join(root, p)); string(got) != want {
			t.Errorf("%s\n%s", p, unifiedDiff(p, []byte(want), got))
		}
	}
}

// agentsRun provisions as cloud-init does, then as the Linux agent does that
// waits for it: its 2.7.3 gives up at this platform's goal state, after it has
// made its transport keys. What it leaves when it is done is laid down.
const agentsRun = `printf "datasource_list: [ Azure ]\n" > /etc/cloud/cloud.cfg.d/95-azure.cfg
for stage in "init --local" init "modules --mode=config" "modules --mode=final"; do cloud-init $stage; done >/dev/null 2>&1
dhclient -1 eth0
cp /opt/ovf-env.xml /var/lib/waagent/
waagent -daemon >/dev/null 2>&1 &
for i in $(seq 300); do [ -s /var/lib/waagent/TransportPrivate.pem ] && grep -q 'retry=2' /var/log/waagent.log && break; sleep 0.1; done
kill $!
printf 91267C52-9F02-4CFE-B1F4-A4DA7EBAC2CF > /var/lib/waagent/provisioned
printf "opsadmin ALL=(ALL) NOPASSWD: ALL\n" > /etc/sudoers.d/waagent
mkdir -p /var/log/azure/run-command && echo x > /var/log/azure/run-command/log
printf "/dev/disk/cloud/azure_resource-part1\t/mnt\tauto\tdefaults,nofail,x-systemd.requires=cloud-init.service,_netdev,comment=cloudconfig\t0\t2\n" >> /etc/fstab
cat /var/lib/cloud/data/status.json; ls /var/lib/waagent; id -un opsadmin`

// A Debian on which cloud-init and the Linux agent have run against the
// simulated platform.
func TestPrepareOtherAgents(t *testing.T) {
	b := newBox(t)
	b.vm["password"], b.vm["disablePasswordAuthentication"] = "", true
	need(t, "debootstrap", "dpkg", "depmod")
	root := filepath.Join(b.dir, "root")
	debian, err := exec.Command("scripts/debianroot", "build/debian-root").Output()
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := exec.Command("scripts/cloudkernel", "build/cloudkernel").Output()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := exec.Command("scripts/debiantree", "cloud-init waagent sudo isc-dhcp-client iproute2", strings.TrimSpace(string(debian)), strings.TrimSpace(string(kernel)), "build/debian-agents").Output()
	if err != nil {
		t.Fatal(err)
	}
	copyRoot(t, strings.TrimSpace(string(tree)), root)
	writeTree(t, root, map[string]string{"etc/fstab": "", "opt/ovf-env.xml": "", "etc/cloud/cloud.cfg.d/95-azure.cfg": "", "opt/azprov": ""})
	runPrepare(t, exitOK, "-root", root)
	image := treeManifest(t, root)

	vm, err := json.Marshal(b.vm)
	if err != nil {
		t.Fatal(err)
	}
	writeTree(t, b.dir, map[string]string{"description.json": string(vm)})
	vms, err := sim.LoadVMs(b.dir + "/description.json")
	if err != nil {
		t.Fatal(err)
	}
	writeTree(t, root, map[string]string{"opt/ovf-env.xml": string(vms[0].OVF())})
	o := b.run("", agentsRun)
	if o.code != 0 || !strings.Contains(o.output, "DataSourceAzure") || !strings.Contains(o.output, "TransportPrivate.pem") || !strings.Contains(o.output, "\nopsadmin") {
		t.Fatalf("the agents: %d\n%s", o.code, o.output)
	}
	findings := runCheck(t, exitFailed, "-root", root)
	for _, want := range []string{"provisioner cloud-init", "provisioner waagent", "SSH host key", "state of cloud-init", "state of the Linux agent", "account opsadmin"} {
		if !strings.Contains(findings, want) {
			t.Errorf("check does not tell of %s\n%s", want, findings)
		}
	}
	prepared(t, root, "-user", "opsadmin")
	after := treeManifest(t, root)
	expectDifferences(t, "prepared", image, after,
		"* /etc/cloud/cloud.cfg.d/95-azure.cfg", "* /opt/ovf-env.xml", // the test's own
		"* /etc/group", "* /etc/gshadow", "* /etc/group-", "* /etc/gshadow-", "* /etc/passwd-", "* /etc/shadow-", "+ /etc/subgid-", "+ /etc/subuid-", // a group netdev of cloud-init's, and what was before
		"* /etc/hostname", "* /etc/sudoers.d", // cloud-init's mode
		"* /var/cache/debconf/config.dat", "* /var/cache/debconf/config.dat-old", "* /var/cache/debconf/templates.dat", "* /var/cache/debconf/templates.dat-old", // locales
		"+ /var/lib/cloud", "+ /var/log/azure")
	for p := range after {
		if strings.HasPrefix(p, "/var/lib/cloud/") && !strings.HasPrefix(p, "/var/lib/cloud/scripts") && p != "/var/lib/cloud/seed" || strings.HasPrefix(p, "/var/log/azure/") || strings.HasPrefix(p, "/var/lib/waagent/") {
			t.Errorf("%s is left", p)
		}
	}
	if hosts, _ := os.ReadFile(filepath.Join(root, "etc/group")); !strings.Contains(string(hosts), "netdev:") || strings.Contains(string(hosts), "opsadmin") {
		t.Errorf("group: %s", hosts)
	}
}
