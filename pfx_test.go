package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	stdsha1 "crypto/sha1"
	stdsha256 "crypto/sha256"
	stdsha512 "crypto/sha512"
	"encoding/pem"
	"hash"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPFX opens what openssl pkcs12 has exported, in every combination.
func TestPFX(t *testing.T) {
	keys := newMadeKeys(t)
	key, crt := keys.make("vm", "rsa:2048")
	_, extra := keys.make("root", "rsa:2048")
	wantKey, _ := pem.Decode(readFile(t, key))
	wantCrt, _ := pem.Decode(readFile(t, crt))
	wantExtra, _ := pem.Decode(readFile(t, extra))
	check := func(what string, file []byte) {
		t.Helper()
		s, err := openPFX(file)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if len(s.certificates) != 2 || len(s.keys) != 1 || len(s.notes) != 0 {
			t.Errorf("%s: %d certificates, %d keys, notes %q", what, len(s.certificates), len(s.keys), s.notes)
			return
		}
		for i, c := range s.certificates {
			switch k := s.keyOf(i); {
			case bytes.Equal(c.DER, wantCrt.Bytes):
				if k == nil || !bytes.Equal(k.pkcs8, wantKey.Bytes) {
					t.Errorf("%s: the key is missing or another", what)
				}
			case bytes.Equal(c.DER, wantExtra.Bytes):
				if k != nil {
					t.Errorf("%s: a certificate got a key that isn't its own", what)
				}
			default:
				t.Errorf("%s: an unknown certificate", what)
			}
		}
	}
	export := func(args ...string) []byte {
		t.Helper()
		return openssl(t, nil, append([]string{"pkcs12", "-export", "-legacy", "-passout", "pass:", "-inkey", key, "-in", crt, "-certfile", extra, "-name", "TenantEncryptionCert"}, args...)...)
	}
	schemes := []string{"PBE-SHA1-3DES", "PBE-SHA1-RC2-40", "PBE-SHA1-RC2-128", "AES-128-CBC", "AES-192-CBC", "AES-256-CBC", "DES-EDE3-CBC"}
	macs := []string{"sha1", "sha256", "sha384", "sha512"}
	for i, keyScheme := range schemes {
		for j, crtScheme := range schemes {
			mac := macs[(i+j)%len(macs)]
			check(keyScheme+" "+crtScheme+" "+mac, export("-keypbe", keyScheme, "-certpbe", crtScheme, "-macalg", mac))
		}
	}
	for _, scheme := range schemes {
		check(scheme+" without mac", export("-keypbe", scheme, "-certpbe", scheme, "-nomac"))
	}
	check("nothing encrypted", export("-keypbe", "NONE", "-certpbe", "NONE"))
	check("one round", export("-iter", "1", "-nomaciter"))
	check("many rounds", export("-iter", "50000", "-macalg", "sha512"))

	for what, file := range map[string][]byte{
		"too many rounds":     export("-iter", "1000001"),
		"under a password":    export("-passout", "pass:secret"),
		"unknown mac":         export("-macalg", "sha3-256"),
		"sha-224, not known":  export("-macalg", "sha224"),
		"not a pfx":           wantCrt.Bytes,
		"empty":               {},
		"a sequence of zeros": {0x30, 0x80, 0, 0},
	} {
		if s, err := openPFX(file); err == nil {
			t.Errorf("%s: opened with %d certificates", what, len(s.certificates))
		}
	}
	// What isn't known is left out, and said.
	s, err := openPFX(export("-keypbe", "camellia-128-cbc", "-certpbe", "PBE-SHA1-3DES"))
	if err != nil || len(s.certificates) != 2 || len(s.keys) != 0 || len(s.notes) != 1 {
		t.Errorf("an unknown cipher of the key: %+v, %v", s, err)
	}
}

