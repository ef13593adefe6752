package main

import (
	"context"
)

// superOffset is where the superblock stands, whatever the block size.
const superOffset = 1024

// Group flags and features (fs/ext4/ext4.h).
const (
	ext4InodeUninit = 1
	ext4BlockUninit = 2

	ext4Compat       = 0x4 | 0x8 | 0x20                      // has_journal, ext_attr, dir_index
	ext4Incompat     = 0x2 | 0x40 | 0x80 | 0x200             // filetype, extents, 64bit, flex_bg
	ext4IncompatMeta = 0x10                                  // meta_bg
	ext4ROCompat     = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400 // sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
	ext4ExtentsFlag  = 0x80000                               // EXT4_EXTENTS_FL
	ext4ExtraSize    = 32                                    // i_extra_isize
	ext4JournalIno   = 8
	ext4RootIno      = 2
)

// ext4Writer writes a file system that is laid out.
type ext4Writer struct {
	*ext4Layout
	opt  ext4Options
	w    store
	seed uint32 // crc32c of the UUID
	// Descriptors of all groups; with meta_bg only those of the meta group at work.
	desc []byte
}

// writeGroups writes the block bitmaps that can't be left to the kernel, the
// inode bitmap of group 0, the group descriptors with their copies and the
// copies of the superblock. Of a group that holds nothing but copies of superblock and
// descriptors the kernel computes the bitmaps (BLOCK_UNINIT, INODE_UNINIT).
func (f *ext4Writer) writeGroups(ctx context.Context) error {
	perMeta := f.blockSize / ext4DescSize
	if f.metaBG {
		f.desc = make([]byte, f.blockSize)
	} else {
		f.desc = make([]byte, f.descBlocks*f.blockSize)
	}
	bitmap := make([]byte, f.blockSize)
	var runs []span
	var m flexMeta
	for g := range f.groups {
		if g&(1<<f.flexLog-1) == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			if m, err = f.flex(g >> f.flexLog); err != nil {
				return err
			}
		}
		runs = f.groupUsed(g, m, runs[:0])
		d := f.desc[(g*ext4DescSize)%uint64(len(f.desc)):][:ext4DescSize]
		if err := f.describeGroup(g, m, runs, bitmap, d); err != nil {
			return err
		}
		if f.metaBG && (g%perMeta == perMeta-1 || g == f.groups-1) {
			if err := f.writeMetaGroup(g / perMeta); err != nil {
				return err
			}
		}
	}
	for _, g := range f.superGroups() {
		if g == 0 {
			continue
		}
		head := [][]byte{f.superblock(g)}
		if f.blockSize > superOffset {
			head = append(head, make([]byte, f.blockSize-superOffset))
		}
		if !f.metaBG {
			head = append(head, f.desc)
		}
		if err := f.w.writev(f.offset(f.groupSpan(g).start), head...); err != nil {
			return err
		}
	}
	if f.metaBG {
		return nil
	}
	return f.w.writev(f.offset(f.first+1), f.desc)
}

func (f *ext4Writer) offset(block uint64) int64 { return int64(block * f.blockSize) }

// writeMetaGroup writes a meta group's descriptor block into its first, second
// and last group, behind the superblock of those that have one.
func (f *ext4Writer) writeMetaGroup(n uint64) error {
	per := f.blockSize / ext4DescSize
	for _, i := range [...]uint64{0, 1, per - 1} {
		g := n*per + i
		if g >= f.groups {
			continue
		}
		at := f.groupSpan(g).start
		if hasSuper(g) {
			at++
		}
		if err := f.w.writev(f.offset(at), f.desc); err != nil {
			return err
		}
	}
	clear(f.desc)
	return nil
}

