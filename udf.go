package main

import (
	"encoding/binary"
	"strings"
)

// UDF (ECMA-167 and OSTA UDF 1.02-2.60), as far as reading a file of the root
// directory needs it.

// Descriptor tag identifiers.
const (
	tagAnchor           = 2
	tagPointer          = 3
	tagPartition        = 5
	tagLogicalVolume    = 6
	tagTerminating      = 8
	tagFileSet          = 0x100
	tagFileIdentifier   = 0x101
	tagAllocationExtent = 0x102
	tagIndirect         = 0x103
	tagFileEntry        = 0x105
	tagExtendedEntry    = 0x10a
)

// Limits of a volume.
const (
	maxUDFSequence   = 256 // sectors of the descriptor sequence
	maxUDFMaps       = 16
	maxUDFExtents    = 4096
	maxUDFNesting    = 16 // allocation extents, indirect entries
	maxUDFSparing    = 4096
	maxUDFDirEntries = maxDiscNames
)

// udfTag checks a descriptor: identifier, checksum, CRC. Location is its own
// block; a negative one is not checked.
//
//	id(2) version(2) checksum(1) reserved(1) serial(2) crc(2) crc length(2) location(4)
func udfTag(b []byte, id uint16, location int64) error {
	if len(b) < 16 || binary.LittleEndian.Uint16(b) != id {
		return broken(sprintf("no UDF descriptor 0x%x where one should be", id))
	}
	var sum byte
	for i, c := range b[:16] {
		if i != 4 {
			sum += c
		}
	}
	n := int(binary.LittleEndian.Uint16(b[10:]))
	switch {
	case sum != b[4]:
		return broken("a UDF descriptor with a wrong checksum")
	case n > len(b)-16 || crcITU(b[16:16+n]) != binary.LittleEndian.Uint16(b[8:]):
		return broken("a UDF descriptor with a wrong CRC")
	case location >= 0 && int64(binary.LittleEndian.Uint32(b[12:])) != location:
		return broken("a UDF descriptor of another place")
	}
	return nil
}

