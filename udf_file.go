package main

import (
	"encoding/binary"
	"slices"
)

// udfNode is a file or directory: a file entry with its extents.
type udfNode struct {
	v        *udfVolume
	fileType byte // 4 directory, 5 file, 248 virtual allocation table
	size     uint64
	embedded []byte // the content, when it stands in the entry itself
	extents  []udfLong
}

// extentKind is the upper two bits of an extent's length.
const (
	extentRecorded  = 0
	extentAllocated = 1 // not written: zeros
	extentHole      = 2 // zeros
	extentMore      = 3 // holds further descriptors
	extentMask      = 1<<30 - 1
)

// entry reads the file entry of an ICB. With strategy 4096 the newest entry of
// the chain counts.
func (v *udfVolume) entry(icb udfLong, depth int) (*udfNode, error) {
	if depth > maxUDFNesting {
		return nil, broken("UDF entries that lead to each other")
	}
	b, err := v.block(icb.ref, icb.block)
	if err != nil {
		return nil, err
	}
	var sizeAt, allocAt int
	switch id := binary.LittleEndian.Uint16(b); id {
	case tagFileEntry:
		sizeAt, allocAt = 168, 176
	case tagExtendedEntry:
		sizeAt, allocAt = 208, 216
	default:
		return nil, broken("no UDF file entry where one should be")
	}
	if err := udfTag(b, binary.LittleEndian.Uint16(b), int64(icb.block)); err != nil {
		return nil, err
	}
	if strategy := binary.LittleEndian.Uint16(b[20:]); strategy == 4096 {
		if newer, err := v.indirect(icb, depth); err == nil {
			return newer, nil
		}
	}
	n := &udfNode{v: v, fileType: b[27], size: binary.LittleEndian.Uint64(b[56:])}
	attrs, allocs := int64(binary.LittleEndian.Uint32(b[sizeAt:])), int64(binary.LittleEndian.Uint32(b[sizeAt+4:]))
	if int64(allocAt)+attrs+allocs > v.size {
		return nil, broken("a UDF file entry larger than its block")
	}
	area := b[int64(allocAt)+attrs:][:allocs]
	kind := binary.LittleEndian.Uint16(b[34:]) & 7
	if kind == 3 {
		if uint64(len(area)) < n.size {
			return nil, broken("a UDF file that is longer than its entry")
		}
		n.embedded = area[:n.size]
		return n, nil
	}
	return n, n.descriptors(area, kind, icb.ref, 0)
}

// indirect follows strategy 4096: behind the direct entry an indirect one leads
// to a newer version.
func (v *udfVolume) indirect(icb udfLong, depth int) (*udfNode, error) {
	b, err := v.block(icb.ref, icb.block+1)
	if err != nil {
		return nil, err
	}
	if err := udfTag(b, tagIndirect, int64(icb.block)+1); err != nil {
		return nil, err
	}
	return v.entry(readUDFLong(b[36:]), depth+1)
}

// descriptors reads short (0) or long (1) allocation descriptors.
func (n *udfNode) descriptors(area []byte, kind, ref uint16, depth int) error {
	step := 8
	switch {
	case kind == 1:
		step = 16
	case kind != 0:
		return broken("extended UDF allocation descriptors")
	}
	if depth > maxUDFNesting {
		return broken("UDF allocation extents that lead to each other")
	}
	for ; len(area) >= step; area = area[step:] {
		e := udfLong{length: binary.LittleEndian.Uint32(area), block: binary.LittleEndian.Uint32(area[4:]), ref: ref}
		if kind == 1 {
			e = readUDFLong(area)
		}
		if e.length&extentMask == 0 {
			return nil
		}
		if e.length>>30 == extentMore {
			b, err := n.v.block(e.ref, e.block)
			if err != nil {
				return err
			}
			if err := udfTag(b, tagAllocationExtent, int64(e.block)); err != nil {
				return err
			}
			size := int64(binary.LittleEndian.Uint32(b[20:]))
			if size > n.v.size-24 {
				return broken("a UDF allocation extent larger than its block")
			}
			return n.descriptors(b[24:24+size], kind, e.ref, depth+1)
		}
		if n.extents = append(n.extents, e); len(n.extents) > maxUDFExtents {
			return broken("a UDF file in too many pieces")
		}
	}
	return nil
}

// blockAt returns where the nth block of the file stands.
func (n *udfNode) blockAt(block uint32) (udfLong, bool) {
	size := uint32(n.v.size)
	for _, e := range n.extents {
		count := (e.length&extentMask + size - 1) / size
		if block < count {
			return udfLong{length: size, block: e.block + block, ref: e.ref}, e.length>>30 == extentRecorded
		}
		block -= count
	}
	return udfLong{}, false
}

// read returns the content, of at most limit bytes.
func (n *udfNode) read(limit uint64) ([]byte, error) {
	if n.size > limit {
		return nil, errTooMuch
	}
	if n.embedded != nil || n.size == 0 {
		return slices.Clone(n.embedded), nil
	}
	out := make([]byte, 0, n.size)
	for _, e := range n.extents {
		left := n.size - uint64(len(out))
		if left == 0 {
			break
		}
		take := min(uint64(e.length&extentMask), left)
		if e.length>>30 != extentRecorded {
			out = append(out, make([]byte, take)...)
			continue
		}
		for block := e.block; take > 0; block++ {
			b, err := n.v.block(e.ref, block)
			if err != nil {
				return nil, err
			}
			piece := min(take, uint64(len(b)))
			out = append(out, b[:piece]...)
			take -= piece
		}
	}
	if uint64(len(out)) < n.size {
		return nil, broken("a UDF file that is longer than its extents")
	}
	return out, nil
}

// udfName is a file identifier of a directory.
type udfName struct {
	name string
	icb  udfLong
}

func (v *udfVolume) directory() ([]udfName, error) {
	if v.entries != nil {
		return v.entries, nil
	}
	node, err := v.entry(v.root, 0)
	if err != nil {
		return nil, err
	}
	if node.fileType != 4 {
		return nil, broken("a UDF root that is no directory")
	}
	b, err := node.read(maxDiscDir)
	if err != nil {
		return nil, err
	}
	list := []udfName{}
	for len(b) >= 38 {
		nameLen, useLen := int(b[19]), int(binary.LittleEndian.Uint16(b[36:]))
		total := 38 + useLen + nameLen
		if total > len(b) {
			return nil, broken("a UDF file identifier longer than its directory")
		}
		padded := min(len(b), (total+3)&^3)
		if err := udfTag(b[:padded], tagFileIdentifier, -1); err != nil {
			return nil, err
		}
		const deletedOrParentOrDirectory = 0x04 | 0x08 | 0x02
		if b[18]&deletedOrParentOrDirectory == 0 {
			list = append(list, udfName{ostaText(b[38+useLen : total]), readUDFLong(b[20:])})
		}
		if len(list) > maxUDFDirEntries {
			return nil, broken("a UDF directory with too many names")
		}
		b = b[padded:]
	}
	v.entries = list
	return list, nil
}

func (v *udfVolume) names() ([]string, error) {
	list, err := v.directory()
	var names []string
	for _, e := range list {
		names = append(names, e.name)
	}
	return names, err
}

func (v *udfVolume) file(name string) ([]byte, error) {
	list, err := v.directory()
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if e.name != name {
			continue
		}
		node, err := v.entry(e.icb, 0)
		if err != nil {
			return nil, err
		}
		if node.fileType != 5 {
			return nil, broken("a UDF name that is no file")
		}
		return node.read(maxDiscFile)
	}
	return nil, errNoDocument
}
