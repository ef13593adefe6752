package main

import (
	"errors"
	"strconv"
)

// Ciphers by their object identifiers, and encryption by password (RFC 8018, RFC
// 7292).

const (
	oidPKCS   = "\x2a\x86\x48\x86\xf7\x0d\x01" // 1.2.840.113549.1
	oidDES3   = "\x2a\x86\x48\x86\xf7\x0d\x03\x07"
	oidPBKDF2 = oidPKCS + "\x05\x0c"
	oidPBES2  = oidPKCS + "\x05\x0d"
	oidPBE12  = oidPKCS + "\x0c\x01" // the schemes of PKCS#12
)

// maker makes a cipher of a key.
type maker func(key []byte) blockCipher

// cipherOf returns the CBC cipher that an object identifier names, and the size
// of its key.
func cipherOf(oid string) (maker, int) {
	switch oid {
	case oidNIST + "\x01\x02":
		return newAES, 16
	case oidNIST + "\x01\x16":
		return newAES, 24
	case oidNIST + "\x01\x2a":
		return newAES, 32
	case oidDES3:
		return newDES3, 24
	}
	return nil, 0
}

// passwordSchemeOf is cipherOf for the schemes of PKCS#12.
func passwordSchemeOf(oid string) (maker, int) {
	switch oid {
	case oidPBE12 + "\x03":
		return newDES3, 24
	case oidPBE12 + "\x05":
		return newRC2, 16
	case oidPBE12 + "\x06":
		return newRC2, 5
	}
	return nil, 0
}

// unknownError is something that azprov can't open because it doesn't know it.
type unknownError struct{ what, oid string }

func (e *unknownError) Error() string { return "unknown " + e.what + " " + oidText(e.oid) }

// oidText is an object identifier with dots.
func oidText(oid string) string {
	if len(oid) == 0 || len(oid) > 64 {
		return "of a wrong form"
	}
	text := ""
	n := uint64(0)
	for i := range len(oid) {
		n = n<<7 | uint64(oid[i]&0x7f)
		if oid[i]&0x80 != 0 {
			continue
		}
		if text == "" {
			first := min(n/40, 2)
			text = strconv.FormatUint(first, 10)
			n -= 40 * first
		}
		text += "." + strconv.FormatUint(n, 10)
		n = 0
	}
	return text
}

var errKeySize = errors.New("a key of a wrong size for its cipher")

// decryptByPassword decrypts what a scheme with its parameters has made. The
// password is UTF-16 with its end mark, as PKCS#12 has it; PBES2 is only known
// with the empty one.
func (r *rounds) decryptByPassword(oid string, parameters *derReader, password, data []byte) ([]byte, error) {
	if oid == oidPBES2 {
		return r.decryptPBES2(parameters, data)
	}
	newCipher, size := passwordSchemeOf(oid)
	if newCipher == nil {
		return nil, &unknownError{"encryption by password", oid}
	}
	in := parameters.enter(derSequence)
	salt, iterations := in.octets(derOctets), in.count()
	if *in.err != nil {
		return nil, *in.err
	}
	sha := &digest{sha1Sum, 64}
	key, err := r.pkcs12Key(sha, pkcs12ForKey, password, salt, iterations, size)
	if err != nil {
		return nil, err
	}
	iv, err := r.pkcs12Key(sha, pkcs12ForIV, password, salt, iterations, 8)
	if err != nil {
		return nil, err
	}
	return decryptCBC(newCipher(key), iv, data)
}

func (r *rounds) decryptPBES2(parameters *derReader, data []byte) ([]byte, error) {
	in := parameters.enter(derSequence)
	derivation, options := in.algorithm()
	options = options.enter(derSequence)
	cipherOID, cipherOptions := in.algorithm()
	iv := cipherOptions.octets(derOctets)
	salt, iterations := options.octets(derOctets), options.count()
	newCipher, size := cipherOf(cipherOID)
	if options.peek() == derInteger && options.count() != size {
		return nil, errKeySize
	}
	hash := oidSHA1
	if options.peek() == derSequence {
		hash, _ = options.algorithm()
	}
	d := digestOf(hash)
	switch {
	case *in.err != nil:
		return nil, *in.err
	case derivation != oidPBKDF2:
		return nil, &unknownError{"key derivation", derivation}
	case newCipher == nil:
		return nil, &unknownError{"cipher", cipherOID}
	case d == nil:
		return nil, &unknownError{"hash", hash}
	}
	key, err := r.pbkdf2(d, nil, salt, iterations, size)
	if err != nil {
		return nil, err
	}
	return decryptCBC(newCipher(key), iv, data)
}