// describeGroup fills a group descriptor, and writes the group's bitmaps where
// they are not left to the kernel.
func (f *ext4Writer) describeGroup(g uint64, m flexMeta, runs []span, bitmap, d []byte) error {
	group := f.groupSpan(g)
	used := uint64(0)
	for _, r := range runs {
		used += r.count
	}
	i := g - m.first
	put := func(lo, hi int, v uint64) {
		le.PutUint32(d[lo:], uint32(v))
		le.PutUint32(d[hi:], uint32(v>>32))
	}
	put16 := func(lo, hi int, v uint64) {
		le.PutUint16(d[lo:], uint16(v))
		le.PutUint16(d[hi:], uint16(v>>16))
	}
	clear(d)
	put(0, 32, m.blockBitmaps+i)
	put(4, 36, m.inodeBitmaps+i)
	put(8, 40, m.tables[i])
	put16(12, 44, group.count-used)
	flags, inodes := uint16(0), f.groupInodes
	if g == 0 {
		inodes -= ext4FirstIno
		put16(16, 48, 2)
		if err := f.writeInodeBitmap(m, bitmap, d); err != nil {
			return err
		}
	} else {
		flags |= ext4InodeUninit
	}
	put16(14, 46, inodes)
	put16(28, 50, inodes)
	// The last group's bitmap has to end where the disk does.
	if used == f.base(g) && g != f.groups-1 {
		flags |= ext4BlockUninit
	} else {
		clear(bitmap)
		for _, r := range runs {
			setBits(bitmap, r.start-group.start, r.count)
		}
		setBits(bitmap, group.count, f.groupBlocks-group.count)
		if err := f.w.writev(f.offset(m.blockBitmaps+i), bitmap); err != nil {
			return err
		}
		sum := crc32c(f.seed, bitmap)
		le.PutUint16(d[24:], uint16(sum))
		le.PutUint16(d[56:], uint16(sum>>16))
	}
	le.PutUint16(d[18:], flags)
	var number [4]byte
	le.PutUint32(number[:], uint32(g))
	le.PutUint16(d[30:], uint16(crc32c(crc32c(f.seed, number[:]), d)))
	return nil
}

