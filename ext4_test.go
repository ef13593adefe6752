package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// formatImage formats an image file of a size, sparse, as a resource disk is.
func formatImage(t testing.TB, image string, size int64, block int) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	o, err := newExt4Options(size, 512, "AzureEphmDsk", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o.BlockSize = block
	w := &area{f: f}
	if err := w.writeSync(0, formatMarker(size, 0)); err != nil {
		t.Fatal(err)
	}
	if err := formatExt4(context.Background(), w, o); err != nil {
		t.Fatal(err)
	}
}

// checkExt4 is e2fsck, which may change nothing.
func checkExt4(t testing.TB, image string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", image).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

// imageDir is a directory for images of any size: in memory, where a file can be
// larger than ext4's 16 TiB and no sync waits for a disk.
func imageDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "azprov-test-")
	if err != nil {
		skip(t, "needs a file system in memory: "+err.Error())
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// onMount runs f while an image is mounted through a loop device, in a mount
// namespace of its thread's own.
func onMount(t testing.TB, image, options string, f func(dir, device string)) {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v\n%s", err, out)
	}
	device := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "--detach", device).Run()
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine, and the namespace with the thread.
		runtime.LockOSThread()
		defer close(done)
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount(device, dir, "ext4", 0, options)
		}
		if err != nil {
			done <- fmt.Errorf("mount: %w", err)
			return
		}
		defer func() {
			if err := unix.Unmount(dir, 0); err != nil {
				done <- fmt.Errorf("unmount: %w", err)
			}
		}()
		f(dir, device)
	}()
	for err := range done {
		t.Error(err)
	}
}

