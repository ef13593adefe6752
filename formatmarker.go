package main

import (
	"bytes"
	"hash/crc32"
)

const (
	// formatMarkerArea is the bytes at the start of an area that the marker fills,
	// and that hasFormatMarker wants to see.
	formatMarkerArea = 4096
	formatMarkerSize = 512
)

// formatMagic starts the marker that stands at the start of an area, where boot
// sectors and superblocks are, from before the first write of a format until its
// end. The disk had been proven to hold nothing of value before: a format that
// was cut off is started over.
const formatMagic = "azprov is formatting this temporary disk; what is on it is not a file system.\n"

// formatMarker is the marker of an area that starts at an offset of a disk of a
// size: one that was copied elsewhere means nothing. It is written at the area's
// start and synced before anything else of the area is changed. Every sector of it
// holds the whole marker: one that was written or overwritten in part is found as
// well.
func formatMarker(diskSize, from int64) []byte {
	b := make([]byte, formatMarkerSize, formatMarkerArea)
	copy(b, formatMagic)
	le.PutUint64(b[128:], uint64(diskSize))
	le.PutUint64(b[136:], uint64(from))
	le.PutUint32(b[508:], crc32.ChecksumIEEE(b[:508]))
	for len(b) < formatMarkerArea {
		b = append(b, b[:formatMarkerSize]...)
	}
	return b
}

// hasFormatMarker says whether the first formatMarkerArea bytes of an area hold
// the marker, in a sector where a superblock or its boot sector would be.
func hasFormatMarker(b []byte, diskSize, from int64) bool {
	marker := formatMarker(diskSize, from)[:formatMarkerSize]
	for i := formatMarkerSize; i <= min(len(b), superOffset+superSize); i += formatMarkerSize {
		if bytes.Equal(b[i-formatMarkerSize:i], marker) {
			return true
		}
	}
	return false
}
