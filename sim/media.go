package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

const sectorSize = 2048

// MediaFormat is the file system of a DVD.
type MediaFormat string

const (
	FormatUDF    MediaFormat = "udf"    // UDF alone
	FormatBridge MediaFormat = "bridge" // UDF and ISO 9660 over the same file
)

// Label is the volume label of Azure's provisioning DVDs made at a time.
func Label(now time.Time) string { return "rd_rdfe_stable." + now.UTC().Format("060102-1504") }

// WriteDVD returns a disc image with one file, ovf-env.xml, in UDF of a revision
// (0x0102, 0x0150, 0x0201).
func WriteDVD(format MediaFormat, revision uint16, label string, document []byte, now time.Time) ([]byte, error) {
	if format != FormatUDF && format != FormatBridge {
		return nil, fmt.Errorf("unknown format %q: udf or bridge", format)
	}
	if revision != 0x0102 && revision != 0x0150 && revision != 0x0201 {
		return nil, fmt.Errorf("unknown UDF revision %x.%02x: 1.02, 1.50 or 2.01", revision>>8, revision&0xff)
	}
	d := newDVD(revision, label, document, now)
	d.udf()
	if format == FormatBridge {
		d.iso()
	}
	return d.image, nil
}

// Places on the disc, in sectors.
const (
	dvdMainSequence    = 32
	dvdReserveSequence = 48
	dvdIntegrity       = 64
	dvdISODirectory    = 70
	dvdISOPathTable    = 71
	dvdAnchor          = 256
	dvdPartition       = 272
	// Within the partition:
	dvdFileSet, dvdRootEntry, dvdRootDir, dvdFileEntry, dvdFileData = 0, 1, 2, 3, 4
)

type dvd struct {
	image    []byte
	revision uint16
	label    string
	document []byte
	now      time.Time
	blocks   uint32 // of the partition
}

func newDVD(revision uint16, label string, document []byte, now time.Time) *dvd {
	blocks := uint32(dvdFileData + (len(document)+sectorSize-1)/sectorSize + 1)
	// The host's discs are larger than their content; the second anchor is last.
	total := dvdPartition + int(blocks) + 32
	d := &dvd{image: make([]byte, total*sectorSize), revision: revision, label: label, document: document, now: now, blocks: blocks}
	copy(d.sector(dvdPartition+dvdFileData), document)
	return d
}

func (d *dvd) sector(n int) []byte { return d.image[n*sectorSize:] }
func (d *dvd) sectors() int        { return len(d.image) / sectorSize }

// tag completes a descriptor of size bytes at a sector: identifier, version,
// CRC, location, checksum.
func (d *dvd) tag(b []byte, id uint16, location uint32, size int) {
	version := uint16(2)
	if d.revision >= 0x0200 {
		version = 3
	}
	binary.LittleEndian.PutUint16(b[0:], id)
	binary.LittleEndian.PutUint16(b[2:], version)
	binary.LittleEndian.PutUint16(b[8:], crc16(b[16:size]))
	binary.LittleEndian.PutUint16(b[10:], uint16(size-16))
	binary.LittleEndian.PutUint32(b[12:], location)
	b[4] = 0
	var sum byte
	for _, c := range b[:16] {
		sum += c
	}
	b[4] = sum
}

func crc16(b []byte) uint16 {
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

func putString(b []byte, s string) {
	n := copy(b[1:len(b)-1], s)
	b[0], b[len(b)-1] = 8, byte(n+1)
}

func putCharset(b []byte) { copy(b[1:], "OSTA Compressed Unicode") }

func (d *dvd) putDomain(b []byte) {
	copy(b[1:], "*OSTA UDF Compliant")
	binary.LittleEndian.PutUint16(b[24:], d.revision)
	b[26] = 3 // hard and soft write protection
}

func putImplementation(b []byte) { copy(b[1:], "*azuresim") }

// putTime writes a timestamp of ECMA-167, 1/7.3.
func (d *dvd) putTime(b []byte) {
	t := d.now.UTC()
	binary.LittleEndian.PutUint16(b, 1<<12)
	binary.LittleEndian.PutUint16(b[2:], uint16(t.Year()))
	copy(b[4:], []byte{byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second())})
}

func putExtent(b []byte, length, location uint32) {
	binary.LittleEndian.PutUint32(b, length)
	binary.LittleEndian.PutUint32(b[4:], location)
}

// udf writes the volume.
func (d *dvd) udf() {
	nsr := "NSR02"
	if d.revision >= 0x0200 {
		nsr = "NSR03"
	}
	// A disc without ISO 9660 starts its recognition sequence at sector 16.
	for i, id := range []string{"BEA01", nsr, "TEA01"} {
		b := d.sector(16 + i)
		clear(b[:sectorSize])
		copy(b[1:], id)
		b[6] = 1
	}
	for _, at := range []int{dvdMainSequence, dvdReserveSequence} {
		d.sequence(at)
	}
	d.integrity()
	for _, at := range []int{dvdAnchor, d.sectors() - 1} {
		b := d.sector(at)
		putExtent(b[16:], 16*sectorSize, dvdMainSequence)
		putExtent(b[24:], 16*sectorSize, dvdReserveSequence)
		d.tag(b, 2, uint32(at), 512)
	}
	d.fileSet()
	d.entries()
}

