package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runCheck runs azprov check and returns the lines that are not "ok".
func runCheck(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out, complaints bytes.Buffer
	if got := run(append([]string{"check"}, args...), &out, &complaints, time.Now()); got != code {
		t.Errorf("azprov check %v: exit code %d, want %d\n%s%s", args, got, code, out.String(), complaints.String())
	}
	var bad strings.Builder
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "ok ") {
			bad.WriteString(line)
		}
	}
	return bad.String()
}

// golden compares with testdata/check/NAME; -update writes it anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata/check", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s\n%s", name, unifiedDiff("/"+name, want, []byte(got)))
	}
}

// cloudImage is a root with Debian's cloud kernel, its modules, and an initramfs
// with azprov; nothing is lacking. The release in texts is replaced by REL.
func cloudImage(t *testing.T) (root, release string) {
	t.Helper()
	needRoot(t)
	need(t, "depmod", "dpkg", "apt-get")
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("scripts/cloudkernel", "build/cloudkernel").Output()
	if err != nil {
		t.Fatal(err)
	}
	root = filepath.Join(t.TempDir(), "root")
	copyRoot(t, strings.TrimSpace(string(out)), root)
	found, _ := filepath.Glob(root + "/lib/modules/*")
	if len(found) != 1 {
		t.Fatalf("%d kernels", len(found))
	}
	release = filepath.Base(found[0])
	if out, err := exec.Command("depmod", "-b", root, release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v %s", err, out)
	}
	if out, err := exec.Command(bin+"/mkinitramfs", "-azprov", bin+"/azprov", "-modules", found[0], "-compress", "gzip", "-o", root+"/boot/initrd.img-"+release).CombinedOutput(); err != nil {
		t.Fatalf("mkinitramfs: %v %s", err, out)
	}
	writeTree(t, root, map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/shadow": "root:*:1::::::\n", "etc/machine-id": "", "etc/hostname": "localhost\n", "bin/sh": elf(62),
		"etc/fstab": "LABEL=root / ext4 defaults 0 1\n", "etc/default/grub": "GRUB_CMDLINE_LINUX=\"console=ttyS0 rootdelay=300\"\n", "usr/sbin/sshd": ""})
	if err := os.Chmod(root+"/usr/sbin/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	return root, release
}