// TestPFXKinds pairs keys of every kind with their certificates.
func TestPFXKinds(t *testing.T) {
	keys := newMadeKeys(t)
	for name, kind := range map[string][]string{
		"p256": {"ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, "p384": {"ec", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"p521": {"ec", "-pkeyopt", "ec_paramgen_curve:P-521"}, "ed25519": {"ed25519"},
	} {
		key, crt := keys.make(name, kind...)
		s, err := openPFX(openssl(t, nil, "pkcs12", "-export", "-passout", "pass:", "-inkey", key, "-in", crt))
		if err != nil || len(s.certificates) != 1 || s.keyOf(0) == nil {
			t.Errorf("%s: %v, %+v", name, err, s)
			continue
		}
		// The written file is one for ssh-keygen.
		need(t, "ssh-keygen")
		file, err := s.keyOf(0).file()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "id")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := sshKeygenPublic(t, path); got != publicLine(s.certificates[0].Public, "") {
			t.Errorf("%s: ssh-keygen -y says %s", name, got)
		}
	}
	// A key that leaves its public part out is found by localKeyID.
	for _, curve := range []string{"P-256", "P-384"} {
		key, crt := keys.make("no-public-"+curve, "ec", "-pkeyopt", "ec_paramgen_curve:"+curve)
		bare := key + ".bare"
		openssl(t, nil, "ec", "-in", key, "-no_public", "-out", bare)
		s, err := openPFX(openssl(t, nil, "pkcs12", "-export", "-passout", "pass:", "-inkey", bare, "-in", crt))
		if err != nil || len(s.certificates) != 1 || s.keyOf(0) == nil {
			t.Errorf("%s without public key: %v", curve, err)
		}
	}
}

func TestDigests(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789"), 40)
	for _, c := range []struct {
		oid string
		new func() hash.Hash
	}{{oidSHA1, stdsha1.New}, {oidSHA256, stdsha256.New}, {oidNIST + "\x02\x02", stdsha512.New384}, {oidNIST + "\x02\x03", stdsha512.New}} {
		d := digestOf(c.oid)
		for n := range len(long) {
			h := c.new()
			h.Write(long[:n])
			if got := d.sum(long[:n/2], long[n/2:n]); !bytes.Equal(got, h.Sum(nil)) {
				t.Fatalf("%x: hash of %d bytes: %x", c.oid, n, got)
			}
			m := hmac.New(c.new, long[n/2:])
			m.Write(long[:n])
			if got := d.hmac(long[n/2:], long[:n]); !bytes.Equal(got, m.Sum(nil)) {
				t.Fatalf("%x: hmac of %d bytes: %x", c.oid, n, got)
			}
		}
		for _, size := range []int{1, 16, 20, 32, 64, 100} {
			want, err := pbkdf2.Key(c.new, "password", long[:8], 3, size)
			if err != nil {
				t.Fatal(err)
			}
			left := rounds(1000)
			if got, err := left.pbkdf2(d, []byte("password"), long[:8], 3, size); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%x: pbkdf2 of %d bytes: %x, %v", c.oid, size, got, err)
			}
		}
	}
	left := rounds(1000)
	if _, err := left.pbkdf2(digestOf(oidSHA1), nil, nil, 501, 40); err != errRounds {
		t.Errorf("1002 of 1000 rounds: %v", err)
	}
	if _, err := left.pkcs12Key(digestOf(oidSHA1), pkcs12ForKey, nil, nil, 1, 8); err != errRounds {
		t.Errorf("one of -2 rounds: %v", err)
	}
}

func TestOIDText(t *testing.T) {
	for oid, want := range map[string]string{oidDES3: "1.2.840.113549.3.7", oidSHA1: "1.3.14.3.2.26", oidNIST: "2.16.840.1.101.3.4", "\x88\x37\x01": "2.999.1", "": "of a wrong form"} {
		if got := oidText(oid); got != want {
			t.Errorf("%x: %s, want %s", oid, got, want)
		}
	}
}

// sshKeygenPublic is the public key that ssh-keygen -y makes of a private one,
// without comment.
func sshKeygenPublic(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("ssh-keygen", "-y", "-f", path).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen -y: %v: %s", err, out)
	}
	return strings.Join(strings.Fields(string(out))[:2], " ")
}
