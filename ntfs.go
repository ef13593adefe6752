package main

import (
	"errors"
	"slices"
	"strings"
)

// The root directory of an NTFS volume, read without a kernel file system: its
// boot sector, the first records of the master file table, and the index of
// record 5. What is not as Windows and mkntfs make it is an error, never an
// empty directory.

// azureFiles are the names that a temporary disk comes with.
func azureFiles() []string {
	return []string{"DATALOSS_WARNING_README.txt", "System Volume Information"}
}

// azureLabel is the volume label that it comes with.
const azureLabel = "Temporary Storage"

const (
	maxNTFSNodes = 256 // index blocks of the root directory
	maxNTFSDepth = 8
	maxNTFSRuns  = 1024
)

// ntfsRun is a run of clusters; lcn -1 is a hole.
type ntfsRun struct{ lcn, count int64 }

type ntfsVolume struct {
	d       *disc
	sector  int64
	cluster int64 // bytes
	record  int   // bytes of a file record
	mft     int64 // byte offset of the master file table
}

// checkFreshNTFS returns the volume's label, and nil when the volume is proven to
// hold nothing but what Azure puts on a temporary disk; else why not.
func checkFreshNTFS(d *disc) (label string, err error) {
	v, err := openNTFS(d)
	if err != nil {
		return "", err
	}
	label, dirty, err := v.volume()
	switch {
	case err != nil:
	case label != "" && !strings.EqualFold(label, azureLabel):
		err = errors.New("not the label of a temporary disk")
	case dirty:
		err = errors.New("it was not unmounted cleanly")
	default:
		err = v.checkRoot()
	}
	return label, err
}

// openNTFS reads the boot sector (BIOS parameter block of NTFS):
// bytes a sector u16 11, sectors a cluster u8 13, sectors u64 40, cluster of the
// MFT u64 48, clusters a record i8 64.
func openNTFS(d *disc) (*ntfsVolume, error) {
	b, err := d.at(0, 512)
	if err != nil {
		return nil, err
	}
	v := &ntfsVolume{d: d, sector: int64(u16(b, 11))}
	per := int64(b[13])
	if per > 128 { // a power of 2
		per = 1 << min(256-per, 16)
	}
	v.cluster = v.sector * per
	if string(b[3:11]) != "NTFS    " || v.sector < 512 || v.sector > 4096 || v.sector&(v.sector-1) != 0 || per == 0 || per&(per-1) != 0 || v.cluster > 2<<20 {
		return nil, broken("NTFS boot sector")
	}
	record := int64(int8(b[64]))
	if record > 0 {
		record *= v.cluster
	} else {
		record = 1 << min(-record, 16)
	}
	total, mft := u64(b, 40), u64(b, 48)
	if record < 512 || record > 16384 || record&(record-1) != 0 || total > uint64(d.size/v.sector) || mft >= uint64(d.size/v.cluster) || mft == 0 {
		return nil, broken("NTFS boot sector")
	}
	v.record, v.mft = int(record), int64(mft)*v.cluster
	// The records that are read stand in the first run of the table.
	self, err := v.file(0)
	if err != nil {
		return nil, err
	}
	_, runs, err := self.find(0x80, "")
	if err != nil {
		return nil, err
	}
	if len(runs) == 0 || runs[0].lcn != int64(mft) || runs[0].count < (16*record+v.cluster-1)/v.cluster {
		return nil, broken("NTFS master file table")
	}
	return v, nil
}

// fixUp checks and undoes the update sequence of a record or index block: the
// last two bytes of each 512 are kept elsewhere, so that a torn write is seen.
func fixUp(b []byte, magic string) error {
	at, n := int(u16(b, 4)), int(u16(b, 6))
	if string(b[:4]) != magic || n != len(b)/512+1 || at < 40 || at+2*n > 510 {
		return broken("NTFS " + magic + " record")
	}
	for i := 1; i < n; i++ {
		tail := b[512*i-2:][:2]
		if string(tail) != string(b[at:at+2]) {
			return broken("torn NTFS " + magic + " record")
		}
		copy(tail, b[at+2*i:][:2])
	}
	return nil
}

// ntfsFile is a file record after its fix-up.
type ntfsFile struct {
	v *ntfsVolume
	b []byte
}

// file reads a record of the table: "FILE", first attribute u16 20, flags u16 22,
// used bytes u32 24, base record u64 32.
func (v *ntfsVolume) file(number int) (*ntfsFile, error) {
	b, err := v.d.at(v.mft+int64(number*v.record), v.record)
	if err != nil {
		return nil, err
	}
	if err := fixUp(b, "FILE"); err != nil {
		return nil, err
	}
	if u16(b, 22)&1 == 0 || u64(b, 32) != 0 {
		return nil, broken("NTFS record that is not in use")
	}
	return &ntfsFile{v, b}, nil
}

