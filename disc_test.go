package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"azprov/sim"

	"golang.org/x/sys/unix"
)

// discFiles are the contents that every image holds: empty, small, and larger
// than any block, of bytes that don't repeat.
func discFiles() map[string][]byte {
	large := make([]byte, 0, 300<<10)
	for i := 0; len(large) < 300<<10; i++ {
		sum := sha256.Sum256([]byte(fmt.Sprint(i)))
		large = append(large, sum[:]...)
	}
	return map[string][]byte{"empty.txt": {}, "small-file.txt": large[:1024], "A large File.bin": large}
}

// writeDiscFiles puts the files into a folder for an image maker.
func writeDiscFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range discFiles() {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// checkDisc reads every file with our reader, by the names that the image can hold.
func checkDisc(t *testing.T, image, kind string, rename func(string) string) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Stat()
	list, err := openDisc(newDisc(f, info.Size()))
	if err != nil && len(list) == 0 {
		t.Fatalf("%s: %v", filepath.Base(image), err)
	}
	for _, fs := range list {
		got, _ := fs.describe()
		if !strings.HasPrefix(got, kind) {
			continue
		}
		for name, want := range discFiles() {
			if rename != nil {
				name = rename(name)
			}
			data, err := readDiscFile(fs, name)
			if err != nil || !bytes.Equal(data, want) {
				names, _ := fs.names()
				t.Errorf("%s: %s: %d bytes, want %d; %v; names %q", got, name, len(data), len(want), err, names)
			}
		}
		if _, err := readDiscFile(fs, "other"); !errors.Is(err, errNoDocument) {
			t.Errorf("%s: a file that is not there: %v", got, err)
		}
		if _, label := fs.describe(); label == "" {
			t.Errorf("%s: no label", kind)
		}
		return
	}
	t.Errorf("%s: no %s among %d file systems", filepath.Base(image), kind, len(list))
}

func TestReadISO(t *testing.T) {
	need(t, "genisoimage", "isoinfo")
	src := writeDiscFiles(t)
	short := func(name string) string {
		return map[string]string{"empty.txt": "EMPTY.TXT", "small-file.txt": "SMALL_FI.TXT", "A large File.bin": "A_LARGE_.BIN"}[name]
	}
	for _, c := range []struct {
		kind   string
		rename func(string) string
		args   []string
	}{
		{"iso9660", short, nil},
		{"joliet", nil, []string{"-J"}},
		{"rock ridge", nil, []string{"-R"}},
		{"rock ridge", nil, []string{"-R", "-J"}},
		{"udf 1.02", nil, []string{"-udf"}},
		{"udf 1.02", nil, []string{"-udf", "-J", "-R"}},
		{"rock ridge", nil, []string{"-udf", "-R"}},
	} {
		image := filepath.Join(t.TempDir(), "image")
		command(t, "genisoimage", append(append([]string{"-quiet", "-V", "LABEL", "-o", image}, c.args...), src)...)
		checkDisc(t, image, c.kind, c.rename)
		// The oracle: what isoinfo reads of the plain tree.
		out, err := exec.Command("isoinfo", "-i", image, "-x", "/A_LARGE_.BIN;1").Output()
		if err != nil || !bytes.Equal(out, discFiles()["A large File.bin"]) {
			t.Errorf("isoinfo reads %d bytes, %v", len(out), err)
		}
	}
}

