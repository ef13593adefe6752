package main

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mib = int64(1) << 20

// diskImage is a disk that other programs made, and what is to become of it.
type diskImage struct {
	name string
	size int64 // 0: 64 MiB
	make func(b *imageMaker)
	want verdict
	data bool      // it may hold someone's data: it must not be formatted under any configuration
	more diskSigns // of the configuration
}

// imageMaker makes one image.
type imageMaker struct {
	t    testing.TB
	file string
	size int64
}

// run runs a program, the image's name in place of "IMAGE".
func (b *imageMaker) run(name string, args ...string) {
	b.t.Helper()
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "IMAGE", b.file)
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		b.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// memoryDir is a directory whose files need no disk: programs that make file
// systems sync.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "azprov-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// sfdisk partitions by a script of sfdisk.
func (b *imageMaker) sfdisk(script string) {
	b.t.Helper()
	cmd := exec.Command("sfdisk", "-q", b.file)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("sfdisk: %v\n%s", err, out)
	}
}

func (b *imageMaker) write(off int64, data string) {
	b.t.Helper()
	f, err := os.OpenFile(b.file, os.O_RDWR, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(data), off); err != nil {
		b.t.Fatal(err)
	}
}

func (b *imageMaker) read(off int64, n int) []byte {
	b.t.Helper()
	f, err := os.Open(b.file)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, n)
	if _, err := f.ReadAt(data, off); err != nil {
		b.t.Fatal(err)
	}
	return data
}

// inside makes a file system in a file of its own and puts it at an offset.
func (b *imageMaker) inside(from, n int64, fill func(*imageMaker)) {
	b.t.Helper()
	part := &imageMaker{b.t, filepath.Join(memoryDir(b.t), "part"), n}
	part.truncate()
	fill(part)
	b.run("dd", "if="+part.file, "of=IMAGE", "bs=64K", fmt.Sprintf("seek=%d", from>>16), "conv=notrunc,sparse", "status=none")
}

func (b *imageMaker) truncate() {
	b.t.Helper()
	f, err := os.Create(b.file)
	if err == nil {
		err = f.Truncate(b.size)
		f.Close()
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// ntfs makes an NTFS and calls fill with the directory where it is mounted.
func (b *imageMaker) ntfs(label string, fill func(dir string), flags ...string) {
	b.t.Helper()
	if label != "" {
		flags = append(flags, "-L", label)
	}
	b.run("mkntfs", append(flags, "-F", "-Q", "-q", "IMAGE")...)
	if fill != nil {
		b.mountNTFS(fill)
	}
}

func (b *imageMaker) mountNTFS(fill func(dir string)) {
	b.t.Helper()
	dir := b.t.TempDir()
	b.run("ntfs-3g", "IMAGE", dir)
	fill(dir)
	b.run("umount", dir)
}

// azure fills what a temporary disk comes with.
func azure(dir string) {
	os.WriteFile(filepath.Join(dir, "DATALOSS_WARNING_README.txt"), []byte("WARNING: THIS IS A TEMPORARY DISK.\r\n"), 0o644)
	os.Mkdir(filepath.Join(dir, "System Volume Information"), 0o700)
	os.WriteFile(filepath.Join(dir, "System Volume Information/tracking.log"), make([]byte, 20480), 0o600)
}

// partitioned is a disk with one partition from 1 MiB on, filled.
func partitioned(script string, fill func(*imageMaker)) func(*imageMaker) {
	return func(b *imageMaker) {
		b.t.Helper()
		b.sfdisk(script)
		b.inside(mib, b.size-2*mib, fill)
	}
}

const (
	mbrNTFS = "label: dos\nstart=2048,size=126976,type=7\n"
	mbr83   = "label: dos\nstart=2048,size=126976,type=83\n"
	gptNTFS = "label: gpt\nstart=2048,size=126976,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n"
	// As Windows partitions: what it reserves for itself, then the data.
	reserved = "label: gpt\nstart=2048,size=14336,type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE\nstart=32768,size=96256,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n"
	gpt83    = "label: gpt\nstart=2048,size=126976\n"
)

func ntfsWith(label string, fill func(dir string), flags ...string) func(*imageMaker) {
	return func(b *imageMaker) { b.t.Helper(); b.ntfs(label, fill, flags...) }
}

func runs(name string, args ...string) func(*imageMaker) {
	return func(b *imageMaker) { b.t.Helper(); b.run(name, append([]string(nil), args...)...) }
}

func writes(off int64, data string) func(*imageMaker) {
	return func(b *imageMaker) { b.write(off, data) }
}

// random is data without a pattern, the same in every run.
func random(n int64) string {
	var out strings.Builder
	for x := uint32(1); out.Len() < 1<<20; {
		b := []byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24)}
		x = crc32.ChecksumIEEE(b)
		out.Write(b)
	}
	return strings.Repeat(out.String(), int(n>>20))
}

