package main

import "context"

// The superblock stands at byte 1024, whatever the block size.
const (
	superOffset = 1024
	superSize   = 1024
)

// Group flags and features (fs/ext4/ext4.h).
const (
	ext4InodeUninit = 1
	ext4BlockUninit = 2

	ext4Compat       = 0x4 | 0x8 | 0x20                      // has_journal, ext_attr, dir_index
	ext4Incompat     = 0x2 | 0x40 | 0x80 | 0x200             // filetype, extents, 64bit, flex_bg
	ext4IncompatMeta = 0x10                                  // meta_bg
	ext4ROCompat     = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400 // sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
)

// ext4Writer writes a file system that is laid out.
type ext4Writer struct {
	*ext4Layout
	opt   ext4Options
	w     store
	seed  uint32 // crc32c of the UUID
	super []byte // superblock of group 0
	err   error  // the first that put met

	// Scratch space of a group.
	runs   []span
	number [4]byte
}

// descChunk is the most bytes of descriptors that are held at a time.
const descChunk = 1 << 20

func newExt4Writer(l *ext4Layout, w store, o ext4Options) *ext4Writer {
	f := &ext4Writer{ext4Layout: l, opt: o, w: w, seed: crc32c(^uint32(0), o.UUID[:])}
	f.fillSuper()
	return f
}

// put writes blocks, unless one before failed.
func (f *ext4Writer) put(block uint64, b []byte) {
	if f.err == nil {
		f.err = f.w.writev(int64(block*f.blockSize), b)
	}
}

