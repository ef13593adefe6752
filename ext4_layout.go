package main

import (
	"errors"
)

// span is a run of blocks.
type span struct{ start, count uint64 }

func (s span) end() uint64 { return s.start + s.count }

// clip returns the part of s from block from to before block to.
func (s span) clip(from, to uint64) span {
	start, end := max(s.start, from), min(s.end(), to)
	return span{start, max(start, end) - start}
}

// ext4Layout says where everything of a file system stands. It holds nothing a
// group: what belongs to a flex group is computed when it is needed, so that its
// size doesn't grow with the disk.
type ext4Layout struct {
	blockSize   uint64
	blocks      uint64
	first       uint64 // first data block: 1 with blocks of 1024, else 0
	groupBlocks uint64 // blocks a group
	groups      uint64
	groupInodes uint64 // inodes a group
	tableBlocks uint64 // inode table blocks a group
	descBlocks  uint64 // blocks of one copy of the group descriptors
	metaBG      bool   // descriptors are spread over the disk
	flexLog     uint   // log2 of the groups of a flex group

	root, lost span // directories; each is one run
	leaf       span // block of the journal's extent tree, or nothing
	journal    []span
	special    []span // all of the four, in order
}

const (
	ext4InodeSize = 256
	ext4DescSize  = 64
	ext4FirstIno  = 11
	ext4MaxFlex   = 7
	// extentLen is the longest initialised extent (EXT_INIT_MAX_LEN).
	extentLen = 32768
	// inlineExtents fit into an inode.
	inlineExtents = 4
	lostSize      = 16 << 10
)

