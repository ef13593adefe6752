package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// certificateSamples returns files below testdata/certificates that openssl has
// made, by name.
func certificateSamples(t testing.TB, pattern string) map[string][]byte {
	t.Helper()
	names, _ := filepath.Glob("testdata/certificates/" + pattern)
	if len(names) == 0 {
		t.Fatal("no samples")
	}
	files := map[string][]byte{}
	for _, n := range names {
		files[filepath.Base(n)] = readFile(t, n)
	}
	return files
}

func sampleRecipient(t testing.TB) *recipient {
	return testRecipient(t, "testdata/certificates/transport.key", "testdata/certificates/transport.crt")
}

// summary names all that a store holds.
func (s *keyStore) summary() string {
	text := ""
	for i, c := range s.certificates {
		text += c.thumbprint()
		if k := s.keyOf(i); k != nil {
			text += fmt.Sprintf(" with %x", sha256.Sum256(k.pkcs8))
		}
		text += "\n"
	}
	return text + fmt.Sprint(len(s.keys))
}

// TestCertificatesMutated damages documents at each bit (of the large envelopes, at
// each fifth) and cuts them off at each byte (fifth): what is opened all the same is what
// it was.
func TestCertificatesMutated(t *testing.T) {
	to := sampleRecipient(t)
	openers := map[string]func([]byte) (*keyStore, error){
		"*.cms":  func(b []byte) (*keyStore, error) { return (&certificateFile{Data: b}).open(to) },
		"*s.pfx": openPFX, "rc2.pfx": openPFX,
	}
	for pattern, open := range openers {
		for name, whole := range certificateSamples(t, pattern) {
			s, err := open(whole)
			if err != nil || len(s.certificates) != 2 || len(s.keys) != 1 || len(s.notes) != 0 {
				t.Fatalf("%s: %v, %+v", name, err, s)
			}
			want, step := s.summary(), 1
			if pattern == "*.cms" {
				step = 5
			}
			for bit := 0; bit < 8*len(whole); bit += step {
				bad := bytes.Clone(whole)
				bad[bit/8] ^= 1 << (bit % 8)
				if s, err := open(bad); err == nil && s.summary() != want {
					t.Errorf("%s with bit %d changed holds %s", name, bit, s.summary())
				}
			}
			for n := range whole {
				// Nothing at all is how the platform says that there are none.
				if pattern == "*.cms" && (n == 0 || n%5 > 0 && n < len(whole)-5) {
					continue
				}
				if _, err := open(whole[:n]); err == nil {
					t.Errorf("%s was opened when cut off at %d of %d", name, n, len(whole))
				}
			}
		}
	}
}

// TestPFXWithoutMAC has nothing that tells damage: it must only not crash.
func TestPFXWithoutMAC(t *testing.T) {
	whole := readFile(t, "testdata/certificates/plain.pfx")
	for bit := range 8 * len(whole) {
		bad := bytes.Clone(whole)
		bad[bit/8] ^= 1 << (bit % 8)
		if s, err := openPFX(bad); err == nil {
			s.json()
		}
	}
}

// TestDERBounds nests and stretches elements beyond all measure.
func TestDERBounds(t *testing.T) {
	deep := ""
	for range 200 {
		deep = der(derSequence, deep)
	}
	r := newDERReader([]byte(deep))
	for in := r; in.more(); {
		in = in.enter(derSequence)
	}
	indefinite := bytes.Repeat([]byte{0x30, 0x80}, 100_000)
	if _, _, _, err := derElement(indefinite, 0); err != errDERDeep {
		t.Errorf("100000 open elements: %v", err)
	}
	nested := bytes.Repeat([]byte{0x24, 0x80}, 30)
	nested = append(nested, 0x04, 0x01, 'x')
	nested = append(nested, make([]byte, 60)...)
	if got := newDERReader(nested).octets(derOctets); string(got) != "x" {
		t.Errorf("30 nested strings: %q", got)
	}
	for _, b := range [][]byte{{0x04, 0x85, 0, 0, 0, 0, 1, 'x'}, {0x04, 0x84, 0xff, 0xff, 0xff, 0xff}, {0x04, 0x02, 'x'}, {0x04, 0x80, 0, 0}, {0x1f, 0x81, 0x01, 0x00}, {0x04}, {0x30, 0x80, 0x04, 0x01}} {
		in := newDERReader(b)
		if in.next(); *in.err == nil {
			t.Errorf("%x was taken", b)
		}
	}
	for length := range 70_000 {
		if length > 300 && length < 65_500 {
			continue
		}
		in := newDERReader([]byte(der(derOctets, strings.Repeat("x", length))))
		if got := in.take(derOctets); *in.err != nil || len(got) != length || in.more() {
			t.Fatalf("%d bytes: %v", length, *in.err)
		}
	}
}

func FuzzDER(f *testing.F) {
	for _, b := range certificateSamples(f, "*.pfx") {
		f.Add(b)
	}
	var walk func(t *testing.T, r *derReader)
	walk = func(t *testing.T, r *derReader) {
		for r.more() {
			tag, content, raw := r.next()
			if *r.err != nil {
				return
			}
			if len(raw) < len(content)+2 || len(content) > 0 && !bytes.Contains(raw, content) {
				t.Fatalf("%x of %x", content, raw)
			}
			if tag&derMade != 0 {
				walk(t, &derReader{rest: content, depth: r.depth + 1, err: r.err})
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		walk(t, newDERReader(b))
		newDERReader(b).octets(derOctets)
		if c, err := parseCertificate(b); err == nil {
			nameText(c.Subject)
		}
		if k, err := parsePKCS8(b); err == nil {
			k.file()
		}
	})
}

func FuzzCMS(f *testing.F) {
	to := sampleRecipient(f)
	for _, b := range certificateSamples(f, "*.cms") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := (&certificateFile{Data: b}).open(to); err == nil {
			s.json()
		}
	})
}

func FuzzPFX(f *testing.F) {
	for _, b := range certificateSamples(f, "*.pfx") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := openPFX(b); err == nil {
			s.json()
			for i := range s.certificates {
				if k := s.keyOf(i); k != nil {
					k.file()
				}
			}
		}
	})
}
