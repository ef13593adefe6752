package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
)

// scrubOVF returns a copy of an ovf-env.xml document in which the text of every
// element that may hold a password is "REDACTED"; empty ones stay empty. All
// bytes around are those of the original. A document that can't be parsed is
// an error, so that nothing unscrubbed is ever written.
func scrubOVF(doc []byte) ([]byte, error) {
	text, err := ovfText(doc)
	if err != nil {
		return nil, err
	}
	d := newOVFDecoder(text)
	var out []byte
	copied := int64(0) // bytes of text that are in out or dropped
	var depth, secretDepth int
	var from int64 // where the content of the secret element starts
	var filled bool
	for {
		before := d.InputOffset()
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			line, column := d.InputPos()
			return nil, &ovfError{line, column, "/", xmlReason(err)}
		}
		switch t := tok.(type) {
		case xml.Directive:
			line, column := d.InputPos()
			return nil, &ovfError{line, column, "/", "document type declarations are refused"}
		case xml.StartElement:
			depth++
			if secretDepth == 0 && holdsPassword(t.Name.Local) {
				secretDepth, from, filled = depth, d.InputOffset(), false
			} else if secretDepth > 0 {
				filled = true
			}
		case xml.CharData:
			filled = filled || len(t) > 0
		case xml.EndElement:
			if depth == secretDepth {
				// A self-closing element ends where it started.
				if filled && before >= from {
					out = append(out, text[copied:from]...)
					out = append(out, "REDACTED"...)
					copied = before
				}
				secretDepth = 0
			}
			depth--
		}
	}
	return append(out, text[copied:]...), nil
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