func (d *dvd) sequence(at int) {
	b := d.sector(at) // primary volume
	binary.LittleEndian.PutUint32(b[16:], 1)
	putString(b[24:56], d.label)
	for i, v := range []uint16{1, 1, 2, 2} {
		binary.LittleEndian.PutUint16(b[56+2*i:], v)
	}
	binary.LittleEndian.PutUint32(b[64:], 1)
	binary.LittleEndian.PutUint32(b[68:], 1)
	putString(b[72:200], fmt.Sprintf("%016x%s", d.now.Unix(), d.label))
	putCharset(b[200:])
	putCharset(b[264:])
	d.putTime(b[376:])
	putImplementation(b[388:])
	d.tag(b, 1, uint32(at), 512)

	b = d.sector(at + 1) // partition
	binary.LittleEndian.PutUint32(b[16:], 2)
	binary.LittleEndian.PutUint16(b[20:], 1)
	if d.revision >= 0x0200 {
		copy(b[25:], "+NSR03")
	} else {
		copy(b[25:], "+NSR02")
	}
	binary.LittleEndian.PutUint32(b[184:], 1)
	binary.LittleEndian.PutUint32(b[188:], dvdPartition)
	binary.LittleEndian.PutUint32(b[192:], d.blocks)
	putImplementation(b[196:])
	d.tag(b, 5, uint32(at+1), 512)

	b = d.sector(at + 2) // logical volume
	binary.LittleEndian.PutUint32(b[16:], 3)
	putCharset(b[20:])
	putString(b[84:212], d.label)
	binary.LittleEndian.PutUint32(b[212:], sectorSize)
	d.putDomain(b[216:])
	putExtent(b[248:], sectorSize, dvdFileSet)
	binary.LittleEndian.PutUint32(b[264:], 6)
	binary.LittleEndian.PutUint32(b[268:], 1)
	putImplementation(b[272:])
	putExtent(b[432:], sectorSize, dvdIntegrity)
	copy(b[440:], []byte{1, 6, 1, 0, 0, 0})
	d.tag(b, 6, uint32(at+2), 446)

	b = d.sector(at + 3) // unallocated space
	binary.LittleEndian.PutUint32(b[16:], 4)
	d.tag(b, 7, uint32(at+3), 24)

	b = d.sector(at + 4) // implementation use volume
	binary.LittleEndian.PutUint32(b[16:], 5)
	copy(b[21:], "*UDF LV Info")
	binary.LittleEndian.PutUint16(b[44:], d.revision)
	putCharset(b[52:])
	putString(b[116:244], d.label)
	putImplementation(b[352:])
	d.tag(b, 4, uint32(at+4), 512)

	d.tag(d.sector(at+5), 8, uint32(at+5), 512) // terminating
}

func (d *dvd) integrity() {
	b := d.sector(dvdIntegrity)
	d.putTime(b[16:])
	binary.LittleEndian.PutUint32(b[28:], 1)
	binary.LittleEndian.PutUint64(b[40:], 17)
	binary.LittleEndian.PutUint32(b[72:], 1)
	binary.LittleEndian.PutUint32(b[76:], 46)
	binary.LittleEndian.PutUint32(b[84:], d.blocks)
	putImplementation(b[88:])
	binary.LittleEndian.PutUint32(b[120:], 1)
	binary.LittleEndian.PutUint32(b[124:], 1)
	for i := range 3 {
		binary.LittleEndian.PutUint16(b[128+2*i:], d.revision)
	}
	d.tag(b, 9, dvdIntegrity, 134)
	d.tag(d.sector(dvdIntegrity+1), 8, dvdIntegrity+1, 512)
}

func (d *dvd) fileSet() {
	b := d.sector(dvdPartition + dvdFileSet)
	d.putTime(b[16:])
	binary.LittleEndian.PutUint16(b[28:], 3)
	binary.LittleEndian.PutUint16(b[30:], 3)
	binary.LittleEndian.PutUint32(b[32:], 1)
	binary.LittleEndian.PutUint32(b[36:], 1)
	putCharset(b[48:])
	putString(b[112:240], d.label)
	putCharset(b[240:])
	putString(b[304:336], d.label)
	putExtent(b[400:], sectorSize, dvdRootEntry)
	d.putDomain(b[416:])
	d.tag(b, 0x100, dvdFileSet, 512)
}

