package main

import (
	"bytes"
	"errors"
)

// PKCS#12 (RFC 7292) with the empty password: what the platform keeps
// certificates and their private keys in.

const (
	oidBag        = oidPKCS + "\x0c\x0a\x01" // 1 key, 2 encrypted key, 3 certificate, 6 more bags
	oidX509       = oidPKCS + "\x09\x16\x01" // the kind of a certificate bag
	oidLocalKeyID = oidPKCS + "\x09\x15"     // an attribute that a key and its certificate share
	maxBags       = 256                      // in one file
	maxBagDepth   = 8
)

// keyStore is what a document holds.
type keyStore struct {
	certificates []*certificate
	ids          [][]byte // localKeyID of each certificate; may be empty
	keys         []*privateKey
	notes        []string // what was left out, and why
}

func (s *keyStore) wipe() {
	for _, k := range s.keys {
		k.wipe()
	}
}

var (
	errMAC  = errors.New("pkcs#12: the integrity check fails: damaged, or under a password")
	errBags = errors.New("pkcs#12: too many bags")
)

// openPFX opens a file whose password is empty, in either form that programs give
// that: an end mark alone, or nothing at all. The MAC decides which; without one,
// which opens the bags.
func openPFX(file []byte) (*keyStore, error) {
	r := newDERReader(file)
	in := r.enter(derSequence)
	in.count()
	kind, content := in.enterContent()
	safes := content.octets(derOctets)
	if *r.err == nil && kind != oidData {
		return nil, &unknownError{"pkcs#12 protection", kind}
	}
	left := rounds(maxRounds)
	check := in.more()
	var mac macData
	if check {
		mac = in.macData()
	}
	if *r.err != nil {
		return nil, *r.err
	}
	err := errMAC
	for _, password := range [][]byte{{0, 0}, nil} {
		if check {
			same, err := mac.verify(&left, password, safes)
			if err != nil {
				return nil, err
			}
			if !same {
				continue
			}
		}
		o := &pfxOpener{keyStore: &keyStore{}, password: password, rounds: &left}
		if err = o.authenticated(safes); err == nil && !(o.wrong && !check && password != nil) {
			return o.keyStore, nil
		}
		if check {
			break
		}
	}
	return nil, err
}

// enterContent takes a ContentInfo (RFC 5652, 3): its type and what it holds.
func (r *derReader) enterContent() (kind string, content *derReader) {
	in := r.enter(derSequence)
	return in.oid(), in.enter(derContext | derMade)
}

// macData is MacData (RFC 7292, 4).
type macData struct {
	oid          string
	digest, salt []byte
	iterations   int
}

func (r *derReader) macData() (m macData) {
	in := r.enter(derSequence)
	info := in.enter(derSequence)
	m.oid, _ = info.algorithm()
	m.digest = info.octets(derOctets)
	m.salt = in.octets(derOctets)
	m.iterations = 1
	if in.more() {
		m.iterations = in.count()
	}
	return m
}

func (m *macData) verify(left *rounds, password, text []byte) (bool, error) {
	d := digestOf(m.oid)
	if d == nil {
		return false, &unknownError{"hash", m.oid}
	}
	key, err := left.pkcs12Key(d, pkcs12ForMAC, password, m.salt, m.iterations, len(d.sum()))
	if err != nil {
		return false, err
	}
	return bytes.Equal(d.hmac(key, text), m.digest), nil
}

// pfxOpener collects what the bags of a file hold.
type pfxOpener struct {
	*keyStore
	password []byte
	rounds   *rounds
	bags     int
	wrong    bool // something could not be decrypted
}

// note keeps why something was left out.
func (o *pfxOpener) note(what string, err error) {
	var unknown *unknownError
	if !errors.As(err, &unknown) {
		o.wrong = true
	}
	o.notes = append(o.notes, sprintf("%s is left out: %v", what, err))
}