// formatted formats the image as azprov does.
func formatted(b *imageMaker) {
	b.t.Helper()
	f, err := os.OpenFile(b.file, os.O_RDWR, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	at := func(from int64) store { return &area{f, from} }
	if err := formatResource(context.Background(), at, viewDisk(f, b.size, 512), b.size, 512, time.Now()); err != nil {
		b.t.Fatal(err)
	}
}

func manyFiles(dir string) {
	for i := range 400 {
		os.WriteFile(filepath.Join(dir, fmt.Sprintf("a user's file with a long name %d", i)), nil, 0o644)
	}
}

func removeAll(dir string) {
	names, _ := filepath.Glob(dir + "/a user*")
	for _, n := range names {
		os.Remove(n)
	}
}

// sequence runs functions after each other.
func sequence(list ...func(*imageMaker)) func(*imageMaker) {
	return func(b *imageMaker) {
		b.t.Helper()
		for _, f := range list {
			f(b)
		}
	}
}

// patchRecord changes a byte of an MFT record of the NTFS at 1 MiB.
func patchRecord(record, off int64, value byte) func(*imageMaker) {
	return func(b *imageMaker) {
		boot := b.read(mib, 512)
		cluster := int64(le.Uint16(boot[11:])) * int64(boot[13])
		b.write(mib+int64(le.Uint64(boot[48:]))*cluster+record*1024+off, string([]byte{value}))
	}
}

func diskImages() []diskImage {
	luks := func(kind string) func(*imageMaker) {
		return func(b *imageMaker) {
			key := filepath.Join(b.t.TempDir(), "key")
			os.WriteFile(key, []byte("test"), 0o600)
			b.run("cryptsetup", "luksFormat", "-q", "--type", kind, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "IMAGE", key)
		}
	}
	freshNTFS := partitioned(mbrNTFS, ntfsWith(azureLabel, azure))
	const md = "\xfc\x4e\x2b\xa9"
	return []diskImage{
		{name: "zeros", make: func(*imageMaker) {}, want: diskFormat},
		{name: "zeros, formatting off", make: func(*imageMaker) {}, want: diskKeep, more: signFormatOff},
		{name: "random", make: func(b *imageMaker) { b.write(0, random(b.size)) }, want: diskRefuse, data: true},
		{name: "one byte at the start", make: writes(700, "x"), want: diskRefuse, data: true},
		{name: "one byte at the end", make: writes(64*mib-1, "x"), want: diskRefuse, data: true},
		{name: "data in the middle", make: writes(32*mib, "a page of data"), want: diskRefuse, data: true},
		{name: "too small", size: 63 * mib, make: func(*imageMaker) {}, want: diskRefuse},
		{name: "mbr without partitions", make: func(b *imageMaker) { b.sfdisk("label: dos\n") }, want: diskFormat},
		{name: "gpt without partitions", make: func(b *imageMaker) { b.sfdisk("label: gpt\n") }, want: diskFormat},
		{name: "gpt without partitions, data behind it", make: sequence(func(b *imageMaker) { b.sfdisk("label: gpt\n") }, writes(mib-9000, "data")), want: diskRefuse, data: true},
		{name: "mbr without partitions, data behind it", make: func(b *imageMaker) { b.sfdisk("label: dos\n"); b.write(512, "data") }, want: diskRefuse, data: true},
		{name: "boot loader without partitions", make: func(b *imageMaker) { b.sfdisk("label: dos\n"); b.write(0, "\xeb\x63\x90") }, want: diskRefuse, data: true},
		{name: "a partition deleted by mistake", make: sequence(partitioned(gpt83, runs("mke2fs", "-q", "-t", "ext4", "IMAGE")), runs("sfdisk", "-q", "--delete", "IMAGE", "1")), want: diskRefuse, data: true},

		{name: "azure's ntfs, mbr", make: freshNTFS, want: diskFormat},
		{name: "azure's ntfs, formatting off", make: freshNTFS, want: diskKeep, more: signFormatOff},
		{name: "azure's ntfs, gpt", make: partitioned(gptNTFS, ntfsWith(azureLabel, azure)), want: diskFormat},
		{name: "azure's ntfs, gpt, other case", make: partitioned(gptNTFS, ntfsWith("TEMPORARY STORAGE", func(dir string) {
			os.WriteFile(dir+"/dataloss_warning_readme.TXT", nil, 0o644)
		})), want: diskFormat},
		{name: "azure's ntfs with a reserved partition", make: func(b *imageMaker) {
			b.sfdisk(reserved)
			b.inside(16*mib, b.size-17*mib, ntfsWith(azureLabel, azure))
		}, want: diskFormat},
		{name: "a reserved partition that is not empty", make: func(b *imageMaker) {
			b.sfdisk(reserved)
			b.inside(16*mib, b.size-17*mib, ntfsWith(azureLabel, azure))
			b.write(2048*512+100, "data")
		}, want: diskRefuse, data: true},
		{name: "azure's ntfs from sector 128", make: func(b *imageMaker) {
			b.sfdisk("label: dos\nstart=128,size=128000,type=7\n")
			b.inside(64<<10, 128000*512, ntfsWith(azureLabel, azure))
		}, want: diskFormat},
		{name: "azure's ntfs on a part of the disk", make: func(b *imageMaker) {
			b.sfdisk("label: dos\nstart=2048,size=65536,type=7\n")
			b.inside(mib, 32*mib, ntfsWith(azureLabel, azure))
		}, want: diskRefuse, data: true},
		{name: "azure's ntfs with dos names", make: partitioned(mbrNTFS, ntfsWith(azureLabel, func(dir string) {
			azure(dir)
			for _, n := range [][2]string{{"DATALOSS_WARNING_README.txt", "DATALO~1.TXT"}, {"System Volume Information", "SYSTEM~1"}} {
				if err := unix.Setxattr(filepath.Join(dir, n[0]), "system.ntfs_dos_name", []byte(n[1]), 0); err != nil {
					panic(err)
				}
			}
		})), want: diskFormat},
		{name: "ntfs, large clusters", make: partitioned(mbrNTFS, ntfsWith(azureLabel, azure, "-c", "65536")), want: diskFormat},
		{name: "ntfs, small clusters", make: partitioned(mbrNTFS, ntfsWith(azureLabel, azure, "-c", "512")), want: diskFormat},
		{name: "ntfs, empty, no label", make: partitioned(mbrNTFS, ntfsWith("", nil)), want: diskFormat},
		{name: "ntfs, many files that are gone", make: partitioned(mbrNTFS, ntfsWith(azureLabel, func(dir string) { azure(dir); manyFiles(dir); removeAll(dir) })), want: diskFormat},
		{name: "ntfs, large clusters, many files", make: partitioned(mbrNTFS, ntfsWith(azureLabel, manyFiles, "-c", "65536")), want: diskRefuse, data: true},
		{name: "ntfs with a file", make: partitioned(mbrNTFS, ntfsWith(azureLabel, func(dir string) { azure(dir); os.WriteFile(dir+"/x", nil, 0o644) })), want: diskRefuse, data: true},
		{name: "ntfs with a file, named, reformat", make: partitioned(mbrNTFS, ntfsWith(azureLabel, func(dir string) { azure(dir); os.WriteFile(dir+"/x", nil, 0o644) })),
			want: diskRefuse, data: true, more: signNamed | signReformat},
		{name: "ntfs with deep directories", make: partitioned(gptNTFS, ntfsWith(azureLabel, func(dir string) {
			azure(dir)
			os.MkdirAll(dir+"/a/b/c/d/e/f/g", 0o755)
		})), want: diskRefuse, data: true},
		{name: "ntfs with many files", make: partitioned(mbrNTFS, ntfsWith(azureLabel, func(dir string) { azure(dir); manyFiles(dir) })), want: diskRefuse, data: true},
		{name: "ntfs with one file of many left", make: partitioned(mbrNTFS, ntfsWith(azureLabel, func(dir string) {
			azure(dir)
			manyFiles(dir)
			os.Rename(dir+"/a user's file with a long name 199", dir+"/mine")
			removeAll(dir)
		})), want: diskRefuse, data: true},
		{name: "ntfs with a file named like the volume's own", make: partitioned(mbrNTFS, ntfsWith(azureLabel, func(dir string) { os.WriteFile(dir+"/$Data", nil, 0o644) })), want: diskRefuse, data: true},
		{name: "ntfs, other label", make: partitioned(mbrNTFS, ntfsWith("Data", azure)), want: diskRefuse, data: true},
		{name: "ntfs, dirty", make: partitioned(mbrNTFS, sequence(ntfsWith(azureLabel, azure), runs("ntfsfix", "IMAGE"))), want: diskRefuse, data: true},
		{name: "ntfs, torn root record", make: sequence(freshNTFS, patchRecord(5, 510, 0x5a)), want: diskRefuse, data: true},
		{name: "ntfs, root record gone", make: sequence(freshNTFS, patchRecord(5, 0, 0)), want: diskRefuse, data: true},
		{name: "ntfs, root not in use", make: sequence(freshNTFS, patchRecord(5, 22, 2)), want: diskRefuse, data: true},
		{name: "ntfs, boot sector cut", make: sequence(freshNTFS, writes(mib+13, "\x03")), want: diskRefuse, data: true},
		{name: "ntfs without a partition", make: ntfsWith(azureLabel, azure), want: diskRefuse, data: true},
		{name: "bitlocker", make: partitioned(mbrNTFS, writes(0, "\xeb\x58\x90-FVE-FS-\x00\x02\x08")), want: diskRefuse, data: true},

		{name: "ext2", make: runs("mke2fs", "-q", "-t", "ext2", "IMAGE"), want: diskRefuse, data: true},
		{name: "ext3", make: runs("mke2fs", "-q", "-t", "ext3", "IMAGE"), want: diskRefuse, data: true},
		{name: "ext4", make: runs("mke2fs", "-q", "-t", "ext4", "IMAGE"), want: diskRefuse, data: true},
		{name: "ext4, reformat", make: runs("mke2fs", "-q", "-t", "ext4", "IMAGE"), want: diskRefuse, data: true, more: signReformat},
		{name: "ext4, named", make: runs("mke2fs", "-q", "-t", "ext4", "IMAGE"), want: diskMount, data: true, more: signNamed},
		{name: "ext4 in a partition", make: partitioned(gpt83, runs("mke2fs", "-q", "-t", "ext4", "-L", "data", "IMAGE")), want: diskRefuse, data: true},
		{name: "ext4 in a partition, named", make: partitioned(mbr83, runs("mke2fs", "-q", "-t", "ext4", "-L", "data", "IMAGE")), want: diskMount, data: true, more: signNamed},
		{name: "ext4 with the label", make: runs("mke2fs", "-q", "-t", "ext4", "-L", resourceLabel, "IMAGE"), want: diskMount, data: true},
		{name: "ext4 with the label, in a partition", make: partitioned(mbr83, runs("mke2fs", "-q", "-t", "ext4", "-L", resourceLabel, "IMAGE")), want: diskMount, data: true},
		{name: "xfs", size: 320 * mib, make: runs("mkfs.xfs", "-q", "IMAGE"), want: diskRefuse, data: true},
		{name: "xfs with the label", size: 320 * mib, make: runs("mkfs.xfs", "-q", "-L", resourceLabel, "IMAGE"), want: diskMount, data: true},
		{name: "btrfs", size: 128 * mib, make: runs("mkfs.btrfs", "-q", "IMAGE"), want: diskRefuse, data: true},
		{name: "f2fs", make: runs("mkfs.f2fs", "-q", "IMAGE"), want: diskRefuse, data: true},
		{name: "exfat", make: runs("mkfs.exfat", "IMAGE"), want: diskRefuse, data: true},
		{name: "exfat in a partition", make: partitioned(mbrNTFS, runs("mkfs.exfat", "IMAGE")), want: diskRefuse, data: true},
		{name: "fat without a partition", make: runs("mkfs.vfat", "IMAGE"), want: diskRefuse, data: true},
		{name: "fat in a partition", make: partitioned(mbr83, runs("mkfs.vfat", "IMAGE")), want: diskRefuse, data: true},
		{name: "iso 9660", make: func(b *imageMaker) { b.run("genisoimage", "-quiet", "-o", "IMAGE", "need_test.go") }, size: -1, want: diskRefuse, data: true},
		{name: "udf", make: runs("mkudffs", "IMAGE"), want: diskRefuse, data: true},
		{name: "swap", make: runs("mkswap", "-q", "IMAGE"), want: diskRefuse, data: true},
		{name: "swap in a partition", make: partitioned(mbr83, runs("mkswap", "-q", "IMAGE")), want: diskRefuse, data: true},
		{name: "luks 1", make: luks("luks1"), want: diskRefuse, data: true},
		{name: "luks 2", make: luks("luks2"), want: diskRefuse, data: true},
		{name: "luks in a partition", make: partitioned(gpt83, luks("luks2")), want: diskRefuse, data: true},
		{name: "lvm", make: onLoop("pvcreate", "-q", "-q", "LOOP"), want: diskRefuse, data: true},
		{name: "lvm in a partition", make: partitioned(gpt83, onLoop("pvcreate", "-q", "-q", "LOOP")), want: diskRefuse, data: true},
		{name: "md 0.90", make: writes((64*mib-65536)&^65535, md), want: diskRefuse, data: true},
		{name: "md 1.0", make: writes((64*mib/512-16)&^7*512, md), want: diskRefuse, data: true},
		{name: "md 1.1", make: writes(0, md), want: diskRefuse, data: true},
		{name: "md 1.2", make: writes(4096, md), want: diskRefuse, data: true},
		{name: "md 1.0 in a partition", make: partitioned(gpt83, writes((62*mib/512-16)&^7*512, md)), want: diskRefuse, data: true},
		{name: "zfs", make: writes(128<<10+5<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"), want: diskRefuse, data: true},

		{name: "one empty partition", make: func(b *imageMaker) { b.sfdisk(mbr83) }, want: diskRefuse, data: true},
		{name: "one partition with raw data", make: func(b *imageMaker) { b.sfdisk(gpt83); b.write(mib+12345, "raw") }, want: diskRefuse, data: true},
		{name: "two partitions", make: func(b *imageMaker) { b.sfdisk("label: dos\nsize=20M,type=7\ntype=7\n") }, want: diskRefuse, data: true},
		{name: "logical partition", make: func(b *imageMaker) { b.sfdisk("label: dos\nsize=20M,type=5\nsize=10M,type=7\n") }, want: diskRefuse, data: true},
		{name: "gpt, two partitions", make: func(b *imageMaker) { b.sfdisk("label: gpt\nsize=20M\nsize=20M\n") }, want: diskRefuse, data: true},
		{name: "hybrid mbr", make: runs("sgdisk", "-n", "1:2048:0", "-h", "1", "IMAGE"), want: diskRefuse, data: true},
		{name: "gpt, first copy torn", make: sequence(partitioned(gptNTFS, ntfsWith(azureLabel, azure)), writes(600, "torn")), want: diskRefuse, data: true},
		{name: "gpt, first table torn", make: sequence(partitioned(gptNTFS, ntfsWith(azureLabel, azure)), writes(1024+40, "torn")), want: diskRefuse, data: true},
		{name: "gpt, second copy torn", make: sequence(partitioned(gptNTFS, ntfsWith(azureLabel, azure)), writes(64*mib-512, "torn")), want: diskRefuse, data: true},
		{name: "gpt, both copies torn", make: sequence(partitioned(gptNTFS, ntfsWith(azureLabel, azure)), writes(512, "torn"), writes(64*mib-512, "torn")), want: diskRefuse, data: true},
		{name: "gpt without mbr", make: sequence(partitioned(gptNTFS, ntfsWith(azureLabel, azure)), writes(0, string(make([]byte, 512)))), want: diskRefuse, data: true},
		{name: "mbr over gpt", make: func(b *imageMaker) {
			b.sfdisk(gpt83)
			old := b.read(512, 1024)
			b.sfdisk(mbrNTFS)
			b.write(512, string(old))
		}, want: diskRefuse, data: true},
		{name: "protective mbr alone", make: func(b *imageMaker) {
			b.sfdisk("label: gpt\n")
			mbr := b.read(0, 512)
			b.truncate()
			b.write(0, string(mbr))
		}, want: diskRefuse, data: true},
		{name: "gpt of a larger disk", size: 80 * mib, make: func(b *imageMaker) {
			b.sfdisk(gptNTFS)
			b.inside(mib, 62*mib, ntfsWith(azureLabel, azure))
			os.Truncate(b.file, 70*mib)
		}, want: diskRefuse, data: true},

		{name: "azprov's own", make: formatted, want: diskMount, data: true},
		{name: "azprov's own, reformat", make: formatted, want: diskMount, data: true, more: signReformat},
		{name: "azprov's own, damaged", make: sequence(formatted, writes(mib+1024+40, "damaged")), want: diskRefuse, data: true},
		{name: "azprov's own, damaged, reformat", make: sequence(formatted, writes(mib+1024+40, "damaged")), want: diskFormat, more: signReformat},
		{name: "azprov's own, superblock gone, reformat", make: sequence(formatted, writes(mib+1024, string(make([]byte, 1024)))), want: diskRefuse, data: true, more: signReformat},
		{name: "another's labelled ext4, damaged, reformat", make: sequence(partitioned(gpt83, runs("mke2fs", "-q", "-t", "ext4", "-L", resourceLabel, "IMAGE")), writes(mib+1024+40, "damaged")),
			want: diskRefuse, data: true, more: signReformat},
		{name: "azprov's partition, xfs in it", size: 400 * mib, make: func(b *imageMaker) {
			formatted(b)
			b.inside(mib, b.size-2*mib, runs("mkfs.xfs", "-q", "IMAGE"))
		}, want: diskRefuse, data: true, more: signReformat},
		{name: "azprov's partition, luks in it", make: sequence(formatted, func(b *imageMaker) { b.inside(mib, b.size-2*mib, luks("luks2")) }), want: diskRefuse, data: true, more: signReformat},
		{name: "cut off at the marker", make: func(b *imageMaker) { b.write(mib, string(formatMarker(b.size, mib))) }, want: diskFormat},
		{name: "cut off on azure's ntfs", make: sequence(freshNTFS, func(b *imageMaker) { b.write(mib, string(formatMarker(b.size, mib))) }), want: diskFormat},
		{name: "cut off before the end", make: sequence(formatted, func(b *imageMaker) { b.write(mib, string(formatMarker(b.size, mib))) }), want: diskFormat},
		{name: "cut off within the last write", make: sequence(formatted, func(b *imageMaker) { b.write(mib+1024, string(formatMarker(b.size, mib)[:512])) }), want: diskFormat},
		{name: "marker of another disk", make: func(b *imageMaker) { b.write(mib, string(formatMarker(b.size+512, mib))) }, want: diskRefuse, data: true},
		{name: "marker at another place", make: func(b *imageMaker) { b.write(2*mib, string(formatMarker(b.size, 2*mib))) }, want: diskRefuse, data: true},
		{name: "marker beside a file system", make: func(b *imageMaker) {
			b.run("mke2fs", "-q", "-t", "ext4", "IMAGE")
			b.write(mib, string(formatMarker(b.size, mib)))
		}, want: diskRefuse, data: true},
	}
}

// onLoop runs a program that takes only block devices, "LOOP" in its words.
func onLoop(name string, args ...string) func(*imageMaker) {
	return func(b *imageMaker) {
		b.t.Helper()
		loop, free := attach(b.t, b.file, 512)
		defer free()
		words := append([]string(nil), args...)
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "LOOP", loop)
		}
		b.run(name, words...)
	}
}

// attach makes a loop device of a file.
func attach(t testing.TB, file string, sector int) (loop string, free func()) {
	t.Helper()
	out, err := exec.Command("losetup", "-f", "--show", "--sector-size", fmt.Sprint(sector), file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v\n%s", err, out)
	}
	loop = strings.TrimSpace(string(out))
	return loop, func() {
		exec.Command("losetup", "-d", loop).Run()
	}
}

func makeImage(t testing.TB, d diskImage) *imageMaker {
	t.Helper()
	b := &imageMaker{t, filepath.Join(memoryDir(t), "image"), d.size}
	if b.size <= 0 {
		b.size = 64 * mib
	}
	b.truncate()
	d.make(b)
	if d.size < 0 { // a program that makes the file anew
		os.Truncate(b.file, b.size)
	}
	info, err := os.Stat(b.file)
	if err != nil {
		t.Fatal(err)
	}
	b.size = info.Size()
	return b
}

var imageTools = []string{"mkntfs", "ntfs-3g", "ntfsfix", "mke2fs", "mkfs.xfs", "mkfs.btrfs", "mkfs.f2fs", "mkfs.exfat", "mkfs.vfat", "genisoimage", "mkudffs", "mkswap", "pvcreate", "cryptsetup", "sfdisk", "sgdisk", "losetup"}

// The decision over disks that other programs made: as the list says, and none
// with data is formatted, whatever the configuration.
func TestDiskImages(t *testing.T) {
	needRoot(t)
	need(t, imageTools...)
	list := diskImages()
	if len(list) < 40 {
		t.Fatalf("%d images", len(list))
	}
	for _, d := range list {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel() // the programs mostly wait
			b := makeImage(t, d)
			f, err := os.Open(b.file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			v := viewDisk(f, b.size, 512)
			got, why := decideDisk(v.signs | d.more)
			if got != d.want {
				t.Errorf("%s, because %s (%s); want %s", got, why, v.detail, d.want)
			}
			t.Logf("%s: %s (%s)", got, why, v.detail)
			if !d.data {
				return
			}
			for _, more := range []diskSigns{0, signNamed, signReformat, signNamed | signReformat} {
				damaged := v.signs&signOurs != 0 && v.signs&signDamaged != 0
				if got, why := decideDisk(v.signs | more); got == diskFormat && !(damaged && more&signReformat != 0) {
					t.Errorf("with %x: %s, because %s", more, got, why)
				}
			}
		})
	}
}

// A disk that can't be read is refused.
func TestUnreadableDisk(t *testing.T) {
	for _, bad := range []int64{0, 512, 128 << 10, 32 * mib, 64*mib - 512} {
		v := viewDisk(badSector{bytes.NewReader(make([]byte, 64*mib)), bad}, 64*mib, 512)
		if got, why := decideDisk(v.signs); got != diskRefuse || v.signs != signUnread {
			t.Errorf("bad at %d: %s, because %s (%s)", bad, got, why, v.detail)
		}
	}
}

// badSector fails to read a place.
type badSector struct {
	io.ReaderAt
	bad int64
}

func (b badSector) ReadAt(p []byte, off int64) (int, error) {
	if off <= b.bad && b.bad < off+int64(len(p)) {
		return 0, unix.EIO
	}
	return b.ReaderAt.ReadAt(p, off)
}
