package main

import (
	"context"
	"math/bits"
)

// Random primes for RSA (FIPS 186-5, A.1.3 and B.3).

const (
	rsaExponent = 65537
	// The sieve: numbers that a prime below sieveLimit divides aren't tested. A
	// larger limit would cost more than the tests that it saves.
	sieveLimit = 1 << 16
	sieveSpan  = 1 << 11 // numbers, 4 apart, sieved behind one random start
	// Rounds of Miller-Rabin with random bases: FIPS 186-5, table B.1, asks for 5
	// of primes of 1024 bits and for fewer of longer ones.
	primeRounds = 5
)

// smallPrimes returns the odd primes below sieveLimit.
func smallPrimes() []uint64 {
	var composite [sieveLimit / 2]bool
	var primes []uint64
	for i := uint64(3); i < sieveLimit; i += 2 {
		if composite[i/2] {
			continue
		}
		primes = append(primes, i)
		for j := i * i / 2; j < sieveLimit/2; j += i {
			composite[j] = true
		}
	}
	return primes
}

// randomPrime returns a prime of 64*size bits, the two highest of which are set,
// that is 3 modulo 4 and not 1 modulo rsaExponent. Primes is smallPrimes.
func randomPrime(ctx context.Context, size int, primes []uint64) ([]uint64, error) {
	raw := make([]byte, 8*size)
	for {
		if err := randomBytes(raw); err != nil {
			return nil, err
		}
		raw[0] |= 0xc0
		raw[len(raw)-1] |= 3
		start := limbsOf(raw, size)
		if start[0] > 1<<64-1-4*sieveSpan {
			continue // so that no carry leaves the lowest limb
		}
		composite := sieve(start, primes)
		n := make([]uint64, size)
		for k, out := range composite {
			if out {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			copy(n, start)
			n[0] += uint64(4 * k)
			prime, err := probablyPrime(n)
			if err != nil || prime {
				return n, err
			}
		}
	}
}

// sieve marks each k for which start + 4k has a small factor, or is 1 modulo
// rsaExponent.
func sieve(start, primes []uint64) []bool {
	composite := make([]bool, sieveSpan)
	strike := func(p, rest uint64) {
		// The first k with rest + 4k = 0 modulo p.
		k := p - rest%p
		for k&3 != 0 {
			k += p
		}
		for k = k / 4 % p; k < sieveSpan; k += p {
			composite[k] = true
		}
	}
	strike(rsaExponent, modLimb(nil, start, rsaExponent)+rsaExponent-1)
	for i := 0; i < len(primes); {
		// Several primes share a division.
		product, end := uint64(1), i
		for end < len(primes) {
			hi, lo := bits.Mul64(product, primes[end])
			if hi != 0 {
				break
			}
			product = lo
			end++
		}
		rest := modLimb(nil, start, product)
		for ; i < end; i++ {
			strike(primes[i], rest%primes[i])
		}
	}
	return composite
}

// probablyPrime is the test of Miller and Rabin (FIPS 186-5, B.3.1) for an n that
// is 3 modulo 4, where it is whether base^((n-1)/2) is 1 or -1; with base 2 before the random bases: it is faster, and most composites end there.
func probablyPrime(n []uint64) (bool, error) {
	m := newModulus(n)
	minusOne, half := m.newNumber(), make([]uint64, len(n))
	subLimbs(minusOne, n, m.one) // the Montgomery form of -1
	for i := range n {
		half[i] = n[i] >> 1
		if i+1 < len(n) {
			half[i] |= n[i+1] << 63
		}
	}
	witness := func(x []uint64) bool { return !equalLimbs(x, m.one) && !equalLimbs(x, minusOne) }
	x, twice := m.newNumber(), m.newNumber()
	copy(x, m.one)
	for i := 64*len(n) - 1; i >= 0; i-- {
		m.square(x, x)
		m.add(twice, x, x)
		selectLimbs(x, twice, x, half[i/64]>>(i%64)&1)
	}
	if witness(x) {
		return false, nil
	}
	exponent, raw := limbBytes(half), make([]byte, 8*len(n))
	for range primeRounds {
		if err := randomBytes(raw); err != nil {
			return false, err
		}
		// Any random number is the Montgomery form of a random base.
		copy(x, limbsOf(raw, len(n)))
		m.reduceOnce(x, x, 0)
		m.exp(x, x, exponent)
		if witness(x) {
			return false, nil
		}
	}
	return true, nil
}
