package main

import (
	"bytes"
	"hash/crc32"
)

// formatMarkerArea is the start of an area that a format leaves to its marker.
const formatMarkerArea = 4096

// formatMagic starts the marker that stands at the start of an area, in a block
// that ext4 leaves free, from before the first write of a format until its end.
// The disk had been proven to hold nothing of value before: a format that was
// cut off is started over.
const formatMagic = "azprov is formatting this temporary disk; what is on it is not a file system.\n"

// formatMarker is the marker of an area that starts at an offset of a disk of a
// size: one that was copied elsewhere means nothing.
func formatMarker(diskSize, from int64) []byte {
	b := make([]byte, 512)
	copy(b, formatMagic)
	le.PutUint64(b[128:], uint64(diskSize))
	le.PutUint64(b[136:], uint64(from))
	le.PutUint32(b[508:], crc32.ChecksumIEEE(b[:508]))
	return b
}

func hasFormatMarker(b []byte, diskSize, from int64) bool {
	return len(b) >= 512 && bytes.Equal(b[:512], formatMarker(diskSize, from))
}
