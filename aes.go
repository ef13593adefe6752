package main

import "math/bits"

// AES (FIPS 197), for decryption only.

// aes is an expanded key with the substitution tables, which are computed: they
// would be longer than the code that does.
type aes struct {
	keys    [][16]byte // of the rounds, in the order of encryption
	inverse [256]byte  // of the substitution
}

// newAES takes a key of 16, 24 or 32 bytes.
func newAES(key []byte) blockCipher {
	a := &aes{}
	var sbox [256]byte
	// p runs through all that has an inverse, q is the inverse of p.
	for p, q := byte(1), byte(1); ; {
		v := q ^ bits.RotateLeft8(q, 1) ^ bits.RotateLeft8(q, 2) ^ bits.RotateLeft8(q, 3) ^ bits.RotateLeft8(q, 4) ^ 0x63
		sbox[p] = v
		p ^= aesDouble(p) // times 3
		q ^= q << 1       // divided by 3
		q ^= q << 2
		q ^= q << 4
		q ^= q >> 7 * 9
		if p == 1 {
			break
		}
	}
	sbox[0] = 0x63
	for i, v := range sbox {
		a.inverse[v] = byte(i)
	}
	rounds := len(key)/4 + 7
	words := make([]byte, 16*rounds)
	copy(words, key)
	constant := byte(1)
	for i := len(key); i < len(words); i += 4 {
		t := [4]byte(words[i-4 : i])
		switch i % len(key) {
		case 0:
			t = [4]byte{sbox[t[1]] ^ constant, sbox[t[2]], sbox[t[3]], sbox[t[0]]}
			constant = aesDouble(constant)
		case 16:
			if len(key) == 32 {
				t = [4]byte{sbox[t[0]], sbox[t[1]], sbox[t[2]], sbox[t[3]]}
			}
		}
		for j := range t {
			words[i+j] = words[i+j-len(key)] ^ t[j]
		}
	}
	for i := range rounds {
		a.keys = append(a.keys, [16]byte(words[16*i:]))
	}
	clear(words)
	return a
}

// aesDouble is multiplication by x in the field of AES.
func aesDouble(b byte) byte { return b<<1 ^ b>>7*0x1b }

func (a *aes) blockSize() int { return 16 }

func (a *aes) decrypt(dst, src []byte) {
	s := [16]byte(src)
	for round := len(a.keys) - 1; ; round-- {
		for i, v := range a.keys[round] {
			s[i] ^= v
		}
		if round == 0 {
			break
		}
		if round < len(a.keys)-1 {
			for c := 0; c < 16; c += 4 {
				// Times 14, 11, 13, 9: times 5, 0, 4, 0 and then times 2, 3, 1, 1.
				u, v := aesDouble(aesDouble(s[c]^s[c+2])), aesDouble(aesDouble(s[c+1]^s[c+3]))
				w := [4]byte{s[c] ^ u, s[c+1] ^ v, s[c+2] ^ u, s[c+3] ^ v}
				all := w[0] ^ w[1] ^ w[2] ^ w[3]
				for j := range w {
					s[c+j] = w[j] ^ all ^ aesDouble(w[j]^w[(j+1)&3])
				}
			}
		}
		var t [16]byte
		for i, v := range s {
			t[(i+i%4*4)%16] = a.inverse[v]
		}
		s = t
	}
	copy(dst, s[:])
}
