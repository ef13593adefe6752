package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/rand"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The base point of P-256 times numbers, at the borders too.
func TestP256(t *testing.T) {
	order := elliptic.P256().Params().N
	numbers := []*big.Int{big.NewInt(1), big.NewInt(2), big.NewInt(3), new(big.Int).Sub(order, big.NewInt(1)), new(big.Int).Sub(order, big.NewInt(2)), new(big.Int).Lsh(big.NewInt(1), 255)}
	for range 40 {
		n, _ := rand.Int(rand.Reader, order)
		numbers = append(numbers, n)
	}
	for _, n := range numbers {
		d := n.FillBytes(make([]byte, 32))
		theirs, err := ecdh.P256().NewPrivateKey(d)
		if err != nil {
			t.Fatal(err)
		}
		want := theirs.PublicKey().Bytes()
		if got := newP256().multiply(d); !bytes.Equal(got, want) {
			t.Fatalf("%x: %x, want %x", d, got, want)
		}
	}
}

// testKeys makes a key of every type, by its name in file names.
func testKeys(t testing.TB, rsaBits int) map[string]*sshKeyPair {
	t.Helper()
	keys := map[string]*sshKeyPair{}
	var err error
	if keys["ed25519"], err = newEd25519(); err != nil {
		t.Fatal(err)
	}
	if keys["ecdsa"], err = newECDSA(); err != nil {
		t.Fatal(err)
	}
	k, err := generateRSA(context.Background(), rsaBits)
	if err != nil {
		t.Fatal(err)
	}
	keys["rsa"] = newSSHRSA(k)
	return keys
}

// Private key files of every type, as OpenSSH's and dropbear's own tools read them.
func TestPrivateKeyFiles(t *testing.T) {
	need(t, "ssh-keygen", "dropbearkey", "dropbearconvert")
	for round := range 8 {
		bits := 1024
		if round == 0 {
			bits = 3072
		}
		for kind, k := range testKeys(t, bits) {
			// The padding depends on the comment.
			comment := "root@" + strings.Repeat("h", round)
			dir := t.TempDir()
			file, drop := filepath.Join(dir, "key"), filepath.Join(dir, "dropbear")
			text, err := k.openSSHFile(comment)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(drop, k.dropbear, 0o600); err != nil {
				t.Fatal(err)
			}
			want := publicLine(k.public, "")
			if got := strings.TrimSpace(command(t, "ssh-keygen", "-y", "-f", file)); got != publicLine(k.public, comment) && got != want {
				t.Errorf("%s: ssh-keygen -y says %s, want %s", kind, got, want)
			}
			sha, _ := fingerprints(k.public)
			if got := command(t, "ssh-keygen", "-l", "-f", file); !strings.Contains(got, " "+sha+" ") {
				t.Errorf("%s: ssh-keygen -l says %s, want %s", kind, got, sha)
			}
			if round > 0 {
				continue
			}
			// It signs, and the signature fits to the public key.
			command(t, "sh", "-ec", "cd "+dir+"; echo x >data; ssh-keygen -q -Y sign -f key -n file data; printf 'a %s\n' '"+want+"' >allowed; ssh-keygen -q -Y verify -f allowed -I a -n file -s data.sig <data")
			if got := command(t, "dropbearkey", "-y", "-f", drop); !strings.Contains(got, want) || !strings.Contains(got, sha) && !strings.Contains(got, "Fingerprint: ") {
				t.Errorf("%s: dropbearkey -y says %s, want %s", kind, got, want)
			}
			// Dropbear's converter makes of each file the other.
			command(t, "dropbearconvert", "openssh", "dropbear", file, drop+"2")
			if data, _ := os.ReadFile(drop + "2"); !bytes.Equal(data, k.dropbear) {
				t.Errorf("%s: dropbearconvert makes another file", kind)
			}
			for name, got := range map[string]func() ([]byte, error){
				"parseOpenSSH":  func() ([]byte, error) { return parseOpenSSH(text) },
				"parseDropbear": func() ([]byte, error) { return parseDropbear(k.dropbear) },
			} {
				if public, err := got(); err != nil || !bytes.Equal(public, k.public) {
					t.Errorf("%s: %s: %x, %v", kind, name, public, err)
				}
			}
		}
	}
}

// Keys that ssh-keygen and dropbearkey make are read; what is none is not.
func TestForeignPrivateKeyFiles(t *testing.T) {
	need(t, "ssh-keygen", "dropbearkey")
	dir := t.TempDir()
	for kind, bits := range map[string]string{"ed25519": "256", "ecdsa": "384", "rsa": "2048"} {
		for _, passphrase := range []string{"", "secret"} {
			file := filepath.Join(dir, kind+passphrase)
			command(t, "ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", passphrase, "-C", "c", "-f", file)
			text, _ := os.ReadFile(file)
			line, _ := os.ReadFile(file + ".pub")
			if public, err := parseOpenSSH(text); err != nil || publicLine(public, "c")+"\n" != string(line) {
				t.Errorf("%s: %v", file, err)
			}
			for n := range text {
				if n < len(text)-2 {
					if _, err := parseOpenSSH(text[:n]); err == nil {
						t.Fatalf("%s: the first %d bytes of %d are a key", file, n, len(text))
					}
				}
			}
		}
		file := filepath.Join(dir, kind+".dropbear")
		out := command(t, "dropbearkey", "-t", kind, "-s", bits, "-f", file)
		data, _ := os.ReadFile(file)
		public, err := parseDropbear(data)
		if err != nil || !strings.Contains(out, publicLine(public, "")) {
			t.Errorf("%s: %v", file, err)
		}
		for n := range data {
			if _, err := parseDropbear(data[:n]); err == nil {
				t.Fatalf("%s: the first %d bytes of %d are a key", file, n, len(data))
			}
		}
	}
}

// FuzzPrivateKeyFiles: what is taken for a key names its type, and OpenSSH's
// files keep the public key that they hold.
func FuzzPrivateKeyFiles(f *testing.F) {
	for _, k := range testKeys(f, 1024) {
		text, err := k.openSSHFile("root@edge")
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(text))
		f.Add([]byte(k.dropbear))
	}
	f.Add([]byte(openSSHBegin + openSSHEnd))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func([]byte) ([]byte, error){parseOpenSSH, parseDropbear} {
			public, err := parse(data)
			if (err == nil) != (len(public) > 0) || err == nil && blobType(public) == "" {
				t.Errorf("%x: %x, %v", data, public, err)
			}
			if err == nil {
				fingerprints(public)
				k := &sshKeyPair{public: public, private: public}
				text, err := k.openSSHFile("c")
				if err != nil {
					t.Fatal(err)
				}
				if again, err := parseOpenSSH(text); err != nil || !bytes.Equal(again, public) {
					t.Errorf("%x: again %x, %v", public, again, err)
				}
			}
		}
	})
}
