package main

import (
	"encoding/binary"
	"strings"
)

// FAT12, FAT16 and FAT32 with long names (Microsoft, "FAT: General Overview of
// On-Disk Format", 1.03).

type fatVolume struct {
	d             *disc
	start         int64 // of the volume, in bytes
	bits          int   // 12, 16, 32
	cluster       int64 // bytes
	table         []byte
	tableAt, data int64 // of the first allocation table, of cluster 2
	clusters      uint32
	rootAt        int64 // of the fixed root directory; 0 on FAT32
	rootSize      int64
	rootCluster   uint32
	label         string
	entries       []fatFile
	read          bool
}

type fatFile struct {
	name  string
	first uint32
	size  uint32
}

func (v *fatVolume) describe() (string, string) { return sprintf("fat%d", v.bits), v.label }

// openFAT recognises a volume that starts at the disc's first byte, or at the
// first partition of a master boot record.
func openFAT(d *disc) (discFS, error) {
	b, err := d.at(0, 512)
	if err != nil || b[510] != 0x55 || b[511] != 0xaa {
		return nil, errNoFileSystem
	}
	if v := newFATVolume(d, b, 0); v != nil {
		return v, nil
	}
	start := int64(binary.LittleEndian.Uint32(b[446+8:])) * 512
	if kind := b[446+4]; start == 0 || kind == 0 || kind == 0xee {
		return nil, errNoFileSystem
	}
	if b, err = d.at(start, 512); err == nil && b[510] == 0x55 && b[511] == 0xaa {
		if v := newFATVolume(d, b, start); v != nil {
			return v, nil
		}
	}
	return nil, errNoFileSystem
}

// newFATVolume reads a boot sector; nil when it is none of FAT.
func newFATVolume(d *disc, b []byte, start int64) *fatVolume {
	sector, per := int64(binary.LittleEndian.Uint16(b[11:])), int64(b[13])
	reserved, copies := int64(binary.LittleEndian.Uint16(b[14:])), int64(b[16])
	rootEntries := int64(binary.LittleEndian.Uint16(b[17:]))
	total, tableSectors := int64(binary.LittleEndian.Uint16(b[19:])), int64(binary.LittleEndian.Uint16(b[22:]))
	if total == 0 {
		total = int64(binary.LittleEndian.Uint32(b[32:]))
	}
	if tableSectors == 0 {
		tableSectors = int64(binary.LittleEndian.Uint32(b[36:]))
	}
	if b[0] != 0xeb && b[0] != 0xe9 || sector < 512 || sector > 4096 || sector&(sector-1) != 0 || per == 0 || per&(per-1) != 0 ||
		reserved == 0 || copies == 0 || copies > 4 || tableSectors == 0 {
		return nil
	}
	rootSectors := (rootEntries*32 + sector - 1) / sector
	dataSector := reserved + copies*tableSectors + rootSectors
	if total <= dataSector {
		return nil
	}
	v := &fatVolume{d: d, start: start, cluster: per * sector, clusters: uint32((total - dataSector) / per),
		tableAt: start + reserved*sector, data: start + dataSector*sector}
	switch {
	case v.clusters < 4085:
		v.bits = 12
	case v.clusters < 65525:
		v.bits = 16
	default:
		v.bits = 32
	}
	if v.bits == 32 {
		v.rootCluster = binary.LittleEndian.Uint32(b[44:])
	} else {
		v.rootAt = start + (reserved+copies*tableSectors)*sector
		v.rootSize = rootEntries * 32
	}
	return v
}

// next returns the cluster after one in its chain; ok is false at its end.
func (v *fatVolume) next(cluster uint32) (n uint32, ok bool, err error) {
	var at int64
	switch v.bits {
	case 12:
		at = int64(cluster) * 3 / 2
	case 16:
		at = int64(cluster) * 2
	default:
		at = int64(cluster) * 4
	}
	b, err := v.tableBytes(at, 4)
	if err != nil {
		return 0, false, err
	}
	n = binary.LittleEndian.Uint32(b)
	switch {
	case v.bits == 12 && cluster&1 != 0:
		n = n >> 4 & 0xfff
	case v.bits == 12:
		n &= 0xfff
	case v.bits == 16:
		n &= 0xffff
	default:
		n &= 0x0fffffff
	}
	end := uint32(0x0ffffff8) & (1<<v.bits - 1)
	if n >= end {
		return 0, false, nil
	}
	if n < 2 || n >= v.clusters+2 {
		return 0, false, broken("a FAT chain that leaves the volume")
	}
	return n, true, nil
}

