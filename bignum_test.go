package main

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

func bigOf(x []uint64) *big.Int { return new(big.Int).SetBytes(limbBytes(x)) }

// randomLimbs favours limbs of all zeros and all ones, where carries go wrong.
func randomLimbs(r *rand.Rand, size int) []uint64 {
	x := make([]uint64, size)
	for i := range x {
		switch r.IntN(4) {
		case 0:
			x[i] = ^uint64(0)
		case 1:
			x[i] = 0
		default:
			x[i] = r.Uint64()
		}
	}
	return x
}

func TestModularArithmetic(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 400 {
		size := 1 + round%19
		limbs := randomLimbs(r, size)
		limbs[0] |= 1
		limbs[size-1] |= 1 + r.Uint64()>>r.IntN(64)
		if size == 1 && limbs[0] == 1 {
			limbs[0] = 3
		}
		m, n := newModulus(limbs), bigOf(limbs)
		below := func() []uint64 {
			return limbsOf(new(big.Int).Mod(bigOf(randomLimbs(r, size)), n).Bytes(), size)
		}
		x, y := below(), below()
		want := func(what string, z []uint64, b *big.Int) {
			t.Helper()
			if b.Mod(b, n); bigOf(z).Cmp(b) != 0 {
				t.Fatalf("%s of %d limbs: n=%x x=%x y=%x: got %x, want %x", what, size, n, x, y, z, b)
			}
		}
		bx, by := bigOf(x), bigOf(y)
		z := m.newNumber()
		m.add(z, x, y)
		want("add", z, new(big.Int).Add(bx, by))
		m.sub(z, x, y)
		want("sub", z, new(big.Int).Sub(bx, by))
		xm, ym := m.newNumber(), m.newNumber()
		m.toMontgomery(xm, x)
		m.toMontgomery(ym, y)
		m.mul(z, xm, ym)
		m.fromMontgomery(z, z)
		want("mul", z, new(big.Int).Mul(bx, by))
		m.square(z, xm)
		m.fromMontgomery(z, z)
		want("square", z, new(big.Int).Mul(bx, bx))
		m.exp(z, xm, limbBytes(y))
		m.fromMontgomery(z, z)
		want("exp", z, new(big.Int).Exp(bx, by, n))
		full := randomLimbs(r, size) // need not be below n
		m.mul(z, full, m.one)
		want("reduction", z, bigOf(full))
	}
}

func TestInverse(t *testing.T) {
	for _, p := range []string{"ffffffff00000001000000000000000000000000ffffffffffffffffffffffff", "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed", "10001"} {
		n, _ := new(big.Int).SetString(p, 16)
		m := newModulus(limbsOf(n.Bytes(), (n.BitLen()+63)/64))
		x := m.newNumber()
		x[0] = 12345
		m.toMontgomery(x, x)
		m.inverse(x, x)
		m.fromMontgomery(x, x)
		if got, want := bigOf(x), new(big.Int).ModInverse(big.NewInt(12345), n); got.Cmp(want) != 0 {
			t.Errorf("1/12345 modulo %s is %x, want %x", p, got, want)
		}
	}
}

func TestLimbs(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		x, y := randomLimbs(r, 1+r.IntN(9)), randomLimbs(r, 1+r.IntN(9))
		if got, want := bigOf(mulLimbs(x, y)), new(big.Int).Mul(bigOf(x), bigOf(y)); got.Cmp(want) != 0 {
			t.Fatalf("%x * %x = %x, want %x", x, y, got, want)
		}
		d := 1 + r.Uint64()>>r.IntN(64)
		if d == 0 {
			continue
		}
		q := make([]uint64, len(x))
		wantQ, wantR := new(big.Int).DivMod(bigOf(x), new(big.Int).SetUint64(d), new(big.Int))
		if rest := modLimb(q, x, d); rest != wantR.Uint64() || bigOf(q).Cmp(wantQ) != 0 {
			t.Fatalf("%x / %x = %x rest %x", x, d, q, rest)
		}
	}
}

func BenchmarkSquare(b *testing.B) {
	benchmarkModular(b, func(m *modulus, x []uint64) { m.square(x, x) })
}
func BenchmarkMul(b *testing.B) { benchmarkModular(b, func(m *modulus, x []uint64) { m.mul(x, x, x) }) }
func BenchmarkExp(b *testing.B) {
	benchmarkModular(b, func(m *modulus, x []uint64) { m.exp(x, x, limbBytes(m.n)) })
}

func benchmarkModular(b *testing.B, f func(*modulus, []uint64)) {
	r := rand.New(rand.NewPCG(5, 6))
	n := randomLimbs(r, 16)
	n[0] |= 1
	n[15] |= 1 << 63
	m := newModulus(n)
	x := randomLimbs(r, 16)
	x[15] = 0
	for b.Loop() {
		f(m, x)
	}
}