// writeInodeBitmap writes that of group 0, where inodes 1 to 11 are used.
func (f *ext4Writer) writeInodeBitmap(m flexMeta, bitmap, d []byte) error {
	clear(bitmap)
	setBits(bitmap, 0, ext4FirstIno)
	setBits(bitmap, f.groupInodes, f.blockSize*8-f.groupInodes)
	sum := crc32c(f.seed, bitmap[:f.groupInodes/8])
	le.PutUint16(d[26:], uint16(sum))
	le.PutUint16(d[58:], uint16(sum>>16))
	return f.w.writev(f.offset(m.inodeBitmaps), bitmap)
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

// writeInodes writes the directories, the journal's superblock and extents, and the
// blocks of the inode table that hold inodes 1 to 11.
func (f *ext4Writer) writeInodes() error {
	m, err := f.flex(0)
	if err != nil {
		return err
	}
	tableBytes := (ext4FirstIno*ext4InodeSize + f.blockSize - 1) / f.blockSize * f.blockSize
	table := make([]byte, tableBytes)
	inode := func(number uint64) []byte { return table[(number-1)*ext4InodeSize:][:ext4InodeSize] }
	f.fillInode(inode(ext4RootIno), 0o40755, 3, f.root.count)
	f.fillExtents(inode(ext4RootIno), []span{f.root})
	f.fillInode(inode(ext4FirstIno), 0o40700, 2, f.lost.count)
	f.fillExtents(inode(ext4FirstIno), []span{f.lost})
	journal := uint64(0)
	for _, s := range f.journal {
		journal += s.count
	}
	f.fillInode(inode(ext4JournalIno), 0o100600, 1, journal)
	leaf := f.fillExtents(inode(ext4JournalIno), f.journal)
	for _, number := range [...]uint64{ext4RootIno, ext4JournalIno, ext4FirstIno} {
		f.sumInode(number, inode(number))
	}
	if leaf != nil {
		if err := f.w.writev(f.offset(f.leaf), leaf); err != nil {
			return err
		}
	}
	if err := f.w.writev(f.offset(m.tables[0]), table); err != nil {
		return err
	}
	root := f.dirBlock(ext4RootIno, []dirEntry{{ext4RootIno, "."}, {ext4RootIno, ".."}, {ext4FirstIno, "lost+found"}})
	if err := f.w.writev(f.offset(f.root.start), root); err != nil {
		return err
	}
	lost := [][]byte{f.dirBlock(ext4FirstIno, []dirEntry{{ext4FirstIno, "."}, {ext4RootIno, ".."}})}
	for range f.lost.count - 1 {
		lost = append(lost, f.dirBlock(ext4FirstIno, nil))
	}
	if err := f.w.writev(f.offset(f.lost.start), lost...); err != nil {
		return err
	}
	return f.w.writev(f.offset(f.journal[0].start), f.journalSuper(journal))
}

// fillInode writes what all three have: owner root, times, blocks of content.
func (f *ext4Writer) fillInode(b []byte, mode uint16, links uint16, blocks uint64) {
	now := uint32(f.opt.Now.Unix())
	le.PutUint16(b, mode)
	size := blocks * f.blockSize
	le.PutUint32(b[4:], uint32(size))
	le.PutUint32(b[108:], uint32(size>>32))
	for _, at := range [...]int{8, 12, 16, 144} {
		le.PutUint32(b[at:], now)
	}
	high := uint32(uint64(f.opt.Now.Unix())>>32) & 3 // i_*time_extra
	for _, at := range [...]int{132, 136, 140, 148} {
		le.PutUint32(b[at:], high)
	}
	le.PutUint16(b[26:], links)
	f.addBlocks(b, blocks)
	le.PutUint32(b[32:], ext4ExtentsFlag)
	le.PutUint16(b[128:], ext4ExtraSize)
}

// addBlocks adds to i_blocks, which counts 512 bytes.
func (f *ext4Writer) addBlocks(b []byte, blocks uint64) {
	n := uint64(le.Uint32(b[28:])) + uint64(le.Uint16(b[116:]))<<32 + blocks*f.blockSize/512
	le.PutUint32(b[28:], uint32(n))
	le.PutUint16(b[116:], uint16(n>>32))
}

// fillExtents writes the extent tree of a file. More runs than fit into the inode
// go to a leaf block, which is returned.
func (f *ext4Writer) fillExtents(b []byte, runs []span) (leaf []byte) {
	at := b[40:100]
	if len(runs) <= inlineExtents {
		putExtents(at, runs, inlineExtents)
		return nil
	}
	leaf = make([]byte, f.blockSize)
	putExtents(leaf, runs, uint16(f.leafExtents()))
	sum := crc32c(f.inodeSeed(ext4JournalIno), leaf[:12+12*f.leafExtents()])
	le.PutUint32(leaf[12+12*f.leafExtents():], sum)
	// An index node: header with depth 1, and one entry: logical block 0, block of the leaf.
	putExtents(at, nil, inlineExtents)
	le.PutUint16(at[2:], 1)
	le.PutUint16(at[6:], 1)
	le.PutUint32(at[16:], uint32(f.leaf))
	le.PutUint16(at[20:], uint16(f.leaf>>32))
	f.addBlocks(b, 1)
	return leaf
}

// putExtents writes an extent header and its entries.
func putExtents(b []byte, runs []span, most uint16) {
	le.PutUint16(b, 0xf30a)
	le.PutUint16(b[2:], uint16(len(runs)))
	le.PutUint16(b[4:], most)
	logical := uint64(0)
	for i, r := range runs {
		e := b[12+12*i:]
		le.PutUint32(e, uint32(logical))
		le.PutUint16(e[4:], uint16(r.count))
		le.PutUint16(e[6:], uint16(r.start>>32))
		le.PutUint32(e[8:], uint32(r.start))
		logical += r.count
	}
}

// inodeSeed is the checksum's start for what belongs to an inode of generation 0.
func (f *ext4Writer) inodeSeed(number uint64) uint32 {
	var b [8]byte
	le.PutUint32(b[:], uint32(number))
	return crc32c(f.seed, b[:])
}

func (f *ext4Writer) sumInode(number uint64, b []byte) {
	sum := crc32c(f.inodeSeed(number), b)
	le.PutUint16(b[124:], uint16(sum))
	le.PutUint16(b[130:], uint16(sum>>16))
}

type dirEntry struct {
	inode uint32
	name  string
}

// dirBlock is a block of a directory that holds directories, with the checksum
// in its tail.
func (f *ext4Writer) dirBlock(number uint64, entries []dirEntry) []byte {
	b := make([]byte, f.blockSize)
	end := f.blockSize - 12
	if len(entries) == 0 {
		entries = []dirEntry{{}}
	}
	at := uint64(0)
	for i, e := range entries {
		size := uint64(8+len(e.name)+3) &^ 3
		if i == len(entries)-1 {
			size = end - at
		}
		le.PutUint32(b[at:], e.inode)
		le.PutUint16(b[at+4:], uint16(size))
		b[at+6] = byte(len(e.name))
		if e.inode != 0 {
			b[at+7] = 2 // a directory
		}
		copy(b[at+8:], e.name)
		at += size
	}
	le.PutUint16(b[end+4:], 12)
	b[end+7] = 0xde
	le.PutUint32(b[end+8:], crc32c(f.inodeSeed(number), b[:end]))
	return b
}

// journalSuper is the first block of an empty journal (include/linux/jbd2.h), big-endian.
func (f *ext4Writer) journalSuper(blocks uint64) []byte {
	b := make([]byte, f.blockSize)
	for at, v := range map[int]uint32{0: 0xc03b3998, 4: 4, 12: uint32(f.blockSize), 16: uint32(blocks), 20: 1, 24: f.opt.Sequence, 64: 1} {
		be.PutUint32(b[at:], v)
	}
	copy(b[48:], f.opt.UUID[:])
	return b
}

// superblock is the superblock as it stands in a group.
func (f *ext4Writer) superblock(group uint64) []byte {
	b := make([]byte, 1024)
	now := uint32(f.opt.Now.Unix())
	reserved, free := f.blocks/20, f.freeBlocks()
	shift := uint32(0)
	for f.blockSize>>shift > 1024 {
		shift++
	}
	incompat := uint32(ext4Incompat)
	if f.metaBG {
		incompat |= ext4IncompatMeta
	}
	for at, v := range map[int]uint32{
		0: uint32(f.groups * f.groupInodes), 4: uint32(f.blocks), 8: uint32(reserved), 12: uint32(free), 16: uint32(f.groups*f.groupInodes - ext4FirstIno),
		20: uint32(f.first), 24: shift, 28: shift, 32: uint32(f.groupBlocks), 36: uint32(f.groupBlocks), 40: uint32(f.groupInodes), 48: now, 64: now,
		76: 1, 84: ext4FirstIno, 92: ext4Compat, 96: incompat, 100: ext4ROCompat, 224: ext4JournalIno, 256: 0xc, 264: now,
		336: uint32(f.blocks >> 32), 340: uint32(reserved >> 32), 344: uint32(free >> 32), 352: 1, 584: uint32(f.overhead()),
	} {
		le.PutUint32(b[at:], v)
	}
	for at, v := range map[int]uint16{54: 0xffff, 56: 0xef53, 58: 1, 60: 1, 88: ext4InodeSize, 90: uint16(group), 254: ext4DescSize, 348: ext4ExtraSize, 350: ext4ExtraSize} {
		le.PutUint16(b[at:], v)
	}
	copy(b[104:], f.opt.UUID[:])
	copy(b[120:136], f.opt.Label)
	copy(b[236:], f.opt.HashSeed[:])
	b[252], b[253], b[372], b[373] = 1, 1, byte(f.flexLog), 1
	// A copy of the journal's inode, for e2fsck: i_block, and the size.
	journal := make([]byte, ext4InodeSize)
	n := uint64(0)
	for _, s := range f.journal {
		n += s.count
	}
	f.fillInode(journal, 0, 0, n)
	f.fillExtents(journal, f.journal)
	copy(b[268:], journal[40:100])
	copy(b[328:], journal[108:112])
	copy(b[332:], journal[4:8])
	le.PutUint32(b[1020:], crc32c(^uint32(0), b[:1020]))
	return b
}
