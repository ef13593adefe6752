package main

import (
	"errors"
	"io"
	"strings"
)

// minResourceDisk is the smallest disk that is used.
const minResourceDisk = 64 << 20

// maxUnused is how much of a disk of Azure's is in no partition.
const maxUnused = 16 << 20

// resourceLabel is the file system label of resource disks, the same that
// azure-vm-utils gives.
const resourceLabel = "AzureEphmDsk"

// diskView is what the content of a disk shows.
type diskView struct {
	signs  diskSigns
	detail string    // what was found, for the reader
	part   partition // that holds the file system; number 0 is the whole disk
	id     identity
}

// extent is a part of a disk that is read with bounds. The first error of the
// medium is kept, and what could not be read is nil.
type extent struct {
	r          io.ReaderAt
	from, size int64
	err        *error
}

// at reads n bytes; nil when they are not all there.
func (e *extent) at(off int64, n int) []byte {
	if off < 0 || off > e.size-int64(n) {
		return nil
	}
	b := make([]byte, n)
	if _, err := e.r.ReadAt(b, e.from+off); err != nil {
		if *e.err == nil {
			*e.err = unwrapPath(err)
		}
		return nil
	}
	return b
}

func (e *extent) has(off int64, magic string) bool {
	return string(e.at(off, len(magic))) == magic
}

// signature is a magic number at a place.
type signature struct {
	name  string
	at    int64
	magic string
}

// signatures lists what a disk or partition may start with, beside the file
// systems of superblocks. It only gives names to what is refused: data that is
// not in the list is refused all the same.
var signatures = []signature{
	{"NTFS", 3, "NTFS    "}, {"BitLocker", 3, "-FVE-FS-"}, {"exFAT", 3, "EXFAT   "}, {"ReFS", 3, "ReFS"},
	{"FAT", 54, "FAT1"}, {"FAT", 82, "FAT32"}, {"LUKS", 0, "LUKS\xba\xbe"}, {"JFS", 32768, "JFS1"}, {"ReiserFS", 65588, "ReIsEr"},
	{"LVM", 0, "LABELONE"}, {"LVM", 512, "LABELONE"}, {"LVM", 1024, "LABELONE"}, {"LVM", 1536, "LABELONE"},
	{"RAID", 0, mdMagic}, {"RAID", 4096, mdMagic}, {"bcache", 4120, bcacheMagic},
	{"ISO 9660", 32769, "CD001"}, {"UDF", 32769, "BEA01"}, {"UDF", 32769, "NSR0"},
	{"swap", 4086, "SWAPSPACE2"}, {"swap", 4086, "SWAP-SPACE"}, {"swap", 65526, "SWAPSPACE2"}, {"hibernation", 4086, "S1SUSPEND"},
}

const (
	mdMagic     = "\xfc\x4e\x2b\xa9"
	bcacheMagic = "\xc6\x85\x73\xf6\x4e\x1a\x45\xca"
)

