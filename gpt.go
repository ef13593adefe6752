package main

import (
	"bytes"
	"hash/crc32"
)

// Partition tables: GPT (UEFI specification 2.10, chapter 5) and the four entries
// of a master boot record.

// partition is an entry of a table. Offsets and sizes are bytes.
type partition struct {
	number     int // from 1 on, as the kernel counts
	from, size int64
	name       string // GPT
	kind       [16]byte
}

// partTable is what stands at the start of a disk.
type partTable struct {
	kind  string // "GPT", "MBR", or "" for none
	parts []partition
	torn  string // what is wrong with it
	size  int64  // of the disk
	head  int64  // bytes at the start, and
	tail  int64  // at the end, that belong to the table
}

// gptGUID is a GUID as it is stored, from its text's five groups.
const (
	guidLinux    = "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4" // 0FC63DAF-8483-4772-8E79-3D69D8477DE4
	guidReserved = "\x16\xe3\xc9\xe3\x5c\x0b\xb8\x4d\x81\x7d\xf9\x2d\xf0\x02\x15\xae" // E3C9E316-0B5C-4DB8-817D-F92DF00215AE
)

const (
	gptMagic      = "EFI PART\x00\x00\x01\x00"
	gptHeaderSize = 92
	gptEntrySize  = 128
	gptEntries    = 128
	// resourceStart is where the one partition starts and what its end is a multiple of.
	resourceStart = 1 << 20
	// resourcePartition is its name, by which azprov knows its own.
	resourcePartition = "azprov-resource"
)

// gptHeader is a header that is whole, with its table.
type gptHeader struct {
	raw   []byte
	parts []partition
	table []byte
	other int64 // byte offset of the other header
}

// readGPT reads the header at a sector; nil when it is not whole.
//
//	signature 0, revision 8, size u32 12, CRC u32 16, own LBA u64 24, other LBA 32,
//	first usable 40, last usable 48, disk GUID 56, table LBA 72, entries u32 80,
//	entry size u32 84, CRC of the table u32 88
func readGPT(e *extent, lba, sector int64) *gptHeader {
	h := e.at(lba*sector, int(sector))
	if len(h) < 512 || string(h[:len(gptMagic)]) != gptMagic {
		return nil
	}
	size, count, entry := u32(h, 12), u32(h, 80), u32(h, 84)
	if size < gptHeaderSize || int64(size) > sector || u64(h, 24) != uint64(lba) || count > 4096 || entry < 128 || entry > 4096 || count*entry > 1<<20 {
		return nil
	}
	sum := u32(h, 16)
	h = bytes.Clone(h[:size])
	le.PutUint32(h[16:], 0)
	sectors := uint64(e.size / sector)
	first, last, at, other := u64(h, 40), u64(h, 48), u64(h, 72), u64(h, 32)
	if crc32.ChecksumIEEE(h) != sum || first > last || last >= sectors || at >= sectors || other >= sectors {
		return nil
	}
	table := e.at(int64(at)*sector, int(count*entry))
	if table == nil || crc32.ChecksumIEEE(table) != u32(h, 88) {
		return nil
	}
	g := &gptHeader{raw: h, table: table, other: int64(other)}
	for i := range int(count) {
		// type GUID 0, own GUID 16, first LBA u64 32, last 40, attributes 48, name 56
		t := table[i*int(entry):][:gptEntrySize]
		if onlyZeros(t[:16]) {
			continue
		}
		start, end := u64(t, 32), u64(t, 40)
		if start < first || end > last || start > end {
			return nil
		}
		name, _, _ := bytes.Cut(fromUTF16(t[56:]), []byte{0})
		g.parts = append(g.parts, partition{i + 1, int64(start) * sector, int64(end-start+1) * sector, string(name), [16]byte(t[:16])})
	}
	return g
}

// same says whether two headers describe the same disk.
func (g *gptHeader) same(o *gptHeader) bool {
	return bytes.Equal(g.raw[40:72], o.raw[40:72]) && bytes.Equal(g.table, o.table)
}

// readTable reads the partition table of a disk. Both copies of a GPT have to be
// whole and the same, and nothing may contradict them: else torn says what is wrong.
func readTable(e *extent, sector int64) *partTable {
	t := &partTable{size: e.size}
	mbr := e.at(0, 512)
	if sector < 512 || sector > 4096 || mbr == nil {
		t.torn = "the first sector can't be read"
		return t
	}
	end := e.size/sector - 1
	primary, backup := readGPT(e, 1, sector), readGPT(e, end, sector)
	traces := e.has(sector, gptMagic[:8]) || e.has(end*sector, gptMagic[:8])
	protective := t.readMBR(mbr, sector)
	switch {
	case protective || traces && onlyZeros(mbr):
		t.kind, t.parts = "GPT", nil
		g := primary
		if g == nil {
			g = backup
		}
		if g != nil {
			t.parts = g.parts
			table := (int64(len(g.table)) + sector - 1) / sector * sector
			t.head, t.tail = 2*sector+table, sector+table
		}
		switch {
		case g == nil:
			t.torn = "both copies of the GPT are damaged"
		case primary == nil || backup == nil || primary.other != end || backup.other != 1:
			t.torn = "a copy of the GPT is damaged"
		case !primary.same(backup):
			t.torn = "the copies of the GPT differ"
		case !protective:
			t.torn = "a GPT without its master boot record"
		}
	case traces && t.torn == "":
		t.torn = "a GPT and a master boot record with partitions"
	}
	for i, p := range t.parts {
		for _, o := range t.parts[:i] {
			if p.from < o.from+o.size && o.from < p.from+p.size {
				t.torn = "partitions overlap"
			}
		}
	}
	return t
}

