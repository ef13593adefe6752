package main

import (
	"bytes"
	stdaes "crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// fillRandom fills b from a seeded source.
func fillRandom(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

// TestCiphers decrypts what the standard library has encrypted: each cipher, each
// length of key and of padding.
func TestCiphers(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, c := range []struct {
		name string
		key  int
		own  func([]byte) blockCipher
		std  func([]byte) (cipher.Block, error)
	}{
		{"aes-128", 16, newAES, stdaes.NewCipher},
		{"aes-192", 24, newAES, stdaes.NewCipher},
		{"aes-256", 32, newAES, stdaes.NewCipher},
		{"3des", 24, newDES3, des.NewTripleDESCipher},
	} {
		for length := range 70 {
			key := make([]byte, c.key)
			fillRandom(r, key)
			block, err := c.std(key)
			if err != nil {
				t.Fatal(err)
			}
			size := block.BlockSize()
			text := make([]byte, length)
			fillRandom(r, text)
			pad := size - length%size
			padded := append(bytes.Clone(text), bytes.Repeat([]byte{byte(pad)}, pad)...)
			iv := make([]byte, size)
			fillRandom(r, iv)
			data := make([]byte, len(padded))
			cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, padded)
			got, err := decryptCBC(c.own(key), iv, data)
			if err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%s, %d bytes: %x, %v, want %x", c.name, length, got, err, text)
			}
			for _, bad := range [][]byte{nil, data[1:], data[:len(data)-1]} {
				if _, err := decryptCBC(c.own(key), iv, bad); err == nil {
					t.Fatalf("%s: %d bytes were taken", c.name, len(bad))
				}
			}
			if _, err := decryptCBC(c.own(key), iv[1:], data); err == nil {
				t.Fatalf("%s: a short iv was taken", c.name)
			}
		}
	}
}

// TestPadding tries every last block that a wrong key may leave.
func TestPadding(t *testing.T) {
	block, _ := stdaes.NewCipher(make([]byte, 16))
	iv, data := make([]byte, 16), make([]byte, 16)
	for last := range 256 {
		for wrong := -1; wrong < 16; wrong++ {
			text := bytes.Repeat([]byte{byte(last)}, 16)
			if wrong >= 0 {
				text[wrong]++
			}
			cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, text)
			n := int(text[15])
			want := n >= 1 && n <= 16
			for i := range min(n, 16) {
				want = want && text[15-i] == byte(n)
			}
			got, err := decryptCBC(newAES(make([]byte, 16)), iv, data)
			if (err == nil) != want || want && len(got) != 16-n {
				t.Fatalf("%x: %x, %v", text, got, err)
			}
		}
	}
}

// The vectors are those of RFC 2268 whose keys have no ineffective bits.
func TestRC2(t *testing.T) {
	for _, v := range [][3]string{
		{"ffffffffffffffff", "ffffffffffffffff", "278b27e42e2f0d49"},
		{"3000000000000000", "1000000000000001", "30649edf9be7d2c2"},
		{"88bca90e90875a7f0f79c384627bafb2", "0000000000000000", "2269552ab0f85ca6"},
	} {
		key, _ := hex.DecodeString(v[0])
		data, _ := hex.DecodeString(v[2])
		got := make([]byte, 8)
		newRC2(key).decrypt(got, data)
		if hex.EncodeToString(got) != v[1] {
			t.Errorf("key %s: %x, want %s", v[0], got, v[1])
		}
	}
}
