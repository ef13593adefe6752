package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// FuzzNTFS reads volumes of mkntfs with patches. A volume whose directory still
// holds only the volume's own files is fresh; nothing else counts, but no input may
// hang it or make it read without end.
func FuzzNTFS(f *testing.F) {
	var images [][]byte
	var used [][]int
	for _, cluster := range []string{"512", "4096", "65536"} {
		file := filepath.Join(f.TempDir(), "image")
		if err := os.WriteFile(file, make([]byte, 2<<20), 0o600); err != nil {
			f.Fatal(err)
		}
		if exec.Command("mkntfs", "-F", "-Q", "-q", "-L", azureLabel, "-c", cluster, file).Run() != nil {
			continue
		}
		image, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if label, err := checkFreshNTFS(newDisc(bytes.NewReader(image), int64(len(image)))); label != azureLabel || err != nil {
			f.Errorf("clusters of %s: %q, %v", cluster, label, err)
		}
		images, used = append(images, image), append(used, usedGranules(image[:1<<20]))
	}
	if len(images) == 0 {
		skip(f, "needs mkntfs")
	}
	for i := range images {
		f.Add([]byte{byte(i), 3, 0, 4, 1, 2, 3, 4})
		f.Add([]byte{byte(i), 40, 1, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	}
	f.Fuzz(func(t *testing.T, patches []byte) {
		if len(patches) == 0 {
			return
		}
		which := int(patches[0]) % len(images)
		image := bytes.Clone(images[which])
		fuzzPatches(image, used[which], patches[1:])
		d := newDisc(bytes.NewReader(image), int64(len(image)))
		_, _ = checkFreshNTFS(d)
		if d.left < -maxDiscFile {
			t.Errorf("%d bytes were read", maxDiscRead-d.left)
		}
	})
}
