package main

import (
	"bytes"
	"errors"
	"io"
	"os"
)

// loadRecipient makes a recipient of PEM files: an RSA key (PKCS#1 or PKCS#8, not
// encrypted) and, if there is one, its certificate.
func loadRecipient(key, crt []byte) (*recipient, error) {
	to := &recipient{}
	var err error
	if b := pemContent(key, "RSA PRIVATE KEY"); b != nil {
		to.key, err = parsePKCS1(b)
	} else if b := pemContent(key, "PRIVATE KEY"); b != nil {
		var k *privateKey
		if k, err = parsePKCS8(b); err == nil {
			to.key = k.rsa
		}
	}
	if err == nil && to.key == nil {
		err = errors.New("no RSA private key in it, or an encrypted one")
	}
	if err != nil {
		return nil, err
	}
	to.keyID = sha1Sum([]byte(derRSA(to.key)))
	if len(crt) == 0 {
		return to, nil
	}
	c, err := parseCertificate(pemContent(crt, "CERTIFICATE"))
	if err != nil {
		return nil, err
	}
	to.issuer, to.serial = c.Issuer, c.Serial
	if len(c.KeyID) > 0 {
		to.keyID = c.KeyID
	}
	return to, nil
}

// pemContent is the content of the first block with a label (RFC 7468); nil if
// there is none.
func pemContent(text []byte, label string) []byte {
	_, rest, found := bytes.Cut(text, []byte("-----BEGIN "+label+"-----"))
	body, _, ended := bytes.Cut(rest, []byte("-----END "+label+"-----"))
	if !found || !ended {
		return nil
	}
	data, err := decodeBase64(body)
	if err != nil {
		return nil
	}
	return data
}

// showCertificates opens a captured Certificates document, or the CMS in it, and
// says what it holds. Private keys are only counted.
func showCertificates(file, keyFile, crtFile string) (object, error) {
	doc, err := readPayload(file)
	if err != nil {
		return nil, err
	}
	if keyFile == "" {
		return nil, &configError{"show", "certificates", errors.New("give the transport key's file with -key")}
	}
	key, err := readPayload(keyFile)
	if err != nil {
		return nil, err
	}
	var crt []byte
	if crtFile != "" {
		if crt, err = readPayload(crtFile); err != nil {
			return nil, err
		}
	}
	to, err := loadRecipient(key, crt)
	if err != nil {
		return nil, failure("read transport key", keyFile, err)
	}
	f := &certificateFile{Format: pfxFormat, Data: doc}
	if len(doc) > 0 && doc[0] != derSequence {
		if f, err = parseCertificateFile(doc); err != nil {
			return nil, failure("parse certificates", file, err)
		}
	}
	s, err := f.open(to)
	if err != nil {
		return nil, failureHint("open certificates", file, err, "-cert names the transport certificate")
	}
	defer s.wipe()
	return append(object{{"format", f.Format}}, s.json()...), nil
}

func (s *keyStore) json() object {
	list, notes, paired := []any{}, []any{}, 0
	for i, c := range s.certificates {
		k, public := s.keyOf(i), any(nil)
		if k != nil {
			paired++
		}
		if c.Public != nil {
			public = publicLine(c.Public, "")
		}
		list = append(list, object{{"thumbprint", c.thumbprint()}, {"subject", nameText(c.Subject)}, {"public_key", public}, {"private_key", k != nil}})
	}
	for _, n := range s.notes {
		notes = append(notes, n)
	}
	return object{{"certificates", list}, {"keys_without_certificate", len(s.keys) - paired}, {"notes", notes}}
}

// readPayload reads a file of at most maxPayload bytes.
func readPayload(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, failure("open", file, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPayload+1))
	if err != nil {
		return nil, failure("read", file, err)
	}
	if len(data) > maxPayload {
		return nil, failure("read", file, errors.New("larger than 1 MiB"))
	}
	return data, nil
}
