package main

import (
	"encoding/binary"
	"math/bits"
)

// sha256Sum returns the SHA-256 (FIPS 180-4) of the parts, one after the other,
// in 32 bytes. Its constants are the upper halves of SHA-512's: both are the
// fractions of the same roots.
func sha256Sum(parts ...[]byte) []byte {
	var h [8]uint32
	for i := range h {
		h[i] = uint32(sha512H[i] >> 32)
	}
	block64(parts, false, func(p *[64]byte) { sha256Block(&h, p) })
	var out []byte
	for _, v := range h {
		out = binary.BigEndian.AppendUint32(out, v)
	}
	return out
}

// block64 cuts the parts into blocks of 64 bytes and pads the last as SHA-1,
// SHA-256 (big-endian length) and MD5 (little-endian) do. The block is wiped at
// the end.
func block64(parts [][]byte, little bool, compress func(*[64]byte)) {
	var block [64]byte
	filled, length := 0, uint64(0)
	feed := func(p []byte) {
		for len(p) > 0 {
			n := copy(block[filled:], p)
			p = p[n:]
			if filled += n; filled == len(block) {
				compress(&block)
				filled = 0
			}
		}
	}
	for _, p := range parts {
		length += uint64(len(p))
		feed(p)
	}
	var pad [64 + 8]byte
	pad[0] = 0x80
	n := 56 - filled
	if n <= 0 {
		n += 64
	}
	if little {
		binary.LittleEndian.PutUint64(pad[n:], length<<3)
	} else {
		binary.BigEndian.PutUint64(pad[n:], length<<3)
	}
	feed(pad[:n+8])
	clear(block[:])
}

func sha256Block(h *[8]uint32, p *[64]byte) {
	var w [64]uint32
	for i := range 16 {
		w[i] = binary.BigEndian.Uint32(p[4*i:])
	}
	for i := 16; i < 64; i++ {
		x, y := w[i-15], w[i-2]
		s0 := bits.RotateLeft32(x, -7) ^ bits.RotateLeft32(x, -18) ^ x>>3
		s1 := bits.RotateLeft32(y, -17) ^ bits.RotateLeft32(y, -19) ^ y>>10
		w[i] = w[i-16] + s0 + w[i-7] + s1
	}
	v := *h
	for i := range w {
		a, e := v[0], v[4]
		t1 := v[7] + (bits.RotateLeft32(e, -6) ^ bits.RotateLeft32(e, -11) ^ bits.RotateLeft32(e, -25)) +
			(e&v[5] ^ ^e&v[6]) + uint32(sha512K[i]>>32) + w[i]
		t2 := (bits.RotateLeft32(a, -2) ^ bits.RotateLeft32(a, -13) ^ bits.RotateLeft32(a, -22)) + (a&v[1] ^ a&v[2] ^ v[1]&v[2])
		v = [8]uint32{t1 + t2, a, v[1], v[2], v[3] + t1, e, v[5], v[6]}
	}
	for i := range h {
		h[i] += v[i]
	}
	clear(w[:])
}
