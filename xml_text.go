package main

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// isXMLName is a little wider than XML beyond ASCII.
func isXMLName(s string) bool {
	for i, c := range s {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= 0x80 && c != utf8.RuneError
		if !letter && (i == 0 || strings.IndexByte("0123456789-.:", byte(c)) < 0) {
			return false
		}
	}
	return s != "" && len(s) <= 256 && strings.Count(s, ":") <= 1 && !strings.HasSuffix(s, ":")
}

// xmlReference is the character that a reference stands for.
func xmlReference(name string) (rune, bool) {
	if number, is := strings.CutPrefix(name, "#"); is {
		base := 10
		if hex, is := strings.CutPrefix(number, "x"); is {
			number, base = hex, 16
		}
		n, err := strconv.ParseUint(number, base, 32)
		return rune(n), err == nil && n <= utf8.MaxRune && isXMLChar(rune(n))
	}
	for _, e := range xmlEntities {
		if e.name == name {
			return rune(e.char), true
		}
	}
	return 0, false
}

// isXMLChar is the production Char of XML 1.0.
func isXMLChar(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xd7ff || r >= 0xe000 && r <= 0xfffd || r >= 0x10000
}

const xmlBadChar = "a character that XML does not allow"

// badXMLChar is where the first character stands that is not allowed, or -1.
func badXMLChar(b []byte) int {
	for i := 0; i < len(b); {
		r, n := rune(b[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(b[i:])
		}
		if r == utf8.RuneError && n == 1 || !isXMLChar(r) {
			return i
		}
		i += n
	}
	return -1
}

// appendXMLLines appends text with its line ends made LF (XML 1.0, 2.11).
func appendXMLLines(to, text []byte) []byte {
	for i, c := range text {
		switch {
		case c != '\r':
			to = append(to, c)
		case i+1 == len(text) || text[i+1] != '\n':
			to = append(to, '\n')
		}
	}
	return to
}

// xmlUTF8 returns a document of at most 1 MiB as UTF-8 without byte order mark
// and trailing NULs: it is UTF-8 or, with a byte order mark, UTF-16.
func xmlUTF8(doc []byte) ([]byte, error) {
	if len(doc) > maxXML {
		return nil, &xmlError{1, 1, "/", "the document is larger than 1 MiB"}
	}
	if len(doc) >= 2 && (doc[0] == 0xff && doc[1] == 0xfe || doc[0] == 0xfe && doc[1] == 0xff) {
		units := make([]uint16, 0, len(doc)/2)
		for i := 2; i+1 < len(doc); i += 2 {
			if doc[0] == 0xff {
				units = append(units, uint16(doc[i])|uint16(doc[i+1])<<8)
			} else {
				units = append(units, uint16(doc[i+1])|uint16(doc[i])<<8)
			}
		}
		var out []byte
		for _, r := range utf16.Decode(units) {
			out = utf8.AppendRune(out, r)
		}
		clear(units)
		doc = out
	}
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf"))
	return bytes.TrimRight(doc, "\x00"), nil
}
