package main

import (
	"encoding/binary"
	"math/bits"
)

// Arithmetic modulo an odd number, on numbers of a fixed count of limbs (64
// bits, the lowest first), by Montgomery's method (Handbook of Applied
// Cryptography, 14.3.2). It takes the same time for all values of one length;
// math/big doesn't, and costs 0.13 MB.

// modulus is an odd number to calculate modulo of. The operands of its methods
// have len(n) limbs and are below n, results too; a result may be an operand.
// Its scratch space makes it one goroutine's.
type modulus struct {
	n    []uint64
	inv  uint64   // -1/n modulo 2^64
	one  []uint64 // R modulo n: the Montgomery form of 1; R is 2^(64*len(n))
	rr   []uint64 // R*R modulo n
	wide []uint64 // a product
	diff []uint64
}

// newModulus prepares an odd n above 1 whose highest limb is not zero.
func newModulus(n []uint64) *modulus {
	size := len(n)
	space := make([]uint64, 5*size)
	m := &modulus{n: n, one: space[:size], rr: space[size : 2*size], diff: space[2*size : 3*size], wide: space[3*size:]}
	// Newton's iteration doubles the correct bits of the inverse, 3 at first.
	inv := n[0]
	for range 5 {
		inv *= 2 - n[0]*inv
	}
	m.inv = -inv
	length := bits.Len64(n[size-1])
	m.one[size-1] = 1 << (length - 1)
	for range 64 - length + 1 {
		m.add(m.one, m.one, m.one)
	}
	// 2^size, squared six times, is R.
	copy(m.rr, m.one)
	for range size {
		m.add(m.rr, m.rr, m.rr)
	}
	for range 6 {
		m.square(m.rr, m.rr)
	}
	return m
}

// newNumber returns zero, ready to hold a result.
func (m *modulus) newNumber() []uint64 { return make([]uint64, len(m.n)) }

// add is z = x + y.
func (m *modulus) add(z, x, y []uint64) {
	var c uint64
	for i := range z {
		z[i], c = bits.Add64(x[i], y[i], c)
	}
	m.reduceOnce(z, z, c)
}

// sub is z = x - y.
func (m *modulus) sub(z, x, y []uint64) {
	mask := -subLimbs(z, x, y)
	var c uint64
	for i := range z {
		z[i], c = bits.Add64(z[i], m.n[i]&mask, c)
	}
}

// reduceOnce is z = x modulo n for an x below 2n, whose highest bit is in top.
func (m *modulus) reduceOnce(z, x []uint64, top uint64) {
	borrow := subLimbs(m.diff, x, m.n)
	selectLimbs(z, m.diff, x, top|(borrow^1))
}

// subLimbs is z = x - y and returns the borrow.
func subLimbs(z, x, y []uint64) (b uint64) {
	for i := range z {
		z[i], b = bits.Sub64(x[i], y[i], b)
	}
	return b
}

// selectLimbs is z = x if bit is 1, y if it is 0.
func selectLimbs(z, x, y []uint64, bit uint64) {
	mask := -bit
	for i := range z {
		z[i] = y[i] ^ mask&(x[i]^y[i])
	}
}

// mul is z = x * y / R. Either factor may be any number of len(n) limbs.
func (m *modulus) mul(z, x, y []uint64) {
	size := len(m.n)
	clear(m.wide)
	for i, v := range x {
		m.wide[i+size] = addMul(m.wide[i:i+size], y, v)
	}
	m.reduce(z)
}

// square is mul(z, x, x), a quarter faster.
func (m *modulus) square(z, x []uint64) {
	size := len(m.n)
	t := m.wide
	clear(t)
	for i := range size - 1 {
		t[i+size] = addMul(t[2*i+1:i+size], x[i+1:], x[i])
	}
	var top, c uint64
	for i, v := range x {
		hi, lo := bits.Mul64(v, v)
		a, b := t[2*i], t[2*i+1]
		t[2*i], c = bits.Add64(a<<1|top, lo, c)
		t[2*i+1], c = bits.Add64(b<<1|a>>63, hi, c)
		top = b >> 63
	}
	m.reduce(z)
}

// reduce is z = wide / R.
func (m *modulus) reduce(z []uint64) {
	size := len(m.n)
	t := m.wide
	var top uint64
	for i := range size {
		c := addMul(t[i:i+size], m.n, t[i]*m.inv)
		t[i+size], top = bits.Add64(t[i+size], c, top)
	}
	m.reduceOnce(z, t[size:], top)
}