// planExt4 lays out a file system, or says why it can't be made.
func planExt4(o ext4Options) (*ext4Layout, error) {
	if o.BlockSize == 0 {
		o.BlockSize = ext4BlockSize(o.Size, o.Sector)
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	bs := uint64(o.BlockSize)
	// Whole pages, as mke2fs does.
	l := &ext4Layout{blockSize: bs, groupBlocks: bs * 8, blocks: uint64(o.Size) / 4096 * (4096 / bs)}
	if bs == 1024 {
		l.first = 1
	}
	l.size()
	// A last group too small to be of use is left off, as mke2fs does: less than
	// its own metadata and 50 blocks.
	last := l.groupSpan(l.groups - 1).count
	if l.groups > 1 && last < l.base(l.groups-1)+2+l.tableBlocks+50 {
		l.blocks -= last
		l.size()
	}
	return l, l.place()
}

// size sets what follows from the number of blocks.
func (l *ext4Layout) size() {
	bytes := l.blocks * l.blockSize
	l.groups = (l.blocks - l.first + l.groupBlocks - 1) / l.groupBlocks
	perBlock := l.blockSize / ext4InodeSize
	inodes := (bytes/ext4InodeRatio(bytes) + l.groups - 1) / l.groups
	// Whole blocks of the table, whole bytes of the bitmap.
	l.groupInodes = (inodes + perBlock - 1) / perBlock * perBlock &^ 7
	l.tableBlocks = l.groupInodes / perBlock
	perBlock = l.blockSize / ext4DescSize
	l.descBlocks = (l.groups + perBlock - 1) / perBlock
	// Descriptors that would fill much of a group are spread, as mke2fs does when
	// they don't fit into one: with blocks of 1024 from 512 GiB on, with 2048 from
	// 8 TiB.
	l.metaBG = l.descBlocks > l.groupBlocks/2
	// One block bitmap of each flex group can't be left to the kernel, that of the
	// group with the metadata. Larger flex groups than mke2fs's 16 make them fewer:
	// as large as their metadata fill half of that group.
	l.flexLog = 4
	for l.flexLog < ext4MaxFlex && 2<<l.flexLog*(l.tableBlocks+2) <= l.groupBlocks*5/8 {
		l.flexLog++
	}
}

// groupSpan is the blocks of a group.
func (l *ext4Layout) groupSpan(g uint64) span {
	start := l.first + g*l.groupBlocks
	return span{start, min(l.groupBlocks, l.blocks-start)}
}

// groupOf is the group that a block belongs to.
func (l *ext4Layout) groupOf(block uint64) uint64 { return (block - l.first) / l.groupBlocks }

// hasSuper says whether a group starts with a superblock: 0, 1 and the powers of
// 3, 5 and 7 (SPARSE_SUPER).
func hasSuper(g uint64) bool {
	if g <= 1 {
		return true
	}
	for _, p := range [...]uint64{3, 5, 7} {
		n := g
		for n%p == 0 {
			n /= p
		}
		if n == 1 {
			return true
		}
	}
	return false
}

// base is the number of blocks at the start of a group that hold the superblock
// and descriptors.
func (l *ext4Layout) base(g uint64) uint64 {
	n := uint64(0)
	if hasSuper(g) {
		n = 1
		if !l.metaBG {
			return n + l.descBlocks
		}
	}
	if l.metaBG && l.metaDesc(g) {
		n++
	}
	return n
}

// metaDesc says whether a group holds a copy of its meta group's descriptor
// block: the first, the second and the last of a meta group.
func (l *ext4Layout) metaDesc(g uint64) bool {
	per := l.blockSize / ext4DescSize
	i := g % per
	return i == 0 || i == 1 || i == per-1
}

// flexMeta is the metadata of one flex group.
type flexMeta struct {
	first, groups uint64 // groups
	blockBitmaps  uint64 // first of a run, one a group
	inodeBitmaps  uint64
	tables        [1 << ext4MaxFlex]uint64
	used          []span // all of it, in order, neighbours joined
}

// flex lays out the bitmaps and inode tables of flex group f from its first
// block on, around the superblock and descriptor copies inside of it.
func (l *ext4Layout) flex(f uint64, m *flexMeta) error {
	m.first = f << l.flexLog
	m.groups = min(1<<l.flexLog, l.groups-m.first)
	m.used = m.used[:0]
	at := l.groupSpan(m.first).start
	m.blockBitmaps = l.takeMeta(m, &at, m.groups)
	m.inodeBitmaps = l.takeMeta(m, &at, m.groups)
	for i := range m.groups {
		m.tables[i] = l.takeMeta(m, &at, l.tableBlocks)
	}
	if at > l.groupSpan(m.first+m.groups-1).end() {
		return errors.New("ext4: a group is too small for its inode tables")
	}
	return nil
}

// takeMeta takes the next n blocks that meet no superblock or descriptor copy.
func (l *ext4Layout) takeMeta(m *flexMeta, at *uint64, n uint64) (start uint64) {
	for g := l.groupOf(*at); g < l.groups; g++ {
		group := l.groupSpan(g)
		if group.start >= *at+n {
			break
		}
		if base := l.base(g); base > 0 {
			*at = max(*at, group.start+base)
		}
	}
	start = *at
	*at += n
	m.used = appendRun(m.used, span{start, n}, l.blocks)
	return start
}

// appendRun joins a run with the last one when they touch and have at most limit
// blocks together.
func appendRun(runs []span, run span, limit uint64) []span {
	if k := len(runs) - 1; k >= 0 && runs[k].end() == run.start && runs[k].count+run.count <= limit {
		runs[k].count += run.count
		return runs
	}
	return append(runs, run)
}

// place finds the blocks of the directories and the journal, behind the metadata
// of the first flex group, and checks that the last one has room for its own: no
// other has less.
func (l *ext4Layout) place() (err error) {
	var m flexMeta
	if err := l.flex((l.groups-1)>>l.flexLog, &m); err != nil {
		return err
	}
	at := l.first
	if l.root, err = l.takeOne(&at, 1); err != nil {
		return err
	}
	if l.lost, err = l.takeOne(&at, lostSize/l.blockSize); err != nil {
		return err
	}
	for n := ext4JournalBlocks(l.blocks); n > 0; {
		run, err := l.nextFree(at)
		if err != nil {
			return err
		}
		run.count = min(run.count, n, extentLen)
		l.journal = appendRun(l.journal, run, extentLen)
		n -= run.count
		at = run.end()
	}
	l.special = append([]span{l.root, l.lost}, l.journal...)
	if len(l.journal) > inlineExtents {
		if l.leaf, err = l.takeOne(&at, 1); err != nil {
			return err
		}
		l.special = append(l.special, l.leaf)
	}
	if uint64(len(l.journal)) > l.leafExtents() {
		return errors.New("ext4: the journal is in too many pieces")
	}
	return nil
}

// leafExtents fit into a block behind its header and before its checksum.
func (l *ext4Layout) leafExtents() uint64 { return (l.blockSize - 12 - 4) / 12 }

// takeOne takes n free blocks in one run.
func (l *ext4Layout) takeOne(at *uint64, n uint64) (span, error) {
	for {
		run, err := l.nextFree(*at)
		if err != nil {
			return run, err
		}
		*at = run.start + min(run.count, n)
		if run.count >= n {
			return span{run.start, n}, nil
		}
	}
}

// nextFree is the next blocks from at on, of one group, that hold no metadata.
func (l *ext4Layout) nextFree(at uint64) (span, error) {
	var m flexMeta
	for g := l.groupOf(at); g < l.groups; g++ {
		if err := l.flex(g>>l.flexLog, &m); err != nil {
			return span{}, err
		}
		group := l.groupSpan(g)
		at = max(at, group.start+l.base(g))
		end := group.end()
		for _, u := range m.used {
			switch {
			case u.start > at:
				end = min(end, u.start)
			case u.end() > at:
				at = u.end()
			}
		}
		if at < end {
			return span{at, end - at}, nil
		}
	}
	return span{}, errors.New("ext4: no room for the journal")
}

// groupUsed appends the runs of used blocks of a group behind its superblock and
// descriptors: metadata of its flex group, directories and journal.
func (l *ext4Layout) groupUsed(group span, m *flexMeta, runs []span) []span {
	for _, list := range [...][]span{m.used, l.special} {
		if list[len(list)-1].end() <= group.start {
			continue
		}
		for _, s := range list {
			if c := s.clip(group.start, group.end()); c.count > 0 {
				runs = append(runs, c)
			}
		}
	}
	return runs
}

// superGroups lists the groups that hold a superblock, ascending.
func (l *ext4Layout) superGroups() []uint64 {
	list := []uint64{0, 1}
	for _, p := range [...]uint64{3, 5, 7} {
		for n := p; n < l.groups; n *= p {
			list = append(list, n)
			for i := len(list) - 1; list[i] < list[i-1]; i-- {
				list[i], list[i-1] = list[i-1], list[i]
			}
		}
	}
	return list[:min(l.groups, uint64(len(list)))]
}

// journalBlocks is the length of the journal.
func (l *ext4Layout) journalBlocks() (n uint64) {
	for _, s := range l.journal {
		n += s.count
	}
	return n
}

// overhead is the blocks that can never hold files: everything but directories.
func (l *ext4Layout) overhead() uint64 {
	n := l.first + l.groups*(2+l.tableBlocks) + l.journalBlocks()
	if !l.metaBG {
		return n + uint64(len(l.superGroups()))*(1+l.descBlocks)
	}
	for g := range l.groups {
		n += l.base(g)
	}
	return n
}

// freeBlocks is what the superblock counts as free.
func (l *ext4Layout) freeBlocks() uint64 {
	return l.blocks - l.overhead() - l.root.count - l.lost.count - l.leaf.count
}