// signs names what is known of the extent's content.
func (e *extent) signs() (names []string, id identity) {
	add := func(name string) {
		if len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	if id = identify(io.NewSectionReader(e.r, e.from, e.size)); id.fstype != "" {
		add(id.fstype)
	}
	for _, s := range signatures {
		if e.has(s.at, s.magic) {
			add(s.name)
		}
	}
	// md_p.h: 0.90 in the last whole 64 KiB but one, of either byte order;
	// 1.0 at least 8 KiB before the end.
	old := e.size&^0xffff - 0x10000
	if e.has(old, "\xfc\x4e\x2b\xa9") || e.has(old, "\xa9\x2b\x4e\xfc") || e.has((e.size/512-16)&^7*512, "\xfc\x4e\x2b\xa9") {
		add("RAID")
	}
	// ZFS has four labels of 256 KiB, with the uberblocks in their second half.
	end := e.size &^ (256<<10 - 1)
	for _, label := range []int64{0, 256 << 10, end - 512<<10, end - 256<<10} {
		b := e.at(label+128<<10, 128<<10)
		for ; len(b) > 0; b = b[1024:] {
			if m := string(b[:8]); m == "\x0c\xb1\xba\x00\x00\x00\x00\x00" || m == "\x00\x00\x00\x00\x00\xba\xb1\x0c" {
				add("ZFS")
				break
			}
		}
	}
	return names, id
}

// blank looks at the first and the last MiB and at places between them. What
// keep says is no data, a partition table.
func (e *extent) blank(keep func(off int64) bool) bool {
	const page, edge, places = 4096, 1 << 20, 64
	zero := func(from, to int64) bool {
		for ; from < to; from += page {
			b := e.at(from, int(min(page, to-from)))
			if b == nil {
				return false
			}
			for i := 0; i < len(b); i += 512 {
				if !onlyZeros(b[i:min(i+512, len(b))]) && !keep(from+int64(i)) {
					return false
				}
			}
		}
		return true
	}
	if !zero(0, min(edge, e.size)) || !zero(max(0, e.size-edge)&^(page-1), e.size) {
		return false
	}
	for i := range int64(places) {
		off := e.size / places * i &^ (page - 1)
		if !zero(off, min(off+page, e.size)) {
			return false
		}
	}
	return true
}

func onlyZeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// viewDisk looks at the content of a disk: its size in bytes, its logical sector.
// It only reads, at most some MiB.
func viewDisk(r io.ReaderAt, size, sector int64) diskView {
	var readErr error
	e := &extent{r, 0, size, &readErr}
	v := diskView{}
	if size < minResourceDisk {
		v.signs = signSmall
		v.detail = sprintf("%d bytes", size)
		return v
	}
	v.look(e, sector)
	if readErr != nil {
		v.signs, v.detail = signUnread, readErr.Error()
	}
	return v
}

// look finds the one place that may hold a file system and judges it.
func (v *diskView) look(e *extent, sector int64) {
	names, id := e.signs()
	t := readTable(e, sector)
	if len(names) > 0 && t.kind == "MBR" && len(t.parts) == 0 {
		t.kind = "" // the boot sector of a file system
	}
	if t.kind != "" {
		v.signs |= signTable
	}
	// A format writes its marker where the new partition will start before it touches
	// the table.
	start, _ := resourceSpan(e.size, sector)
	marked := hasFormatMarker(e.at(start, formatMarkerArea), e.size, start)
	parts := t.used(e, marked)
	switch {
	case len(parts) == 1:
		v.part = parts[0]
	case marked && len(parts) == 0 && len(names) == 0:
		v.part = partition{number: 1, from: start}
	}
	if v.part.number > 0 && hasFormatMarker(e.at(v.part.from, formatMarkerArea), e.size, v.part.from) {
		v.signs |= signCutOff
		return
	}
	if t.torn == "" && t.kind != "" && len(names) > 0 {
		t.torn = "beside the partition table there is " + strings.Join(names, ", ")
	}
	if t.torn != "" {
		v.signs |= signTorn
		v.detail = t.torn
	}
	switch {
	case len(parts) > 1:
		v.signs |= signMany
		v.detail = joinTexts(v.detail, sprintf("%d partitions", len(parts)))
	case len(parts) == 1:
		area := &extent{e.r, v.part.from, v.part.size, e.err}
		names, id = area.signs()
		v.judge(area, names, id, t.kind == "GPT" && v.part.name == resourcePartition)
		if gap := t.unused(); gap > maxUnused {
			v.signs &^= signFresh
			v.detail += ", " + sizeText(gap) + " are in no partition"
		}
	case len(names) > 0:
		v.judge(e, names, id, false)
	case t.torn == "" && e.blank(t.holds):
		v.signs |= signBlank
	}
}

// judge adds what an area's content means; ours says that it is azprov's partition.
func (v *diskView) judge(area *extent, names []string, id identity, ours bool) {
	v.id = id
	where := "the disk"
	if v.part.number > 0 {
		where = sprintf("partition %d", v.part.number)
	}
	if len(names) == 0 {
		v.detail = joinTexts(v.detail, where+" holds no file system that is known")
		return
	}
	v.detail = joinTexts(v.detail, where+": "+strings.Join(names, ", "))
	if id.label != "" {
		v.detail += " \"" + oneLine(id.label, 40) + "\""
	}
	mountable := strings.HasPrefix(id.fstype, "ext") || id.fstype == "xfs" || id.fstype == "btrfs"
	switch {
	case mountable && id.label == resourceLabel:
		v.signs |= signLabel | signLinux
		if ours && id.fstype == "ext4" {
			v.signs |= signOurs
		}
		if ext4Broken(area) {
			v.signs |= signDamaged
		}
	case mountable && len(names) == 1:
		v.signs |= signLinux | signKnown
	case len(names) == 1 && names[0] == "NTFS":
		v.signs |= signNTFS
		label, err := checkFreshNTFS(newDisc(io.NewSectionReader(area.r, area.from, area.size), area.size))
		switch {
		case label != "":
			v.detail += " \"" + oneLine(label, 40) + "\""
		case err == nil && v.part.number == 0:
			err = errors.New("it stands in no partition")
		}
		if err == nil && v.part.number > 0 {
			v.signs |= signFresh
		} else if err != nil {
			v.detail += ": " + oneLine(err.Error(), 120)
		}
	default:
		v.signs |= signKnown
	}
}

// ext4Broken says whether the superblock of an ext4 has checksums and its own is
// wrong.
func ext4Broken(area *extent) bool {
	const metadataCsum = 0x400 // of s_feature_ro_compat
	sb := area.at(superOffset, 1024)
	return sb != nil && u16(sb, 56) == 0xef53 && u32(sb, 100)&metadataCsum != 0 && crc32c(^uint32(0), sb[:1020]) != u32(sb, 1020)
}