// crcITU is the CRC of ECMA-167, 7.2.6: polynomial 0x1021, start 0.
func crcITU(b []byte) uint16 {
	var crc uint16
	for _, c := range b {
		crc ^= uint16(c) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// udfMap is a partition map: how block numbers of a partition become sectors.
type udfMap struct {
	kind          string // "", "sparable", "virtual", "metadata"
	number        uint16 // of the partition descriptor
	start, length uint32 // of it, in sectors
	packet        uint32 // sparable: blocks of a packet
	spared        map[uint32]uint32
	vat           []uint32
	metadata      *udfNode // the file whose blocks are this partition's
}

// udfVolume is an opened volume.
type udfVolume struct {
	d        *disc
	size     int64 // of a sector and logical block
	revision uint16
	label    string
	maps     []udfMap
	root     udfLong
	entries  []udfName // of the root directory, once read
}

// udfLong is a long allocation descriptor: extent length and kind, block,
// partition reference.
type udfLong struct {
	length uint32
	block  uint32
	ref    uint16
}

func readUDFLong(b []byte) udfLong {
	return udfLong{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint16(b[8:])}
}

func (v *udfVolume) describe() (string, string) {
	return sprintf("udf %x.%02x", v.revision>>8, v.revision&0xff), v.label
}

// openUDF recognises a volume and reads its descriptors.
func openUDF(d *disc) (discFS, error) {
	if !hasNSR(d) {
		return nil, errNoFileSystem
	}
	var last error
	for _, size := range []int64{2048, 512, 4096, 1024} {
		sectors := d.size / size
		for _, sector := range []int64{256, sectors - 1, sectors - 257, 512} {
			if sector < 16 {
				continue
			}
			b, err := d.at(sector*size, int(min(size, 512)))
			if err != nil || udfTag(b, tagAnchor, sector) != nil {
				continue
			}
			for _, at := range []int{16, 24} { // main and reserve sequence
				v := &udfVolume{d: d, size: size}
				if last = v.open(int64(binary.LittleEndian.Uint32(b[at+4:])), binary.LittleEndian.Uint32(b[at:])); last == nil {
					return v, nil
				}
			}
		}
	}
	if last == nil {
		last = broken("a UDF volume without anchor")
	}
	return nil, last
}

// hasNSR looks for the volume recognition sequence from byte 32768 on.
func hasNSR(d *disc) bool {
	for i := range int64(64) {
		b, err := d.at(32768+i*2048, 6)
		if err != nil {
			return false
		}
		if id := string(b[1:]); id == "NSR02" || id == "NSR03" {
			return true
		}
	}
	return false
}

// open reads a volume descriptor sequence and what it leads to.
func (v *udfVolume) open(sector int64, length uint32) error {
	partitions := map[uint16][]byte{}
	var logical []byte
	newer := func(old, b []byte) bool {
		return old == nil || binary.LittleEndian.Uint32(b[16:]) >= binary.LittleEndian.Uint32(old[16:])
	}
	end := sector + int64(length)/v.size
	for n := 0; sector < end; n++ {
		if n == maxUDFSequence {
			return broken("a UDF descriptor sequence without end")
		}
		b, err := v.d.at(sector*v.size, int(v.size))
		if err != nil {
			return err
		}
		id := binary.LittleEndian.Uint16(b)
		if id == tagTerminating {
			break
		}
		if id == 0 {
			sector++
			continue
		}
		if err := udfTag(b, id, sector); err != nil {
			return err
		}
		sector++
		switch id {
		case tagPointer:
			sector = int64(binary.LittleEndian.Uint32(b[24:]))
			end = sector + int64(binary.LittleEndian.Uint32(b[20:]))/v.size
		case tagPartition:
			if number := binary.LittleEndian.Uint16(b[22:]); newer(partitions[number], b) && len(partitions) < maxUDFMaps {
				partitions[number] = b
			}
		case tagLogicalVolume:
			if newer(logical, b) {
				logical = b
			}
		}
	}
	if logical == nil {
		return broken("a UDF volume without logical volume descriptor")
	}
	if int64(binary.LittleEndian.Uint32(logical[212:])) != v.size {
		return broken("a UDF block size other than the sector size")
	}
	v.label = dstring(logical[84:212])
	v.revision = binary.LittleEndian.Uint16(logical[240:])
	if err := v.readMaps(logical, partitions); err != nil {
		return err
	}
	set := readUDFLong(logical[248:])
	b, err := v.block(set.ref, set.block)
	if err != nil {
		return err
	}
	if err := udfTag(b, tagFileSet, int64(set.block)); err != nil {
		return err
	}
	v.root = readUDFLong(b[400:])
	return nil
}

// readMaps reads the partition maps of the logical volume descriptor.
func (v *udfVolume) readMaps(logical []byte, partitions map[uint16][]byte) error {
	table := logical[440:]
	if n := binary.LittleEndian.Uint32(logical[264:]); int64(n) < int64(len(table)) {
		table = table[:n]
	}
	count := binary.LittleEndian.Uint32(logical[268:])
	if count == 0 || count > maxUDFMaps {
		return broken("a UDF volume with no or too many partition maps")
	}
	var late []func() error
	for range count {
		if len(table) < 2 || int(table[1]) < 6 || int(table[1]) > len(table) {
			return broken("a UDF partition map that is too short")
		}
		m := table[:table[1]]
		table = table[table[1]:]
		at := 4
		if m[0] == 2 {
			if len(m) < 64 {
				return broken("a UDF partition map that is too short")
			}
			at = 38
		}
		pm := udfMap{number: binary.LittleEndian.Uint16(m[at:])}
		p := partitions[pm.number]
		if p == nil {
			return broken("a UDF partition map without partition")
		}
		pm.start, pm.length = binary.LittleEndian.Uint32(p[188:]), binary.LittleEndian.Uint32(p[192:])
		i := len(v.maps)
		if m[0] == 2 {
			switch id := strings.TrimRight(string(m[5:28]), "\x00"); id {
			case "*UDF Virtual Partition":
				pm.kind = "virtual"
				late = append(late, func() error { return v.readVAT(i) })
			case "*UDF Sparable Partition":
				pm.kind = "sparable"
				if err := v.readSparing(&pm, m); err != nil {
					return err
				}
			case "*UDF Metadata Partition":
				pm.kind = "metadata"
				file, mirror := binary.LittleEndian.Uint32(m[40:]), binary.LittleEndian.Uint32(m[44:])
				late = append(late, func() error { return v.readMetadata(i, file, mirror) })
			default:
				return broken("a UDF partition of an unknown kind")
			}
		}
		v.maps = append(v.maps, pm)
	}
	for _, f := range late {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// physical returns the index of the plain or sparable map of the same partition.
func (v *udfVolume) physical(i int) (uint16, error) {
	for j, m := range v.maps {
		if m.number == v.maps[i].number && (m.kind == "" || m.kind == "sparable") {
			return uint16(j), nil
		}
	}
	return 0, broken("a UDF partition that rests on none")
}

// readSparing reads the table of blocks that were moved (UDF 2.01, 2.2.12).
func (v *udfVolume) readSparing(pm *udfMap, m []byte) error {
	pm.packet = uint32(binary.LittleEndian.Uint16(m[40:]))
	if pm.packet == 0 || m[42] > 4 {
		return broken("a UDF sparable partition without packets")
	}
	var last error = broken("a UDF sparing table that can't be read")
	for i := range int(m[42]) {
		sector := int64(binary.LittleEndian.Uint32(m[48+4*i:]))
		b, err := v.d.at(sector*v.size, int(v.size))
		if err != nil {
			last = err
			continue
		}
		n := int(binary.LittleEndian.Uint16(b[48:]))
		if !strings.HasPrefix(string(b[17:]), "*UDF Sparing Table") || n > maxUDFSparing {
			continue
		}
		if b, err = v.d.at(sector*v.size, 56+8*n); err != nil {
			last = err
			continue
		}
		pm.spared = map[uint32]uint32{}
		for e := b[56:]; len(e) >= 8; e = e[8:] {
			if original := binary.LittleEndian.Uint32(e); original < 0xfffffff0 {
				pm.spared[original] = binary.LittleEndian.Uint32(e[4:])
			}
		}
		return nil
	}
	return last
}

// readVAT finds the virtual allocation table: its ICB is the last block that was
// written (UDF 2.01, 2.2.10).
func (v *udfVolume) readVAT(i int) error {
	ref, err := v.physical(i)
	if err != nil {
		return err
	}
	start := v.maps[ref].start
	for back := int64(1); back <= 32; back++ {
		sector := v.d.size/v.size - back
		if sector < int64(start) {
			break
		}
		node, err := v.entry(udfLong{length: uint32(v.size), block: uint32(sector - int64(start)), ref: ref}, 0)
		if err != nil || node.fileType != 248 && node.fileType != 0 {
			continue
		}
		b, err := node.read(maxDiscFile)
		if err != nil {
			return err
		}
		if node.fileType == 248 {
			if len(b) < 2 || int(binary.LittleEndian.Uint16(b)) > len(b) {
				return broken("a UDF virtual allocation table that is too short")
			}
			b = b[binary.LittleEndian.Uint16(b):]
		} else if len(b) >= 36 {
			b = b[:len(b)-36]
		}
		for ; len(b) >= 4; b = b[4:] {
			v.maps[i].vat = append(v.maps[i].vat, binary.LittleEndian.Uint32(b))
		}
		return nil
	}
	return broken("a UDF virtual partition without allocation table")
}

// readMetadata opens the metadata file, else its mirror.
func (v *udfVolume) readMetadata(i int, file, mirror uint32) error {
	ref, err := v.physical(i)
	if err != nil {
		return err
	}
	for _, block := range []uint32{file, mirror} {
		var node *udfNode
		if node, err = v.entry(udfLong{length: uint32(v.size), block: block, ref: ref}, 0); err == nil {
			v.maps[i].metadata = node
			return nil
		}
	}
	return err
}

// offset translates a block of a partition to a byte of the disc.
func (v *udfVolume) offset(ref uint16, block uint32) (int64, error) {
	for range maxUDFNesting {
		if int(ref) >= len(v.maps) {
			return 0, broken("a UDF partition that does not exist")
		}
		m := &v.maps[ref]
		switch m.kind {
		case "virtual":
			if int64(block) >= int64(len(m.vat)) {
				return 0, broken("a UDF block outside of the allocation table")
			}
			block = m.vat[block]
		case "metadata":
			if m.metadata == nil {
				return 0, broken("a UDF metadata partition without file")
			}
			at, ok := m.metadata.blockAt(block)
			if !ok {
				return 0, broken("a UDF block outside of the metadata file")
			}
			block, ref = at.block, at.ref
			continue
		default:
			if block >= m.length {
				return 0, broken("a UDF block outside of its partition")
			}
			if m.packet > 0 {
				if moved, is := m.spared[block-block%m.packet]; is {
					return int64(moved+block%m.packet) * v.size, nil
				}
			}
			return (int64(m.start) + int64(block)) * v.size, nil
		}
		next, err := v.physical(int(ref))
		if err != nil {
			return 0, err
		}
		ref = next
	}
	return 0, broken("UDF partitions that rest on each other")
}

// block reads one block of a partition.
func (v *udfVolume) block(ref uint16, block uint32) ([]byte, error) {
	at, err := v.offset(ref, block)
	if err != nil {
		return nil, err
	}
	return v.d.at(at, int(v.size))
}

// dstring reads a fixed field whose last byte is the length used.
func dstring(b []byte) string {
	n := int(b[len(b)-1])
	if n == 0 || n > len(b)-1 {
		return ""
	}
	return ostaText(b[:n])
}

// ostaText decodes OSTA compressed unicode: 8 or 16 bits a character.
func ostaText(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	switch b[0] {
	case 8:
		var s strings.Builder
		for _, c := range b[1:] {
			s.WriteRune(rune(c))
		}
		return s.String()
	case 16:
		return utf16Text(b[1:], true)
	}
	return ""
}
