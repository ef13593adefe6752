package main

import (
	"context"
	"errors"
	"math/bits"
)

// RSA (RFC 8017). The standard library's costs 0.65 MB and 32 MiB of reserved
// memory.

// rsaKey is a key pair; all parts are big-endian without leading zeros. Of a
// public key only N and E are set; P and what follows may be missing.
type rsaKey struct{ N, E, D, P, Q, DP, DQ, QInv []byte }

// Sizes of the keys that are used, in bytes of N.
const (
	minRSA = 1024 / 8
	maxRSA = 8192 / 8
)

var (
	errRSASize = errors.New("rsa key of an unusable size")
	errRSAKey  = errors.New("rsa key that can't be one")
)

// generateRSA makes a key of that many bits, a multiple of 128. Its two primes
// are found at the same time. It takes 10 to 100 ms for 2048 bits.
func generateRSA(ctx context.Context, size int) (*rsaKey, error) {
	return generateRSAWith(ctx, size, func() {})
}

// generateRSAWith is generateRSA with something to do first in the goroutine of
// each prime.
func generateRSAWith(ctx context.Context, size int, first func()) (*rsaKey, error) {
	if size%128 != 0 || size < 8*minRSA || size > 8*maxRSA {
		return nil, errRSASize
	}
	primes := smallPrimes()
	var pq [2][]uint64
	for {
		err := inParallel([]int{0, 1}, func(i int) (err error) {
			first()
			pq[i], err = randomPrime(ctx, size/128, primes)
			return err
		})
		if err != nil {
			return nil, err
		}
		p, q := pq[0], pq[1]
		last := len(p) - 1
		if p[last] < q[last] {
			p, q = q, p
		}
		// FIPS 186-5, A.1.3: not closer than 2^(size/2-100).
		if p[last]-q[last] >= 2 {
			return assembleRSA(p, q), nil
		}
	}
}

// assembleRSA computes the rest of a key from its primes of one length, p > q.
func assembleRSA(p, q []uint64) *rsaKey {
	p1, q1 := append([]uint64(nil), p...), append([]uint64(nil), q...)
	p1[0]--
	q1[0]--
	m := newModulus(p)
	inverse := m.newNumber()
	m.toMontgomery(inverse, q)
	m.inverse(inverse, inverse)
	m.fromMontgomery(inverse, inverse)
	number := func(x []uint64) []byte { return trimZeros(limbBytes(x)) }
	return &rsaKey{N: number(mulLimbs(p, q)), E: []byte{rsaExponent >> 16, 0, rsaExponent & 0xff},
		D: number(exponentInverse(mulLimbs(p1, q1))), P: number(p), Q: number(q),
		DP: number(exponentInverse(p1)), DQ: number(exponentInverse(q1)), QInv: number(inverse)}
}

// exponentInverse is 1/rsaExponent modulo an m that is no multiple of it: the one
// (1 + k*m) / rsaExponent that leaves no rest.
func exponentInverse(m []uint64) []uint64 {
	// By Fermat, -1/m is -(m^(e-2)) modulo the prime e; e-2 is 16 ones.
	k, base := uint64(1), modLimb(nil, m, rsaExponent)
	for range 16 {
		k = k * k % rsaExponent * base % rsaExponent
	}
	k = rsaExponent - k
	x := make([]uint64, len(m)+1)
	x[0] = 1
	x[len(m)] = addMul(x[:len(m)], m, k)
	modLimb(x, x, rsaExponent)
	return x
}

// private is the private-key operation c^D modulo N, of len(N) bytes. C has to
// be below N. Timing tells nothing of the key.
func (k *rsaKey) private(c []byte) ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	size := (len(k.N) + 7) / 8
	n, x := limbsOf(k.N, size), limbsOf(c, size)
	if len(c) > len(k.N) || subLimbs(make([]uint64, size), x, n) == 0 {
		return nil, errors.New("rsa input out of range")
	}
	half := len(k.P) / 8
	if len(k.P)%8 == 0 && half > 0 && len(k.Q) == len(k.P) && size == 2*half {
		x = k.chinese(x, half)
	} else {
		m := newModulus(n)
		m.toMontgomery(x, x)
		m.exp(x, x, k.D)
		m.fromMontgomery(x, x)
	}
	return limbBytes(x)[8*size-len(k.N):], nil
}

// check refuses what the arithmetic can't take: keys come from outside.
func (k *rsaKey) check() error {
	if len(k.N) < minRSA || len(k.N) > maxRSA {
		return errRSASize
	}
	for _, odd := range [][]byte{k.N, k.E, k.P, k.Q} {
		if len(odd) > 0 && (odd[len(odd)-1]&1 == 0 || odd[0] == 0) {
			return errRSAKey
		}
	}
	for _, exponent := range [][]byte{k.D, k.DP, k.DQ, k.QInv, k.E} {
		if len(exponent) > len(k.N) {
			return errRSAKey
		}
	}
	return nil
}

