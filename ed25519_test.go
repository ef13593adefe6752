package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"math/big"
	"testing"
)

func TestEd25519(t *testing.T) {
	seeds := [][]byte{make([]byte, 32), bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{0x55}, 32)}
	for range 300 {
		seed := make([]byte, 32)
		rand.Read(seed)
		seeds = append(seeds, seed)
	}
	for _, seed := range seeds {
		want := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
		if got := ed25519Public(seed); !bytes.Equal(got, want) {
			t.Fatalf("seed %x: %x, want %x", seed, got, want)
		}
	}
}

// The field's numbers at their borders, by math/big.
func TestFieldElement(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	value := func(z *fieldElement) *big.Int {
		sum := new(big.Int)
		for i := 4; i >= 0; i-- {
			sum.Lsh(sum, 51).Add(sum, new(big.Int).SetUint64(z[i]))
		}
		return sum.Mod(sum, p)
	}
	const top = 1<<52 - 1
	list := []fieldElement{{}, {1}, {limbMask - 18, limbMask, limbMask, limbMask, limbMask}, {limbMask - 19, limbMask, limbMask, limbMask, limbMask},
		{limbMask, limbMask, limbMask, limbMask, limbMask}, {top, top, top, top, top}, {0, 0, 0, 0, top}, {top}}
	for range 30 {
		var z fieldElement
		for i := range z {
			n, _ := rand.Int(rand.Reader, big.NewInt(top))
			z[i] = n.Uint64()
		}
		list = append(list, z)
	}
	check := func(what string, got *fieldElement, want *big.Int) {
		t.Helper()
		for _, limb := range got {
			if limb > top {
				t.Fatalf("%s: limb %x", what, limb)
			}
		}
		b := got.bytes()
		for i := range 16 {
			b[i], b[31-i] = b[31-i], b[i]
		}
		if want.Mod(want, p); value(got).Cmp(want) != 0 || new(big.Int).SetBytes(b).Cmp(want) != 0 {
			t.Fatalf("%s: %x, bytes %x, want %x", what, *got, b, want)
		}
	}
	for _, a := range list {
		check("itself", &a, value(&a))
		for _, b := range list {
			var z fieldElement
			z.add(&a, &b)
			check("sum", &z, new(big.Int).Add(value(&a), value(&b)))
			z.sub(&a, &b)
			check("difference", &z, new(big.Int).Sub(value(&a), value(&b)))
			z.mul(&a, &b)
			check("product", &z, new(big.Int).Mul(value(&a), value(&b)))
		}
		z := a
		if z.invert(); value(&a).Sign() != 0 {
			check("inverse", &z, new(big.Int).ModInverse(value(&a), p))
		}
	}
}

func BenchmarkEd25519(b *testing.B) {
	seed := make([]byte, 32)
	for b.Loop() {
		ed25519Public(seed)
	}
}