// writeGroups writes the block bitmaps that can't be left to the kernel, the
// inode bitmap of group 0, the group descriptors with their copies and the copies
// of the superblock. Of a group that holds nothing but copies of superblock and
// descriptors the kernel computes the bitmaps (BLOCK_UNINIT, INODE_UNINIT).
func (f *ext4Writer) writeGroups(ctx context.Context) error {
	per := uint64(descChunk / ext4DescSize)
	if f.metaBG {
		per = f.blockSize / ext4DescSize
	}
	supers := f.superGroups()
	bitmap := make([]byte, f.blockSize) // and copies of the superblock
	desc := make([]byte, min(per*ext4DescSize, f.descBlocks*f.blockSize))
	var m flexMeta
	for first := uint64(0); first < f.groups; first += per {
		clear(desc)
		end := min(first+per, f.groups)
		for g := first; g < end; g++ {
			if g&(1<<f.flexLog-1) == 0 {
				if f.err != nil {
					return f.err
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := f.flex(g>>f.flexLog, &m); err != nil {
					return err
				}
			}
			f.describeGroup(g, &m, bitmap, desc[(g-first)*ext4DescSize:][:ext4DescSize])
		}
		bytes := (end - first) * ext4DescSize
		bytes = (bytes + f.blockSize - 1) / f.blockSize * f.blockSize
		f.writeDescs(first, per, supers, desc[:bytes])
	}
	clear(bitmap)
	for _, g := range supers[1:] {
		copy(bitmap, f.superblock(g))
		f.put(f.groupSpan(g).start, bitmap)
	}
	return f.err
}

// writeDescs writes the descriptors of per groups from first on, with their
// copies: behind every superblock, or with meta_bg into the first, second and last
// of the groups, behind the superblock of those that have one.
func (f *ext4Writer) writeDescs(first, per uint64, supers []uint64, desc []byte) {
	skip := first * ext4DescSize / f.blockSize
	if f.metaBG {
		supers, skip = []uint64{first, first + 1, first + per - 1}, 0
	}
	for _, g := range supers {
		if g >= f.groups {
			break
		}
		at := f.groupSpan(g).start + skip
		if hasSuper(g) {
			at++
		}
		f.put(at, desc)
	}
}

// describeGroup fills a group descriptor, and writes the group's bitmaps where
// they are not left to the kernel.
func (f *ext4Writer) describeGroup(g uint64, m *flexMeta, bitmap, d []byte) {
	group, base := f.groupSpan(g), f.base(g)
	f.runs = f.groupUsed(group, m, f.runs[:0])
	used := base
	for _, r := range f.runs {
		used += r.count
	}
	i := g - m.first
	putSplit(d, 0, 32, m.blockBitmaps+i)
	putSplit(d, 4, 36, m.inodeBitmaps+i)
	putSplit(d, 8, 40, m.tables[i])
	le.PutUint16(d[12:], uint16(group.count-used))
	flags, inodes := uint16(ext4InodeUninit), f.groupInodes
	if g == 0 {
		flags, inodes = 0, inodes-ext4FirstIno
		le.PutUint16(d[16:], 2) // directories
		f.writeInodeBitmap(m, bitmap, d)
	}
	le.PutUint16(d[14:], uint16(inodes))
	le.PutUint16(d[28:], uint16(inodes)) // not used yet at the table's end
	// The last group's bitmap has to end where the disk does.
	if used == base && g != f.groups-1 {
		flags |= ext4BlockUninit
	} else {
		clear(bitmap)
		setBits(bitmap, 0, base)
		for _, r := range f.runs {
			setBits(bitmap, r.start-group.start, r.count)
		}
		setBits(bitmap, group.count, f.groupBlocks-group.count)
		f.put(m.blockBitmaps+i, bitmap)
		sum := crc32c(f.seed, bitmap)
		le.PutUint16(d[24:], uint16(sum))
		le.PutUint16(d[56:], uint16(sum>>16))
	}
	le.PutUint16(d[18:], flags)
	le.PutUint32(f.number[:], uint32(g))
	le.PutUint16(d[30:], uint16(crc32c(crc32c(f.seed, f.number[:]), d)))
}

// putSplit writes the low and the high half of a number to two places.
func putSplit(b []byte, low, high int, v uint64) {
	le.PutUint32(b[low:], uint32(v))
	le.PutUint32(b[high:], uint32(v>>32))
}

// writeInodeBitmap writes that of group 0, where inodes 1 to 11 are used.
func (f *ext4Writer) writeInodeBitmap(m *flexMeta, bitmap, d []byte) {
	clear(bitmap)
	setBits(bitmap, 0, ext4FirstIno)
	setBits(bitmap, f.groupInodes, f.blockSize*8-f.groupInodes)
	sum := crc32c(f.seed, bitmap[:f.groupInodes/8])
	le.PutUint16(d[26:], uint16(sum))
	le.PutUint16(d[58:], uint16(sum>>16))
	f.put(m.inodeBitmaps, bitmap)
}

// setBits sets n bits from bit i on.
func setBits(b []byte, i, n uint64) {
	for ; n > 0 && i%8 != 0; n-- {
		b[i/8] |= 1 << (i % 8)
		i++
	}
	for ; n >= 8; n -= 8 {
		b[i/8] = 0xff
		i += 8
	}
	for ; n > 0; n-- {
		b[i/8] |= 1 << (i % 8)
		i++
	}
}

// fillSuper makes the superblock (struct ext4_super_block, fs/ext4/ext4.h) but
// for what differs between its copies.
func (f *ext4Writer) fillSuper() {
	b := make([]byte, superSize)
	f.super = b
	now := uint64(f.opt.Now.Unix())
	inodes := uint32(f.groups * f.groupInodes)
	shift := uint32(f.blockSize / 2048) // log2 of the block size, less 10
	incompat := uint32(ext4Incompat)
	if f.metaBG {
		incompat |= ext4IncompatMeta
	}
	for _, v := range [...]struct{ at, v uint32 }{
		{0, inodes}, {16, inodes - ext4FirstIno}, // inodes, free ones
		{20, uint32(f.first)}, {24, shift}, {28, shift}, // first data block, block and cluster size
		{32, uint32(f.groupBlocks)}, {36, uint32(f.groupBlocks)}, {40, uint32(f.groupInodes)}, // blocks, clusters, inodes a group
		{48, uint32(now)}, {64, uint32(now)}, {264, uint32(now)}, // written, checked, made
		{52, 0xffff0000}, {56, 0x1ef53}, {60, 1}, // never check by count; magic, clean; go on after errors
		{76, 1}, {84, ext4FirstIno}, {88, ext4InodeSize}, // revision
		{92, ext4Compat}, {96, incompat}, {100, ext4ROCompat},
		{224, ext4JournalIno}, {252, 0x400101}, // half_md4, journal backup, descriptor size
		{256, 0xc}, {348, ext4ExtraSize<<16 | ext4ExtraSize}, {352, 1}, // acl and user_xattr, extra inode size, signed hash
		{372, 1<<8 | uint32(f.flexLog)}, {584, uint32(f.overhead())}, // crc32c, flex groups
	} {
		le.PutUint32(b[v.at:], v.v)
	}
	putSplit(b, 4, 336, f.blocks)
	putSplit(b, 8, 340, f.blocks/20) // reserved
	putSplit(b, 12, 344, f.freeBlocks())
	b[628], b[630], b[631] = byte(now>>32), byte(now>>32), byte(now>>32)
	copy(b[104:], f.opt.UUID[:])
	copy(b[120:136], f.opt.Label)
	copy(b[236:], f.opt.HashSeed[:])
	// A copy of the journal's inode, for e2fsck: i_block and the size.
	journal, _ := f.journalInode()
	copy(b[268:], journal[40:100])
	copy(b[328:], journal[108:112])
	copy(b[332:], journal[4:8])
}

// superblock is the superblock as it stands in a group, until the next call. Like
// mke2fs's, a copy doesn't say that the file system is clean.
func (f *ext4Writer) superblock(group uint64) []byte {
	b := f.super
	b[58] = 0
	if group == 0 {
		b[58] = 1
	}
	le.PutUint16(b[90:], uint16(group))
	le.PutUint32(b[1020:], crc32c(^uint32(0), b[:1020]))
	return b
}