// addMul is z += x * y and returns the limb above z. It is where the time of all
// this goes: four limbs a turn keep the carries in the processor's flag.
func addMul(z, x []uint64, y uint64) (carry uint64) {
	for len(x) >= 4 && len(z) >= 4 {
		h0, l0 := bits.Mul64(x[0], y)
		h1, l1 := bits.Mul64(x[1], y)
		h2, l2 := bits.Mul64(x[2], y)
		h3, l3 := bits.Mul64(x[3], y)
		var c uint64
		l0, c = bits.Add64(l0, carry, 0)
		l1, c = bits.Add64(l1, h0, c)
		l2, c = bits.Add64(l2, h1, c)
		l3, c = bits.Add64(l3, h2, c)
		carry = h3 + c
		z[0], c = bits.Add64(l0, z[0], 0)
		z[1], c = bits.Add64(l1, z[1], c)
		z[2], c = bits.Add64(l2, z[2], c)
		z[3], c = bits.Add64(l3, z[3], c)
		carry += c
		x, z = x[4:], z[4:]
	}
	for i, v := range x {
		hi, lo := bits.Mul64(v, y)
		var c uint64
		lo, c = bits.Add64(lo, carry, 0)
		hi += c
		z[i], c = bits.Add64(lo, z[i], 0)
		carry = hi + c
	}
	return carry
}

// toMontgomery is z = x * R, fromMontgomery z = x / R.
func (m *modulus) toMontgomery(z, x []uint64) { m.mul(z, x, m.rr) }
func (m *modulus) fromMontgomery(z, x []uint64) {
	clear(m.wide)
	copy(m.wide, x)
	m.reduce(z)
}

// exp is z = x^e for x and z in Montgomery form and e of big-endian bytes. The
// time and the memory that is touched depend on the length of e alone.
func (m *modulus) exp(z, x []uint64, e []byte) {
	var powers [16][]uint64
	powers[0] = m.one
	for i := 1; i < 16; i++ {
		powers[i] = m.newNumber()
		m.mul(powers[i], powers[i-1], x)
	}
	acc, factor := m.newNumber(), m.newNumber()
	copy(acc, m.one)
	for i := range 2 * len(e) {
		for range 4 {
			m.square(acc, acc)
		}
		digit := uint64(e[i/2]>>(4*(1-i&1))) & 15
		for v, p := range powers {
			selectLimbs(factor, p, factor, (uint64(v)^digit-1)>>63)
		}
		m.mul(acc, acc, factor)
	}
	copy(z, acc)
}

// inverse is z = 1/x for a prime modulus, x and z in Montgomery form.
func (m *modulus) inverse(z, x []uint64) {
	e := make([]uint64, len(m.n))
	two := make([]uint64, len(m.n))
	two[0] = 2
	subLimbs(e, m.n, two)
	m.exp(z, x, limbBytes(e))
}

// limbsOf reads big-endian bytes into size limbs; bytes that don't fit must be zero.
func limbsOf(b []byte, size int) []uint64 {
	x := make([]uint64, size)
	for i := range b {
		if at := len(b) - 1 - i; at < 8*size {
			x[at/8] |= uint64(b[i]) << (at % 8 * 8)
		}
	}
	return x
}

// limbBytes is the number as 8*len(x) big-endian bytes.
func limbBytes(x []uint64) []byte {
	b := make([]byte, 8*len(x))
	for i, v := range x {
		binary.BigEndian.PutUint64(b[len(b)-8-8*i:], v)
	}
	return b
}

// mulLimbs is the product of two numbers, of len(x)+len(y) limbs.
func mulLimbs(x, y []uint64) []uint64 {
	z := make([]uint64, len(x)+len(y))
	for i, v := range x {
		z[i+len(y)] = addMul(z[i:i+len(y)], y, v)
	}
	return z
}

// modLimb is the remainder of x by a single limb above 0; a quotient that isn't
// nil gets the quotient.
func modLimb(quotient, x []uint64, y uint64) (rest uint64) {
	for i := len(x) - 1; i >= 0; i-- {
		var q uint64
		q, rest = bits.Div64(rest, x[i], y)
		if quotient != nil {
			quotient[i] = q
		}
	}
	return rest
}

// equalLimbs says whether two numbers of one length are equal.
func equalLimbs(x, y []uint64) bool {
	var d uint64
	for i := range x {
		d |= x[i] ^ y[i]
	}
	return d == 0
}
