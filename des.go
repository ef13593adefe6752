package main

import (
	"encoding/binary"
	"math/bits"
)

// Triple DES (FIPS 46-3), for decryption only: certificates of the platform come
// in it.

// The permutations of the standard, bits counted from 1 at the left. The final
// one is the inverse of the initial one.
const (
	desInitial = "\x3a\x32\x2a\x22\x1a\x12\x0a\x02\x3c\x34\x2c\x24\x1c\x14\x0c\x04\x3e\x36\x2e\x26\x1e\x16\x0e\x06\x40\x38\x30\x28\x20\x18\x10\x08" +
		"\x39\x31\x29\x21\x19\x11\x09\x01\x3b\x33\x2b\x23\x1b\x13\x0b\x03\x3d\x35\x2d\x25\x1d\x15\x0d\x05\x3f\x37\x2f\x27\x1f\x17\x0f\x07"
	desRound    = "\x10\x07\x14\x15\x1d\x0c\x1c\x11\x01\x0f\x17\x1a\x05\x12\x1f\x0a\x02\x08\x18\x0e\x20\x1b\x03\x09\x13\x0d\x1e\x06\x16\x0b\x04\x19"
	desKeyParts = "\x39\x31\x29\x21\x19\x11\x09\x01\x3a\x32\x2a\x22\x1a\x12\x0a\x02\x3b\x33\x2b\x23\x1b\x13\x0b\x03\x3c\x34\x2c\x24\x3f\x37\x2f\x27\x1f\x17\x0f\x07\x3e\x36\x2e\x26\x1e\x16\x0e\x06\x3d\x35\x2d\x25\x1d\x15\x0d\x05\x1c\x14\x0c\x04"
	desKeyRound = "\x0e\x11\x0b\x18\x01\x05\x03\x1c\x0f\x06\x15\x0a\x17\x13\x0c\x04\x1a\x08\x10\x07\x1b\x14\x0d\x02\x29\x34\x1f\x25\x2f\x37\x1e\x28\x33\x2d\x21\x30\x2c\x31\x27\x38\x22\x35\x2e\x2a\x32\x24\x1d\x20"
)

// desBoxes are the eight substitutions: four rows each of sixteen nibbles, the
// first column lowest.
var desBoxes = [8][4]uint64{
	{0x7095c6a38bf21d4e, 0x8359bc6a1d2e47f0, 0x05a379cfb26d8e14, 0xd60ae3b5719428cf},
	{0xa50cd27943b6e81f, 0x5b96a10ce82f74d3, 0xf2396c851d4ab7e0, 0x9e50c76b24f31a8d},
	{0x824b7cd15f36e90a, 0x1fbce582a643907d, 0x7ea5c21b03f8946d, 0xc25b3ef478960da1},
	{0xf4cb5821a9603ed7, 0x9ea1c27430f65b8d, 0x4825e31fd7bc096a, 0xe27cb5498d1a60f3},
	{0x9e0df3586ba714c2, 0x6893af051d74c2be, 0xe0365c9f87dab124, 0x354a90f6d2e17c8b},
	{0xb57e43d08629fa1c, 0x83b0ed1659c724fa, 0x6bd1a4073c825fe9, 0xd80671ebaf59c234},
	{0x16a579c3d80fe2b4, 0x68f2c53ea1947b0d, 0x295086fae73cdb41, 0xc32ef0597a418db6},
	{0x7c05e39a1bf6482d, 0x29e0b65c473a8df1, 0x853fda602ec914b7, 0xb65309cfd8a47e12},
}

// permute builds a number from the bits of x, a number of width bits, that a
// table names.
func permute(x uint64, width int, table string) (y uint64) {
	for i := range len(table) {
		y = y<<1 | x>>(width-int(table[i]))&1
	}
	return y
}

// des3 is a key in three parts, ready to decrypt blocks of 8 bytes.
type des3 struct {
	keys  [48]uint64    // of the 48 rounds, in the order of decryption
	boxes [8][64]uint32 // substitution and the permutation behind it
	undo  string        // the final permutation
}

// newDES3 takes a key of 24 bytes; parity is not looked at.
func newDES3(key []byte) blockCipher {
	d := &des3{}
	for part := range 3 {
		k := permute(binary.BigEndian.Uint64(key[8*part:]), 64, desKeyParts)
		c, e := uint32(k>>28), uint32(k&(1<<28-1))
		for round := range 16 {
			turn := 2
			if round < 2 || round == 8 || round == 15 {
				turn = 1
			}
			c = (c<<turn | c>>(28-turn)) & (1<<28 - 1)
			e = (e<<turn | e>>(28-turn)) & (1<<28 - 1)
			// Decrypt with the third, encrypt with the second, decrypt with the first.
			at := 16*(2-part) + 15 - round
			if part == 1 {
				at = 16 + round
			}
			d.keys[at] = permute(uint64(c)<<28|uint64(e), 56, desKeyRound)
		}
	}
	for box, rows := range desBoxes {
		for i := range 64 {
			nibble := rows[i>>4&2|i&1] >> (i >> 1 & 15 * 4) & 15
			d.boxes[box][i] = uint32(permute(nibble<<(28-4*box), 32, desRound))
		}
	}
	var undo [64]byte
	for i := range len(desInitial) {
		undo[desInitial[i]-1] = byte(i + 1)
	}
	d.undo = string(undo[:])
	return d
}

func (d *des3) blockSize() int { return 8 }

func (d *des3) decrypt(dst, src []byte) {
	x := permute(binary.BigEndian.Uint64(src), 64, desInitial)
	l, r := uint32(x>>32), uint32(x)
	for i, key := range d.keys {
		if i == 16 || i == 32 {
			l, r = r, l
		}
		// Turned, the six bits that each substitution gets stand side by side.
		t, f := bits.RotateLeft32(r, 5), uint32(0)
		for box := range 8 {
			f ^= d.boxes[box][uint64(t)&63^key>>(42-6*box)&63]
			t = bits.RotateLeft32(t, 4)
		}
		l, r = r, l^f
	}
	binary.BigEndian.PutUint64(dst, permute(uint64(r)<<32|uint64(l), 64, d.undo))
}