// entries writes root directory and file.
func (d *dvd) entries() {
	var dir bytes.Buffer
	identifier := func(characteristics byte, entry uint32, id uint64, name string) {
		n := 38
		if name != "" {
			n += 1 + len(name)
		}
		b := make([]byte, (n+3)&^3)
		binary.LittleEndian.PutUint16(b[16:], 1)
		b[18] = characteristics
		if name != "" {
			b[19] = byte(1 + len(name))
			b[38] = 8
			copy(b[39:], name)
		}
		putExtent(b[20:], sectorSize, entry)
		binary.LittleEndian.PutUint32(b[32:], uint32(id))
		d.tag(b, 0x101, dvdRootDir, len(b))
		dir.Write(b)
	}
	identifier(0x0a, dvdRootEntry, 0, "")
	identifier(0, dvdFileEntry, 16, "ovf-env.xml")
	copy(d.sector(dvdPartition+dvdRootDir), dir.Bytes())
	d.fileEntry(dvdRootEntry, 4, uint64(dir.Len()), dvdRootDir, 0)
	d.fileEntry(dvdFileEntry, 5, uint64(len(d.document)), dvdFileData, 16)
}

func (d *dvd) fileEntry(block uint32, kind byte, size uint64, data uint32, id uint64) {
	b := d.sector(dvdPartition + int(block))
	binary.LittleEndian.PutUint16(b[20:], 4)
	binary.LittleEndian.PutUint16(b[24:], 1)
	b[27] = kind
	binary.LittleEndian.PutUint32(b[36:], 0xffffffff)
	binary.LittleEndian.PutUint32(b[40:], 0xffffffff)
	binary.LittleEndian.PutUint32(b[44:], 0x14a5) // r-x for all
	binary.LittleEndian.PutUint16(b[48:], 1)
	binary.LittleEndian.PutUint64(b[56:], size)
	binary.LittleEndian.PutUint64(b[64:], (size+sectorSize-1)/sectorSize)
	for _, at := range []int{72, 84, 96} {
		d.putTime(b[at:])
	}
	binary.LittleEndian.PutUint32(b[108:], 1)
	putImplementation(b[128:])
	binary.LittleEndian.PutUint64(b[160:], id)
	length := 0
	if size > 0 {
		putExtent(b[176:], uint32(size), data)
		length = 8
	}
	binary.LittleEndian.PutUint32(b[172:], uint32(length))
	d.tag(b, 0x105, block, 176+length)
}

// iso writes ISO 9660 descriptors over the same file, and moves the UDF
// recognition sequence behind them.
func (d *dvd) iso() {
	nsr := string(d.sector(17)[1:6])
	for i := range 2 {
		clear(d.sector(16 + i)[:sectorSize])
	}
	for i, id := range []string{"BEA01", nsr, "TEA01"} {
		b := d.sector(18 + i)
		clear(b[:sectorSize])
		copy(b[1:], id)
		b[6] = 1
	}
	both32 := func(b []byte, v uint32) {
		binary.LittleEndian.PutUint32(b, v)
		binary.BigEndian.PutUint32(b[4:], v)
	}
	both16 := func(b []byte, v uint16) {
		binary.LittleEndian.PutUint16(b, v)
		binary.BigEndian.PutUint16(b[2:], v)
	}
	record := func(name string, block, size uint32, flags byte) []byte {
		b := make([]byte, (33+len(name)+1)&^1)
		b[0] = byte(len(b))
		both32(b[2:], block)
		both32(b[10:], size)
		t := d.now.UTC()
		copy(b[18:], []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0})
		b[25] = flags
		both16(b[28:], 1)
		b[32] = byte(len(name))
		copy(b[33:], name)
		return b
	}
	dir := d.sector(dvdISODirectory)
	n := copy(dir, record("\x00", dvdISODirectory, sectorSize, 2))
	n += copy(dir[n:], record("\x01", dvdISODirectory, sectorSize, 2))
	copy(dir[n:], record("OVF_ENV.XML;1", dvdPartition+dvdFileData, uint32(len(d.document)), 0))

	path := []byte{1, 0, dvdISODirectory, 0, 0, 0, 1, 0, 0, 0}
	copy(d.sector(dvdISOPathTable), path)
	big := []byte{1, 0, 0, 0, 0, dvdISODirectory, 0, 1, 0, 0}
	copy(d.sector(dvdISOPathTable+1), big)

	b := d.sector(16)
	b[0], b[6] = 1, 1
	copy(b[1:], "CD001")
	copy(b[8:], bytes.Repeat([]byte(" "), 64))
	copy(b[40:], d.label)
	both32(b[80:], uint32(d.sectors()))
	both16(b[120:], 1)
	both16(b[124:], 1)
	both16(b[128:], sectorSize)
	both32(b[132:], uint32(len(path)))
	binary.LittleEndian.PutUint32(b[140:], dvdISOPathTable)
	binary.BigEndian.PutUint32(b[148:], dvdISOPathTable+1)
	copy(b[156:], record("\x00", dvdISODirectory, sectorSize, 2))
	copy(b[190:], bytes.Repeat([]byte(" "), 623))
	stamp := d.now.UTC().Format("20060102150405") + "00"
	for i := range 2 {
		copy(b[813+17*i:], stamp)
	}
	copy(b[847:], "0000000000000000")
	copy(b[864:], "0000000000000000")
	b[881] = 1

	b = d.sector(17)
	b[0], b[6] = 255, 1
	copy(b[1:], "CD001")
}
