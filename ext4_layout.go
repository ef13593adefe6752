package main

import (
	"errors"
	"slices"
)

// span is a run of blocks.
type span struct{ start, count uint64 }

func (s span) end() uint64 { return s.start + s.count }

// clip returns the part of s inside a range of blocks.
func (s span) clip(from, to uint64) span {
	start, end := max(s.start, from), min(s.end(), to)
	if start >= end {
		return span{from, 0}
	}
	return span{start, end - start}
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

	root, lost span   // directories; each is one run
	leaf       uint64 // block of the journal's extent tree; 0 = not needed
	journal    []span
	special    []span // all of the four, sorted
}

const (
	ext4InodeSize = 256
	ext4DescSize  = 64
	ext4FirstIno  = 11
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
	l := &ext4Layout{blockSize: bs, groupBlocks: bs * 8, blocks: uint64(o.Size) / bs}
	if bs == 1024 {
		l.first = 1
	}
	// A last group too small to be of use is left off, as mke2fs does: less than
	// its own metadata and 50 blocks. The number of groups and what they hold
	// depend on each other, so once more with the smaller size.
	for range 2 {
		l.size()
		last := l.groupSpan(l.groups - 1).count
		if l.groups > 1 && last < l.base(l.groups-1)+2+l.tableBlocks+50 {
			l.blocks -= last
			continue
		}
		break
	}
	return l, l.place()
}

