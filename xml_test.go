package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// xmlDump is a document as a list of pieces, text joined.
func xmlDump(doc []byte) (string, error) {
	var b, text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			b.WriteString("=" + text.String() + "\x01")
			text.Reset()
		}
	}
	r := newXMLReader(doc)
	for {
		tok, err := r.next()
		if err != nil {
			return "", err
		}
		switch tok.kind {
		case xmlEOF:
			return b.String(), nil
		case xmlText:
			if len(r.open) > 0 {
				text.Write(tok.text)
			}
		case xmlStart:
			flush()
			b.WriteString("<{" + tok.space + "}" + tok.local + "\x01")
		case xmlEnd:
			flush()
			b.WriteString(">{" + tok.space + "}" + tok.local + "\x01")
		}
	}
}

// xmlDumpOther is the same by encoding/xml.
func xmlDumpOther(doc []byte) (string, error) {
	var b, text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			b.WriteString("=" + text.String() + "\x01")
			text.Reset()
		}
	}
	d := xml.NewDecoder(bytes.NewReader(doc))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	depth := 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch t := tok.(type) {
		case xml.StartElement:
			flush()
			depth++
			b.WriteString("<{" + t.Name.Space + "}" + t.Name.Local + "\x01")
		case xml.EndElement:
			flush()
			depth--
			b.WriteString(">{" + t.Name.Space + "}" + t.Name.Local + "\x01")
		case xml.CharData:
			if depth > 0 {
				text.Write(t)
			}
		}
	}
}

var xmlSamples = []string{
	`<a/>`, `<?xml version="1.0" encoding="utf-8"?><a b="c"> t </a>`, "<a>\r\n\r&#13;&#x41;&amp;&lt;&gt;&quot;&apos;<![CDATA[<x>\r\n&amp;]]></a>",
	`<p:a xmlns:p="u" xmlns="v"><b p:c='"'/><p:b xmlns:p="w"/><x xmlns=""/></p:a>`, `<a><!-- c --><?pi x?>t<!-- --></a> <!-- end -->`, "\xef\xbb\xbf<a>ü€😀</a>",
	`<a xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil = "true" ></a >`, `<xml:a/>`, `<a xml:lang="de"/>`,
}

func TestXMLReader(t *testing.T) {
	for _, doc := range xmlSamples {
		got, err := xmlDump([]byte(doc))
		want, otherErr := xmlDumpOther([]byte(doc))
		if err != nil || otherErr != nil || got != want {
			t.Errorf("%s:\n got %q %v\nwant %q %v", doc, got, err, want, otherErr)
		}
		for i := range doc {
			var broken *xmlError
			if _, err := xmlDump([]byte(doc[:i])); err == nil && !strings.Contains(doc[:i], "</a") || err != nil && !errors.As(err, &broken) {
				t.Errorf("%q: %v", doc[:i], err)
			}
		}
	}
	for doc, want := range map[string]string{
		"":                       "line 1, column 1, element /: no element at all",
		"<a>\n <b>\n</a>":        "line 3, column 4, element a/b: an end tag that matches no start tag",
		"<a>\n&nbsp;</a>":        "line 2, column 1, element a: an unknown entity",
		"<a/><b/>":               "text after the root element",
		"<a/>x":                  "text outside of the root element",
		"<a><![CDATA[</a>":       "the document ends too early",
		"<!DOCTYPE a><a/>":       "document type declarations are refused",
		"<a b='1' b='2'/>":       "an attribute stands twice",
		"<a b='<'/>":             "a broken attribute",
		"<a b=c/>":               "a broken attribute",
		"<a b/>":                 "a broken attribute",
		"<a b='1'c='2'/>":        "a broken attribute",
		"<p:a/>":                 "a namespace prefix that is not declared",
		"<a p:b=''/>":            "a namespace prefix that is not declared",
		"<a>\x01</a>":            "a character that XML does not allow",
		"<a>\xff</a>":            "a character that XML does not allow",
		"<a>&#0;</a>":            "an unknown entity",
		"<a>&#xd800;</a>":        "an unknown entity",
		"<a>]]></a>":             "the end of a CDATA section without its start",
		"<a><!-- -- --></a>":     "two hyphens in a comment",
		"<a><?xml version='1'?>": "a broken processing instruction",
		"<1/>":                   "a broken name",
		"< a/>":                  "a broken name",
		"</a>":                   "an end tag that matches no start tag",
		"<?xml version='1.0' encoding='latin1'?><a/>": "the encoding is neither",
	} {
		if _, err := xmlDump([]byte(doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", doc, err, want)
		}
	}
}

// Whatever our reader accepts, encoding/xml reads alike, but for what it does not check.
func FuzzXML(f *testing.F) {
	for _, doc := range xmlSamples {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := xmlDump(doc)
		want, otherErr := xmlDumpOther(bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf")))
		if err != nil {
			return
		}
		if otherErr != nil {
			// It wants version 1.0, and knows what Unicode allows in names beyond ASCII.
			if s := otherErr.Error(); !strings.Contains(s, "version") && !strings.Contains(s, "name") && !strings.Contains(s, "expected element") {
				t.Errorf("%q: accepted as %q, the other says %v", doc, got, otherErr)
			}
		} else if got != want {
			t.Errorf("%q:\n got %q\nwant %q", doc, got, want)
		}
	})
}