// readMBR reads the entries of a master boot record and says whether it is the
// protective one of a GPT.
func (t *partTable) readMBR(b []byte, sector int64) (protective bool) {
	if b[510] != 0x55 || b[511] != 0xaa {
		return false
	}
	t.kind = "MBR"
	if onlyZeros(b[:440]) { // no boot loader
		t.head = 512
	}
	gpt := 0
	for i := range 4 {
		// status 0, type 4, first sector u32 8, sectors u32 12
		p := b[446+16*i:][:16]
		if onlyZeros(p) {
			continue
		}
		start, n := int64(u32(p, 8)), int64(u32(p, 12))
		if p[4] == 0xee {
			gpt++
			continue
		}
		if p[0]&0x7f != 0 || p[4] == 0 || start == 0 || n == 0 || (start+n)*sector > t.size {
			t.torn = "the master boot record has an impossible partition"
		}
		part := partition{number: i + 1, from: start * sector, size: n * sector}
		t.parts = append(t.parts, part)
		if p[4] == 0x05 || p[4] == 0x0f || p[4] == 0x85 {
			// An extended partition holds others.
			part.number, part.size = 5, 0
			t.parts = append(t.parts, part)
		}
	}
	if gpt > 0 && (gpt > 1 || len(t.parts) > 0) {
		t.torn = "a hybrid master boot record"
	}
	return gpt == 1 && len(t.parts) == 0
}

// used are the partitions that count: one that Windows reserves for itself does
// not, if it is empty, or marked by a format that had seen it empty.
func (t *partTable) used(e *extent, marked bool) []partition {
	var list []partition
	for _, p := range t.parts {
		if string(p.kind[:]) == guidReserved && (marked || (&extent{e.r, p.from, p.size, e.err}).blank(func(int64) bool { return false })) {
			continue
		}
		list = append(list, p)
	}
	return list
}

// unused is how many bytes of the disk are in no partition.
func (t *partTable) unused() int64 {
	n := t.size
	for _, p := range t.parts {
		n -= p.size
	}
	return n
}

// holds says whether a sector of a disk is the table's.
func (t *partTable) holds(off int64) bool {
	return off < t.head || off >= t.size-t.tail
}

// resourceSpan is the one partition of a resource disk: from 1 MiB to the last
// whole MiB before the backup table.
func resourceSpan(size, sector int64) (from, n int64) {
	usable := (size/sector-1)*sector - gptEntries*gptEntrySize
	return resourceStart, usable&^(resourceStart-1) - resourceStart
}

// writeGPT writes a GPT with the one partition of a resource disk, so that a power
// cut leaves the old table, or the new one: the backup first, the master boot
// record last.
func writeGPT(w store, size, sector int64) error {
	var ids [32]byte
	if err := randomBytes(ids[:]); err != nil {
		return err
	}
	for _, id := range [][]byte{ids[:16], ids[16:]} {
		id[7], id[8] = id[7]&0x0f|0x40, id[8]&0x3f|0x80 // a random GUID, its third group little-endian
	}
	from, n := resourceSpan(size, sector)
	table := make([]byte, gptEntries*gptEntrySize)
	copy(table, guidLinux)
	copy(table[16:], ids[16:])
	le.PutUint64(table[32:], uint64(from/sector))
	le.PutUint64(table[40:], uint64((from+n)/sector-1))
	for i, c := range []byte(resourcePartition) {
		table[56+2*i] = c
	}
	last := size/sector - 1
	span := int64(len(table)) / sector
	header := func(own, other, at int64) []byte {
		h := make([]byte, sector)
		copy(h, gptMagic)
		le.PutUint32(h[12:], gptHeaderSize)
		for i, v := range []int64{own, other, 2 + span, last - span - 1} {
			le.PutUint64(h[24+8*i:], uint64(v))
		}
		copy(h[56:], ids[:16])
		le.PutUint64(h[72:], uint64(at))
		le.PutUint32(h[80:], gptEntries)
		le.PutUint32(h[84:], gptEntrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
		return h
	}
	mbr := make([]byte, sector)
	copy(mbr[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00")
	le.PutUint32(mbr[458:], uint32(min(last, 0xffffffff)))
	copy(mbr[510:], "\x55\xaa")
	for _, s := range []struct {
		lba  int64
		data [][]byte
	}{
		{last - span, [][]byte{table, header(last, 1, last-span)}},
		{1, [][]byte{header(1, last, 2), table}},
		{0, [][]byte{mbr}},
	} {
		err := w.writev(s.lba*sector, s.data...)
		if err == nil {
			err = w.sync()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// u16, u32 and u64 are little-endian numbers at an offset. They are functions for
// the sake of the program's size.
func u16(b []byte, at int) uint16 { return le.Uint16(b[at:]) }
func u32(b []byte, at int) uint32 { return le.Uint32(b[at:]) }
func u64(b []byte, at int) uint64 { return le.Uint64(b[at:]) }