// tableBytes reads the allocation table, a page at a time since chains are
// mostly in one.
func (v *fatVolume) tableBytes(at int64, n int) ([]byte, error) {
	const page = 4096
	base := at / page * page
	if v.table == nil || v.rootOfTable() != base {
		b, err := v.d.at(v.tableAt+base, page+4)
		if err != nil {
			// The last page of a small image.
			if b, err = v.d.at(v.tableAt+at, n); err != nil {
				return nil, err
			}
			return b, nil
		}
		v.table = append(binary.LittleEndian.AppendUint64(nil, uint64(base)), b...)
	}
	return v.table[8+at-base:][:n], nil
}

// rootOfTable is the offset of the page that table holds.
func (v *fatVolume) rootOfTable() int64 { return int64(binary.LittleEndian.Uint64(v.table)) }

// chain reads a chain of clusters, up to limit bytes; a longer one is an error.
func (v *fatVolume) chain(cluster uint32, limit int64) ([]byte, error) {
	if cluster < 2 || cluster >= v.clusters+2 {
		return nil, broken("a FAT chain that leaves the volume")
	}
	var out []byte
	for {
		b, err := v.d.at(v.data+int64(cluster-2)*v.cluster, int(v.cluster))
		if err != nil {
			return nil, err
		}
		if out = append(out, b...); int64(len(out)) >= limit {
			return out, nil
		}
		next, more, err := v.next(cluster)
		if err != nil || !more {
			return out, err
		}
		cluster = next
	}
}

// directory reads the root directory: entries of 32 bytes, those of long names
// before the short one that they belong to.
func (v *fatVolume) directory() ([]fatFile, error) {
	if v.read {
		return v.entries, nil
	}
	var b []byte
	var err error
	if v.bits == 32 {
		b, err = v.chain(v.rootCluster, maxDiscDir)
	} else {
		b, err = v.d.at(v.rootAt, int(min(v.rootSize, maxDiscDir)))
	}
	if err != nil {
		return nil, err
	}
	var long [20][]byte
	parts, sum := 0, byte(0)
	for ; len(b) >= 32 && b[0] != 0; b = b[32:] {
		e := b[:32]
		attr := e[11]
		switch {
		case e[0] == 0xe5:
			parts = 0
		case attr&0x3f == 0x0f:
			n := int(e[0] & 0x1f)
			if e[0]&0x40 != 0 {
				parts, sum = n, e[13]
			}
			if n < 1 || n > len(long) || n > parts || e[13] != sum {
				parts = 0
				continue
			}
			long[n-1] = append(append(append([]byte(nil), e[1:11]...), e[14:26]...), e[28:32]...)
		case attr&0x08 != 0:
			v.label = strings.TrimRight(string(e[:11]), " ")
			parts = 0
		default:
			f := fatFile{name: shortFATName(e), size: binary.LittleEndian.Uint32(e[28:]),
				first: uint32(binary.LittleEndian.Uint16(e[20:]))<<16 | uint32(binary.LittleEndian.Uint16(e[26:]))}
			if v.bits != 32 {
				f.first &= 0xffff
			}
			if parts > 0 && fatChecksum(e[:11]) == sum {
				f.name = longFATName(long[:parts])
			}
			parts = 0
			if attr&0x10 == 0 {
				v.entries = append(v.entries, f)
			}
		}
		if len(v.entries) > maxDiscNames {
			return nil, broken("a FAT directory with too many names")
		}
	}
	v.read = true
	return v.entries, nil
}

func longFATName(parts [][]byte) string {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	name, _, _ := strings.Cut(utf16Text(all, false), "\x00")
	return name
}

func shortFATName(e []byte) string {
	base, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	// Windows NT keeps lower case of either part in two bits.
	if e[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if e[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	return base
}

// fatChecksum ties long name parts to their short name.
func fatChecksum(short []byte) byte {
	var sum byte
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

func (v *fatVolume) names() ([]string, error) {
	list, err := v.directory()
	var names []string
	for _, f := range list {
		names = append(names, f.name)
	}
	return names, err
}

func (v *fatVolume) file(name string) ([]byte, error) {
	list, err := v.directory()
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		switch {
		case f.name != name:
			continue
		case f.size == 0:
			return []byte{}, nil
		case f.size > maxDiscFile:
			return nil, errTooMuch
		}
		b, err := v.chain(f.first, int64(f.size))
		if err != nil {
			return nil, err
		}
		if len(b) < int(f.size) {
			return nil, broken("a FAT file that is longer than its chain")
		}
		return b[:f.size], nil
	}
	return nil, errNoDocument
}
