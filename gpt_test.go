package main

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Tables that azprov writes, judged by sfdisk and sgdisk, and by the reader here.
func TestGPT(t *testing.T) {
	needRoot(t)
	need(t, "sfdisk", "sgdisk", "losetup")
	for _, c := range []struct {
		size   int64
		sector int
	}{{64 * mib, 512}, {64 * mib, 4096}, {100*mib + 512*7, 512}, {3 << 40, 512}, {3 << 40, 4096}, {3<<40 + 4096*3, 4096}} {
		t.Run(fmt.Sprintf("%d-%d", c.size, c.sector), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, c.size); err != nil {
				t.Fatal(err)
			}
			loop, free := attach(t, file, c.sector)
			defer free()
			f, err := os.OpenFile(loop, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := writeGPT(&area{f: f}, c.size, int64(c.sector)); err != nil {
				t.Fatal(err)
			}
			checkTables(t, loop)
			from, n := resourceSpan(c.size, int64(c.sector))
			shown := command(t, "sgdisk", "-i", "1", loop)
			for _, want := range []string{"0FC63DAF-8483-4772-8E79-3D69D8477DE4", fmt.Sprintf("First sector: %d ", from/int64(c.sector)),
				fmt.Sprintf("Last sector: %d ", (from+n)/int64(c.sector)-1), "Partition name: 'azprov-resource'"} {
				if !strings.Contains(shown, want) {
					t.Errorf("sgdisk shows\n%s\nwithout %s", shown, want)
				}
			}
			if left := c.size - from - n; left > 2*mib || from%mib != 0 || n%mib != 0 {
				t.Errorf("partition from %d, %d bytes", from, n)
			}
			var readErr error
			table := readTable(&extent{f, 0, c.size, &readErr}, int64(c.sector))
			if readErr != nil || table.torn != "" || len(table.parts) != 1 || table.parts[0].from != from || table.parts[0].size != n || table.parts[0].name != resourcePartition {
				t.Errorf("read back: %+v, %v", table, readErr)
			}
		})
	}
}

// A disk beyond 2 TiB, the whole way.
func TestSetUpLargeDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 3<<40); err != nil {
		t.Fatal(err)
	}
	m := loopMachine(t, file, 512)
	m.cfg.ResourceOpts = "noinit_itable" // the kernel would write 48 GiB of zeros
	setUp(t, m)
	var fs unix.Statfs_t
	dir := filepath.Join(m.guest.dir, "mnt/resource")
	if err := unix.Statfs(dir, &fs); err != nil || int64(fs.Blocks)*fs.Bsize < 29<<40/10 {
		t.Errorf("%d blocks of %d, %v", fs.Blocks, fs.Bsize, err)
	}
	checkTables(t, m.cfg.ResourceDisk)
}

// diskOp is a write, a sync (no data) or a discard of a recorded format.
type diskOp struct {
	off     int64
	data    []byte
	sync    bool
	discard int64
}

// recordedStore keeps what is done to a disk; from shifts it.
type recordedStore struct {
	ops  *[]diskOp
	from int64
}

func (s *recordedStore) writev(off int64, bufs ...[]byte) error {
	*s.ops = append(*s.ops, diskOp{off: s.from + off, data: bytes.Join(bufs, nil)})
	return nil
}

func (s *recordedStore) sync() error {
	*s.ops = append(*s.ops, diskOp{sync: true})
	return nil
}

func (s *recordedStore) writeSync(off int64, b []byte) error {
	_ = s.writev(off, b)
	return s.sync()
}

func (s *recordedStore) discard(off, n int64) error {
	*s.ops = append(*s.ops, diskOp{off: s.from + off, discard: n})
	return nil
}

// cutDisk is a disk with operations done to it.
type cutDisk struct {
	base []byte
	ops  []diskOp
}

func (d *cutDisk) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, d.base[off:])
	for _, op := range d.ops {
		if op.discard > 0 {
			from, to := max(op.off, off), min(op.off+op.discard, off+int64(n))
			if from < to {
				clear(p[from-off : to-off])
			}
			continue
		}
		if start := max(op.off, off); start < op.off+int64(len(op.data)) && start < off+int64(n) {
			copy(p[start-off:n], op.data[start-op.off:])
		}
	}
	return n, nil
}

// survivors are what may be on the medium when the power goes after some
// operations: what was synced, and of the rest all, none, every other, the last.
func survivors(ops []diskOp) [][]diskOp {
	synced := 0
	for i, op := range ops {
		if op.sync {
			synced = i + 1
		}
	}
	var every []diskOp
	for i, op := range ops[synced:] {
		if i%2 == 1 {
			every = append(every, op)
		}
	}
	none := ops[:synced:synced]
	list := [][]diskOp{ops, none}
	if rest := ops[synced:]; len(rest) > 1 {
		list = append(list, append(none, every...), append(none, rest[len(rest)-1]))
		if last := rest[len(rest)-1]; len(last.data) > 512 { // and torn
			last.data = last.data[:len(last.data)/1024*512]
			list = append(list, append(none, last))
		}
	}
	return list
}

