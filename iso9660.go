package main

import (
	"encoding/binary"
	"strings"
)

// ISO 9660 (ECMA-119) with Joliet and Rock Ridge names.

const (
	isoSector         = 2048
	maxISODescriptors = 32
	maxISOExtents     = 64
	maxISOContinued   = 16 // continuation areas of a record
)

// isoVolume is an opened volume: of several descriptors the one with the best names.
type isoVolume struct {
	d       *disc
	kind    string
	label   string
	joliet  bool
	root    isoExtent
	entries []isoFile
	read    bool
}

type isoExtent struct{ block, size uint32 }

type isoFile struct {
	name    string
	extents []isoExtent
}

func (v *isoVolume) describe() (string, string) { return v.kind, v.label }

// openISO reads the volume descriptors from sector 16 on. Rock Ridge names of
// the primary volume are best, then Joliet's, then plain ones.
func openISO(d *disc) (discFS, error) {
	var primary, joliet *isoVolume
	for i := range int64(maxISODescriptors) {
		b, err := d.at((16+i)*isoSector, isoSector)
		if err != nil || string(b[1:6]) != "CD001" {
			if i == 0 || primary == nil {
				return nil, errNoFileSystem
			}
			break
		}
		switch {
		case b[0] == 1 && primary == nil:
			primary = newISOVolume(d, b, "iso9660")
		case b[0] == 2 && b[88] == 0x25 && b[89] == 0x2f && (b[90] == 0x40 || b[90] == 0x43 || b[90] == 0x45) && joliet == nil:
			joliet = newISOVolume(d, b, "joliet")
			joliet.joliet = true
			joliet.label = strings.Trim(utf16Text(b[40:72], true), " \x00")
		case b[0] == 255:
			i = maxISODescriptors
		}
		if i == maxISODescriptors {
			break
		}
	}
	if primary == nil {
		return nil, errNoFileSystem
	}
	if _, err := primary.directory(); err != nil {
		if joliet == nil {
			return nil, err
		}
		return joliet, nil
	}
	if primary.kind != "rock ridge" && joliet != nil {
		return joliet, nil
	}
	return primary, nil
}

func newISOVolume(d *disc, b []byte, kind string) *isoVolume {
	return &isoVolume{d: d, kind: kind, label: strings.Trim(string(b[40:72]), " \x00"),
		root: isoExtent{binary.LittleEndian.Uint32(b[158:]), binary.LittleEndian.Uint32(b[166:])}}
}

// directory reads the root directory's records:
//
//	length(1) attribute blocks(1) extent(8) size(8) time(7) flags(1)
//	unit(1) gap(1) sequence(4) name length(1) name, pad, system use
func (v *isoVolume) directory() ([]isoFile, error) {
	if v.read {
		return v.entries, nil
	}
	if v.root.size > maxDiscDir {
		return nil, errTooMuch
	}
	b, err := v.d.at(int64(v.root.block)*isoSector, int(v.root.size))
	if err != nil {
		return nil, err
	}
	skip := 0 // of system use areas, by Rock Ridge's SP entry
	more := false
	for pos := 0; pos < len(b); {
		n := int(b[pos])
		if n == 0 { // records don't cross sectors
			pos = (pos/isoSector + 1) * isoSector
			continue
		}
		if n < 34 || pos+n > len(b) || 33+int(b[pos+32]) > n {
			return nil, broken("an ISO 9660 directory record of a wrong length")
		}
		r := b[pos : pos+n]
		pos += n
		name := r[33 : 33+int(r[32])]
		use := r[min(n, 33+len(name)+1-len(name)%2):]
		if len(name) == 1 && name[0] <= 1 {
			if name[0] == 0 && len(use) >= 7 && use[0] == 'S' && use[1] == 'P' && use[4] == 0xbe && use[5] == 0xef {
				v.kind = "rock ridge"
				skip = int(use[6])
			}
			continue
		}
		if r[25]&2 != 0 {
			continue
		}
		if r[26] != 0 || r[27] != 0 {
			return nil, broken("an interleaved ISO 9660 file")
		}
		e := isoExtent{binary.LittleEndian.Uint32(r[2:]) + uint32(r[1]), binary.LittleEndian.Uint32(r[10:])}
		if more {
			last := &v.entries[len(v.entries)-1]
			if last.extents = append(last.extents, e); len(last.extents) > maxISOExtents {
				return nil, broken("an ISO 9660 file in too many pieces")
			}
		} else {
			f := isoFile{name: v.name(name), extents: []isoExtent{e}}
			if v.kind == "rock ridge" && !v.joliet {
				if alternate := v.rockRidge(use[min(len(use), skip):]); alternate != "" {
					f.name = alternate
				}
			}
			v.entries = append(v.entries, f)
		}
		more = r[25]&0x80 != 0
		if len(v.entries) > maxDiscNames {
			return nil, broken("an ISO 9660 directory with too many names")
		}
	}
	v.read = true
	return v.entries, nil
}

// name decodes an identifier and drops version and trailing dot.
func (v *isoVolume) name(b []byte) string {
	s := string(b)
	if v.joliet {
		s = utf16Text(b, true)
	}
	s, _, _ = strings.Cut(s, ";")
	return strings.TrimSuffix(s, ".")
}

// rockRidge joins the NM entries of a system use area and of those that continue
// it (SUSP 1.12, RRIP 1.12): signature(2) length(1) version(1) data.
func (v *isoVolume) rockRidge(use []byte) string {
	var name strings.Builder
	for range maxISOContinued {
		var next []byte
		for len(use) >= 4 && use[2] >= 4 && int(use[2]) <= len(use) {
			e := use[:use[2]]
			use = use[use[2]:]
			switch sig := string(e[:2]); {
			case sig == "NM" && len(e) >= 5 && e[4]&6 == 0:
				name.Write(e[5:])
			case sig == "CE" && len(e) >= 28:
				block, offset, size := binary.LittleEndian.Uint32(e[4:]), binary.LittleEndian.Uint32(e[12:]), binary.LittleEndian.Uint32(e[20:])
				if offset < isoSector && size <= isoSector {
					next, _ = v.d.at(int64(block)*isoSector+int64(offset), int(size))
				}
			case sig == "ST":
				use = nil
			}
		}
		if next == nil {
			break
		}
		use = next
	}
	return name.String()
}

func (v *isoVolume) names() ([]string, error) {
	list, err := v.directory()
	var names []string
	for _, f := range list {
		names = append(names, f.name)
	}
	return names, err
}

func (v *isoVolume) file(name string) ([]byte, error) {
	list, err := v.directory()
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		if f.name != name {
			continue
		}
		out := []byte{}
		for _, e := range f.extents {
			if int64(len(out))+int64(e.size) > maxDiscFile {
				return nil, errTooMuch
			}
			b, err := v.d.at(int64(e.block)*isoSector, int(e.size))
			if err != nil {
				return nil, err
			}
			out = append(out, b...)
		}
		return out, nil
	}
	return nil, errNoDocument
}
