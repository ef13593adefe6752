package main

import (
	"encoding/binary"
	"math/bits"
)

// hashFunc is a hash over the concatenation of its arguments.
type hashFunc func(parts ...[]byte) []byte

// sha1Sum is the SHA-1 (FIPS 180-4) of the concatenation of its parts. It is for
// names of certificates and for old formats, not for anything new.
func sha1Sum(parts ...[]byte) []byte {
	h := [5]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}
	block64(parts, false, func(p *[64]byte) { sha1Block(&h, p) })
	var out []byte
	for _, v := range h {
		out = binary.BigEndian.AppendUint32(out, v)
	}
	return out
}

func sha1Block(h *[5]uint32, p *[64]byte) {
	var w [80]uint32
	for i := range 16 {
		w[i] = binary.BigEndian.Uint32(p[4*i:])
	}
	for i := 16; i < 80; i++ {
		w[i] = bits.RotateLeft32(w[i-3]^w[i-8]^w[i-14]^w[i-16], 1)
	}
	a, b, c, d, e := h[0], h[1], h[2], h[3], h[4]
	for i, v := range w {
		var f uint32
		switch i / 20 {
		case 0:
			f = (b&c ^ ^b&d) + 0x5a827999
		case 1:
			f = (b ^ c ^ d) + 0x6ed9eba1
		case 2:
			f = (b&c ^ b&d ^ c&d) + 0x8f1bbcdc
		case 3:
			f = (b ^ c ^ d) + 0xca62c1d6
		}
		a, b, c, d, e = bits.RotateLeft32(a, 5)+f+e+v, a, bits.RotateLeft32(b, 30), c, d
	}
	for i, v := range [5]uint32{a, b, c, d, e} {
		h[i] += v
	}
	clear(w[:])
}
