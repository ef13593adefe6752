package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// formatImage formats an image file of a size, sparse.
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
	if err := formatExt4(context.Background(), &area{f: f}, o); err != nil {
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

// largeDir is a directory whose files may be as large as size: ext4's end at 16 TiB.
func largeDir(t testing.TB, size int64) string {
	t.Helper()
	if size < 16<<40 {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "azprov-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const ext4Features = "has_journal ext_attr dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum"

func TestExt4(t *testing.T) {
	need(t, "e2fsck", "dumpe2fs")
	const mib, gib, tib = int64(1) << 20, int64(1) << 30, int64(1) << 40
	for _, c := range []struct {
		size  int64
		block []int
	}{
		{16 * mib, []int{1024, 2048, 4096}}, {17*mib + 512*7, []int{1024, 4096}}, {64 * mib, []int{1024, 2048, 4096}}, {129 * mib, []int{4096}}, {128*mib + 300<<10, []int{4096}},
		{gib, []int{1024, 2048, 4096}}, {16 * gib, []int{1024, 2048, 4096}}, {256 * gib, []int{1024, 2048, 4096}},
		{tib, []int{1024, 4096}}, {3*tib + 12345*512, []int{4096}}, {4 * tib, []int{2048, 4096}}, {16 * tib, []int{4096}}, {64 * tib, []int{4096}},
	} {
		for _, block := range c.block {
			t.Run(fmt.Sprintf("%dMiB-%d", c.size/mib, block), func(t *testing.T) {
				if testing.Short() && c.size > 256*gib {
					t.Skip("large")
				}
				image := filepath.Join(largeDir(t, c.size), "image")
				formatImage(t, image, c.size, block)
				checkExt4(t, image)
				out := command(t, "dumpe2fs", "-h", image)
				features := regexp.MustCompile(`Filesystem features: *(.*)`).FindStringSubmatch(out)
				if got := strings.ReplaceAll(features[1], " meta_bg", ""); got != ext4Features {
					t.Errorf("features %s", features[1])
				}
				if !strings.Contains(out, "Filesystem volume name:   AzureEphmDsk\n") || !regexp.MustCompile(`Block size: *`+fmt.Sprint(block)+`\n`).MatchString(out) {
					t.Errorf("%s", out)
				}
			})
		}
	}
}
