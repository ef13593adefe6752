package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	stdcrypto "crypto"
)

// standardRSA is a key as the standard library knows it.
func standardRSA(t testing.TB, k *rsaKey) *rsa.PrivateKey {
	t.Helper()
	number := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: number(k.N), E: int(number(k.E).Int64())}, D: number(k.D),
		Primes: []*big.Int{number(k.P), number(k.Q)}}
	key.Precompute()
	if err := key.Validate(); err != nil {
		t.Fatal(err)
	}
	if key.Precomputed.Dp.Cmp(number(k.DP)) != 0 || key.Precomputed.Dq.Cmp(number(k.DQ)) != 0 || key.Precomputed.Qinv.Cmp(number(k.QInv)) != 0 {
		t.Fatal("the parts for the chinese remainder theorem are wrong")
	}
	return key
}

// ownRSA is a key of the standard library as azprov keeps it.
func ownRSA(key *rsa.PrivateKey) *rsaKey {
	key.Precompute()
	return &rsaKey{N: key.N.Bytes(), E: big.NewInt(int64(key.E)).Bytes(), D: key.D.Bytes(), P: key.Primes[0].Bytes(), Q: key.Primes[1].Bytes(),
		DP: key.Precomputed.Dp.Bytes(), DQ: key.Precomputed.Dq.Bytes(), QInv: key.Precomputed.Qinv.Bytes()}
}