// chinese is the private-key operation modulo P and Q, of half limbs each (RFC
// 8017, 5.1.2, 2b), four times as fast as modulo N.
func (k *rsaKey) chinese(c []uint64, half int) []uint64 {
	p, q := newModulus(limbsOf(k.P, half)), newModulus(limbsOf(k.Q, half))
	parts := []struct {
		m *modulus
		e []byte
		x []uint64
	}{{p, k.DP, nil}, {q, k.DQ, nil}}
	for i := range parts {
		// c is high*R + low; mul divides by R.
		m, x, low := parts[i].m, make([]uint64, half), make([]uint64, half)
		m.mul(x, c[half:], m.rr)
		m.mul(low, c[:half], m.one)
		m.add(x, x, low)
		m.toMontgomery(x, x)
		m.exp(x, x, parts[i].e)
		m.fromMontgomery(x, x)
		parts[i].x = x
	}
	h, low := make([]uint64, half), make([]uint64, half)
	p.mul(low, parts[1].x, p.one)
	p.sub(h, parts[0].x, low)
	p.toMontgomery(h, h)
	p.mul(h, h, limbsOf(k.QInv, half))
	z := mulLimbs(h, q.n)
	var carry uint64
	for i := range z {
		var add uint64
		if i < half {
			add = parts[1].x[i]
		}
		z[i], carry = bits.Add64(z[i], add, carry)
	}
	return z
}

// signSHA256 is the RSASSA-PKCS1-v1_5 signature of a SHA-256 digest.
func (k *rsaKey) signSHA256(digest []byte) ([]byte, error) {
	return k.sign("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20", digest)
}

// sign is the RSASSA-PKCS1-v1_5 signature of a digest whose DigestInfo starts
// with a prefix (RFC 8017, 9.2).
func (k *rsaKey) sign(prefix string, digest []byte) ([]byte, error) {
	if len(k.N) < minRSA {
		return nil, errRSASize
	}
	em := make([]byte, len(k.N))
	em[1] = 1
	at := len(em) - len(digest)
	copy(em[at:], digest)
	at -= len(prefix)
	copy(em[at:], prefix)
	for i := 2; i < at-1; i++ {
		em[i] = 0xff
	}
	return k.private(em)
}

// decryptPKCS1 opens an RSAES-PKCS1-v1_5 message of a known length (RFC 8017,
// 7.2.2). If the padding is wrong it returns random bytes, in the same time:
// what they are the key of then can't be opened (RFC 3218, 2.3.2).
func (k *rsaKey) decryptPKCS1(c []byte, length int) ([]byte, error) {
	em, err := k.private(c)
	if err != nil {
		return nil, err
	}
	at := len(em) - length
	if at < 11 {
		return nil, errRSASize
	}
	out := make([]byte, length)
	if err := randomBytes(out); err != nil {
		return nil, err
	}
	bad := uint64(em[0]) | uint64(em[1]^2) | uint64(em[at-1])
	for _, v := range em[2 : at-1] {
		bad |= zeroByte(v)
	}
	keep := byte(-isZero(bad))
	for i := range out {
		out[i] ^= keep & (out[i] ^ em[at+i])
	}
	return out, nil
}

// isZero is 1 for 0 and 0 for all else below 2^63; zeroByte the same of a byte.
func isZero(x uint64) uint64 { return (x - 1) >> 63 }
func zeroByte(b byte) uint64 { return isZero(uint64(b)) }
func trimZeros(b []byte) []byte {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// decryptOAEP opens an RSAES-OAEP message with an empty label (RFC 8017,
// 7.1.2). Label and mask use a hash each. All that can be wrong of the padding is
// one error, found in the same time.
func (k *rsaKey) decryptOAEP(c []byte, label, mask hashFunc) ([]byte, error) {
	em, err := k.private(c)
	if err != nil {
		return nil, err
	}
	labelHash := label()
	size := len(labelHash)
	if len(em) < 2*size+2 {
		return nil, errRSASize
	}
	seed, block := em[1:1+size], em[1+size:]
	maskMGF1(seed, block, mask)
	maskMGF1(block, seed, mask)
	bad := uint64(em[0])
	for i, v := range labelHash {
		bad |= uint64(v ^ block[i])
	}
	// The message stands behind zeros and a one.
	var found, start uint64
	for i, v := range block[size:] {
		one := zeroByte(v ^ 1)
		start |= -(one &^ found) & uint64(i+1)
		bad |= (found ^ 1) & (one ^ 1) & (zeroByte(v) ^ 1)
		found |= one
	}
	if bad|found^1 != 0 {
		return nil, errPadding
	}
	return block[size+int(start):], nil
}

var errPadding = errors.New("wrong padding: made for another key, or damaged")

// maskMGF1 xors the mask that a seed generates into a block (RFC 8017, B.2.1).
func maskMGF1(block, seed []byte, hash hashFunc) {
	for counter := byte(0); len(block) > 0; counter++ {
		mask := hash(seed, []byte{0, 0, 0, counter})
		n := min(len(mask), len(block))
		for i := range n {
			block[i] ^= mask[i]
		}
		block = block[n:]
	}
}
