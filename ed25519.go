package main

import (
	"encoding/binary"
	"math/bits"
)

// Ed25519 (RFC 8032, 5.1), as far as making keys needs it: the public key is the
// base point times a number that is made of the seed.

// ed25519Public returns the public key of a seed of 32 bytes. What it does and
// how long it takes depends on no bit of the seed.
func ed25519Public(seed []byte) []byte {
	var d sha512
	d.reset()
	d.write(seed)
	h := d.sum(nil)
	h[0] &= 0xf8
	h[31] = h[31]&0x7f | 0x40

	sum := edPoint{y: fieldElement{1}, z: fieldElement{1}}
	for i := 254; i >= 0; i-- {
		sum.add(&sum, &sum)
		with := edPoint{}
		with.add(&sum, &edBase)
		sum.choose(&with, uint64(h[i/8]>>(i%8)&1))
	}
	clear(h)
	d = sha512{}
	return sum.encode()
}

// fieldElement is a number modulo 2^255-19, as the sum of its limbs times
// 2^(51*i). Limbs stay below 2^52.
type fieldElement [5]uint64

const limbMask = 1<<51 - 1

// edPoint is a point (x/z, y/z) of the curve, with t = xy/z.
type edPoint struct{ x, y, z, t fieldElement }

var (
	// edBase is the base point, ed2D twice the constant d of the curve.
	edBase = edPoint{
		x: fieldElement{0x62d608f25d51a, 0x412a4b4f6592a, 0x75b7171a4b31d, 0x1ff60527118fe, 0x216936d3cd6e5},
		y: fieldElement{0x6666666666658, 0x4cccccccccccc, 0x1999999999999, 0x3333333333333, 0x6666666666666},
		z: fieldElement{1},
		t: fieldElement{0x68ab3a5b7dda3, 0x0eea2a5eadbb, 0x2af8df483c27e, 0x332b375274732, 0x67875f0fd78b7},
	}
	ed2D = fieldElement{0x69b9426b2f159, 0x35050762add7a, 0x3cf44c0038052, 0x6738cc7407977, 0x2406d9dc56dff}
)

// carry brings limbs of any size below 2^52.
func (z *fieldElement) carry() {
	c := uint64(0)
	for range 2 {
		for i := range z {
			z[i] += c
			c = z[i] >> 51
			z[i] &= limbMask
		}
		c *= 19
	}
	z[0] += c
}

func (z *fieldElement) add(a, b *fieldElement) {
	for i := range z {
		z[i] = a[i] + b[i]
	}
	z.carry()
}

// sub adds four times the modulus, so that no limb goes below zero.
func (z *fieldElement) sub(a, b *fieldElement) {
	for i := range z {
		z[i] = a[i] + 4*limbMask - b[i]
	}
	z[0] -= 4 * 18
	z.carry()
}

// mul multiplies; z may be a or b.
func (z *fieldElement) mul(a, b *fieldElement) {
	var low, high [5]uint64
	for i, x := range a {
		for j, y := range b {
			k := i + j
			if k == 5 {
				x *= 19 // 2^255 is 19
			}
			if k >= 5 {
				k -= 5
			}
			h, l := bits.Mul64(x, y)
			var c uint64
			low[k], c = bits.Add64(low[k], l, 0)
			high[k] += h + c
		}
	}
	c := uint64(0)
	for k := range z {
		var over uint64
		low[k], over = bits.Add64(low[k], c, 0)
		z[k] = low[k] & limbMask
		c = (high[k]+over)<<13 | low[k]>>51
	}
	z[0] += 19 * c // c is below 2^57: no product of the last limb is times 19
	z.carry()
}

// invert sets z to 1/z, which is z^(2^255-21).
func (z *fieldElement) invert() {
	x := *z
	// From the top, 250 bits are 1, then 01011.
	for i := 253; i >= 0; i-- {
		z.mul(z, z)
		if i != 2 && i != 4 {
			z.mul(z, &x)
		}
	}
}

// bytes returns the number in 32 bytes, little-endian, below the modulus.
func (z *fieldElement) bytes() []byte {
	r := *z
	r.carry()
	// q is 1 if the modulus still fits in.
	q := (r[0] + 19) >> 51
	for _, limb := range r[1:] {
		q = (limb + q) >> 51
	}
	c := 19 * q // and less 2^255, by cutting the last limb
	var b [40]byte
	for i, limb := range r {
		limb += c
		c = limb >> 51
		at := 51 * i
		v := binary.LittleEndian.Uint64(b[at/8:])
		binary.LittleEndian.PutUint64(b[at/8:], v|limb&limbMask<<(at%8))
	}
	return b[:32]
}

// add sets p to a+b; it holds for every two points, equal ones too (Hisil, Wong,
// Carter, Dawson 2008, 3.1). p may be a or b.
func (p *edPoint) add(a, b *edPoint) {
	var u, v, e, f, g, h fieldElement
	u.sub(&a.y, &a.x)
	v.sub(&b.y, &b.x)
	u.mul(&u, &v)
	v.add(&a.y, &a.x)
	g.add(&b.y, &b.x)
	v.mul(&v, &g)
	e.sub(&v, &u)
	h.add(&v, &u)
	u.mul(&a.t, &b.t)
	u.mul(&u, &ed2D)
	v.mul(&a.z, &b.z)
	v.add(&v, &v)
	f.sub(&v, &u)
	g.add(&v, &u)
	p.x.mul(&e, &f)
	p.y.mul(&g, &h)
	p.t.mul(&e, &h)
	p.z.mul(&f, &g)
}

// choose sets p to a if bit is 1 and leaves it if bit is 0.
func (p *edPoint) choose(a *edPoint, bit uint64) {
	for _, e := range [...][2]*fieldElement{{&p.x, &a.x}, {&p.y, &a.y}, {&p.z, &a.z}, {&p.t, &a.t}} {
		for i := range e[0] {
			e[0][i] ^= -bit & (e[0][i] ^ e[1][i])
		}
	}
}

// encode returns y and, in the top bit, the parity of x.
func (p *edPoint) encode() []byte {
	p.z.invert()
	p.x.mul(&p.x, &p.z)
	p.y.mul(&p.y, &p.z)
	b := p.y.bytes()
	b[31] |= p.x.bytes()[0] << 7
	return b
}
