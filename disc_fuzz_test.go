package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"azprov/sim"
)

// fuzzDisc fuzzes a file system with patches of real images: an image is large
// and nearly empty, and a mutation of the whole rarely meets anything. An input
// is the number of the image, doubled, plus 1 if the checksums of UDF descriptors
// are to be made right again, then patches: position among the bytes near which
// the image holds something (2), length (1), bytes.
func fuzzDisc(f *testing.F, open func(*disc) (discFS, error), images ...[]byte) {
	const granule = 64
	used := make([][]int, len(images))
	for i, image := range images {
		for at := 0; at+granule <= len(image); at += granule {
			if !allZero(image[at : at+granule]) {
				used[i] = append(used[i], at)
			}
		}
		for fix := range 2 {
			f.Add([]byte{byte(2*i + fix), 3, 0, 4, 1, 2, 3, 4})
		}
	}
	f.Fuzz(func(t *testing.T, patches []byte) {
		if len(patches) == 0 {
			return
		}
		which := int(patches[0]/2) % len(images)
		fix := patches[0]%2 == 1
		image := bytes.Clone(images[which])
		for patches = patches[1:]; len(patches) >= 4; {
			at := int(binary.LittleEndian.Uint16(patches))
			at = used[which][at/granule%len(used[which])] + at%granule
			n := copy(image[at:], patches[3:min(len(patches), 3+1+int(patches[2]%16))])
			patches = patches[3+n:]
			if n == 0 {
				break
			}
		}
		if fix {
			fixUDF(image)
		}
		fs, err := open(newDisc(bytes.NewReader(image), int64(len(image))))
		if err != nil {
			return
		}
		fs.describe()
		names, err := fs.names()
		if err != nil {
			return
		}
		if len(names) > maxDiscNames+1 {
			t.Errorf("%d names", len(names))
		}
		for _, n := range names[:min(len(names), 8)] {
			if data, err := fs.file(n); err == nil && len(data) > maxDiscFile {
				t.Errorf("%d bytes", len(data))
			}
		}
	})
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// fixUDF makes the CRC and the checksum of every descriptor tag right (ECMA-167, 7.2).
func fixUDF(image []byte) {
	for at := 0; at+512 <= len(image); at += 512 {
		b := image[at:]
		id, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[10:]))
		if (id == 0 || id > 9) && (id < 256 || id > 266) || n > len(b)-16 || n > 2048 {
			continue
		}
		binary.LittleEndian.PutUint16(b[8:], crcITU(b[16:16+n]))
		b[4] = 0
		for i := range 16 {
			if i != 4 {
				b[4] += b[i]
			}
		}
	}
}

// fuzzDVD is a DVD as the simulated platform makes it.
func fuzzDVD(f *testing.F, format sim.MediaFormat, revision uint16) []byte {
	vm := &sim.VM{}
	if err := vm.Defaults(0); err != nil {
		f.Fatal(err)
	}
	image, err := sim.WriteDVD(format, revision, "label", vm.OVF(), time.Unix(0, 0))
	if err != nil {
		f.Fatal(err)
	}
	return image
}

// fuzzMade is an image that another program makes, or nothing where it is not there.
func fuzzMade(f *testing.F, size int64, name string, args ...string) [][]byte {
	file := filepath.Join(f.TempDir(), "image")
	if size > 0 {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			f.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil {
			f.Fatal(err)
		}
	}
	for i, a := range args {
		if a == "IMAGE" {
			args[i] = file
		}
	}
	if exec.Command(name, args...).Run() != nil {
		return nil
	}
	image, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	return [][]byte{image}
}

func FuzzUDF(f *testing.F) {
	images := [][]byte{fuzzDVD(f, sim.FormatUDF, 0x0102), fuzzDVD(f, sim.FormatUDF, 0x0201)}
	images = append(images, fuzzMade(f, 1<<20, "mkudffs", "--media-type=hd", "--udfrev=2.01", "--blocksize=512", "IMAGE")...)
	images = append(images, fuzzMade(f, 2<<20, "mkudffs", "--media-type=dvdrw", "--udfrev=2.50", "--blocksize=2048", "IMAGE")...)
	fuzzDisc(f, openUDF, images...)
}

func FuzzISO9660(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ovf-env.xml"), []byte("<Environment/>"), 0o600); err != nil {
		f.Fatal(err)
	}
	images := [][]byte{fuzzDVD(f, sim.FormatBridge, 0x0102)}
	images = append(images, fuzzMade(f, 0, "genisoimage", "-quiet", "-J", "-R", "-o", "IMAGE", dir)...)
	fuzzDisc(f, openISO, images...)
}

func FuzzFAT(f *testing.F) {
	fuzzDisc(f, openFAT, tinyFAT(12), tinyFAT(16), tinyFAT(32))
}

// tinyFAT is the head of a FAT volume with one file: enough of it to be opened.
func tinyFAT(bits int) []byte {
	total := map[int]int{12: 200, 16: 5000, 32: 70000}[bits]
	tableSectors := total*bits/8/512 + 1
	b := make([]byte, (1+tableSectors+1+8)*512)
	b[0] = 0xeb
	binary.LittleEndian.PutUint16(b[11:], 512)
	b[13], b[14], b[16] = 1, 1, 1
	root := 1 + tableSectors
	if bits == 32 {
		binary.LittleEndian.PutUint32(b[36:], uint32(tableSectors))
		binary.LittleEndian.PutUint32(b[44:], 2)
	} else {
		binary.LittleEndian.PutUint16(b[17:], 16)
		binary.LittleEndian.PutUint16(b[22:], uint16(tableSectors))
	}
	binary.LittleEndian.PutUint32(b[32:], uint32(total))
	b[510], b[511] = 0x55, 0xaa
	for i := 512; i < 512+16; i++ {
		b[i] = 0xff
	}
	copy(b[root*512:], "OVF-ENV XML")
	binary.LittleEndian.PutUint16(b[root*512+26:], 3)
	binary.LittleEndian.PutUint32(b[root*512+28:], 20)
	return b
}