func TestReadFAT(t *testing.T) {
	need(t, "mkfs.vfat", "mcopy", "mtype", "mdel")
	for _, c := range []struct {
		kind string
		kib  int
		args []string
	}{{"fat12", 1440, []string{"-F", "12"}}, {"fat16", 16 << 10, []string{"-F", "16"}}, {"fat32", 64 << 10, []string{"-F", "32"}}, {"fat16", 64 << 10, []string{"-F", "16", "-S", "2048"}}} {
		image := filepath.Join(t.TempDir(), "image")
		command(t, "mkfs.vfat", append(append([]string{"-C", "-n", "LABEL"}, c.args...), image, fmt.Sprint(c.kib))...)
		// Holes between small files make the large one a fragmented one.
		filler := filepath.Join(t.TempDir(), "filler")
		if err := os.WriteFile(filler, make([]byte, 9000), 0o644); err != nil {
			t.Fatal(err)
		}
		for i := range 12 {
			command(t, "mcopy", "-i", image, filler, fmt.Sprintf("::fill%d", i))
		}
		for i := 0; i < 12; i += 2 {
			command(t, "mdel", "-i", image, fmt.Sprintf("::fill%d", i))
		}
		src := writeDiscFiles(t)
		for name := range discFiles() {
			command(t, "mcopy", "-i", image, filepath.Join(src, name), "::"+name)
		}
		checkDisc(t, image, c.kind, nil)
		if out, err := exec.Command("mtype", "-i", image, "::A large File.bin").Output(); err != nil || !bytes.Equal(out, discFiles()["A large File.bin"]) {
			t.Errorf("mtype reads %d bytes, %v", len(out), err)
		}
	}
}

// udfWriter adds files to an empty volume of mkudffs: ECMA-167 descriptors
// written in the test's own way, data in pieces that stand apart.
type udfWriter struct {
	t     *testing.T
	image []byte
	size  int // of a block
	start int // of the partition, in blocks
	next  int // free block
}

func (w *udfWriter) block(n int) []byte { return w.image[(w.start+n)*w.size:][:w.size] }

func (w *udfWriter) seal(b []byte, n int, location int) {
	binary.LittleEndian.PutUint16(b[8:], crcITU(b[16:n]))
	binary.LittleEndian.PutUint16(b[10:], uint16(n-16))
	binary.LittleEndian.PutUint32(b[12:], uint32(location))
	b[4] = 0
	var sum byte
	for _, c := range b[:16] {
		sum += c
	}
	b[4] = sum
}

// allocation is how a file's extents are described.
type allocation struct {
	name     string
	long     bool
	extended bool // extended file entry
	chained  bool // part of the descriptors in an allocation extent
	embedded bool
	wide     bool // name in 16-bit form
}

func (w *udfWriter) file(data []byte, a allocation, version uint16) int {
	at := w.next
	w.next++
	b := w.block(at)
	head := 176
	binary.LittleEndian.PutUint16(b, tagFileEntry)
	if a.extended {
		head = 216
		binary.LittleEndian.PutUint16(b, tagExtendedEntry)
	}
	binary.LittleEndian.PutUint16(b[2:], version)
	binary.LittleEndian.PutUint16(b[20:], 4)
	b[27] = 5
	binary.LittleEndian.PutUint64(b[56:], uint64(len(data)))
	kind := 0
	var area []byte
	if a.embedded {
		kind, area = 3, data
	} else {
		kind, area = w.extents(data, a, version)
	}
	binary.LittleEndian.PutUint16(b[34:], uint16(kind))
	binary.LittleEndian.PutUint32(b[head-4:], uint32(len(area)))
	copy(b[head:], area)
	w.seal(b, head+len(area), at)
	return at
}

// extents writes data in pieces of three blocks, with a block between them.
func (w *udfWriter) extents(data []byte, a allocation, version uint16) (int, []byte) {
	var area []byte
	kind, step := 0, 8
	if a.long {
		kind, step = 1, 16
	}
	add := func(length uint32, block int) {
		e := make([]byte, step)
		binary.LittleEndian.PutUint32(e, length)
		binary.LittleEndian.PutUint32(e[4:], uint32(block))
		area = append(area, e...)
	}
	for len(data) > 0 {
		n := min(len(data), 3*w.size)
		copy(w.image[(w.start+w.next)*w.size:], data[:n])
		add(uint32(n), w.next)
		w.next += 4
		data = data[n:]
	}
	limit := 16 * step
	if !a.chained {
		limit = 1 << 20
	}
	// What is over stands in allocation extents, each leading to the next.
	var chain func(rest []byte) []byte
	chain = func(rest []byte) []byte {
		if len(rest) <= limit {
			return rest
		}
		at := w.next
		w.next++
		tail := chain(rest[limit:])
		b := w.block(at)
		binary.LittleEndian.PutUint16(b, tagAllocationExtent)
		binary.LittleEndian.PutUint16(b[2:], version)
		binary.LittleEndian.PutUint32(b[20:], uint32(len(tail)))
		copy(b[24:], tail)
		w.seal(b, 24+len(tail), at)
		e := make([]byte, step)
		binary.LittleEndian.PutUint32(e, uint32(w.size)|extentMore<<30)
		binary.LittleEndian.PutUint32(e[4:], uint32(at))
		return append(slices.Clone(rest[:limit]), e...)
	}
	return kind, chain(area)
}

