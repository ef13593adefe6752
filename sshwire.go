package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// appendString appends a string of SSH (RFC 4251, 5): its length in four bytes,
// then its bytes.
func appendString[T ~string | ~[]byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// appendMpint appends a number, given as big-endian bytes, as SSH's mpint: the
// fewest bytes that leave the top bit clear.
func appendMpint(b, n []byte) []byte {
	n = bytes.TrimLeft(n, "\x00")
	if len(n) > 0 && n[0]&0x80 != 0 {
		n = append([]byte{0}, n...)
	}
	return appendString(b, n)
}

// The types of public keys as SSH names them.
const (
	sshRSA     = "ssh-rsa"
	sshEd25519 = "ssh-ed25519"
	sshECDSA   = "ecdsa-sha2-" // and the curve: nistp256, nistp384, nistp521
)

// rsaBlob, ecdsaBlob and ed25519Blob are public keys in SSH wire form (RFC 4253,
// 6.6; RFC 5656, 3.1; RFC 8709, 4). Numbers are big-endian; the point is
// uncompressed: 04, X, Y.
func rsaBlob(e, n []byte) []byte {
	return appendMpint(appendMpint(appendString(nil, sshRSA), e), n)
}

func ecdsaBlob(curve string, point []byte) []byte {
	return appendString(appendString(appendString(nil, sshECDSA+curve), curve), point)
}

func ed25519Blob(public []byte) []byte {
	return appendString(appendString(nil, sshEd25519), public)
}

// blobType is the type that a public key in wire form names; "" for what is none.
func blobType(blob []byte) string {
	r := sshReader{rest: blob}
	return string(r.string())
}

// publicLine is a public key as a line of authorized_keys and .pub files, without
// newline. The comment may be empty.
func publicLine(blob []byte, comment string) string {
	line := blobType(blob) + " " + base64.StdEncoding.EncodeToString(blob)
	if comment != "" {
		line += " " + comment
	}
	return line
}

// fingerprints are the two forms in which ssh-keygen -l prints a public key in
// wire form: SHA256:base64 without padding, and hex pairs of the MD5.
func fingerprints(blob []byte) (sha, md5 string) {
	var pairs []byte
	for _, b := range md5Sum(blob) {
		pairs = append(pairs, hexDigits[b>>4], hexDigits[b&15], ':')
	}
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sha256Sum(blob)), string(pairs[:len(pairs)-1])
}

// sshReader takes SSH's data types from the front of rest. After the first error
// it returns nothing more; err says what was wrong.
type sshReader struct {
	rest []byte
	err  error
}

var errShortKey = errors.New("ends in the middle of a field")

// take returns the next n bytes, without copying.
func (r *sshReader) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.rest)) {
		r.err, r.rest = errShortKey, nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *sshReader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// string returns the bytes of a string or mpint.
func (r *sshReader) string() []byte { return r.take(uint64(r.uint32())) }