// find returns the value or the runs of an attribute: type u32 0, length u32 4,
// not resident u8 8, name length u8 9, its offset u16 10, flags u16 12; resident:
// value length u32 16, offset u16 20; else: first cluster u64 16, offset of the
// runs u16 32. A missing one is neither; a list of attributes elsewhere, a
// compressed or encrypted value are errors.
func (f *ntfsFile) find(kind uint32, name string) (value []byte, runs []ntfsRun, err error) {
	bad := broken("NTFS attribute")
	used := int(u32(f.b, 24))
	if used > len(f.b) {
		return nil, nil, bad
	}
	found := false
	for at := int(u16(f.b, 20)); ; {
		if at < 42 || at+4 > used {
			return nil, nil, bad
		}
		t := u32(f.b, at)
		if t == 0xffffffff {
			return value, runs, nil
		}
		if at+24 > used {
			return nil, nil, bad
		}
		n := int(u32(f.b, at+4))
		if n < 24 || n%8 != 0 || n > used-at {
			return nil, nil, bad
		}
		a := f.b[at : at+n]
		at += n
		nameAt, nameLen := int(u16(a, 10)), 2*int(a[9])
		if nameAt+nameLen > n {
			return nil, nil, bad
		}
		if t == 0x20 {
			return nil, nil, errors.New("an NTFS record with an attribute list")
		}
		if t != kind || utf16Text(a[nameAt:nameAt+nameLen], false) != name {
			continue
		}
		if found || u16(a, 12) != 0 {
			return nil, nil, bad
		}
		found = true
		if a[8] == 0 {
			length, off := int(u32(a, 16)), int(u16(a, 20))
			if off > n || length > n-off {
				return nil, nil, bad
			}
			value = a[off : off+length]
			continue
		}
		if n < 64 || u64(a, 16) != 0 || int(u16(a, 32)) > n {
			return nil, nil, bad
		}
		if runs, err = f.v.runs(a[u16(a, 32):]); err != nil {
			return nil, nil, err
		}
	}
}

// runs decodes a run list: a byte with the lengths of count (low) and of the
// signed step of the cluster (high), then both; a 0 byte ends it.
func (v *ntfsVolume) runs(b []byte) ([]ntfsRun, error) {
	var list []ntfsRun
	limit := v.d.size / v.cluster
	lcn := int64(0)
	for len(b) > 0 && b[0] != 0 {
		n, o := int(b[0]&15), int(b[0]>>4)
		if n == 0 || n > 8 || o > 8 || 1+n+o > len(b) || len(list) == maxNTFSRuns {
			return nil, broken("NTFS run list")
		}
		number := func(b []byte, signed bool) (x int64) {
			if signed && len(b) > 0 && b[len(b)-1] >= 0x80 {
				x = -1
			}
			for i := len(b) - 1; i >= 0; i-- {
				x = x<<8 | int64(b[i])
			}
			return x
		}
		r := ntfsRun{-1, number(b[1:1+n], false)}
		if o > 0 {
			lcn += number(b[1+n:1+n+o], true)
			r.lcn = lcn
		}
		if r.count <= 0 || r.count > limit || r.lcn > limit-r.count || o > 0 && r.lcn < 0 {
			return nil, broken("NTFS run list")
		}
		list = append(list, r)
		b = b[1+n+o:]
	}
	if len(b) == 0 {
		return nil, broken("NTFS run list")
	}
	return list, nil
}

// volume reads record 3, $Volume: its name (0x60) and flags (0x70, u16 at 10, of
// which 1 is dirty).
func (v *ntfsVolume) volume() (label string, dirty bool, err error) {
	f, err := v.file(3)
	if err != nil {
		return "", false, err
	}
	name, _, err := f.find(0x60, "")
	if err != nil {
		return "", false, err
	}
	info, _, err := f.find(0x70, "")
	if err == nil && len(info) < 12 {
		err = broken("NTFS volume information")
	}
	if err != nil {
		return "", false, err
	}
	return utf16Text(name, false), u16(info, 10)&1 != 0, nil
}

// ntfsIndex is the walk over a directory's B+ tree.
type ntfsIndex struct {
	v       *ntfsVolume
	runs    []ntfsRun
	block   int
	nodes   int
	allowed []uint64 // files whose long name is allowed
	short   []uint64 // files that have a DOS name too
}