// Power cuts at every write of a whole setup: the next run starts over, or finds a
// file system that e2fsck has nothing to say about; it never refuses, and never
// mounts a torn one.
func TestPowerCut(t *testing.T) {
	needRoot(t)
	need(t, "mkntfs", "ntfs-3g", "sfdisk", "e2fsck", "dd")
	find := func(name string) diskImage {
		for _, d := range diskImages() {
			if d.name == name {
				return d
			}
		}
		t.Fatalf("no image %q", name)
		return diskImage{}
	}
	for _, name := range []string{"zeros", "mbr without partitions", "gpt without partitions", "azure's ntfs, mbr", "azure's ntfs, gpt", "azure's ntfs from sector 128",
		"azure's ntfs with a reserved partition", "azprov's own, damaged, reformat"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := find(name)
			b := makeImage(t, d)
			base := b.read(0, int(b.size))
			var ops []diskOp
			record := func(disk *cutDisk) []diskOp {
				var ops []diskOp
				v := viewDisk(disk, b.size, 512)
				at := func(from int64) store { return &recordedStore{&ops, from} }
				if err := formatResource(t.Context(), at, v, b.size, 512, time.Now()); err != nil {
					t.Fatal(err)
				}
				return ops
			}
			check := func(d *cutDisk) {
				file := filepath.Join(memoryDir(t), "cut")
				f, err := os.Create(file)
				if err != nil {
					t.Fatal(err)
				}
				defer os.Remove(file)
				defer f.Close()
				page := make([]byte, mib)
				for off := int64(0); off < b.size; off += mib {
					d.ReadAt(page, off)
					if !onlyZeros(page) {
						f.WriteAt(page, off)
					}
				}
				f.Truncate(b.size)
				checkExt4(t, file+"?offset="+fmt.Sprint(mib))
			}
			ops = record(&cutDisk{base, nil})
			mounts, formats := 0, 0
			for n := range len(ops) + 1 {
				for i, left := range survivors(ops[:n]) {
					disk := &cutDisk{base, left}
					v := viewDisk(disk, b.size, 512)
					got, why := decideDisk(v.signs | d.more)
					switch got {
					case diskFormat:
						formats++
						if n%4 == 0 && i == n/4%2 { // the next run
							disk.ops = append(left[:len(left):len(left)], record(disk)...)
							if again, why := decideDisk(viewDisk(disk, b.size, 512).signs); again != diskMount {
								t.Errorf("cut after %d, then formatted: %s, because %s", n, again, why)
							}
							check(disk)
						}
					case diskMount:
						mounts++
						check(disk)
					default:
						t.Errorf("cut after %d of %d operations, %d: %s, because %s (%s)", n, len(ops), i, got, why, v.detail)
					}
				}
			}
			if mounts == 0 || formats < len(ops) {
				t.Errorf("%d cuts are mounted, %d formatted, of %d operations", mounts, formats, len(ops))
			}
			t.Logf("%d operations: %d cuts are formatted again, %d mounted", len(ops), formats, mounts)
		})
	}
}

// fuzzPatches changes an image: position among the bytes near which it holds
// something (2), length (1), bytes.
func fuzzPatches(image []byte, used []int, patches []byte) {
	const granule = 64
	for len(patches) >= 4 {
		at := int(le.Uint16(patches))
		at = used[at/granule%len(used)] + at%granule
		n := copy(image[at:], patches[3:min(len(patches), 3+1+int(patches[2]%16))])
		if n == 0 {
			return
		}
		patches = patches[3+n:]
	}
}

// usedGranules are the places of 64 bytes that hold something.
func usedGranules(image []byte) (used []int) {
	for at := 0; at+64 <= len(image); at += 64 {
		if !onlyZeros(image[at : at+64]) {
			used = append(used, at)
		}
	}
	return used
}

// byteStore writes to memory.
type byteStore struct {
	recordedStore
	b []byte
}

func (s *byteStore) writev(off int64, bufs ...[]byte) error {
	copy(s.b[off:], bytes.Join(bufs, nil))
	return nil
}
func (s *byteStore) sync() error { return nil }

// zeroTail is an image that goes on with zeros.
type zeroTail []byte

func (z zeroTail) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(z)) {
		copy(p, z[off:])
	}
	return len(p), nil
}

// A table is read within its disk, and what is not torn does not overlap. The
// checksums are made right, so that what they guard is met.
func FuzzPartitionTable(f *testing.F) {
	const size = 2 << 20
	s := &byteStore{b: make([]byte, size)}
	if err := writeGPT(s, size, 512); err != nil {
		f.Fatal(err)
	}
	used := usedGranules(s.b)
	f.Add([]byte{0, 3, 0, 4, 1, 2, 3, 4})
	f.Add([]byte{1, 80, 2, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Add([]byte{1, 200, 1, 15, 255, 255, 255, 255, 255, 255, 255, 127, 255, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) == 0 {
			return
		}
		image := bytes.Clone(s.b)
		fuzzPatches(image, used, input[1:])
		if input[0]&1 != 0 {
			for _, h := range [][]byte{image[512:1024], image[size-512:]} {
				le.PutUint32(h[12:], gptHeaderSize)
				table, n := le.Uint64(h[72:])*512, uint64(le.Uint32(h[80:])*le.Uint32(h[84:]))
				if table < size && n < size-table {
					le.PutUint32(h[88:], crc32.ChecksumIEEE(image[table:table+n]))
				}
				le.PutUint32(h[16:], 0)
				le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
			}
		}
		var readErr error
		table := readTable(&extent{bytes.NewReader(image), 0, size, &readErr}, 512)
		if readErr != nil {
			t.Fatal(readErr)
		}
		for i, p := range table.parts {
			if table.torn == "" && (p.from <= 0 || p.size <= 0 || p.from+p.size > size || p.number != table.parts[i].number) {
				t.Errorf("partition %+v", p)
			}
		}
		viewDisk(zeroTail(image), minResourceDisk, 512)
	})
}
