package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
)

// sshKeyPair is a key pair for SSH, in the parts that its files are made of.
type sshKeyPair struct {
	public   []byte // in wire form
	private  secret // type and private fields, as OpenSSH's own format orders them
	dropbear secret // the content of a key file of dropbear
}

func (k *sshKeyPair) wipe() {
	k.private.wipe()
	k.dropbear.wipe()
}

// newEd25519 makes a key.
func newEd25519() (*sshKeyPair, error) {
	seed := make(secret, 32)
	defer seed.wipe()
	if err := randomBytes(seed); err != nil {
		return nil, err
	}
	return newSSHEd25519(seed), nil
}

// newSSHEd25519 is the key of a seed of 32 bytes as a key pair for SSH.
func newSSHEd25519(seed secret) *sshKeyPair {
	public := ed25519Public(seed)
	both := append(append(make(secret, 0, 64), seed...), public...)
	defer both.wipe()
	blob := ed25519Blob(public)
	return &sshKeyPair{public: blob, private: appendString(bytes.Clone(blob), both),
		dropbear: appendString(appendString(nil, sshEd25519), both)}
}

// newSSHRSA is an RSA key as a key pair for SSH. Dropbear has the numbers in the
// order of the public key, without the inverse.
func newSSHRSA(k *rsaKey) *sshKeyPair {
	private, dropbear := appendString(nil, sshRSA), appendString(nil, sshRSA)
	for _, n := range [...][]byte{k.N, k.E, k.D, k.QInv, k.P, k.Q} {
		private = appendMpint(private, n)
	}
	for _, n := range [...][]byte{k.E, k.N, k.D, k.P, k.Q} {
		dropbear = appendMpint(dropbear, n)
	}
	return &sshKeyPair{public: rsaBlob(k.E, k.N), private: private, dropbear: dropbear}
}

// OpenSSH's own format of private keys (PROTOCOL.key of OpenSSH).
const (
	openSSHBegin = "-----BEGIN OPENSSH PRIVATE KEY-----\n"
	openSSHEnd   = "-----END OPENSSH PRIVATE KEY-----\n"
	openSSHMagic = "openssh-key-v1\x00"
)

// openSSHFile is the key as a file of OpenSSH, not encrypted.
func (k *sshKeyPair) openSSHFile(comment string) (secret, error) {
	var check [4]byte
	if err := randomBytes(check[:]); err != nil {
		return nil, err
	}
	section := secret(append(check[:], check[:]...))
	section = append(section, k.private...)
	section = appendString(section, comment)
	for i := byte(1); len(section)%8 != 0; i++ {
		section = append(section, i)
	}
	b := []byte(openSSHMagic)
	for _, field := range [...]string{"none", "none", ""} { // cipher, key derivation, its options
		b = appendString(b, field)
	}
	b = binary.BigEndian.AppendUint32(b, 1) // keys
	b = appendString(b, k.public)
	b = appendString(b, section)
	section.wipe()
	defer secret(b).wipe()
	text := secret(base64.StdEncoding.AppendEncode(nil, b))
	defer text.wipe()
	file := secret(openSSHBegin)
	for len(text) > 0 {
		n := min(len(text), 70)
		file = append(append(file, text[:n]...), '\n')
		text = text[n:]
	}
	return append(file, openSSHEnd...), nil
}

var errNoOpenSSHKey = errors.New("not a private key of OpenSSH")

// parseOpenSSH returns the public key of a private key file in OpenSSH's own
// format. If the file is not encrypted, its private part must be sound.
func parseOpenSSH(file []byte) (public []byte, err error) {
	_, text, found := bytes.Cut(file, []byte(openSSHBegin[:len(openSSHBegin)-1]))
	text, _, ended := bytes.Cut(text, []byte(openSSHEnd[:len(openSSHEnd)-1]))
	if !found || !ended {
		return nil, errNoOpenSSHKey
	}
	b := make(secret, base64.StdEncoding.DecodedLen(len(text)))
	defer b.wipe()
	n, err := base64.StdEncoding.Decode(b, text)
	if err != nil || !bytes.HasPrefix(b[:n], []byte(openSSHMagic)) {
		return nil, errNoOpenSSHKey
	}
	r := sshReader{rest: b[len(openSSHMagic):n]}
	cipher := r.string()
	r.string()
	r.string()
	count := r.uint32()
	public = bytes.Clone(r.string())
	section := sshReader{rest: r.string()}
	switch {
	case r.err != nil:
		return nil, r.err
	case count != 1 || len(r.rest) > 0 || blobType(public) == "":
		return nil, errNoOpenSSHKey
	case string(cipher) != "none":
		return public, nil
	}
	first, second := section.uint32(), section.uint32()
	if first != second || string(section.string()) != blobType(public) {
		return nil, errors.New("the private part of the key is damaged")
	}
	return public, section.err
}

// parseDropbear returns the public key of a key file of dropbear: the private
// fields stand behind the public ones, but for Ed25519, whose public key is the
// second half of its only field.
func parseDropbear(file []byte) (public []byte, err error) {
	r := sshReader{rest: file}
	kind := string(r.string())
	private := 0
	switch {
	case kind == sshEd25519:
		if both := r.string(); len(both) == 64 && len(r.rest) == 0 {
			return ed25519Blob(both[32:]), nil
		}
	case kind == sshRSA:
		private = 3 // d, p, q
	case strings.HasPrefix(kind, sshECDSA):
		private = 1
	}
	r.string()
	r.string()
	public = bytes.Clone(file[:len(file)-len(r.rest)])
	for range private {
		r.string()
	}
	if r.err != nil || private == 0 || len(r.rest) > 0 {
		return nil, errors.New("not a key of dropbear")
	}
	return public, nil
}
