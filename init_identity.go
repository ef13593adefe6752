package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
)

// identity is what a block device says about itself: its file system, and as a
// partition its place in the parent's table.
type identity struct {
	fstype, uuid, label string
}

// superblock tells where a file system keeps its magic number, UUID and label.
// Offsets are bytes from the start of the device.
type superblock struct {
	fstype        string
	magicAt       int64
	magic         string
	uuidAt        int64
	labelAt       int64
	labelLen      int
	labelLittle16 bool // UTF-16LE
}

// superblocks lists the file systems that UUID= and LABEL= know.
var superblocks = []superblock{
	{"ext4", 1024 + 56, "\x53\xef", 1024 + 104, 1024 + 120, 16, false},     // fs/ext4/ext4.h: s_magic, s_uuid, s_volume_name
	{"xfs", 0, "XFSB", 32, 108, 12, false},                                 // fs/xfs/libxfs/xfs_format.h: sb_uuid, sb_fname
	{"btrfs", 65536 + 64, "_BHRfS_M", 65536 + 32, 65536 + 299, 256, false}, // btrfs_super_block: fsid, label
	{"erofs", 1024, "\xe2\xe1\xf5\xe0", 1024 + 48, 1024 + 64, 16, false},   // erofs_super_block: uuid, volume_name
	{"f2fs", 1024, "\x10\x20\xf5\xf2", 1024 + 108, 1024 + 124, 1024, true}, // f2fs_super_block: uuid, volume_name
	{"squashfs", 0, "hsqs", -1, -1, 0, false},
}

// identify reads the superblock of a device. What it does not know, or can't
// read, is the zero value.
func identify(r io.ReaderAt) identity {
	for _, sb := range superblocks {
		magic := make([]byte, len(sb.magic))
		if _, err := r.ReadAt(magic, sb.magicAt); err != nil || string(magic) != sb.magic {
			continue
		}
		id := identity{fstype: sb.fstype}
		if sb.fstype == "ext4" {
			id.fstype = extType(r)
		}
		raw := make([]byte, 16)
		if _, err := r.ReadAt(raw, sb.uuidAt); sb.uuidAt > 0 && err == nil {
			id.uuid = formatUUID(raw)
		}
		label := make([]byte, sb.labelLen)
		if _, err := r.ReadAt(label, sb.labelAt); sb.labelAt > 0 && err == nil {
			if sb.labelLittle16 {
				label = fromUTF16(label)
			}
			text, _, _ := bytes.Cut(label, []byte{0})
			id.label = string(text)
		}
		return id
	}
	return identity{}
}

// extType tells ext2, ext3 and ext4 apart by their features.
func extType(r io.ReaderAt) string {
	features := make([]byte, 12) // s_feature_compat, _incompat, _ro_compat
	if _, err := r.ReadAt(features, 1024+92); err != nil {
		return "ext4"
	}
	const hasJournal, ext3Incompat, ext3ROCompat = 4, 0x0016, 0x0007
	if binary.LittleEndian.Uint32(features[4:])&^ext3Incompat != 0 || binary.LittleEndian.Uint32(features[8:])&^ext3ROCompat != 0 {
		return "ext4"
	}
	if binary.LittleEndian.Uint32(features)&hasJournal != 0 {
		return "ext3"
	}
	return "ext2"
}

func formatUUID(b []byte) string {
	return sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// fromUTF16 keeps the ASCII of a UTF-16LE label; another character is "?".
func fromUTF16(b []byte) []byte {
	var out []byte
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c > 0x7e {
			c = '?'
		}
		out = append(out, byte(c))
	}
	return out
}

// partitionIdentity finds the PARTUUID and PARTLABEL of a partition in its
// disk's table. A GPT entry has a GUID and a name; an MBR partition's PARTUUID
// is the disk signature and the partition's number (block/partitions/msdos.c).
func partitionIdentity(disk io.ReaderAt, sector int64, number int) (uuid, label string) {
	if sector < 512 || sector > 4096 || number < 1 || number > 1024 {
		return "", ""
	}
	// struct gpt_header of block/partitions/efi.h: signature "EFI PART" at 0,
	// partition_entry_lba at 72, num_partition_entries at 80,
	// sizeof_partition_entry at 84.
	header := make([]byte, 92)
	if _, err := disk.ReadAt(header, sector); err == nil && string(header[:8]) == "EFI PART" {
		first := binary.LittleEndian.Uint64(header[72:])
		count, size := binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
		if uint32(number) > count || size < 128 || size > 4096 || first > 1<<40 {
			return "", ""
		}
		// gpt_entry: type GUID at 0, unique GUID at 16, name (36 UTF-16LE) at 56.
		entry := make([]byte, 128)
		if _, err := disk.ReadAt(entry, int64(first)*sector+int64(number-1)*int64(size)); err != nil {
			return "", ""
		}
		name, _, _ := bytes.Cut(fromUTF16(entry[56:128]), []byte{0})
		return swapUUID(formatUUID(entry[16:32])), string(name)
	}
	mbr := make([]byte, 512)
	if _, err := disk.ReadAt(mbr, 0); err != nil || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return "", ""
	}
	signature := binary.LittleEndian.Uint32(mbr[440:])
	if signature == 0 {
		return "", ""
	}
	return sprintf("%08x-%02x", signature, number), ""
}

// matches says whether a root= tag is this device's: UUIDs in any case, labels
// exactly.
func tagMatches(tag, value string, id identity, partUUID, partLabel string) bool {
	switch tag {
	case "UUID":
		return id.uuid != "" && strings.EqualFold(value, id.uuid)
	case "LABEL":
		return id.label != "" && value == id.label
	case "PARTUUID":
		return partUUID != "" && strings.EqualFold(value, partUUID)
	case "PARTLABEL":
		return partLabel != "" && value == partLabel
	}
	return false
}
