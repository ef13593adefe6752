package sim

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
)

// The certificates of a VM as the wire server hands them out: a PKCS#12 file
// without password, in a CMS envelope for the certificate that the guest sends.

// vmCertificate is a certificate with its private key, which may be missing.
type vmCertificate struct{ der, pkcs8 []byte }

// certificates reads the PEM texts of the VM's description.
func (vm *VM) certificates() ([]vmCertificate, error) {
	var list []vmCertificate
	for i, text := range vm.Certificates {
		var c vmCertificate
		for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
			switch block.Type {
			case "CERTIFICATE":
				c.der = block.Bytes
			case "PRIVATE KEY":
				c.pkcs8 = block.Bytes
			}
		}
		if c.der == nil {
			return nil, fmt.Errorf("certificate %d: no certificate in PEM", i+1)
		}
		list = append(list, c)
	}
	return list, nil
}

// serveCertificates answers for a VM's certificates.
func (p *Platform) serveCertificates(w http.ResponseWriter, r *http.Request, vm *VM) {
	cipherName := r.Header.Get("x-ms-cipher-name")
	if a, is := w.(*answer); is {
		a.event.Name = cipherName
	}
	data, err := vm.certificatesBlob(r.Header.Get("x-ms-guest-agent-public-x509-cert"), cipherName)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var lines strings.Builder
	for text := base64.StdEncoding.EncodeToString(data); text != ""; {
		n := min(64, len(text))
		lines.WriteString("\r\n" + text[:n])
		text = text[n:]
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, `%s<CertificateFile xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="certificates10.xsd">`+
		"<Version>2012-11-30</Version><Incarnation>%d</Incarnation><Format>Pkcs7BlobWithPfxContents</Format><Data>%s</Data></CertificateFile>",
		xml.Header, vm.Incarnation, lines.String())
}

// certificatesBlob is the envelope; nothing when the VM has no certificates.
func (vm *VM) certificatesBlob(header, cipherName string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(header)
	if err != nil || len(raw) == 0 {
		return nil, errors.New("no transport certificate")
	}
	transport, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("transport certificate: %w", err)
	}
	key, isRSA := transport.PublicKey.(*rsa.PublicKey)
	if !isRSA || len(transport.SubjectKeyId) == 0 {
		return nil, errors.New("the transport certificate has no RSA key or no key identifier")
	}
	list, err := vm.certificates()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	file, err := pkcs12File(list)
	if err != nil {
		return nil, err
	}
	return envelope(file, transport.SubjectKeyId, key, cipherName)
}

// element is DER of a tag with parts as content.
func element(tag byte, parts ...[]byte) []byte {
	b, err := asn1.Marshal(asn1.RawValue{Class: int(tag >> 6), Tag: int(tag & 0x1f), IsCompound: tag&0x20 != 0, Bytes: bytes.Join(parts, nil)})
	if err != nil {
		panic(err) // there is no element that can't be encoded
	}
	return b
}

const (
	tagOctets   = 0x04
	tagOID      = 0x06
	tagBMP      = 0x1e
	tagSequence = 0x30
	tagSet      = 0x31
	tagImplicit = 0x80
	tagExplicit = 0xa0
)

func number(n int64) []byte {
	b, _ := asn1.Marshal(n)
	return b
}

func oid(text string) []byte {
	id, err := x509.ParseOID(text)
	if err != nil {
		panic(err)
	}
	b, _ := id.MarshalBinary()
	return element(tagOID, b)
}

var (
	oidData          = oid("1.2.840.113549.1.7.1")
	oidEnvelopedData = oid("1.2.840.113549.1.7.3")
	oidEncryptedData = oid("1.2.840.113549.1.7.6")
	oidPBETripleDES  = oid("1.2.840.113549.1.12.1.3")
	oidKeyBag        = oid("1.2.840.113549.1.12.10.1.2")
	oidCertBag       = oid("1.2.840.113549.1.12.10.1.3")
	oidX509          = oid("1.2.840.113549.1.9.22.1")
	oidLocalKeyID    = oid("1.2.840.113549.1.9.21")
	oidFriendlyName  = oid("1.2.840.113549.1.9.20")
	oidSHA1          = oid("1.3.14.3.2.26")
	oidRSA           = oid("1.2.840.113549.1.1.1")
	oidOAEP          = oid("1.2.840.113549.1.1.7")
	oidTripleDES     = oid("1.2.840.113549.3.7")
	oidAES128        = oid("2.16.840.1.101.3.4.1.2")
	asn1Null         = []byte{5, 0}
)

