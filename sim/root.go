package sim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// systemDirs are the host's directories that a guest sees read-only. Links, as
// on hosts with a merged /usr, are made anew.
var systemDirs = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// configuration is what the guest's /etc takes over from the host's, where it is
// there: what makes accounts, logins and programs work, and nothing of the host's
// identity.
var configuration = []string{"login.defs", "default/useradd", "skel", "sudoers", "pam.d", "pam.conf", "security", "nsswitch.conf", "ld.so.cache", "ld.so.conf",
	"ld.so.conf.d", "alternatives", "shells", "profile", "bash.bashrc", "environment", "ssh/sshd_config", "ssh/ssh_config", "ssh/moduli", "default/dropbear", "ssl/openssl.cnf",
	"protocols", "services", "host.conf", "gai.conf", "debian_version", "os-release"}

// makeRoot makes the guest's own part of a root directory: a small generalized
// image. One that exists is used as it is.
func makeRoot(root string) error {
	if _, err := os.Lstat(filepath.Join(root, "etc/passwd")); err == nil {
		return nil
	}
	for _, dir := range []string{"etc/default", "etc/ssh", "etc/ssl", "etc/sudoers.d", "home", "root", "var/lib", "var/log", "var/tmp", "var/spool", "run", "tmp", "srv", "opt", "mnt", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for dir, mode := range map[string]os.FileMode{"root": 0o700, "tmp": 0o777 | os.ModeSticky, "var/tmp": 0o777 | os.ModeSticky, "etc/sudoers.d": 0o750} {
		if err := os.Chmod(filepath.Join(root, dir), mode); err != nil {
			return err
		}
	}
	for _, dir := range systemDirs {
		host := "/" + dir
		info, err := os.Lstat(host)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink != 0 {
			err = copyFile(host, filepath.Join(root, dir))
		} else {
			err = os.MkdirAll(filepath.Join(root, dir), 0o755)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range configuration {
		if err := copyTree(filepath.Join("/etc", name), filepath.Join(root, "etc", name)); err != nil {
			return err
		}
	}
	return makeAccounts(filepath.Join(root, "etc"))
}

func copyTree(from, to string) error {
	info, err := os.Stat(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return copyFile(from, to)
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		return copyFile(path, target)
	})
}

// makeAccounts copies the host's system accounts, without its people and
// passwords.
func makeAccounts(etc string) error {
	for name, mode := range map[string]os.FileMode{"passwd": 0o644, "group": 0o644, "shadow": 0o640, "gshadow": 0o640} {
		data, err := os.ReadFile(filepath.Join("/etc", name))
		if err != nil && name == "passwd" {
			data = []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
		}
		if err != nil && name == "group" {
			data = []byte("root:x:0:\nsudo:x:27:\nnogroup:x:65534:\n")
		}
		var b strings.Builder
		people := peopleOf()
		for line := range strings.Lines(string(data)) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
			if len(f) < 2 || people[f[0]] {
				continue
			}
			switch name {
			case "shadow":
				if f[1] != "!" && f[1] != "!*" {
					f[1] = "*"
				}
			case "group", "gshadow":
				f[len(f)-1] = ""
			}
			b.WriteString(strings.Join(f, ":") + "\n")
		}
		if name == "shadow" && b.Len() == 0 {
			b.WriteString("root:*:19000:0:99999:7:::\n")
		}
		if name == "gshadow" && b.Len() == 0 {
			continue
		}
		file := filepath.Join(etc, name)
		if err := os.WriteFile(file, []byte(b.String()), mode); err != nil {
			return err
		}
		if name == "shadow" || name == "gshadow" {
			if gid := groupID("shadow"); gid > 0 {
				if err := os.Chown(file, 0, gid); err != nil {
					return err
				}
			}
		}
	}
	for name, text := range map[string]string{"subuid": "", "subgid": "", "hostname": "generalized\n", "hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// peopleOf returns the names of accounts and groups of people on the host.
func peopleOf() map[string]bool {
	people := map[string]bool{}
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		data, _ := os.ReadFile(name)
		for line := range strings.Lines(string(data)) {
			f := strings.Split(line, ":")
			if len(f) < 3 {
				continue
			}
			if id, err := strconv.Atoi(strings.TrimSpace(f[2])); err == nil && id >= 1000 && id < 65534 {
				people[f[0]] = true
			}
		}
	}
	return people
}

func groupID(name string) int {
	data, _ := os.ReadFile("/etc/group")
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[0] == name {
			id, _ := strconv.Atoi(f[2])
			return id
		}
	}
	return 0
}

// enterRoot mounts what the guest sees and makes it the root directory, with no
// way back to the host's.
func enterRoot(root string, vm *VM, binds []string) error {
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", root, err)
	}
	for _, dir := range systemDirs {
		target := filepath.Join(root, dir)
		// A root with programs of its own keeps them.
		if own, err := os.ReadDir(target); err != nil || len(own) > 0 {
			continue
		}
		if info, err := os.Lstat("/" + dir); err == nil && info.IsDir() {
			if err := bindReadOnly("/"+dir, target); err != nil {
				return err
			}
		}
	}
	for _, b := range binds {
		host, guest, ok := strings.Cut(b, ":")
		if !ok {
			return fmt.Errorf("bind %q: not HOST:GUEST", b)
		}
		target := filepath.Join(root, guest)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o755)
		if err != nil {
			return err
		}
		f.Close()
		if err := bindReadOnly(host, target); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		target, kind, data string
		flags              uintptr
	}{
		{"proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"run", "tmpfs", "mode=755,size=64m", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmp", "tmpfs", "mode=1777,size=256m", unix.MS_NOSUID | unix.MS_NODEV},
		{"dev", "tmpfs", "mode=755,size=64m", unix.MS_NOSUID},
	} {
		if err := unix.Mount(m.kind, filepath.Join(root, m.target), m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := makeDev(filepath.Join(root, "dev")); err != nil {
		return err
	}
	if err := makeSys(filepath.Join(root, "sys"), vm); err != nil {
		return err
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	return unix.Chdir("/")
}

func bindReadOnly(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", to, err)
	}
	return nil
}

// makeDev makes the device nodes that programs need, and none of a disk.
func makeDev(dev string) error {
	for name, number := range map[string][2]uint32{"null": {1, 3}, "zero": {1, 5}, "full": {1, 7}, "random": {1, 8}, "urandom": {1, 9}, "tty": {5, 0}} {
		node := filepath.Join(dev, name)
		if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(number[0], number[1]))); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
		if err := os.Chmod(node, 0o666); err != nil {
			return err
		}
	}
	for _, dir := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dev, dir), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return fmt.Errorf("mount devpts: %w", err)
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// makeSys shows the guest its own network devices, a DVD drive, and the SMBIOS
// of an Azure VM; nothing else of the host's hardware.
func makeSys(sys string, vm *VM) error {
	if err := unix.Mount("sysfs", sys, "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	real, err := unix.Open(sys, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(real)
	if err := unix.Mount("tmpfs", sys, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount sys: %w", err)
	}
	for _, dir := range []string{"class/net", "devices/virtual/net"} {
		if err := os.MkdirAll(filepath.Join(sys, dir), 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d/%s", real, dir), filepath.Join(sys, dir), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind sys/%s: %w", dir, err)
		}
	}
	files := map[string]string{
		"class/dmi/id/chassis_asset_tag": chassisTag, "class/dmi/id/sys_vendor": "Microsoft Corporation",
		"class/dmi/id/product_name": "Virtual Machine", "class/dmi/id/product_uuid": vm.VMID,
		"block/sr0/removable": "1", "block/sr0/device/vendor": "Msft    ", "block/sr0/device/model": "Virtual CD/ROM  ",
	}
	if vm.Generation == 2 {
		files["firmware/efi/fw_platform_size"] = "64"
	}
	for name, text := range files {
		file := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text+"\n"), 0o444); err != nil {
			return err
		}
	}
	return nil
}