// checkRoot is nil when the root directory holds nothing but azureFiles and the
// volume's own files.
func (v *ntfsVolume) checkRoot() error {
	f, err := v.file(5)
	if err != nil {
		return err
	}
	// Value of an index root: type of what is indexed u32 0, bytes of a block
	// u32 8; the node header follows at 16.
	root, _, err := f.find(0x90, "$I30")
	if err != nil {
		return err
	}
	_, runs, err := f.find(0xa0, "$I30")
	if err != nil {
		return err
	}
	if u16(f.b, 22)&2 == 0 || len(root) < 32 || u32(root, 0) != 0x30 {
		return broken("NTFS root directory")
	}
	x := &ntfsIndex{v: v, runs: runs, block: int(min(u32(root, 8), 1<<20))}
	if x.block < 512 || x.block > 65536 || x.block&(x.block-1) != 0 {
		return broken("NTFS root directory")
	}
	if err := x.node(root[16:], 0); err != nil {
		return err
	}
	for _, ref := range x.short {
		if !slices.Contains(x.allowed, ref) {
			return errors.New("it holds a file that has only a DOS name")
		}
	}
	return nil
}

// node walks the entries of a node. Its header: offset of the first u32 0, end of
// the last u32 4, both from the header; flags u8 12, of which 1 says that there
// are nodes below. An entry: file u64 0, length u16 8, length of the key u16 10,
// flags u16 12 (1 a node is below, its number in the last 8 bytes; 2 the last).
func (x *ntfsIndex) node(b []byte, depth int) error {
	bad := broken("NTFS directory index")
	if len(b) < 16 || depth > maxNTFSDepth {
		return bad
	}
	at, end := int(u32(b, 0)), int(u32(b, 4))
	if at < 16 || at > len(b) || end < 0 || end > len(b) {
		return bad
	}
	for {
		if at > end-16 {
			return bad
		}
		n, flags := int(u16(b, at+8)), u16(b, at+12)
		if n < 16 || n > end-at || flags&1 != 0 && n < 24 {
			return bad
		}
		entry := b[at : at+n]
		at += n
		if flags&1 != 0 {
			if err := x.below(int64(u64(entry, n-8)), depth+1); err != nil {
				return err
			}
		}
		if flags&2 != 0 {
			return nil
		}
		if err := x.entry(entry); err != nil {
			return err
		}
	}
}

// entry judges a name: key at 16, in it the name's length u8 64, its kind u8 65
// (2 is a DOS name beside a long one), the name at 66.
func (x *ntfsIndex) entry(e []byte) error {
	if len(e) < 82 || 82+2*int(e[80]) > len(e) {
		return broken("NTFS directory entry")
	}
	ref := u64(e, 0)
	name := utf16Text(e[82:82+2*int(e[80])], false)
	switch {
	case ref&(1<<48-1) < 24 && (strings.HasPrefix(name, "$") || name == "."):
		return nil
	case e[81] == 2:
		x.short = append(x.short, ref)
	case slices.ContainsFunc(azureFiles(), func(n string) bool { return strings.EqualFold(n, name) }):
		x.allowed = append(x.allowed, ref)
	default:
		return errorf("it holds %q", oneLine(name, 60))
	}
	if len(x.short)+len(x.allowed) > 16 {
		return broken("NTFS directory index")
	}
	return nil
}

// below reads an index block: "INDX", its number u64 16, the node header at 24.
// Numbers count clusters, or 512 bytes where a block is smaller than a cluster.
func (x *ntfsIndex) below(vcn int64, depth int) error {
	bad := broken("NTFS directory index")
	if x.nodes++; x.nodes > maxNTFSNodes || vcn < 0 || vcn > 1<<40 {
		return bad
	}
	unit := x.v.cluster
	if int64(x.block) < unit {
		unit = 512
	}
	b := make([]byte, 0, x.block)
	for off := vcn * unit; len(b) < x.block; {
		piece, err := x.piece(off, x.block-len(b))
		if err != nil {
			return err
		}
		b = append(b, piece...)
		off += int64(len(piece))
	}
	if err := fixUp(b, "INDX"); err != nil {
		return err
	}
	if int64(u64(b, 16)) != vcn {
		return bad
	}
	return x.node(b[24:], depth)
}

// piece reads from an offset in the index, up to n bytes, as far as one run goes.
func (x *ntfsIndex) piece(off int64, n int) ([]byte, error) {
	for _, r := range x.runs {
		bytes := r.count * x.v.cluster
		if off >= bytes {
			off -= bytes
			continue
		}
		if r.lcn < 0 {
			break
		}
		return x.v.d.at(r.lcn*x.v.cluster+off, int(min(int64(n), bytes-off)))
	}
	return nil, broken("NTFS directory index")
}