// contentInfo is a ContentInfo of RFC 5652.
func contentInfo(kind, content []byte) []byte {
	return element(tagSequence, kind, element(tagExplicit, content))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// encryptCBC pads and encrypts.
func encryptCBC(block cipher.Block, iv, text []byte) []byte {
	n := block.BlockSize() - len(text)%block.BlockSize()
	out := append(bytes.Clone(text), bytes.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, out)
	return out
}

// envelope is CMS EnvelopedData, version 2, of the two kinds that have been seen:
// AES128_CBC with RSAES-OAEP, DES_EDE3_CBC with RSAES-PKCS1-v1_5.
func envelope(text, keyID []byte, public *rsa.PublicKey, cipherName string) ([]byte, error) {
	var content, wrap, wrapped []byte
	switch cipherName {
	case "AES128_CBC", "":
		key, iv := randomBytes(16), randomBytes(16)
		block, _ := aes.NewCipher(key)
		c, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, public, key, nil)
		if err != nil {
			return nil, err
		}
		content = encryptedContent(element(tagSequence, oidAES128, element(tagOctets, iv)), encryptCBC(block, iv, text))
		wrap, wrapped = element(tagSequence, oidOAEP, element(tagSequence)), c
	case "DES_EDE3_CBC":
		key, iv := randomBytes(24), randomBytes(8)
		block, _ := des.NewTripleDESCipher(key)
		content = encryptedContent(element(tagSequence, oidTripleDES, element(tagOctets, iv)), encryptCBC(block, iv, text))
		wrap, wrapped = element(tagSequence, oidRSA, asn1Null), encryptPKCS1(public, key)
	default:
		return nil, errors.New("unknown cipher")
	}
	info := element(tagSequence, number(2), element(tagImplicit, keyID), wrap, element(tagOctets, wrapped))
	return contentInfo(oidEnvelopedData, element(tagSequence, number(2), element(tagSet, info), content)), nil
}

// encryptPKCS1 is RSAES-PKCS1-v1_5, which the standard library has deprecated and
// the wire server has not.
func encryptPKCS1(public *rsa.PublicKey, text []byte) []byte {
	em := make([]byte, public.Size())
	em[1] = 2
	for i := 2; i < len(em)-len(text)-1; i++ {
		for em[i] == 0 {
			rand.Read(em[i : i+1])
		}
	}
	copy(em[len(em)-len(text):], text)
	return new(big.Int).Exp(new(big.Int).SetBytes(em), big.NewInt(int64(public.E)), public.N).FillBytes(em)
}

func encryptedContent(algorithm, data []byte) []byte {
	return element(tagSequence, oidData, algorithm, element(tagImplicit, data))
}

const (
	pfxRounds = 2000
	// The empty password: only its end mark.
	pfxPassword = "\x00\x00"
)

// pkcs12File has the shape of the platform's files: the keys first, then the
// certificates in another order, so that only the public key tells what belongs
// together.
func pkcs12File(list []vmCertificate) ([]byte, error) {
	var keys, certs []byte
	for i, c := range list {
		id := element(tagSequence, oidLocalKeyID, element(tagSet, element(tagOctets, []byte{byte(i + 1), 0, 0, 0})))
		name := element(tagSequence, oidFriendlyName, element(tagSet, element(tagBMP, []byte("\x00c\x00e\x00r\x00t"))))
		if c.pkcs8 != nil {
			algorithm, data := encryptPBE(c.pkcs8)
			keys = append(keys, element(tagSequence, oidKeyBag,
				element(tagExplicit, element(tagSequence, algorithm, element(tagOctets, data))), element(tagSet, id))...)
		}
		cert := element(tagSequence, oidX509, element(tagExplicit, element(tagOctets, c.der)))
		certs = append(element(tagSequence, oidCertBag, element(tagExplicit, cert), element(tagSet, name, id)), certs...)
	}
	algorithm, data := encryptPBE(element(tagSequence, certs))
	safes := element(tagSequence,
		contentInfo(oidData, element(tagOctets, element(tagSequence, keys))),
		contentInfo(oidEncryptedData, element(tagSequence, number(0), encryptedContent(algorithm, data))))
	salt := randomBytes(20)
	mac := hmac.New(sha1.New, pkcs12Key(3, salt, 20))
	mac.Write(safes)
	return element(tagSequence, number(3), contentInfo(oidData, element(tagOctets, safes)),
		element(tagSequence,
			element(tagSequence, element(tagSequence, oidSHA1, asn1Null), element(tagOctets, mac.Sum(nil))),
			element(tagOctets, salt), number(pfxRounds))), nil
}

// encryptPBE encrypts by pbeWithSHA1And3-KeyTripleDES-CBC.
func encryptPBE(text []byte) (algorithm, data []byte) {
	salt := randomBytes(8)
	block, err := des.NewTripleDESCipher(pkcs12Key(1, salt, 24))
	if err != nil {
		panic(err)
	}
	return element(tagSequence, oidPBETripleDES, element(tagSequence, element(tagOctets, salt), number(pfxRounds))),
		encryptCBC(block, pkcs12Key(2, salt, 8), text)
}

// pkcs12Key is the key derivation of RFC 7292, B.2, with SHA-1.
func pkcs12Key(purpose byte, salt []byte, size int) []byte {
	const v = 64
	fill := func(s string) string {
		return strings.Repeat(s, v)[:(len(s)+v-1)/v*v]
	}
	input := []byte(fill(string(salt)) + fill(pfxPassword))
	var key []byte
	for len(key) < size {
		a := sha1.Sum(append(bytes.Repeat([]byte{purpose}, v), input...))
		for range pfxRounds - 1 {
			a = sha1.Sum(a[:])
		}
		key = append(key, a[:]...)
		b := new(big.Int).SetBytes([]byte(fill(string(a[:]))[:v]))
		b.Add(b, big.NewInt(1))
		for i := 0; i < len(input); i += v {
			sum := new(big.Int).Add(b, new(big.Int).SetBytes(input[i:i+v]))
			sum.SetBit(sum, 8*v, 0).FillBytes(input[i : i+v])
		}
	}
	return key[:size]
}