func TestReadUDF(t *testing.T) {
	need(t, "mkudffs")
	for _, revision := range []string{"1.02", "1.50", "2.00", "2.01"} {
		for _, size := range []int{512, 2048} {
			for _, a := range []allocation{{name: "short"}, {name: "long", long: true, wide: true}, {name: "chained", chained: true}, {name: "long chained extended", long: true, chained: true, extended: true}} {
				if a.extended && revision < "2.00" || a.name == "short" && size == 512 {
					continue // no such entries before 2.00; 50 pieces don't fit into a small entry
				}
				if a.name == "long" && size == 512 {
					continue
				}
				t.Run(fmt.Sprint(revision, " ", size, " ", a.name), func(t *testing.T) { testUDF(t, revision, size, a) })
			}
		}
	}
}

func testUDF(t *testing.T, revision string, size int, a allocation) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 8<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "mkudffs", "--media-type=hd", "--udfrev="+revision, "--blocksize="+fmt.Sprint(size), "--label=LABEL", image)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := openUDF(newDisc(bytes.NewReader(data), int64(len(data))))
	if err != nil {
		t.Fatal(err)
	}
	v := fs.(*udfVolume)
	version := uint16(2)
	if revision >= "2.00" {
		version = 3
	}
	w := &udfWriter{t: t, image: data, size: size, start: int(v.maps[0].start), next: 2000}
	addUDFFiles(t, w, v, a, version)
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	checkDisc(t, image, "udf "+revision, nil)
	// The oracle is another reader of UDF, as far as it goes.
	if a.chained {
		return
	}
	if _, err := exec.LookPath("7z"); err != nil {
		skip(t, "needs 7z")
	}
	out := t.TempDir()
	command(t, "7z", "x", "-tudf", "-o"+out, image)
	for name, want := range discFiles() {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("7z reads %s: %d bytes, %v", name, len(got), err)
		}
	}
}

// addUDFFiles replaces the root directory by one with the test's files.
func addUDFFiles(t *testing.T, w *udfWriter, v *udfVolume, a allocation, version uint16) {
	t.Helper()
	var dir []byte
	root := int(v.root.block)
	identifier := func(characteristics byte, entry int, name string) {
		text := append([]byte{8}, name...)
		if a.wide {
			text = []byte{16}
			for _, c := range []byte(name) {
				text = append(text, 0, c)
			}
		}
		if name == "" {
			text = nil
		}
		b := make([]byte, (38+len(text)+3)&^3)
		binary.LittleEndian.PutUint16(b, tagFileIdentifier)
		binary.LittleEndian.PutUint16(b[2:], version)
		binary.LittleEndian.PutUint16(b[16:], 1)
		b[18], b[19] = characteristics, byte(len(text))
		binary.LittleEndian.PutUint32(b[20:], uint32(w.size))
		binary.LittleEndian.PutUint32(b[24:], uint32(entry))
		copy(b[38:], text)
		w.seal(b, len(b), 1999)
		dir = append(dir, b...)
	}
	identifier(0x0a, root, "")
	identifier(0x04, root, "deleted")
	for name, data := range discFiles() {
		how := a
		how.embedded = len(data) > 0 && len(data) < w.size-300
		identifier(0, w.file(data, how, version), name)
	}
	copy(w.image[(w.start+1990)*w.size:], dir)
	b := w.block(root)
	head := 176
	if binary.LittleEndian.Uint16(b) == tagExtendedEntry {
		head = 216
	}
	binary.LittleEndian.PutUint64(b[56:], uint64(len(dir)))
	attrs := int(binary.LittleEndian.Uint32(b[head-8:]))
	binary.LittleEndian.PutUint16(b[34:], binary.LittleEndian.Uint16(b[34:])&^7)
	binary.LittleEndian.PutUint32(b[head-4:], 8)
	binary.LittleEndian.PutUint32(b[head+attrs:], uint32(len(dir)))
	binary.LittleEndian.PutUint32(b[head+attrs+4:], 1990)
	w.seal(b, head+attrs+8, root)
}

