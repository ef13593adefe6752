package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Sizes around every border of a block, in one part and in two.
func TestShortHashes(t *testing.T) {
	data := make([]byte, 300)
	rand.Read(data)
	for n := range data {
		for _, parts := range [][][]byte{{data[:n]}, {data[:n/3], nil, data[n/3 : n]}} {
			if want := sha256.Sum256(data[:n]); !bytes.Equal(sha256Sum(parts...), want[:]) {
				t.Fatalf("SHA-256 of %d bytes in %d parts", n, len(parts))
			}
			if want := md5.Sum(data[:n]); !bytes.Equal(md5Sum(parts...), want[:]) {
				t.Fatalf("MD5 of %d bytes in %d parts", n, len(parts))
			}
		}
	}
}

func TestMpint(t *testing.T) {
	for number, want := range map[string]string{
		"": "\x00\x00\x00\x00", "\x00": "\x00\x00\x00\x00", "\x7f": "\x00\x00\x00\x01\x7f", "\x80": "\x00\x00\x00\x02\x00\x80",
		"\x00\x00\x80": "\x00\x00\x00\x02\x00\x80", "\x09\xa3": "\x00\x00\x00\x02\x09\xa3",
	} {
		if got := appendMpint(nil, []byte(number)); string(got) != want {
			t.Errorf("%x: %x, want %x", number, got, want)
		}
	}
}

// ssh-keygen reads the lines that are made of keys of every type and prints the
// same fingerprints.
func TestPublicLines(t *testing.T) {
	need(t, "ssh-keygen")
	blobs := map[string][]byte{}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	blobs["ED25519"] = ed25519Blob(public)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	blobs["RSA"] = rsaBlob(big.NewInt(int64(key.E)).Bytes(), key.N.Bytes())
	for name, curve := range map[string]elliptic.Curve{"nistp256": elliptic.P256(), "nistp384": elliptic.P384(), "nistp521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		blobs["ECDSA "+name] = ecdsaBlob(name, point)
	}
	for name, blob := range blobs {
		file := filepath.Join(t.TempDir(), "key.pub")
		if err := os.WriteFile(file, []byte(publicLine(blob, "root@edge")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(name, " ")
		sha, md5 := fingerprints(blob)
		for option, want := range map[string]string{"sha256": sha, "md5": "MD5:" + md5} {
			fields := strings.Fields(command(t, "ssh-keygen", "-l", "-E", option, "-f", file))
			if len(fields) != 4 || fields[1] != want || fields[2] != "root@edge" || fields[3] != "("+kind+")" {
				t.Errorf("%s: ssh-keygen says %v, we %s", name, fields, want)
			}
		}
		if k, err := parsePublicKey(publicLine(blob, "")); err != nil || k.Type != blobType(blob) || k.Base64 != base64.StdEncoding.EncodeToString(blob) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