func TestCheckImages(t *testing.T) {
	root, release := cloudImage(t)
	check := func(name string, code int, args ...string) {
		t.Helper()
		golden(t, name, strings.ReplaceAll(runCheck(t, code, append(args, "-root", root)...), release, "REL"))
	}
	check("cloud-kernel", exitOK)
	var out bytes.Buffer
	run([]string{"check", "-json", "-root", root}, &out, io.Discard, time.Now())
	var report struct {
		Fit      bool
		Findings []struct{ Check, Result, Found, Cost string }
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || !report.Fit || len(report.Findings) < 30 {
		t.Errorf("%v %s", err, out.String())
	}
	if strings.Contains(strings.ToUpper(out.String()), "UDF") {
		t.Error("the check talks of UDF, which the kernel need not have")
	}

	// Another initramfs, without the drivers; then one that can't be opened.
	initrd := root + "/boot/initrd.img-" + release
	whole, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"initramfs-without-drivers": append(cpio("bin/sh", "x"), gzipped(t, 6, cpio("bin/azprov", "x"))...), "initramfs-zstd": []byte("\x28\xb5\x2f\xfd packed")} {
		if err := os.WriteFile(initrd, data, 0o644); err != nil {
			t.Fatal(err)
		}
		code := exitFailed
		if name == "initramfs-zstd" {
			writeTree(t, root, map[string]string{"etc/init.d/rcS": "#!/bin/sh\n/sbin/azprov\n"})
			code = exitOK
		}
		check(name, code)
	}
	if err := os.WriteFile(initrd, whole, 0o644); err != nil {
		t.Fatal(err)
	}

	// Modules are gone: one whose index is as it was, one with its line.
	for _, pattern := range []string{"hv_netvsc.ko", "mana.ko", "sr_mod.ko"} {
		err := filepath.WalkDir(root+"/lib/modules", func(p string, _ os.DirEntry, err error) error {
			if filepath.Base(p) == pattern {
				err = errors.Join(err, os.Remove(p))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	check("modules-listed", exitFailed)
	if out, err := exec.Command("depmod", "-b", root, release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v %s", err, out)
	}
	check("modules-removed", exitFailed)
	if err := os.Remove(root + "/lib/modules/" + release + "/modules.dep"); err != nil {
		t.Fatal(err)
	}
	check("modules-without-index", exitFailed)
}

// cpio is a newc archive with one file.
func cpio(name, content string) []byte {
	var b bytes.Buffer
	entry := func(name, content string) {
		pad := func() {
			for b.Len()%4 != 0 {
				b.WriteByte(0)
			}
		}
		b.WriteString("070701")
		for _, n := range []int{1, 0o100755, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0} {
			b.WriteString(strings.ToUpper(string([]byte("00000000" + hexa(n))[len(hexa(n)):])))
		}
		b.WriteString(name + "\x00")
		pad()
		b.WriteString(content)
		pad()
	}
	entry(name, content)
	entry("TRAILER!!!", "")
	return b.Bytes()
}

func hexa(n int) string {
	const digits = "0123456789abcdef"
	s := ""
	for ; n > 0; n /= 16 {
		s = digits[n%16:n%16+1] + s
	}
	return s
}

func TestCheckKernelConfigs(t *testing.T) {
	dir := t.TempDir()
	config := "#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 6.6.30 Kernel Configuration\n#\n"
	for _, name := range strings.Fields("ACPI BLK_DEV_SD INET PACKET UNIX EPOLL EVENTFD FUTEX PROC_FS SYSFS TMPFS DEVTMPFS DMI EXT4_FS SERIAL_8250_CONSOLE HYPERV_UTILS PCI_HYPERV BINFMT_SCRIPT PTP_1588_CLOCK") {
		config += "CONFIG_" + name + "=y\n"
	}
	config += "# CONFIG_HYPERV is not set\nCONFIG_HYPERV_STORAGE=m\nCONFIG_BLK_DEV_SR=m\n"
	arm := strings.Replace(strings.Replace(config, "Linux/x86", "Linux/arm64", 1), "SERIAL_8250", "SERIAL_AMBA_PL011", 1)
	packed := gzipped(t, 9, []byte(config))
	// A bzImage whose kernel is packed with gzip and holds its configuration.
	kernel := append(append([]byte("code of the kernel IKCFG_"), make([]byte, 30000)...), append([]byte("IKCFG_ST"), packed...)...)
	kernel = append(kernel, "IKCFG_ED and more"...)
	setup := make([]byte, 2*512)
	copy(setup[0x1f1:], "\x01")
	copy(setup[0x202:], "HdrS\x0f\x02")
	le.PutUint32(setup[0x248:], 64)
	bzImage := append(append(setup, make([]byte, 64)...), gzipped(t, 6, kernel)...)
	zboot := append([]byte("MZ\x00\x00zimg\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00gzip\x00"), make([]byte, 35)...)
	zboot = append(zboot, gzipped(t, 6, kernel)...)
	files := map[string]string{"config": config, "config-arm64": arm, "config.gz": string(packed), "bzImage": string(bzImage), "zboot": string(zboot), "vmlinux": "\x7fELF" + string(kernel), "Image.gz": string(gzipped(t, 1, kernel)),
		"vmlinuz-6.1-xz": string(setup) + strings.Repeat("\x00", 64) + "\xfd7zXZ\x00", "without": "\x7fELF" + strings.Repeat("kernel", 9000), "short": string(bzImage[:1500]), "empty": ""}
	writeTree(t, dir, files)
	want := runCheck(t, exitFailed, "-config", dir+"/config")
	golden(t, "hyperv-n", want)
	if got := runCheck(t, exitFailed, "-config", dir+"/config-arm64"); got != want {
		t.Errorf("arm64: %s", got)
	}
	for _, args := range [][]string{{"-config", dir + "/config.gz"}, {"-kernel", dir + "/bzImage"}, {"-kernel", dir + "/zboot"}, {"-kernel", dir + "/vmlinux"}, {"-kernel", dir + "/Image.gz"}} {
		if got := runCheck(t, exitFailed, args...); got != want {
			t.Errorf("%v\n%s", args, unifiedDiff("/", []byte(want), []byte(got)))
		}
	}
	for file, text := range map[string]string{"vmlinuz-6.1-xz": "packed with xz", "without": "CONFIG_IKCONFIG", "short": "broken gzip data", "empty": "CONFIG_IKCONFIG", "missing": "no such file"} {
		if got := runCheck(t, exitFailed, "-kernel", dir+"/"+file); !strings.Contains(got, text) || !strings.Contains(got, "can't be judged") {
			t.Errorf("%s: %s", file, got)
		}
	}
}

// An image of a Debian whose cloud-init and Linux agent are enabled, with
// passwords, keys and state in it.
func TestCheckOtherProvisioners(t *testing.T) {
	root := imageRoot(t)
	writeTree(t, root, map[string]string{"lib/systemd/system/cloud-init.service": "[Unit]\n", "etc/waagent.conf": "Provisioning.Agent=auto\n", "etc/ssh/ssh_host_rsa_key": "x", "etc/default/grub": "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n",
		"bin/sh": elf(62), "etc/azprov.conf": "hostname.wait = soon\n", "var/log/syslog": "x\n"})
	for name, target := range map[string]string{"etc/systemd/system/cloud-init.target.wants/cloud-init.service": "/lib/systemd/system/cloud-init.service", "etc/systemd/system/multi-user.target.wants/walinuxagent.service": "/lib/systemd/system/walinuxagent.service"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755), os.Symlink(target, filepath.Join(root, name))); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "cloud-init", runCheck(t, exitFailed, "-root", root))
	// Each way to switch them off that the check names.
	writeTree(t, root, map[string]string{"etc/cloud/cloud-init.disabled": "", "etc/waagent.conf": "# Provisioning.Agent=auto\nProvisioning.Agent=disabled\n"})
	if got := runCheck(t, exitFailed, "-root", root); strings.Contains(got, "provisioner ") {
		t.Errorf("switched off: %s", got)
	}
	writeTree(t, root, map[string]string{"etc/waagent.conf": "Provisioning.Agent=auto\n"})
	if err := errors.Join(os.Remove(filepath.Join(root, "etc/cloud/cloud-init.disabled")), os.Symlink("/dev/null", filepath.Join(root, "etc/systemd/system/walinuxagent.service"))); err != nil {
		t.Fatal(err)
	}
	if got := runCheck(t, exitFailed, "-root", root); strings.Contains(got, "provisioner waagent") || !strings.Contains(got, "provisioner cloud-init") {
		t.Errorf("masked: %s", got)
	}
}

// Whatever an initramfs holds, reading it ends, in bounds.
func FuzzInitramfs(f *testing.F) {
	f.Add(cpio("lib/modules/x.ko", "module"))
	f.Add(append(cpio("kernel/x86/microcode/a.bin", "code"), gzipped(f, 6, cpio("sbin/azprov", "x"))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = initramfsNames(bytes.NewReader(data), func(string) {})
		_, _ = readKernelConfig(bytes.NewReader(data))
	})
}
