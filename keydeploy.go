package main

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
)

// wantsCertificates says whether something of a spec is known by the fingerprint
// of a certificate alone.
func (s *spec) wantsCertificates() bool {
	return len(s.KeyPairs) > 0 || slices.ContainsFunc(s.Keys, func(k sshKey) bool { return k.Value == "" && k.Fingerprint != "" })
}

// wantsTransport says whether this run talks to the wire server about certificates.
func (b *boot) wantsTransport() bool {
	return !b.specialized && (b.spec.wantsCertificates() || b.cfg.Certificates == "keep")
}

// awaitsCertificates says whether keys are still missing because the wire server
// was out of reach. Not all is applied then: the next run provisions again.
func (b *boot) awaitsCertificates() bool {
	certs := b.run.result("certs")
	return b.transport != nil && certs != nil && certs.Outcome == skipped && certs.Err != nil
}

// stepTransport makes the transport certificate, beside the network.
func (b *boot) stepTransport(ctx context.Context) (string, error) {
	if !b.wantsTransport() {
		return "", nil
	}
	t, err := newTransport(ctx)
	if err != nil {
		return "", err
	}
	b.transport = t
	return sprintf("RSA key of %d bits and its certificate", transportBits), nil
}

// stepCertificates fetches the certificates and puts keys and key pairs where
// they are wanted, but for keys that the metadata service has by value. Without any wanted, certificates that can't be had are a
// warning.
func (b *boot) stepCertificates(ctx context.Context) (string, error) {
	if b.transport == nil {
		return "", nil
	}
	defer b.transport.wipe()
	wanted := b.merged()
	if !wanted.wantsCertificates() && b.cfg.Certificates != "keep" {
		return "not needed: the metadata service has the keys", nil
	}
	if b.wire == nil {
		return "", failure("fetch certificates", "", errors.New("the goalstate step was left out"))
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.NetworkWait)
	defer cancel()
	s, err := b.wire.certificates(ctx, b.goal, b.transport)
	if err != nil {
		if wanted.wantsCertificates() {
			return "", err
		}
		b.warn("certs", "%v", err)
		return "", nil
	}
	defer s.wipe()
	for _, note := range s.notes {
		b.warn("certs", "%s", note)
	}
	keys, err := s.publicKeys(wanted.Keys)
	if err != nil {
		return "", err
	}
	text := sprintf("%d certificates", len(s.certificates))
	if len(keys) > 0 {
		added, err := b.applyKeys(b.account, keys)
		if err != nil {
			return "", err
		}
		text += ", " + added
	}
	for _, pair := range wanted.KeyPairs {
		if err := b.writeKeyPair(s, pair); err != nil {
			return "", err
		}
	}
	if b.cfg.Certificates == "keep" {
		if err := b.keepCertificates(s); err != nil {
			return "", err
		}
	}
	return text, nil
}

var (
	errNoCertificate = errors.New("the wire server has no certificate of this fingerprint")
	errNoPublicKey   = errors.New("its certificate has no key that SSH knows")
	errNoPrivateKey  = errors.New("its certificate came without a private key")
)

// find returns the index of the certificate with a fingerprint, in any case.
func (s *keyStore) find(fingerprint string) (int, error) {
	for i, c := range s.certificates {
		if strings.EqualFold(c.thumbprint(), fingerprint) {
			return i, nil
		}
	}
	return -1, failure("look up key", oneLine(fingerprint, 60), errNoCertificate)
}

// publicKeys gives each key that is known by fingerprint alone its value; the
// others are left out.
func (s *keyStore) publicKeys(keys []sshKey) (found []sshKey, err error) {
	for _, k := range keys {
		if k.Value != "" || k.Fingerprint == "" {
			continue
		}
		i, err := s.find(k.Fingerprint)
		if err != nil {
			return nil, err
		}
		if s.certificates[i].Public == nil {
			return nil, failure("use key", k.Fingerprint, errNoPublicKey)
		}
		k.Value = publicLine(s.certificates[i].Public, "")
		found = append(found, k)
	}
	return found, nil
}

// writeKeyPair puts a private key and, beside it, its public key into the user's
// home: the first for the user's eyes only, in a form that ssh reads.
func (b *boot) writeKeyPair(s *keyStore, pair keyPair) error {
	rel, err := keyPath(b.account, pair.Path, "")
	if err != nil {
		return err
	}
	i, err := s.find(pair.Fingerprint)
	if err != nil {
		return err
	}
	k, public := s.keyOf(i), s.certificates[i].Public
	switch {
	case public == nil:
		return failure("use key pair", pair.Fingerprint, errNoPublicKey)
	case k == nil:
		return failure("use key pair", pair.Fingerprint, errNoPrivateKey)
	}
	file, err := k.file()
	if err != nil {
		return err
	}
	defer file.wipe()
	h, err := b.openHome(b.account)
	if err != nil {
		return err
	}
	defer h.close()
	if err := h.put(rel, file, 0o600); err != nil {
		return err
	}
	return h.put(rel+".pub", []byte(publicLine(public, "")+"\n"), 0o644)
}

// file is the private key as ssh and openssl read it: RSA as PKCS#1, ECDSA as
// PKCS#8, Ed25519, which older versions of ssh don't know in that form, in
// OpenSSH's own.
func (k *privateKey) file() (secret, error) {
	switch {
	case k.rsa != nil:
		return pemBlock("RSA PRIVATE KEY", k.inner), nil
	case k.seed != nil:
		pair := newSSHEd25519(k.seed)
		defer pair.wipe()
		return pair.openSSHFile("")
	}
	return pemBlock("PRIVATE KEY", k.pkcs8), nil
}

// keepCertificates leaves each certificate and its key for other software of the
// image, by its thumbprint and for root alone.
func (b *boot) keepCertificates(s *keyStore) error {
	if err := b.guest.mkdir(waagentDir, 0o700, 0, 0); err != nil {
		return err
	}
	e := b.guest.edit()
	for i, c := range s.certificates {
		name := waagentDir + "/" + c.thumbprint()
		if err := e.put(name+".crt", pemBlock("CERTIFICATE", c.DER), rootFile(0o600)); err != nil {
			return err
		}
		if k := s.keyOf(i); k != nil {
			if err := e.put(name+".prv", pemBlock("PRIVATE KEY", k.pkcs8), rootFile(0o600)); err != nil {
				return err
			}
		}
	}
	return e.commit()
}

// pemBlock is a file in the form of RFC 7468.
func pemBlock(label string, data []byte) secret {
	whole := secret(base64.StdEncoding.AppendEncode(nil, data))
	defer whole.wipe()
	text := whole
	b := secret("-----BEGIN " + label + "-----\n")
	for len(text) > 0 {
		n := min(len(text), 64)
		b = append(append(b, text[:n]...), '\n')
		text = text[n:]
	}
	return append(b, "-----END "+label+"-----\n"...)
}
