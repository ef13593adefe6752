package main

import (
	"bytes"
	"errors"
)

// CMS EnvelopedData (RFC 5652, 6) for RSA recipients: what the wire server wraps
// certificates in.

const (
	oidData          = oidPKCS + "\x07\x01"
	oidEnvelopedData = oidPKCS + "\x07\x03"
	oidEncryptedData = oidPKCS + "\x07\x06"
	oidRSA           = oidPKCS + "\x01\x01"
	oidOAEP          = oidPKCS + "\x01\x07"
	oidMGF1          = oidPKCS + "\x01\x08"
	oidEmptyLabel    = oidPKCS + "\x01\x09"
)

// maxRecipients is how many recipients are looked at, which bounds the RSA
// operations.
const maxRecipients = 8

// recipient is an RSA key with what it may be addressed by. Without a
// certificate the key identifier is taken to be the hash of the key.
type recipient struct {
	key            *rsaKey
	keyID          []byte
	issuer, serial []byte // of its certificate; empty without
}

// transportInfo is a KeyTransRecipientInfo.
type transportInfo struct {
	keyID, issuer, serial []byte
	oid                   string
	parameters            *derReader
	encrypted             []byte
}

// encryptedContent is an EncryptedContentInfo.
type encryptedContent struct {
	oid        string
	parameters *derReader
	data       []byte
}

var (
	errNotEnveloped = errors.New("cms: not enveloped data")
	errNotForUs     = errors.New("cms: not encrypted for this transport key")
)

// openCMS decrypts a document that is encrypted for to.
func openCMS(doc []byte, to *recipient) (secret, error) {
	r := newDERReader(doc)
	outer := r.enter(derSequence)
	kind := outer.oid()
	if *r.err == nil && kind != oidEnvelopedData {
		return nil, errNotEnveloped
	}
	in := outer.enter(derContext | derMade).enter(derSequence)
	in.count()
	if in.peek() == derContext|derMade { // originatorInfo
		in.next()
	}
	infos := in.transportInfos()
	content := in.encryptedContent()
	if *r.err != nil {
		return nil, *r.err
	}
	newCipher, size := cipherOf(content.oid)
	if newCipher == nil {
		return nil, &unknownError{"cipher", content.oid}
	}
	iv := content.parameters.octets(derOctets)
	if *r.err != nil {
		return nil, *r.err
	}
	err := errNotForUs
	for _, info := range infos {
		if !to.is(info) {
			continue
		}
		var key, text secret
		if key, err = info.unwrap(to.key, size); err != nil {
			continue
		}
		text, err = decryptCBC(newCipher(key), iv, content.data)
		key.wipe()
		if err == nil {
			return text, nil
		}
	}
	return nil, err
}

// transportInfos takes the set of recipients; those of other kinds are passed over.
func (r *derReader) transportInfos() (infos []*transportInfo) {
	set := r.enter(derSet)
	for n := 0; set.more() && n < maxRecipients; n++ {
		if set.peek() != derSequence {
			set.next()
			continue
		}
		in, info := set.enter(derSequence), &transportInfo{}
		in.count()
		if in.peek() == derSequence {
			name := in.enter(derSequence)
			_, info.issuer = name.enterRaw(derSequence)
			info.serial = name.unsigned()
		} else {
			info.keyID = in.octets(derContext)
		}
		info.oid, info.parameters = in.algorithm()
		info.encrypted = in.octets(derOctets)
		infos = append(infos, info)
	}
	return infos
}

// encryptedContent takes an EncryptedContentInfo.
func (r *derReader) encryptedContent() encryptedContent {
	in := r.enter(derSequence)
	in.oid()
	var c encryptedContent
	c.oid, c.parameters = in.algorithm()
	c.data = in.octets(derContext)
	return c
}

// is says whether a recipient info addresses this recipient. What is addressed by
// issuer is tried when the certificate isn't known.
func (to *recipient) is(info *transportInfo) bool {
	if info.keyID != nil {
		return bytes.Equal(info.keyID, to.keyID)
	}
	return to.issuer == nil || bytes.Equal(info.issuer, to.issuer) && bytes.Equal(info.serial, to.serial)
}

// unwrap decrypts the key of a cipher whose keys have size bytes.
func (info *transportInfo) unwrap(k *rsaKey, size int) (secret, error) {
	switch info.oid {
	case oidRSA:
		return k.decryptPKCS1(info.encrypted, size)
	case oidOAEP:
		label, mask, err := info.parameters.oaep()
		if err != nil {
			return nil, err
		}
		key, err := k.decryptOAEP(info.encrypted, label, mask)
		if err == nil && len(key) != size {
			err = errKeySize
		}
		return key, err
	}
	return nil, &unknownError{"key encryption", info.oid}
}

// oaep takes RSAES-OAEP-params (RFC 8017, A.2.1): by default both hashes are
// SHA-1 and the label is empty; other labels are not known.
func (r *derReader) oaep() (label, mask hashFunc, err error) {
	oids := [2]string{oidSHA1, oidSHA1}
	if r.peek() == derSequence {
		in := r.enter(derSequence)
		if in.peek() == derContext|derMade {
			oids[0], _ = in.enter(derContext | derMade).algorithm()
		}
		if in.peek() == derContext|derMade|1 {
			kind, options := in.enter(derContext | derMade | 1).algorithm()
			if oids[1], _ = options.algorithm(); *r.err == nil && kind != oidMGF1 {
				return nil, nil, &unknownError{"mask", kind}
			}
		}
		if in.peek() == derContext|derMade|2 {
			kind, options := in.enter(derContext | derMade | 2).algorithm()
			if text := options.octets(derOctets); *r.err == nil && (kind != oidEmptyLabel || len(text) > 0) {
				return nil, nil, &unknownError{"label", kind}
			}
		}
	}
	if *r.err != nil {
		return nil, nil, *r.err
	}
	var found [2]hashFunc
	for i, oid := range oids {
		d := digestOf(oid)
		if d == nil {
			return nil, nil, &unknownError{"hash", oid}
		}
		found[i] = d.sum
	}
	return found[0], found[1], nil
}
