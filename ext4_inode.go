package main

const (
	ext4RootIno     = 2
	ext4JournalIno  = 8
	ext4ExtentsFlag = 0x80000 // EXT4_EXTENTS_FL
	ext4ExtraSize   = 32      // i_extra_isize
)

// writeInodes writes the blocks of the inode table that hold inodes 1 to 11, the
// directories, and the journal's extents and superblock.
func (f *ext4Writer) writeInodes() error {
	var m flexMeta
	if err := f.flex(0, &m); err != nil {
		return err
	}
	table := make([]byte, (ext4FirstIno*ext4InodeSize+f.blockSize-1)/f.blockSize*f.blockSize)
	journal, leaf := f.journalInode()
	f.putInode(table, ext4RootIno, f.dirInode(0o40755, 3, f.root))
	f.putInode(table, ext4JournalIno, journal)
	f.putInode(table, ext4FirstIno, f.dirInode(0o40700, 2, f.lost))
	lost := f.dirBlock(nil, ext4FirstIno, dirEntry{ext4FirstIno, "."}, dirEntry{ext4RootIno, ".."})
	for range f.lost.count - 1 {
		lost = f.dirBlock(lost, ext4FirstIno, dirEntry{})
	}
	f.put(m.tables[0], table)
	f.put(f.root.start, f.dirBlock(nil, ext4RootIno, dirEntry{ext4RootIno, "."}, dirEntry{ext4RootIno, ".."}, dirEntry{ext4FirstIno, "lost+found"}))
	f.put(f.lost.start, lost)
	f.put(f.journal[0].start, f.journalSuper())
	if leaf != nil {
		f.put(f.leaf.start, leaf)
	}
	return f.err
}

// newInode is an inode (struct ext4_inode) of owner root with so many blocks of
// content.
func (f *ext4Writer) newInode(mode, links uint16, blocks uint64) []byte {
	b := make([]byte, ext4InodeSize)
	le.PutUint16(b, mode)
	putSplit(b, 4, 108, blocks*f.blockSize)
	now := f.opt.Now.Unix()
	// What is added to the signed 32 bits of a time, in units of 2^32 s.
	epoch := uint32((now-int64(int32(now)))>>32) & 3
	for _, at := range [...][2]int{{8, 140}, {12, 132}, {16, 136}, {144, 148}} { // a, c, m, cr
		le.PutUint32(b[at[0]:], uint32(now))
		le.PutUint32(b[at[1]:], epoch)
	}
	le.PutUint16(b[26:], links)
	le.PutUint32(b[28:], uint32(blocks*(f.blockSize/512)))
	le.PutUint32(b[32:], ext4ExtentsFlag)
	le.PutUint16(b[128:], ext4ExtraSize)
	return b
}

func (f *ext4Writer) dirInode(mode, links uint16, content span) []byte {
	b := f.newInode(mode, links, content.count)
	putExtents(b[40:], inlineExtents, content)
	return b
}

// journalInode is the journal's inode. More runs than fit into it go to a block
// that is returned as well.
func (f *ext4Writer) journalInode() (b, leaf []byte) {
	b = f.newInode(0o100600, 1, f.journalBlocks())
	if f.leaf.count == 0 {
		putExtents(b[40:], inlineExtents, f.journal...)
		return b, nil
	}
	le.PutUint32(b[28:], uint32((f.journalBlocks()+1)*(f.blockSize/512)))
	leaf = make([]byte, f.blockSize)
	putExtents(leaf, f.leafExtents(), f.journal...)
	end := 12 + 12*f.leafExtents()
	le.PutUint32(leaf[end:], crc32c(f.inodeSeed(ext4JournalIno), leaf[:end]))
	// An index node: depth 1, one entry of logical block 0 and the leaf's block.
	putExtents(b[40:], inlineExtents)
	le.PutUint16(b[42:], 1)
	le.PutUint16(b[46:], 1)
	le.PutUint32(b[56:], uint32(f.leaf.start))
	le.PutUint16(b[60:], uint16(f.leaf.start>>32))
	return b, leaf
}

// putExtents writes an extent header that has room for a number of entries, and
// entries.
func putExtents(b []byte, room uint64, runs ...span) {
	le.PutUint16(b, 0xf30a)
	le.PutUint16(b[2:], uint16(len(runs)))
	le.PutUint16(b[4:], uint16(room))
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
func (f *ext4Writer) inodeSeed(number uint32) uint32 {
	var b [8]byte
	le.PutUint32(b[:], number)
	return crc32c(f.seed, b[:])
}

// putInode puts an inode into its place in the table, with its checksum.
func (f *ext4Writer) putInode(table []byte, number uint32, inode []byte) {
	sum := crc32c(f.inodeSeed(number), inode)
	le.PutUint16(inode[124:], uint16(sum))
	le.PutUint16(inode[130:], uint16(sum>>16))
	copy(table[(number-1)*ext4InodeSize:], inode)
}

type dirEntry struct {
	inode uint32
	name  string
}

// dirBlock appends a block of a directory that holds directories, with the
// checksum in its tail.
func (f *ext4Writer) dirBlock(to []byte, number uint32, entries ...dirEntry) []byte {
	b := make([]byte, f.blockSize)
	end := f.blockSize - 12
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
	return append(to, b...)
}

// journalSuper is the first block of an empty journal (include/linux/jbd2.h), big-endian.
func (f *ext4Writer) journalSuper() []byte {
	b := make([]byte, f.blockSize)
	for _, v := range [...]struct{ at, v uint32 }{
		{0, 0xc03b3998}, {4, 4}, // magic, superblock of version 2
		{12, uint32(f.blockSize)}, {16, uint32(f.journalBlocks())}, {20, 1}, // first block of the log
		{24, f.opt.Sequence}, {64, 1}, // one user
	} {
		be.PutUint32(b[v.at:], v.v)
	}
	copy(b[48:], f.opt.UUID[:])
	return b
}