// size sets what follows from the number of blocks.
func (l *ext4Layout) size() {
	bytes := l.blocks * l.blockSize
	l.groups = (l.blocks - l.first + l.groupBlocks - 1) / l.groupBlocks
	perBlock := l.blockSize / ext4InodeSize
	inodes := bytes / ext4InodeRatio(int64(bytes))
	l.groupInodes = (inodes + l.groups - 1) / l.groups
	l.groupInodes = (l.groupInodes + perBlock - 1) / perBlock * perBlock
	l.groupInodes = (l.groupInodes + 7) &^ 7          // whole bytes of the inode bitmap,
	l.groupInodes = min(l.groupInodes, l.blockSize*8) // which is one block
	l.tableBlocks = l.groupInodes / perBlock
	perBlock = l.blockSize / ext4DescSize
	l.descBlocks = (l.groups + perBlock - 1) / perBlock
	// Descriptors that would fill much of a group are spread (META_BG). That is
	// from 512 GiB on with blocks of 1024 and from 8 TiB with 2048.
	l.metaBG = l.descBlocks > l.groupBlocks/2
	l.flexLog = 4
	if l.groups*l.tableBlocks >= 1<<23 {
		// 4 TiB and more: groups of mke2fs's 16 would need a bitmap written every
		// 2 GiB. The metadata of a larger flex group fills at most half of its
		// first group, and a fourth or an eighth of the bitmaps are written.
		for l.flexLog < 7 && 2<<l.flexLog*(l.tableBlocks+2) <= l.groupBlocks*5/8 {
			l.flexLog++
		}
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
	tables        []uint64
	used          []span // all of it, sorted, neighbours joined
}

// flex lays out the bitmaps and inode tables of flex group f from its first
// block on, around the superblock and descriptor copies inside of it.
func (l *ext4Layout) flex(f uint64) (flexMeta, error) {
	m := flexMeta{first: f << l.flexLog}
	m.groups = min(1<<l.flexLog, l.groups-m.first)
	m.tables = make([]uint64, 0, m.groups)
	at := l.groupSpan(m.first).start
	end := l.groupSpan(m.first + m.groups - 1).end()
	take := func(n uint64) uint64 {
		at = l.skipBases(at, n)
		start := at
		at += n
		if k := len(m.used) - 1; k >= 0 && m.used[k].end() == start {
			m.used[k].count += n
		} else {
			m.used = append(m.used, span{start, n})
		}
		return start
	}
	m.blockBitmaps = take(m.groups)
	m.inodeBitmaps = take(m.groups)
	for range m.groups {
		m.tables = append(m.tables, take(l.tableBlocks))
	}
	if at > end {
		return m, errors.New("ext4: a group is too small for its inode tables")
	}
	return m, nil
}

// skipBases returns the first block from at on where n blocks meet no superblock
// or descriptor copy.
func (l *ext4Layout) skipBases(at, n uint64) uint64 {
	for g := l.groupOf(at); g < l.groups; g++ {
		s := l.groupSpan(g)
		if s.start >= at+n {
			break
		}
		if b := s.start + l.base(g); l.base(g) > 0 && at < b {
			at = b
		}
	}
	return at
}

// place finds the blocks of the directories and the journal, behind the metadata
// of the first flex group, and checks that every flex group has room for its own.
func (l *ext4Layout) place() error {
	var m flexMeta
	for f := uint64(0); f<<l.flexLog < l.groups; f++ {
		var err error
		if m, err = l.flex(f); err != nil {
			return err
		}
	}
	m, _ = l.flex(0)
	at := m.used[len(m.used)-1].end()
	var err error
	if l.root, at, err = l.takeOne(at, 1); err != nil {
		return err
	}
	if l.lost, at, err = l.takeOne(at, lostSize/l.blockSize); err != nil {
		return err
	}
	n := ext4JournalBlocks(l.blocks)
	journal, end, err := l.take(at, n)
	if err != nil {
		return err
	}
	l.journal = journal
	if len(journal) > inlineExtents {
		l.leaf = end
		leaf, _, err := l.takeOne(end, 1)
		if err != nil {
			return err
		}
		l.leaf = leaf.start
		l.special = append(l.special, leaf)
	}
	if uint64(len(journal)) > l.leafExtents() {
		return errors.New("ext4: the journal is in too many pieces")
	}
	l.special = append(append(l.special, l.root, l.lost), journal...)
	slices.SortFunc(l.special, func(a, b span) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	return nil
}

// leafExtents fit into a block behind its header and before its checksum.
func (l *ext4Layout) leafExtents() uint64 { return (l.blockSize - 12) / 12 }

// takeOne takes one run of free blocks.
func (l *ext4Layout) takeOne(at, n uint64) (span, uint64, error) {
	for {
		s, end, err := l.take(at, n)
		if err != nil || len(s) == 1 {
			return slices.Concat(s, []span{{}})[0], end, err
		}
		at = s[len(s)-1].start
	}
}

// take collects n free blocks from at on, in runs of at most extentLen.
func (l *ext4Layout) take(at, n uint64) (runs []span, end uint64, err error) {
	for g := l.groupOf(at); g < l.groups && n > 0; g++ {
		m, err := l.flex(g >> l.flexLog)
		if err != nil {
			return nil, 0, err
		}
		group := l.groupSpan(g)
		at = max(at, group.start+l.base(g))
		used := append(slices.Clone(m.used), span{group.end(), 1})
		for _, u := range used {
			if u.end() <= at {
				continue
			}
			free := span{at, group.end() - at}.clip(at, u.start)
			for free.count > 0 && n > 0 {
				run := span{free.start, min(free.count, n, extentLen)}
				runs = appendRun(runs, run)
				free = span{run.end(), free.count - run.count}
				n -= run.count
				end = run.end()
			}
			at = max(at, min(u.end(), group.end()))
		}
	}
	if n > 0 {
		return nil, 0, errors.New("ext4: no room for the journal")
	}
	return runs, end, nil
}

// appendRun joins a run with the last one when they touch and an extent can hold
// both.
func appendRun(runs []span, run span) []span {
	if k := len(runs) - 1; k >= 0 && runs[k].end() == run.start && runs[k].count+run.count <= extentLen {
		runs[k].count += run.count
		return runs
	}
	return append(runs, run)
}

// groupUsed appends the runs of used blocks of a group: first its superblock and
// descriptors, then metadata of its flex group, directories and journal.
func (l *ext4Layout) groupUsed(g uint64, m flexMeta, runs []span) []span {
	group := l.groupSpan(g)
	if n := l.base(g); n > 0 {
		runs = append(runs, span{group.start, n})
	}
	for _, list := range [...][]span{m.used, l.special} {
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
	list := []uint64{0}
	if l.groups > 1 {
		list = append(list, 1)
	}
	for _, p := range [...]uint64{3, 5, 7} {
		for n := p; n < l.groups; n *= p {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// overhead is the blocks that can never hold files: everything but directories.
func (l *ext4Layout) overhead() uint64 {
	n := l.first + l.groups*(2+l.tableBlocks)
	for _, s := range l.journal {
		n += s.count
	}
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
	n := l.blocks - l.overhead() - l.root.count - l.lost.count
	if l.leaf != 0 {
		n--
	}
	return n
}
