package main

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// Certificates (RFC 5280) and private keys (RFC 5958, RFC 8017, RFC 5915), down to
// the public key.

const (
	oidEC      = "\x2a\x86\x48\xce\x3d\x02\x01"
	oidEd25519 = "\x2b\x65\x70"
	oidKeyID   = "\x55\x1d\x0e"
)

// certificate is what azprov wants to know of one. Nothing is verified: neither
// the signature nor the dates.
type certificate struct {
	DER             []byte
	Issuer, Subject []byte // Name, encoded
	Serial          []byte
	KeyID           []byte // subjectKeyIdentifier; may be empty
	Public          []byte // the public key in SSH wire form; nil if it is of another kind
}

// thumbprint is the name of a certificate at the platform: SHA-1 in upper-case hex.
func (c *certificate) thumbprint() string { return upperHex(sha1Sum(c.DER)) }

func upperHex(b []byte) string {
	const digits = "0123456789ABCDEF"
	text := make([]byte, 0, 2*len(b))
	for _, v := range b {
		text = append(text, digits[v>>4], digits[v&15])
	}
	return string(text)
}

// parseCertificate reads one; what follows it is an error.
func parseCertificate(b []byte) (*certificate, error) {
	r := newDERReader(b)
	outer, raw := r.enterRaw(derSequence)
	if len(r.rest) > 0 {
		r.fail(errDER)
	}
	in := outer.enter(derSequence)
	if in.peek() == derContext|derMade { // version
		in.next()
	}
	c := &certificate{DER: raw, Serial: in.unsigned()}
	in.enter(derSequence)
	_, c.Issuer = in.enterRaw(derSequence)
	in.enter(derSequence)
	_, c.Subject = in.enterRaw(derSequence)
	public := in.enter(derSequence)
	oid, parameters := public.algorithm()
	c.Public = publicBlob(oid, parameters, public.bits())
	for in.more() {
		tag, content, _ := in.next()
		if tag != derContext|derMade|3 {
			continue
		}
		list := (&derReader{rest: content, depth: in.depth + 1, err: in.err}).enter(derSequence)
		for list.more() {
			extension := list.enter(derSequence)
			if extension.oid() == oidKeyID {
				value := extension.octets(derOctets)
				c.KeyID = newDERReader(value).take(derOctets)
			}
		}
	}
	if *r.err != nil {
		return nil, *r.err
	}
	return c, nil
}

// publicBlob is the SSH wire form of a SubjectPublicKeyInfo; nil for keys that SSH
// doesn't have.
func publicBlob(oid string, parameters *derReader, key []byte) []byte {
	switch oid {
	case oidRSA:
		in := newDERReader(key).enter(derSequence)
		n, e := in.unsigned(), in.unsigned()
		if *in.err == nil && len(n) >= minRSA && len(n) <= maxRSA && len(e) > 0 {
			return rsaBlob(e, n)
		}
	case oidEC:
		return pointBlob(parameters.oid(), key)
	case oidEd25519:
		if len(key) == 32 {
			return ed25519Blob(key)
		}
	}
	return nil
}

// pointBlob is the SSH wire form of a point of a curve, if it is not compressed.
func pointBlob(curve string, point []byte) []byte {
	name, size := "", 0
	switch curve {
	case "\x2a\x86\x48\xce\x3d\x03\x01\x07":
		name, size = "nistp256", 32
	case "\x2b\x81\x04\x00\x22":
		name, size = "nistp384", 48
	case "\x2b\x81\x04\x00\x23":
		name, size = "nistp521", 66
	}
	if name == "" || len(point) != 1+2*size || point[0] != 4 {
		return nil
	}
	return ecdsaBlob(name, point)
}

// privateKey is a key of the platform, ready to be paired and written.
type privateKey struct {
	pkcs8  secret
	rsa    *rsaKey // nil if it is of another kind
	inner  secret  // the key in the form of its kind: PKCS#1 for RSA
	public []byte  // in SSH wire form; nil if the file doesn't say
	seed   secret  // of an Ed25519 key
	id     []byte  // localKeyID in a PFX
}

func (k *privateKey) wipe() { k.pkcs8.wipe() }

var errUnknownKeyKind = errors.New("a private key that is neither RSA, ECDSA nor Ed25519")

// parsePKCS8 reads a PrivateKeyInfo that is not encrypted. The key refers to b.
func parsePKCS8(b []byte) (*privateKey, error) {
	r := newDERReader(b)
	in, raw := r.enterRaw(derSequence)
	in.count()
	oid, parameters := in.algorithm()
	k := &privateKey{pkcs8: raw, inner: in.octets(derOctets)}
	if *r.err != nil {
		return nil, *r.err
	}
	var err error
	switch oid {
	case oidRSA:
		if k.rsa, err = parsePKCS1(k.inner); err == nil {
			k.public = rsaBlob(k.rsa.E, k.rsa.N)
		}
	case oidEC:
		k.public, err = ecPublic(k.inner, parameters.oid())
	case oidEd25519:
		seed := newDERReader(k.inner).take(derOctets)
		if len(seed) != 32 {
			return nil, errKeySize
		}
		k.seed, k.public = seed, ed25519Blob(ed25519Public(seed))
	default:
		return nil, errUnknownKeyKind
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

// parsePKCS1 reads an RSAPrivateKey (RFC 8017, A.1.2).
func parsePKCS1(b []byte) (*rsaKey, error) {
	in, k := newDERReader(b).enter(derSequence), &rsaKey{}
	in.count()
	for _, field := range []*[]byte{&k.N, &k.E, &k.D, &k.P, &k.Q, &k.DP, &k.DQ, &k.QInv} {
		*field = in.unsigned()
	}
	if *in.err != nil {
		return nil, *in.err
	}
	return k, k.check()
}

// ecPublic returns the public key of an ECPrivateKey (RFC 5915, 3), which is nil
// where it is left out.
func ecPublic(b []byte, curve string) ([]byte, error) {
	in := newDERReader(b).enter(derSequence)
	in.count()
	in.octets(derOctets)
	var public []byte
	for in.more() {
		tag, content, _ := in.next()
		if tag == derContext|derMade|1 {
			public = newDERReader(content).bits()
		}
	}
	return pointBlob(curve, public), *in.err
}

// nameTypes are the short names of attributes 2.5.4.0 and on, two characters each.
const nameTypes = "      CN    C L ST  O OU"

// nameText is a Name as text, "CN=host, O=Contoso"; attributes without a common
// short name are left out. It is for people.
func nameText(name []byte) string {
	var parts []string
	r := newDERReader(name).enter(derSequence)
	for r.more() {
		set := r.enter(derSet)
		for set.more() {
			in := set.enter(derSequence)
			oid := in.oid()
			tag, value, _ := in.next()
			short := ""
			if len(oid) == 3 && oid[:2] == "\x55\x04" && int(oid[2]) < len(nameTypes)/2 {
				short = strings.TrimSpace(nameTypes[2*oid[2]:][:2])
			}
			if tag == derBMP {
				var text []byte
				for i := 0; i+1 < len(value); i += 2 {
					text = utf8.AppendRune(text, rune(value[i])<<8|rune(value[i+1]))
				}
				value = text
			}
			if short != "" {
				parts = append(parts, short+"="+oneLine(string(value), 100))
			}
		}
	}
	return strings.Join(parts, ", ")
}
