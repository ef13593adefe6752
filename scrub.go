package main

import (
	"bytes"
	"strings"
)

// scrubOVF returns a copy of an ovf-env.xml document in which the text of every
// element that may hold a password is "REDACTED"; empty ones stay empty. All
// bytes around are those of the original. A document that can't be parsed is
// an error, so that nothing unscrubbed is ever written.
func scrubOVF(doc []byte) ([]byte, error) {
	text, err := xmlUTF8(doc)
	if err != nil {
		return nil, err
	}
	r := newXMLReader(text)
	var out []byte
	copied := 0 // bytes of text that are in out or dropped
	var depth, secretDepth int
	var from int // where the content of the secret element starts
	var filled bool
	for {
		tok, err := r.next()
		if err != nil {
			return nil, err
		}
		switch tok.kind {
		case xmlEOF:
			return append(out, text[copied:]...), nil
		case xmlStart:
			depth++
			if secretDepth == 0 && holdsPassword(tok.local) {
				secretDepth, from, filled = depth, tok.to, false
			} else if secretDepth > 0 {
				filled = true
			}
		case xmlText:
			filled = filled || len(tok.text) > 0
		case xmlEnd:
			if depth == secretDepth {
				if filled {
					out = append(out, text[copied:from]...)
					out = append(out, "REDACTED"...)
					copied = tok.from
				}
				secretDepth = 0
			}
			depth--
		}
	}
}

// holdsPassword goes by the local name, whatever the namespace.
func holdsPassword(local string) bool {
	return strings.Contains(local, "Password") && local != "DisableSshPasswordAuthentication"
}

// wasScrubbed says whether a password is one that a scrubbed copy shows: it
// means "unknown" and is never set.
func wasScrubbed(password []byte) bool {
	return bytes.Equal(password, []byte("REDACTED")) || bytes.Equal(password, []byte("*"))
}
