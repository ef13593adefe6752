package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel's lazy initialisation zeroes every inode table that the formatter has
// left, on a disk that holds noise, and e2fsck is content with the outcome.
func TestExt4LazyInit(t *testing.T) {
	need(t, "e2fsck", "dumpe2fs", "losetup")
	needRoot(t)
	for _, block := range []int{1024, 2048, 4096} {
		t.Run(strconv.Itoa(block), func(t *testing.T) {
			t.Parallel() // the kernel waits some seconds before it starts
			image := filepath.Join(imageDir(t), "image")
			formatImage(t, image, 300<<20, block)
			onMount(t, image, "init_itable=0", func(dir, device string) {
				useMount(t, dir)
				for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
					unix.Sync()
					out, err := exec.Command("dumpe2fs", device).CombinedOutput()
					groups := strings.Count(string(out), "\nGroup ") - 1 // "Group descriptor size"
					if err == nil && groups > 1 && strings.Count(string(out), "ITABLE_ZEROED") == groups {
						return
					}
					if time.Now().After(deadline) {
						t.Errorf("not all of %d inode tables were zeroed: %v\n%s", groups, err, out)
						return
					}
				}
			})
			checkExt4(t, image)
		})
	}
}

// A file system takes files until every block is used, and gives back what they
// hold.
func TestExt4Full(t *testing.T) {
	need(t, "e2fsck", "losetup")
	needRoot(t)
	for _, block := range []int{1024, 4096} {
		image := filepath.Join(imageDir(t), "image")
		formatImage(t, image, 40<<20, block)
		data := noise(1 << 20)
		var sizes []int
		onMount(t, image, "", func(dir, _ string) {
			for piece := len(data); piece > 0; {
				f, err := os.Create(filepath.Join(dir, strconv.Itoa(len(sizes))))
				if err != nil {
					t.Error(err)
					return
				}
				n, err := f.Write(data[:piece])
				sizes = append(sizes, n)
				if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
					piece = piece / 16 / block * block
				}
			}
			var s unix.Statfs_t
			// The kernel keeps a fiftieth for metadata that it may need at a write.
			if err := unix.Statfs(dir, &s); err != nil || s.Bfree > 40<<20/uint64(block)/50+8 || s.Bavail != 0 {
				t.Errorf("%d of %d blocks are free: %v", s.Bfree, s.Blocks, err)
			}
			// lost+found has room for names without a block more.
			for i := range 100 {
				if err := unix.Mknod(filepath.Join(dir, "lost+found", strconv.Itoa(i)), unix.S_IFREG|0o600, 0); err != nil {
					t.Error(err)
				}
			}
		})
		checkExt4(t, image)
		onMount(t, image, "ro", func(dir, _ string) {
			for i, n := range sizes {
				if b, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(i))); err != nil || !bytes.Equal(b, data[:n]) {
					t.Errorf("file %d has changed: %d bytes of %d, %v", i, len(b), n, err)
				}
			}
		})
	}
}

// resize2fs grows a file system, unmounted and mounted, and what it holds stays.
func TestExt4Grow(t *testing.T) {
	need(t, "e2fsck", "resize2fs", "losetup")
	needRoot(t)
	const mib, gib = int64(1) << 20, int64(1) << 30
	for _, c := range []struct {
		block    int
		from, to int64
		mounted  bool
	}{
		{1024, 64 * mib, gib, false}, {2048, 64 * mib, 300 * mib, false}, {4096, gib, 12 * gib, false}, // the last one needs more descriptors,
		{1024, 64 * mib, 100 * mib, true}, {4096, gib, 6 * gib, true}, {4096, gib, 12 * gib, true}, // for which the kernel goes over to meta_bg
	} {
		t.Run(fmt.Sprintf("%dMiB-%dMiB-%d-%v", c.from/mib, c.to/mib, c.block, c.mounted), func(t *testing.T) {
			if c.mounted {
				if !hasCapability(unix.CAP_SYS_RESOURCE) {
					t.Skip("a container's root may not grow what is mounted")
				}
				if c.to > 8*gib && !kernelFrom(6, 9) {
					t.Skip("the kernel is wrong: see formatExt4")
				}
			}
			image := filepath.Join(imageDir(t), "image")
			formatImage(t, image, c.from, c.block)
			grow := func(target string) {
				if out, err := exec.Command("resize2fs", target).CombinedOutput(); err != nil {
					t.Errorf("resize2fs: %v\n%s", err, out)
				}
			}
			data := noise(20 << 20)
			onMount(t, image, "", func(dir, _ string) {
				useMount(t, dir)
				if err := os.WriteFile(filepath.Join(dir, "kept"), data, 0o600); err != nil {
					t.Error(err)
				}
			})
			if err := os.Truncate(image, c.to); err != nil {
				t.Fatal(err)
			}
			if !c.mounted {
				command(t, "e2fsck", "-fp", image) // resize2fs wants a check after the mount
				grow(image)
				checkExt4(t, image)
			}
			onMount(t, image, "", func(dir, device string) {
				if c.mounted {
					grow(device)
				}
				var s unix.Statfs_t
				if err := unix.Statfs(dir, &s); err != nil || int64(s.Blocks)*s.Bsize < c.to/10*8 {
					t.Errorf("%d blocks of %d: %v", s.Blocks, s.Bsize, err)
				}
				if err := os.Mkdir(filepath.Join(dir, "grown"), 0o700); err != nil {
					t.Error(err)
				}
				useMount(t, filepath.Join(dir, "grown"))
			})
			checkExt4(t, image)
			onMount(t, image, "ro", func(dir, _ string) {
				if b, err := os.ReadFile(filepath.Join(dir, "kept")); err != nil || !bytes.Equal(b, data) {
					t.Errorf("a file has changed: %v", err)
				}
			})
		})
	}
}

// hasCapability says whether this process has a capability, which even root may lack.
func hasCapability(number uint) bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&head, &data[0]) == nil && data[number/32].Effective>>(number%32)&1 != 0
}

// kernelFrom says whether the running kernel is of a version or later.
func kernelFrom(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return a > major || a == major && b >= minor
}