// useMount writes what a workload does: a tree of small files, a large one, a
// sparse one, links, and deletes some of it.
func useMount(t testing.TB, dir string) {
	for i := range 120 {
		sub := filepath.Join(dir, "a", strconv.Itoa(i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Error(err)
			return
		}
		name := filepath.Join(sub, strconv.Itoa(i))
		if err := os.WriteFile(name, fmt.Append(nil, i), 0o600); err != nil {
			t.Error(err)
		}
		if i%3 == 0 {
			os.Remove(name)
		}
	}
	large := filepath.Join(dir, "large")
	for _, err := range []error{
		os.WriteFile(large, make([]byte, 3<<20), 0o644), os.Symlink("large", filepath.Join(dir, "link")), os.Link(large, filepath.Join(dir, "hard")),
		os.WriteFile(filepath.Join(dir, "sparse"), nil, 0o644), os.Truncate(filepath.Join(dir, "sparse"), 1<<30), unix.Setxattr(large, "user.test", []byte("value"), 0),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}

const ext4Features = "has_journal ext_attr dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum"

// A file system of every size and block size is what mke2fs makes by its figures,
// clean, taken by the kernel and clean afterwards.
func TestExt4(t *testing.T) {
	need(t, "e2fsck", "dumpe2fs", "mke2fs", "losetup")
	needRoot(t)
	const kib, mib, gib, tib = int64(1) << 10, int64(1) << 20, int64(1) << 30, int64(1) << 40
	for _, c := range []struct {
		size  int64
		block []int
	}{
		{16 * mib, []int{1024, 2048, 4096}}, {17*mib + 512*7, []int{1024, 2048, 4096}}, {64 * mib, []int{1024, 2048, 4096}},
		{40*mib + 700*kib, []int{1024, 2048, 4096}}, {128*mib + 300*kib, []int{4096}}, {129 * mib, []int{4096}},
		{gib, []int{1024, 2048, 4096}}, {16 * gib, []int{1024, 2048, 4096}}, {256 * gib, []int{2048, 4096}}, {520 * gib, []int{1024}},
		{tib, []int{4096}}, {3*tib + 12345*512, []int{4096}}, {4 * tib, []int{4096}}, {16 * tib, []int{4096}}, {64 * tib, []int{4096}},
	} {
		for _, block := range c.block {
			t.Run(fmt.Sprintf("%dMiB-%d", c.size/mib, block), func(t *testing.T) {
				if testing.Short() && c.size > 256*gib {
					t.Skip("large")
				}
				image := filepath.Join(imageDir(t), "image")
				formatImage(t, image, c.size, block)
				checkFigures(t, image, c.size, block)
				if c.size < 3*tib {
					checkExt4(t, image) // of larger ones once, after the kernel: that takes long
				}
				onMount(t, image, "", func(dir, _ string) {
					var s unix.Statfs_t
					if err := unix.Statfs(dir, &s); err != nil {
						t.Error(err)
					}
					// The root, lost+found, and a block of the journal's extents at most.
					if used, most := s.Blocks-s.Bfree, uint64(1+16384/block+1); used > most || used < most-1 {
						t.Errorf("%d blocks are used for files, not %d", used, most)
					}
					useMount(t, dir)
				})
				checkExt4(t, image)
			})
		}
	}
}

// checkFigures compares what dumpe2fs says of an image with what mke2fs would make.
func checkFigures(t *testing.T, image string, size int64, block int) {
	t.Helper()
	ours := dumpSuper(t, image)
	if got := strings.Replace(ours["Filesystem features"], " meta_bg", "", 1); got != ext4Features {
		t.Errorf("features %s", got)
	}
	if ours["Filesystem volume name"] != "AzureEphmDsk" || ours["Filesystem state"] != "clean" {
		t.Errorf("label or state: %v", ours)
	}
	other := filepath.Join(filepath.Dir(image), "mke2fs")
	defer os.Remove(other)
	for _, err := range []error{os.WriteFile(other, nil, 0o600), os.Truncate(other, size)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// With -n it says only what it would do.
	out := command(t, "mke2fs", "-n", "-F", "-t", "ext4", "-b", strconv.Itoa(block), "-O", "^resize_inode", other)
	made := regexp.MustCompile(`(\d+) \d+k blocks and (\d+) inodes`).FindStringSubmatch(out)
	// mke2fs makes smaller groups where the inodes of one don't fit into a bitmap: there
	// a last group that is too small is left off here.
	same := made != nil && ours["Block count"] == made[1] && ours["Inode count"] == made[2]
	if !same && (block < 4096 || size < 128<<20 || size > 130<<20) {
		t.Errorf("%s blocks, %s inodes; mke2fs: %s", ours["Block count"], ours["Inode count"], out)
	}
	blocks, _ := strconv.ParseUint(ours["Block count"], 10, 64)
	if reserve := strconv.FormatUint(blocks/20, 10); ours["Reserved block count"] != reserve {
		t.Errorf("%s blocks are reserved, not %s", ours["Reserved block count"], reserve)
	}
	if size <= 1<<40 && size >= 1<<30 { // with -n there is no journal to compare
		command(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(block), "-O", "^resize_inode", other)
		theirs := dumpSuper(t, other)
		for _, key := range []string{"Total journal blocks", "Reserved block count", "Block count", "Inode count", "Inodes per group", "Blocks per group", "Inode size",
			"Required extra isize", "Desired extra isize", "Default mount options", "First inode", "Journal inode", "Default directory hash", "Journal backup", "Checksum type"} {
			if ours[key] != theirs[key] {
				t.Errorf("%s: %s; mke2fs: %s", key, ours[key], theirs[key])
			}
		}
	}
}

// dumpSuper is what dumpe2fs says about a superblock.
func dumpSuper(t testing.TB, image string) map[string]string {
	t.Helper()
	out, err := exec.Command("dumpe2fs", "-h", image).CombinedOutput()
	if err != nil {
		t.Fatalf("dumpe2fs: %v\n%s", err, out)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(line, ":")
		values[key] = strings.TrimSpace(value)
	}
	return values
}

// Whoever formats twice with the same options gets the same bytes, whatever the
// disk held, and what isn't written isn't read.
func TestExt4OnUsedDisk(t *testing.T) {
	need(t, "e2fsck", "dumpe2fs", "losetup")
	needRoot(t)
	for _, block := range []int{1024, 2048, 4096} {
		const size = 64 << 20
		image := filepath.Join(imageDir(t), "image")
		if err := os.WriteFile(image, noise(size), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(image, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		o := ext4Options{Size: size, BlockSize: block, Label: "sixteen letters.", UUID: [16]byte{1, 2, 15: 3}, HashSeed: [16]byte{4, 15: 5}, Sequence: 7, Now: time.Unix(1<<33+1<<31+5, 0)}
		// A device that can't discard.
		if err := formatExt4(context.Background(), &writeLog{store: &area{f: f}}, o); err != nil {
			t.Fatal(err)
		}
		f.Close()
		checkExt4(t, image)
		s := dumpSuper(t, image)
		if s["Filesystem volume name"] != o.Label || strings.ReplaceAll(s["Filesystem UUID"], "-", "") != hex.EncodeToString(o.UUID[:]) {
			t.Errorf("label or UUID: %v", s)
		}
		onMount(t, image, "", func(dir, _ string) {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, "lost+found"), &st); err != nil || st.Mtim.Sec != o.Now.Unix() || st.Mode != unix.S_IFDIR|0o700 {
				t.Errorf("lost+found: %+v %v", st, err)
			}
			if err := unix.Stat(dir, &st); err != nil || st.Mode != unix.S_IFDIR|0o755 || st.Nlink != 3 {
				t.Errorf("root: %+v %v", st, err)
			}
			useMount(t, dir)
		})
		checkExt4(t, image)
	}
}

// What can't be made is an error before anything is written.
func TestExt4Limits(t *testing.T) {
	for _, o := range []ext4Options{
		{}, {Size: -1}, {Size: 16<<20 - 1}, {Size: 64<<40 + 1}, {Size: 1 << 62}, {Size: 1 << 30, BlockSize: 8192}, {Size: 1 << 30, BlockSize: 512}, {Size: 1 << 30, BlockSize: -4096},
		{Size: 4<<40 + 1, BlockSize: 1024}, {Size: 16<<40 + 1, BlockSize: 2048}, {Size: 1 << 30, Sector: 8192}, {Size: 1 << 30, Sector: 4096, BlockSize: 1024},
		{Size: 1 << 30, Label: "seventeen letters"},
	} {
		w := &writeLog{}
		if err := formatExt4(context.Background(), w, o); err == nil || len(w.ops) > 0 {
			t.Errorf("%+v: %v, %d writes", o, err, len(w.ops))
		}
	}
	for _, o := range []ext4Options{{Size: 4 << 40, BlockSize: 1024}, {Size: 16 << 40, BlockSize: 2048}, {Size: 64 << 40}, {Size: 16 << 20, Sector: 4096}, {Size: 16 << 20, BlockSize: 4096}} {
		if _, err := planExt4(o); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	// Every size of the lower range, in steps that meet all remainders of a group.
	for size := int64(16 << 20); size < 300<<20; size += 1<<20/3 + 512 {
		for _, block := range []int{1024, 2048, 4096} {
			if _, err := planExt4(ext4Options{Size: size, BlockSize: block}); err != nil {
				t.Errorf("%d bytes, blocks of %d: %v", size, block, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := &writeLog{}
	if err := formatExt4(ctx, w, ext4Options{Size: 1 << 30}); err != context.Canceled || len(w.ops) > 0 {
		t.Errorf("cancelled: %v, %d writes", err, len(w.ops))
	}
}
