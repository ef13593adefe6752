package main

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"
)

// store is a disk or partition as the formatter sees it. Offsets are bytes from
// its start. What was written may reach the medium in any order until sync or
// writeSync returns.
type store interface {
	// writev writes the buffers one after another from off on: all or an error.
	writev(off int64, bufs ...[]byte) error
	// writeSync writes b and returns when b is on stable storage.
	writeSync(off int64, b []byte) error
	// sync returns when everything written is on stable storage.
	sync() error
	// discard tells the device that a range holds nothing. It is a hint.
	discard(off, n int64) error
}

// ext4Options is what a file system is made of. Whoever formats twice with the
// same options gets the same bytes.
type ext4Options struct {
	// Size is the bytes of the area: 16 MiB to 64 TiB with blocks of 4096, to
	// 16 TiB with 2048, to 4 TiB with 1024.
	Size      int64
	BlockSize int // 1024, 2048, 4096, or 0 for what mke2fs would take
	Sector    int // logical sector of the device; a block is never smaller
	Label     string
	UUID      [16]byte
	HashSeed  [16]byte // secret of the directory hash
	// Sequence is the first transaction of the journal. The journal's blocks are
	// not written, so that they may hold transactions of an older file system: a
	// random start and the checksums over a fresh UUID keep them from being
	// replayed.
	Sequence uint32
	Now      time.Time
}

const (
	ext4MinSize = 16 << 20
	// ext4MaxGroups keeps what the kernel holds in memory of each group, and the
	// descriptors that it reads at the mount, within reason: 64 TiB, 16 TiB and
	// 4 TiB for blocks of 4096, 2048 and 1024.
	ext4MaxGroups = 1 << 19
)

var le, be = binary.LittleEndian, binary.BigEndian

// newExt4Options fills in a fresh UUID, hash seed and sequence.
func newExt4Options(size int64, sector int, label string, now time.Time) (ext4Options, error) {
	o := ext4Options{Size: size, Sector: sector, Label: label, Now: now}
	var random [36]byte
	if err := randomBytes(random[:]); err != nil {
		return o, err
	}
	copy(o.UUID[:], random[:16])
	o.UUID[6] = o.UUID[6]&0x0f | 0x40 // RFC 9562: version 4
	o.UUID[8] = o.UUID[8]&0x3f | 0x80 // variant
	copy(o.HashSeed[:], random[16:32])
	o.Sequence = le.Uint32(random[32:])&0x7fffffff | 1
	return o, nil
}

// formatExt4 makes an ext4 file system as mke2fs 1.47 does by default: same
// features, geometry, number of inodes, journal and reserve. Inode tables and the
// journal are left to the kernel (lazy_itable_init, lazy_journal_init), which goes
// by flags, counts and checksums, so that nothing depends on what the area held.
//
// One thing is left out: resize_inode, whose 1,024 blocks would be most of what is
// written, on a disk that is replaced and never grown. resize2fs grows the file
// system nevertheless, unmounted at any kernel; mounted, the kernel goes over to
// meta_bg, which is right since Linux 6.9 (commit a6b3bfe176e8).
//
// The caller has put a format marker at offset 0 and it has reached the medium.
// The start of the superblock takes the marker's place when everything else has
// been synced: whatever a power cut leaves, the area holds the marker or a whole
// file system, or both.
// A device is synced twice here; after an error or when ctx ends the marker is
// left where it is.
func formatExt4(ctx context.Context, w store, o ext4Options) error {
	l, err := planExt4(o)
	if err != nil {
		return err
	}
	if err := discardArea(ctx, w, formatMarkerArea, o.Size-formatMarkerArea); err != nil {
		return err
	}
	f := newExt4Writer(l, w, o)
	if err := f.writeGroups(ctx); err != nil {
		return err
	}
	if err := f.writeInodes(); err != nil {
		return err
	}
	// The first sector of the superblock, with its magic number, makes it one.
	const last = superOffset + formatMarkerSize
	head := make([]byte, max(superOffset+superSize, f.blockSize))
	copy(head[superOffset:], f.superblock(0))
	if err := w.writev(last, head[last:]); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	return w.writeSync(0, head[:last])
}

// discardStep bounds one discard request, so that a slow device doesn't keep a
// cancelled run.
const discardStep = 64 << 30

// discardArea discards a range where the device can; that it can't is no error.
func discardArea(ctx context.Context, w store, off, n int64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		step := min(n, discardStep)
		if w.discard(off, step) != nil {
			return nil
		}
		off, n = off+step, n-step
	}
	return nil
}

// ext4BlockSize is the block size that mke2fs takes for a size: 1024 below
// 512 MiB, else 4096, and at least a sector.
func ext4BlockSize(size int64, sector int) int {
	block := 4096
	if size < 512<<20 {
		block = 1024
	}
	return max(block, sector)
}

// ext4InodeRatio is the bytes per inode of mke2fs.conf's types small, default,
// big and huge.
func ext4InodeRatio(size uint64) uint64 {
	switch {
	case size < 512<<20:
		return 4096
	case size < 4<<40:
		return 16384
	case size < 16<<40:
		return 32768
	}
	return 65536
}

// ext4JournalBlocks is ext2fs_default_journal_size of libext2fs (mkjournal.c):
// 1024 blocks below 32768, 4096 below 262144, 8192 below 524288, and so on.
func ext4JournalBlocks(blocks uint64) uint64 {
	if blocks < 32<<10 {
		return 1 << 10
	}
	n := uint64(4 << 10)
	for _, limit := range [...]uint64{256 << 10, 512 << 10, 4 << 20, 8 << 20, 16 << 20, 32 << 20} {
		if blocks < limit {
			break
		}
		n *= 2
	}
	return n
}

// check names what is out of the formatter's range.
func (o ext4Options) check() error {
	switch {
	case o.BlockSize != 1024 && o.BlockSize != 2048 && o.BlockSize != 4096:
		return errorf("ext4: block size %d is none of 1024, 2048, 4096", o.BlockSize)
	case o.BlockSize < o.Sector:
		return errorf("ext4: block size %d is below the sector size %d", o.BlockSize, o.Sector)
	case o.Size < ext4MinSize || o.Size > int64(o.BlockSize)*int64(o.BlockSize)*8*ext4MaxGroups:
		return errorf("ext4: %d bytes are out of range for blocks of %d", o.Size, o.BlockSize)
	case len(o.Label) > 16:
		return errors.New("ext4: label is longer than 16 bytes")
	}
	return nil
}

// crc32c is the kernel's crc32c_le: reflected Castagnoli polynomial, the given
// start, no final inversion.
func crc32c(seed uint32, b []byte) uint32 {
	return ^crc32.Update(^seed, crc32.MakeTable(crc32.Castagnoli), b)
}
