package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"azprov/sim"

	"golang.org/x/sys/unix"
)

// testDVD is a DVD with its document.
func testDVD(t *testing.T) (image, document []byte) {
	t.Helper()
	vm := &sim.VM{}
	if err := vm.Defaults(0); err != nil {
		t.Fatal(err)
	}
	image, err := sim.WriteDVD(sim.FormatUDF, 0x0102, "rd_rdfe", vm.OVF(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return image, vm.OVF()
}

func TestDrives(t *testing.T) {
	m := newTestMachine(t)
	for _, n := range []string{"sr1", "sr0", "cdrom", "cdrom0", "hdb", "hdc", "vda", "vda1", "loop0", "nvme0n1", "nvme0n1p1", "nvme0", "sda", "sdb", "srx"} {
		writeTree(t, m.devfs, map[string]string{n: ""})
	}
	// One that sysfs alone knows, since nobody has made its node yet.
	writeTree(t, m.sysfs, map[string]string{"block/sr10/removable": "1\n", "block/sda/removable": "0\n", "block/sdb/removable": "1\n", "block/loop1/removable": "1\n"})
	got := strings.ReplaceAll(strings.Join(m.drives(), " "), m.devfs+"/", "")
	if want := "sr0 sr1 sr10 cdrom0 hdc sdb vda nvme0n1"; got != want {
		t.Errorf("drives %s, want %s", got, want)
	}
}

func TestFindMedium(t *testing.T) {
	image, document := testDVD(t)
	m := newTestMachine(t)
	m.cfg.MediaWait = 10 * time.Second
	writeTree(t, m.devfs, map[string]string{"sr0": strings.Repeat("no medium ", 20000), "sr1": ""})
	go func() {
		time.Sleep(150 * time.Millisecond)
		os.WriteFile(filepath.Join(m.devfs, "new"), image, 0o600)
		os.Rename(filepath.Join(m.devfs, "new"), filepath.Join(m.devfs, "sr1"))
	}()
	med, err := m.findMedium(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if med.Device != filepath.Join(m.devfs, "sr1") || med.FileSystem != "udf 1.02" || med.Label != "rd_rdfe" || string(med.OVF) != string(document) {
		t.Errorf("%s %s %q", med.Device, med.FileSystem, med.Label)
	}

	m.cfg.MediaWait = 10 * time.Millisecond
	os.Remove(filepath.Join(m.devfs, "sr1"))
	if _, err = m.findMedium(context.Background(), nil); !errors.Is(err, errNoMedium) || !strings.Contains(err.Error(), "sr0: no UDF, ISO 9660 or FAT") {
		t.Errorf("another disc: %v", err)
	}
	os.Remove(filepath.Join(m.devfs, "sr0"))
	writeTree(t, m.sysfs, map[string]string{"block/dm-0/size": "1\n"})
	if _, err = m.findMedium(context.Background(), nil); !errors.Is(err, errNoMedium) || !strings.Contains(err.Error(), "no drive that may hold one, block devices: dm-0") {
		t.Errorf("no disc: %v", err)
	}
	m.cfg.MediaWait = time.Hour
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err = m.findMedium(ctx, nil); !errors.Is(err, errNoMedium) {
		t.Errorf("no time: %v", err)
	}
}

func TestNamedMedium(t *testing.T) {
	image, document := testDVD(t)
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"dvd.img": string(image), "other.xml": string(document), "folder/ovf-env.xml": string(document), "folder/CustomData.bin": "custom",
		"empty/": "", "wrong/ovf-env.xml": "<Environment/>", "text": "nothing of the kind", "none": "", "large": strings.Repeat("x", maxOVF+1)})
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"dvd.img": "udf 1.02", "other.xml": "file", "folder": "directory", "folder/ovf-env.xml": "file",
		"empty": "no such file", "wrong": "no ProvisioningSection", "text": "no UDF, ISO 9660 or FAT", "none": "no UDF", "large": "no UDF", "fifo": "neither a block device nor a file",
		"missing": "no such file", "wrong/ovf-env.xml": "no UDF",
	} {
		m := newTestMachine(t)
		m.cfg.Media, m.cfg.MediaWait = filepath.Join(dir, name), 0
		med, err := m.findMedium(context.Background(), nil)
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		} else if med.FileSystem != want || string(med.OVF) != string(document) || (name == "folder") != (string(med.CustomBin) == "custom") {
			t.Errorf("%s: %s, %d and %d bytes", name, med.FileSystem, len(med.OVF), len(med.CustomBin))
		}
	}
}

// loopDevice makes a block device of an image.
func loopDevice(t *testing.T, image string, args ...string) string {
	t.Helper()
	device := strings.TrimSpace(command(t, "losetup", append(append([]string{"--find", "--show"}, args...), image)...))
	t.Cleanup(func() { command(t, "losetup", "-d", device) })
	return device
}

func TestMediumOnBlockDevice(t *testing.T) {
	needRoot(t)
	need(t, "losetup", "mke2fs")
	image, document := testDVD(t)
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"dvd.img": string(image), "files/ovf-env.xml": string(document)})
	m := newTestMachine(t)
	m.sysfs, m.procfs = "/sys", "/proc"
	m.cfg.Media, m.cfg.MediaWait = loopDevice(t, filepath.Join(dir, "dvd.img"), "-r"), 0
	med, err := m.findMedium(context.Background(), nil)
	if err != nil || med.FileSystem != "udf 1.02" || string(med.OVF) != string(document) {
		t.Fatalf("%+v: %v", med, err)
	}
	if err := m.ejectMedium(m.cfg.Media); err == nil || !strings.Contains(err.Error(), "not a CD drive") {
		t.Errorf("eject: %v", err)
	}

	// The node is missing: one is made from sysfs, and removed.
	t.Setenv("TMPDIR", t.TempDir())
	m.cfg.Media = filepath.Join(m.devfs, filepath.Base(m.cfg.Media))
	if med, err = m.findMedium(context.Background(), nil); err != nil || string(med.OVF) != string(document) {
		t.Errorf("without a node: %v", err)
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	// The last resort: a file system that only the kernel reads.
	ext := filepath.Join(dir, "ext4.img")
	command(t, "mke2fs", "-q", "-t", "ext4", "-d", filepath.Join(dir, "files"), ext, "8M")
	kinds, _ := os.ReadFile("/proc/filesystems")
	if !strings.Contains(string(kinds), "\text4\n") {
		t.Skip("this kernel does not know ext4")
	}
	m.cfg.Media = loopDevice(t, ext, "-r")
	med, err = m.findMedium(context.Background(), nil)
	if err != nil || !strings.HasPrefix(med.FileSystem, "ext") || !strings.HasSuffix(med.FileSystem, " (mounted)") || string(med.OVF) != string(document) {
		t.Errorf("by the kernel: %+v: %v", med, err)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), m.cfg.Media+" ") {
		t.Error("it stays mounted")
	}
	if left, _ := os.ReadDir(os.TempDir()); slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.IsDir() }) {
		t.Errorf("left behind: %v", left)
	}
}