// TestGeneratedRSA has openssl check keys of every size that is made, and uses them.
func TestGeneratedRSA(t *testing.T) {
	need(t, "openssl")
	for _, size := range []int{1024, 2048, 2048, 2048, 3072} {
		k, err := generateRSA(context.Background(), size)
		if err != nil {
			t.Fatal(err)
		}
		key := standardRSA(t, k)
		if key.N.BitLen() != size || !key.Primes[0].ProbablyPrime(64) || !key.Primes[1].ProbablyPrime(64) {
			t.Fatalf("%d bits asked for, %d made, or not primes", size, key.N.BitLen())
		}
		file := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("openssl", "rsa", "-in", file, "-check", "-noout").CombinedOutput(); err != nil || !strings.Contains(string(out), "RSA key ok") {
			t.Fatalf("openssl rsa -check: %v: %s", err, out)
		}
		digest := sha256.Sum256([]byte("text"))
		sig, err := k.signSHA256(digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if err := rsa.VerifyPKCS1v15(&key.PublicKey, stdcrypto.SHA256, digest[:], sig); err != nil {
			t.Fatal(err)
		}
		// Without the primes the result is the same.
		if slow, err := (&rsaKey{N: k.N, E: k.E, D: k.D}).signSHA256(digest[:]); err != nil || !bytes.Equal(slow, sig) {
			t.Fatalf("modulo N: %x, %v", slow, err)
		}
	}
	for _, size := range []int{0, 512, 2000, 1 << 20} {
		if _, err := generateRSA(context.Background(), size); err == nil {
			t.Errorf("a key of %d bits was made", size)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := generateRSA(ctx, 4096); err == nil {
		t.Error("a cancelled generation gave a key")
	}
}

func TestPrimeTest(t *testing.T) {
	// The first is a strong pseudoprime to the bases 2 to 23.
	for text, want := range map[string]bool{"3825123056546413051": false, "18446744073709551427": true,
		"170141183460469231731687303715884105727": true, "9223372036854775783": true, "9223372036854775787": false} {
		n, _ := new(big.Int).SetString(text, 10)
		if n.Bit(1) != 1 || n.ProbablyPrime(20) != want {
			t.Fatalf("%s is no number for this test", text)
		}
		if got, err := probablyPrime(limbsOf(n.Bytes(), (n.BitLen()+63)/64)); err != nil || got != want {
			t.Errorf("%s: prime is %v, %v", text, got, err)
		}
	}
}

func TestSieve(t *testing.T) {
	primes := smallPrimes()
	if len(primes) != 6541 || primes[0] != 3 || primes[len(primes)-1] != 65521 {
		t.Fatalf("%d primes from %d to %d", len(primes), primes[0], primes[len(primes)-1])
	}
	n, _ := new(big.Int).SetString("c123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 16)
	composite := sieve(limbsOf(n.Bytes(), 4), primes)
	rest := new(big.Int)
	for k, out := range composite {
		c := new(big.Int).Add(n, big.NewInt(int64(4*k)))
		want := rest.Mod(c, big.NewInt(rsaExponent)).Int64() == 1
		for _, p := range primes {
			want = want || rest.Mod(c, big.NewInt(int64(p))).Sign() == 0
		}
		if out != want {
			t.Fatalf("start + 4*%d: struck out is %v, should be %v", k, out, want)
		}
	}
}

func TestRSADecrypt(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k := ownRSA(key)
	text := []byte("sixteen or so by")
	em := append(bytes.Repeat([]byte{0xa5}, 256-len(text)), text...)
	em[0], em[1], em[255-len(text)] = 0, 2, 0
	raise := func(em []byte) []byte {
		return new(big.Int).Exp(new(big.Int).SetBytes(em), big.NewInt(int64(key.E)), key.N).FillBytes(make([]byte, 256))
	}
	pkcs1 := raise(em)
	if got, err := k.decryptPKCS1(pkcs1, len(text)); err != nil || !bytes.Equal(got, text) {
		t.Errorf("PKCS1-v1_5: %q, %v", got, err)
	}
	if got, err := k.decryptPKCS1(pkcs1, 24); err != nil || len(got) != 24 || bytes.Contains(got, text[8:]) {
		t.Errorf("a key of another length: %x, %v", got, err)
	}
	for _, at := range []int{0, 1, 2, 100, 239 - 1, 239} {
		bad := bytes.Clone(em)
		if bad[at] = 0; at == 0 || at == 239 {
			bad[at] = 1
		}
		if got, err := k.decryptPKCS1(raise(bad), len(text)); err != nil || bytes.Equal(got, text) {
			t.Errorf("PKCS1-v1_5 with byte %d damaged: %q, %v", at, got, err)
		}
	}
	for _, size := range []int{0, 1, 16, 24, 190} {
		text := make([]byte, size)
		rand.Read(text)
		c, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &key.PublicKey, text, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.decryptOAEP(c, sha1Sum, sha1Sum); err != nil || !bytes.Equal(got, text) {
			t.Errorf("OAEP of %d bytes: %x, %v", size, got, err)
		}
		c[len(c)-1] ^= 1
		if _, err := k.decryptOAEP(c, sha1Sum, sha1Sum); err == nil {
			t.Errorf("damaged OAEP of %d bytes was opened", size)
		}
	}
	if _, err := k.private(k.N); err == nil {
		t.Error("an input as large as the modulus was taken")
	}
	for what, bad := range map[string]*rsaKey{"even": {N: append(bytes.Clone(k.N[:255]), 2), D: k.D}, "short": {N: k.N[:100], D: k.D}, "zero": {}} {
		if _, err := bad.private(pkcs1); err == nil {
			t.Errorf("a key with a bad modulus (%s) was used", what)
		}
	}
}

func TestSHA1(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef\xff"), 20)
	for n := range len(text) {
		want := sha1.Sum(text[:n])
		if got := sha1Sum(text[:n/3], text[n/3:n]); !bytes.Equal(got, want[:]) {
			t.Fatalf("SHA-1 of %d bytes: %x, want %x", n, got, want)
		}
	}
}

func BenchmarkGenerateRSA2048(b *testing.B) {
	for b.Loop() {
		if _, err := generateRSA(context.Background(), 2048); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignRSA2048(b *testing.B) {
	k, err := generateRSA(context.Background(), 2048)
	if err != nil {
		b.Fatal(err)
	}
	digest := make([]byte, 32)
	for b.Loop() {
		k.signSHA256(digest)
	}
}
