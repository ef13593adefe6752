package main

import (
	"encoding/binary"
	"errors"
)

// What PKCS#5 and PKCS#12 make of hashes: message codes, and keys of passwords.

// digest is a hash with its block size in bytes, which HMAC needs.
type digest struct {
	sum   hashFunc
	block int
}

const (
	oidSHA1   = "\x2b\x0e\x03\x02\x1a"
	oidNIST   = "\x60\x86\x48\x01\x65\x03\x04" // hashes in 2, AES in 1
	oidSHA256 = oidNIST + "\x02\x01"
	oidHMAC   = "\x2a\x86\x48\x86\xf7\x0d\x02" // HMAC with SHA-1 is 7 in it
)

// digestOf returns the hash that an object identifier names, by itself or in
// HMAC; nil for one that azprov doesn't know.
func digestOf(oid string) *digest {
	switch oid {
	case oidSHA1, oidHMAC + "\x07":
		return &digest{sha1Sum, 64}
	case oidSHA256, oidHMAC + "\x09":
		return &digest{sha256Sum, 64}
	case oidNIST + "\x02\x02", oidHMAC + "\x0a":
		return &digest{sha384Sum, 128}
	case oidNIST + "\x02\x03", oidHMAC + "\x0b":
		return &digest{sha512Sum, 128}
	}
	return nil
}

// hmac is the keyed hash of a text (RFC 2104).
func (d *digest) hmac(key, text []byte) []byte {
	if len(key) > d.block {
		key = d.sum(key)
	}
	inner, outer := make([]byte, d.block), make([]byte, d.block)
	copy(inner, key)
	copy(outer, key)
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	return d.sum(outer, d.sum(inner, text))
}

// maxRounds is how many rounds all keys of one document may take together: a few
// seconds at most. Real documents ask for 2000 a key.
const maxRounds = 1_000_000

var errRounds = errors.New("the keys take more than 1000000 rounds")

// rounds is what is left of maxRounds.
type rounds int

// spend takes what a key of size bytes costs.
func (r *rounds) spend(iterations, size int, d *digest) error {
	if iterations < 1 || iterations > int(*r) {
		return errRounds
	}
	blocks := (size + len(d.sum()) - 1) / len(d.sum())
	if *r -= rounds(iterations * blocks); *r < 0 {
		return errRounds
	}
	return nil
}

// pbkdf2 makes a key of a password (RFC 8018, 5.2).
func (r *rounds) pbkdf2(d *digest, password, salt []byte, iterations, size int) ([]byte, error) {
	if err := r.spend(iterations, size, d); err != nil {
		return nil, err
	}
	var key []byte
	for i := uint32(1); len(key) < size; i++ {
		u := d.hmac(password, binary.BigEndian.AppendUint32(append([]byte(nil), salt...), i))
		block := append([]byte(nil), u...)
		for range iterations - 1 {
			u = d.hmac(password, u)
			for j := range block {
				block[j] ^= u[j]
			}
		}
		key = append(key, block...)
	}
	return key[:size], nil
}

// What pkcs12Key makes.
const (
	pkcs12ForKey = 1
	pkcs12ForIV  = 2
	pkcs12ForMAC = 3
)

// pkcs12Key makes a key of a password that is UTF-16 already (RFC 7292, B.2).
func (r *rounds) pkcs12Key(d *digest, purpose byte, password, salt []byte, iterations, size int) ([]byte, error) {
	if err := r.spend(iterations, size, d); err != nil {
		return nil, err
	}
	v := d.block
	diversifier := make([]byte, v)
	for i := range diversifier {
		diversifier[i] = purpose
	}
	var in []byte
	for _, s := range [][]byte{salt, password} {
		for i := range (len(s) + v - 1) / v * v {
			in = append(in, s[i%len(s)])
		}
	}
	var key []byte
	for {
		a := d.sum(diversifier, in)
		for range iterations - 1 {
			a = d.sum(a)
		}
		if key = append(key, a...); len(key) >= size {
			return key[:size], nil
		}
		for at := 0; at < len(in); at += v {
			carry := 1
			for i := v - 1; i >= 0; i-- {
				carry += int(in[at+i]) + int(a[i%len(a)])
				in[at+i] = byte(carry)
				carry >>= 8
			}
		}
	}
}