// Volumes of rewritable media have sparable partitions.
func TestReadUDFMaps(t *testing.T) {
	need(t, "mkudffs")
	for _, media := range []string{"cdrw", "dvdrw", "dvdram", "dvd"} {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, make([]byte, 64<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		command(t, "mkudffs", "--media-type="+media, "--label=LABEL", image)
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := f.Stat()
		fs, err := openUDF(newDisc(f, info.Size()))
		if err != nil {
			t.Errorf("%s: %v", media, err)
		} else if names, err := fs.names(); err != nil {
			t.Errorf("%s: root directory: %v %v", media, names, err)
		}
		f.Close()
	}
}

func testMedium(t *testing.T, format sim.MediaFormat, revision uint16) (image, doc []byte) {
	t.Helper()
	vm := &sim.VM{Password: "hunter2", CustomData: strings.Repeat("custom ", 9000)}
	if err := vm.Defaults(0); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	image, err := sim.WriteDVD(format, revision, sim.Label(now), vm.OVF(), now)
	if err != nil {
		t.Fatal(err)
	}
	return image, vm.OVF()
}

func TestReadImage(t *testing.T) {
	for _, format := range []sim.MediaFormat{sim.FormatUDF, sim.FormatBridge} {
		for _, revision := range []uint16{0x0102, 0x0150, 0x0201} {
			image, doc := testMedium(t, format, revision)
			med, err := readImage(bytes.NewReader(image), int64(len(image)))
			if err != nil || !bytes.Equal(med.OVF, doc) || med.Label != "rd_rdfe_stable.261124-1000" || !strings.HasPrefix(med.FileSystem, "udf") {
				t.Errorf("%s %x: %+v, %v", format, revision, med, err)
			}
		}
	}
	// A bridge disc whose UDF is broken is read as ISO 9660.
	image, doc := testMedium(t, sim.FormatBridge, 0x0102)
	clear(image[256*2048 : 257*2048])
	clear(image[len(image)-2048:])
	if med, err := readImage(bytes.NewReader(image), int64(len(image))); err != nil || !bytes.Equal(med.OVF, doc) || med.FileSystem != "iso9660" {
		t.Errorf("bridge without UDF: %+v, %v", med, err)
	}
	// The reserve sequence serves when the main one is broken.
	image, doc = testMedium(t, sim.FormatUDF, 0x0102)
	image[34*2048+100] ^= 1
	if med, err := readImage(bytes.NewReader(image), int64(len(image))); err != nil || !bytes.Equal(med.OVF, doc) {
		t.Errorf("reserve sequence: %+v, %v", med, err)
	}
}

func TestReadImageErrors(t *testing.T) {
	if _, err := readImage(bytes.NewReader(make([]byte, 1<<20)), 1<<20); !errors.Is(err, errNoFileSystem) {
		t.Errorf("zeros: %v", err)
	}
	if _, err := readImage(bytes.NewReader(nil), 0); !errors.Is(err, errNoFileSystem) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := readImage(brokenReader{}, 1<<20); !errors.Is(err, unix.EIO) && !errors.Is(err, errNoFileSystem) {
		t.Errorf("unreadable: %v", err)
	}
	need(t, "genisoimage")
	image := filepath.Join(t.TempDir(), "image")
	command(t, "genisoimage", "-quiet", "-J", "-V", "OTHER", "-o", image, writeDiscFiles(t))
	data, _ := os.ReadFile(image)
	_, err := readImage(bytes.NewReader(data), int64(len(data)))
	if !errors.Is(err, errNoDocument) || !strings.Contains(err.Error(), `label "OTHER"`) || !strings.Contains(err.Error(), "small-file.txt") {
		t.Errorf("another disc: %v", err)
	}
}

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) { return 0, unix.EIO }