// authenticated opens an AuthenticatedSafe. Only damage is an error: what can't be
// opened is noted.
func (o *pfxOpener) authenticated(safes []byte) error {
	list := newDERReader(safes).enter(derSequence)
	for list.more() {
		if o.bags++; o.bags > maxBags {
			return errBags
		}
		kind, content := list.enterContent()
		switch kind {
		case oidData:
			o.safe(content.octets(derOctets), 0)
		case oidEncryptedData:
			in := content.enter(derSequence)
			in.count()
			c := in.encryptedContent()
			if *list.err != nil {
				break
			}
			text, err := o.rounds.decryptByPassword(c.oid, c.parameters, o.password, c.data)
			if err != nil {
				o.note("a safe", err)
				continue
			}
			o.safe(text, 0)
		default:
			if *list.err == nil {
				o.note("a safe", &unknownError{"pkcs#12 protection", kind})
			}
		}
	}
	return *list.err
}

// safe opens SafeContents.
func (o *pfxOpener) safe(b []byte, depth int) {
	list := newDERReader(b).enter(derSequence)
	for list.more() {
		if o.bags++; o.bags > maxBags || depth > maxBagDepth {
			list.fail(errBags)
			break
		}
		bag := list.enter(derSequence)
		kind := bag.oid()
		value := bag.enter(derContext | derMade)
		id := bag.localKeyID()
		if *list.err != nil {
			break
		}
		if err := o.bag(kind, value, id, depth); err != nil {
			o.note("a bag", err)
		}
	}
	if *list.err != nil {
		o.note("the rest of a safe", *list.err)
	}
}

// bag takes what one bag holds.
func (o *pfxOpener) bag(kind string, value *derReader, id []byte, depth int) error {
	switch kind {
	case oidBag + "\x01":
		_, _, raw := value.next()
		return o.key(raw, id)
	case oidBag + "\x02":
		in := value.enter(derSequence)
		oid, parameters := in.algorithm()
		data := in.octets(derOctets)
		if *value.err != nil {
			return *value.err
		}
		text, err := o.rounds.decryptByPassword(oid, parameters, o.password, data)
		if err != nil {
			return err
		}
		return o.key(text, id)
	case oidBag + "\x03":
		in := value.enter(derSequence)
		if kind := in.oid(); kind != oidX509 {
			return &unknownError{"kind of certificate", kind}
		}
		file := in.enter(derContext | derMade).octets(derOctets)
		c, err := parseCertificate(file)
		if err != nil {
			return err
		}
		o.certificates, o.ids = append(o.certificates, c), append(o.ids, id)
		return nil
	case oidBag + "\x06":
		_, _, raw := value.next()
		o.safe(raw, depth+1)
		return nil
	}
	return &unknownError{"kind of bag", kind}
}

func (o *pfxOpener) key(pkcs8, id []byte) error {
	k, err := parsePKCS8(pkcs8)
	if err != nil {
		return err
	}
	k.id = id
	o.keys = append(o.keys, k)
	return nil
}

// localKeyID takes a bag's attributes, if there are any.
func (r *derReader) localKeyID() (id []byte) {
	if r.peek() != derSet {
		return nil
	}
	set := r.enter(derSet)
	for set.more() {
		attribute := set.enter(derSequence)
		if attribute.oid() == oidLocalKeyID {
			id = attribute.enter(derSet).octets(derOctets)
		}
	}
	return id
}

// keyOf returns the private key of a certificate, nil if there is none: the one
// with the same public key, never one that happens to stand beside it. A key that
// doesn't tell its public key is found by localKeyID.
func (s *keyStore) keyOf(i int) *privateKey {
	c := s.certificates[i]
	for _, k := range s.keys {
		if k.public != nil && bytes.Equal(k.public, c.Public) {
			return k
		}
	}
	for _, k := range s.keys {
		if k.public == nil && len(k.id) > 0 && bytes.Equal(k.id, s.ids[i]) {
			return k
		}
	}
	return nil
}
