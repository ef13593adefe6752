package main

import "errors"

// DER and BER (X.690), as far as certificates, CMS and PKCS#12 need them.

// Tags of the universal class. Bit 0x20 says that an element is made of others.
const (
	derBoolean  = 0x01
	derInteger  = 0x02
	derBits     = 0x03
	derOctets   = 0x04
	derNull     = 0x05
	derOID      = 0x06
	derUTF8     = 0x0c
	derBMP      = 0x1e
	derUTCTime  = 0x17
	derTime     = 0x18
	derSequence = 0x30
	derSet      = 0x31
	derMade     = 0x20 // constructed
	derContext  = 0x80 // [0]; made of others: derContext|derMade
)

// maxDERDepth is how deep elements may be nested.
const maxDERDepth = 32

var (
	errDER      = errors.New("asn.1: damaged or cut off")
	errDERDeep  = errors.New("asn.1: nested too deeply")
	errDEROther = errors.New("asn.1: not the element that belongs here")
)

// derReader takes elements from the front of rest. Readers that come from each
// other share one error: after the first, all return nothing more, so that it is
// enough to look at it in the end. Content is returned without copying, except
// that strings in parts are joined.
type derReader struct {
	rest  []byte
	depth int
	err   *error
}

func newDERReader(b []byte) *derReader { return &derReader{rest: b, err: new(error)} }

// fail notes the first error.
func (r *derReader) fail(err error) {
	if *r.err == nil {
		*r.err = err
	}
	r.rest = nil
}

// more says whether another element follows.
func (r *derReader) more() bool { return *r.err == nil && len(r.rest) > 0 }

// peek is the tag of the next element, 0 if there is none.
func (r *derReader) peek() byte {
	if !r.more() {
		return 0
	}
	return r.rest[0]
}

// next takes the next element, whatever it is. Raw is all of it.
func (r *derReader) next() (tag byte, content, raw []byte) {
	if *r.err != nil {
		return 0, nil, nil
	}
	head, length, size, err := derElement(r.rest, r.depth)
	if err != nil {
		r.fail(err)
		return 0, nil, nil
	}
	tag, content, raw = r.rest[0], r.rest[head:head+length], r.rest[:size]
	r.rest = r.rest[size:]
	return tag, content, raw
}

// derElement measures the element at the front of b: its head, its content, and
// all of it, which is more when the length is indefinite (X.690, 8.1.3).
func derElement(b []byte, depth int) (head, length, size int, err error) {
	if depth > maxDERDepth {
		return 0, 0, 0, errDERDeep
	}
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return 0, 0, 0, errDER
	}
	head, length = 2, int(b[1])
	if length == 0x80 {
		if b[0]&derMade == 0 {
			return 0, 0, 0, errDER
		}
		for at := head; at+1 < len(b); {
			if b[at] == 0 && b[at+1] == 0 {
				return head, at - head, at + 2, nil
			}
			_, _, n, err := derElement(b[at:], depth+1)
			if err != nil {
				return 0, 0, 0, err
			}
			at += n
		}
		return 0, 0, 0, errDER
	}
	if length > 0x80 {
		n := length & 0x7f
		if n > 4 || len(b) < head+n {
			return 0, 0, 0, errDER
		}
		length = 0
		for _, v := range b[head : head+n] {
			length = length<<8 | int(v)
		}
		head += n
	}
	if length < 0 || length > len(b)-head {
		return 0, 0, 0, errDER
	}
	return head, length, head + length, nil
}

// take takes an element with a tag and returns its content.
func (r *derReader) take(tag byte) []byte {
	found, content, _ := r.next()
	if found != tag {
		r.fail(errDEROther)
		return nil
	}
	return content
}

// enter takes an element that is made of others and returns a reader for them.
func (r *derReader) enter(tag byte) *derReader {
	content := r.take(tag)
	return &derReader{rest: content, depth: r.depth + 1, err: r.err}
}

// enterRaw is enter for an element all of whose bytes are wanted too.
func (r *derReader) enterRaw(tag byte) (in *derReader, raw []byte) {
	before := r.rest
	in = r.enter(tag)
	return in, before[:len(before)-len(r.rest)]
}

// octets takes a string with a tag, in one piece or, as BER allows, in several.
func (r *derReader) octets(tag byte) []byte {
	if r.peek() != tag|derMade {
		return r.take(tag)
	}
	parts := r.enter(tag | derMade)
	if parts.depth > maxDERDepth {
		r.fail(errDERDeep)
	}
	var all []byte
	for parts.more() {
		// The parts of a string with a tag of its own have the universal one.
		all = append(all, parts.octets(derOctets)...)
	}
	return all
}

// oid takes an object identifier; it is compared as its encoded form.
func (r *derReader) oid() string { return string(r.take(derOID)) }

// unsigned takes a number that isn't negative, without leading zeros.
func (r *derReader) unsigned() []byte {
	b := r.take(derInteger)
	if *r.err == nil && (len(b) == 0 || b[0]&0x80 != 0) {
		r.fail(errDER)
		return nil
	}
	return trimZeros(b)
}

// count takes a small number that isn't negative.
func (r *derReader) count() int {
	b, n := r.unsigned(), 0
	if len(b) > 3 {
		r.fail(errDER)
		return 0
	}
	for _, v := range b {
		n = n<<8 | int(v)
	}
	return n
}

// bits takes a bit string of whole bytes.
func (r *derReader) bits() []byte {
	b := r.take(derBits)
	if len(b) == 0 || b[0] != 0 {
		r.fail(errDER)
		return nil
	}
	return b[1:]
}

// algorithm takes an AlgorithmIdentifier (RFC 5280, 4.1.1.2).
func (r *derReader) algorithm() (oid string, parameters *derReader) {
	in := r.enter(derSequence)
	return in.oid(), in
}

// der is an element with a tag. Bytes are strings here: putting elements together
// takes less code so.
func der(tag byte, content string) string {
	n := len(content)
	head := []byte{tag, byte(n)}
	switch {
	case n >= 1<<16:
		head = []byte{tag, 0x84, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	case n >= 1<<8:
		head = []byte{tag, 0x82, byte(n >> 8), byte(n)}
	case n >= 0x80:
		head = []byte{tag, 0x81, byte(n)}
	}
	return string(head) + content
}

// derNumber is an integer, given as big-endian bytes without sign.
func derNumber(n []byte) string {
	text := string(n)
	if len(n) == 0 || n[0]&0x80 != 0 {
		text = "\x00" + text
	}
	return der(derInteger, text)
}

// derRSA is an RSAPublicKey (RFC 8017, A.1.1).
func derRSA(k *rsaKey) string { return der(derSequence, derNumber(k.N)+derNumber(k.E)) }
