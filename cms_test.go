package main

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openssl runs openssl with input and returns its output.
func openssl(t testing.TB, input []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(input)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, errors.Bytes())
	}
	return out
}

// madeKeys makes key pairs with self-signed certificates: files of openssl.
type madeKeys struct {
	t   testing.TB
	dir string
}

func newMadeKeys(t testing.TB) *madeKeys {
	need(t, "openssl")
	return &madeKeys{t, t.TempDir()}
}

// make makes NAME.key and NAME.crt. The kind is what openssl req -newkey takes.
func (k *madeKeys) make(name string, newkey ...string) (key, crt string) {
	k.t.Helper()
	key, crt = filepath.Join(k.dir, name+".key"), filepath.Join(k.dir, name+".crt")
	args := append([]string{"req", "-x509", "-nodes", "-days", "3650", "-subj", "/O=Contoso/CN=" + name, "-keyout", key, "-out", crt, "-newkey"}, newkey...)
	openssl(k.t, nil, args...)
	return key, crt
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testRecipient is what the files of a key and its certificate address.
func testRecipient(t testing.TB, keyFile, crtFile string) *recipient {
	t.Helper()
	to, err := loadRecipient(readFile(t, keyFile), readFile(t, crtFile))
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// TestCMS opens what openssl cms has encrypted, in every combination.
func TestCMS(t *testing.T) {
	keys := newMadeKeys(t)
	key, crt := keys.make("transport", "rsa:2048")
	to := testRecipient(t, key, crt)
	otherKey, otherCrt := keys.make("other", "rsa:2048")
	other := testRecipient(t, otherKey, otherCrt)
	text := bytes.Repeat([]byte("what the platform has to say\n"), 100)
	wraps := map[string][]string{
		"pkcs1":          nil,
		"oaep":           {"-keyopt", "rsa_padding_mode:oaep"},
		"oaep-sha256":    {"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"},
		"oaep-sha256-1":  {"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha1"},
		"oaep-sha1-sha2": {"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha1", "-keyopt", "rsa_mgf1_md:sha256"},
	}
	for _, cipher := range []string{"-aes-128-cbc", "-aes-192-cbc", "-aes-256-cbc", "-des3"} {
		for wrap, wrapArgs := range wraps {
			for form, formArgs := range map[string][]string{"issuer": nil, "keyid": {"-keyid"}, "indefinite": {"-stream", "-keyid"}} {
				args := append([]string{"cms", "-encrypt", "-binary", "-outform", "DER", cipher}, formArgs...)
				args = append(append(args, "-recip", crt), wrapArgs...)
				doc := openssl(t, text, args...)
				got, err := openCMS(doc, to)
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("%s %s %s: %d bytes, %v", cipher, wrap, form, len(got), err)
				}
				if form == "indefinite" && doc[1] != 0x80 {
					t.Errorf("the document is not of indefinite length")
				}
				if _, err := openCMS(doc, other); err != errNotForUs {
					t.Errorf("%s %s %s: another recipient gets %v", cipher, wrap, form, err)
				}
				// A key that is addressed but not the right one.
				wrong := *to
				wrong.key = other.key
				if got, err := openCMS(doc, &wrong); err == nil && bytes.Equal(got, text) {
					t.Errorf("%s %s %s: opened by a wrong key", cipher, wrap, form)
				}
			}
		}
	}
	// Several recipients, ours last.
	doc := openssl(t, text, "cms", "-encrypt", "-binary", "-outform", "DER", "-aes128", "-keyid", "-recip", otherCrt, "-recip", crt)
	if got, err := openCMS(doc, to); err != nil || !bytes.Equal(got, text) {
		t.Errorf("two recipients: %v", err)
	}
	for what, args := range map[string][]string{
		"signed":    {"cms", "-sign", "-binary", "-outform", "DER", "-signer", crt, "-inkey", key},
		"gcm":       {"cms", "-encrypt", "-binary", "-outform", "DER", "-aes-128-gcm", "-recip", crt},
		"camellia":  {"cms", "-encrypt", "-binary", "-outform", "DER", "-camellia128", "-recip", crt},
		"oaep-sha3": {"cms", "-encrypt", "-binary", "-outform", "DER", "-aes128", "-recip", crt, "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha3-256"},
		"password":  {"cms", "-encrypt", "-binary", "-outform", "DER", "-aes128", "-pwri_password", "x"},
	} {
		if got, err := openCMS(openssl(t, text, args...), to); err == nil {
			t.Errorf("%s: opened as %d bytes", what, len(got))
		}
	}
}

// TestTransport has the standard library and openssl judge the certificate, and
// opens what openssl encrypts for it.
func TestTransport(t *testing.T) {
	need(t, "openssl")
	tr, err := newTransport(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(tr.certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Error(err)
	}
	public := x509.MarshalPKCS1PublicKey(c.PublicKey.(*rsa.PublicKey))
	if id := sha1.Sum(public); c.Version != 3 || !bytes.Equal(c.SubjectKeyId, id[:]) || !c.IsCA || c.SerialNumber.Sign() <= 0 ||
		c.NotBefore.After(time.Now()) || c.NotAfter.Year() != 2049 || c.Subject.CommonName != transportName {
		t.Errorf("version %d, key id %x, %s, from %v to %v", c.Version, c.SubjectKeyId, c.Subject, c.NotBefore, c.NotAfter)
	}
	file := filepath.Join(t.TempDir(), "transport.crt")
	if err := os.WriteFile(file, pemBlock("CERTIFICATE", tr.certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := openssl(t, nil, "verify", "-x509_strict", "-CAfile", file, file); !bytes.HasSuffix(bytes.TrimSpace(out), []byte("OK")) {
		t.Errorf("openssl verify: %s", out)
	}
	for _, args := range [][]string{{"-des3", "-keyid", "-recip", file}, {"-aes128", "-recip", file}, {"-aes128", "-keyid", "-recip", file, "-keyopt", "rsa_padding_mode:oaep"}} {
		args = append([]string{"cms", "-encrypt", "-binary", "-outform", "DER"}, args...)
		if got, err := openCMS(openssl(t, []byte("text"), args...), &tr.recipient); err != nil || string(got) != "text" {
			t.Errorf("%s: %q, %v", args, got, err)
		}
	}
	if h := tr.header("AES128_CBC"); h[0].value != "AES128_CBC" || strings.ContainsAny(h[1].value, "\r\n ") || len(h) != 2+len(machineHeader) {
		t.Errorf("header %v", h)
	}
	own, err := parseCertificate(tr.certificate)
	if err != nil || !bytes.Equal(own.KeyID, tr.keyID) || !bytes.Equal(own.Issuer, tr.issuer) || !bytes.Equal(own.Serial, tr.serial) {
		t.Errorf("read back: %v, %+v", err, own)
	}
}

// TestCertificate compares what is read from certificates of every kind with what
// the standard library reads.
func TestCertificate(t *testing.T) {
	need(t, "ssh-keygen")
	keys := newMadeKeys(t)
	for name, kind := range map[string][]string{
		"rsa": {"rsa:2048"}, "rsa4096": {"rsa:4096"},
		"p256": {"ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, "p384": {"ec", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"p521": {"ec", "-pkeyopt", "ec_paramgen_curve:P-521"}, "ed25519": {"ed25519"},
		"secp256k1": {"ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"}, "ed448": {"ed448"},
	} {
		key, crt := keys.make(name, kind...)
		block, _ := pem.Decode(readFile(t, crt))
		c, err := parseCertificate(block.Bytes)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := openssl(t, nil, "x509", "-in", crt, "-noout", "-fingerprint", "-sha1")
		if want := strings.ReplaceAll(string(bytes.TrimSpace(text)), ":", ""); !strings.HasSuffix(want, "="+c.thumbprint()) {
			t.Errorf("%s: thumbprint %s, openssl says %s", name, c.thumbprint(), want)
		}
		if got := nameText(c.Subject); got != "O=Contoso, CN="+name {
			t.Errorf("%s: subject %q", name, got)
		}
		private, _ := pem.Decode(readFile(t, key))
		k, err := parsePKCS8(private.Bytes)
		if name == "secp256k1" || name == "ed448" {
			if c.Public != nil || err == nil && k.public != nil {
				t.Errorf("%s has a public key for SSH", name)
			}
			continue
		}
		if err != nil || !bytes.Equal(k.public, c.Public) {
			t.Errorf("%s: key and certificate differ: %v", name, err)
			continue
		}
		public := filepath.Join(keys.dir, name+".pub")
		if err := os.WriteFile(public, openssl(t, nil, "x509", "-in", crt, "-noout", "-pubkey"), 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "ed25519" { // ssh-keygen -i takes no Ed25519
			std, _ := x509.ParseCertificate(block.Bytes)
			if !bytes.HasSuffix(c.Public, std.RawSubjectPublicKeyInfo[12:]) {
				t.Errorf("%s: %x", name, c.Public)
			}
			continue
		}
		out, err := exec.Command("ssh-keygen", "-i", "-m", "PKCS8", "-f", public).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != publicLine(c.Public, "") {
			t.Errorf("%s: %s, ssh-keygen says %s", name, publicLine(c.Public, ""), out)
		}
	}
}
