package main

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Limits of an XML document of the platform. The largest real one is an
// ovf-env.xml of about 90 KiB with 40 elements.
const (
	maxXML         = 1 << 20
	maxXMLDepth    = 32
	maxXMLElements = 10000
)

const (
	nsXML = "http://www.w3.org/XML/1998/namespace"
	nsXSI = "http://www.w3.org/2001/XMLSchema-instance"
)

// xmlError says where a document is broken and why. It never holds text of the
// document, which may be the password.
type xmlError struct {
	Line, Column int    // from 1; of a UTF-16 document, in its UTF-8 form
	Element      string // path from the root, "/" outside of it
	Reason       string
}

func (e *xmlError) Error() string {
	return sprintf("line %d, column %d, element %s: %s", e.Line, e.Column, e.Element, e.Reason)
}

type xmlKind int

const (
	xmlEOF   xmlKind = iota
	xmlStart         // a start tag, or the first half of an empty element
	xmlEnd           // an end tag, or the second half of an empty element
	xmlText          // character data or a CDATA section
)

// xmlToken is a piece of a document. Comments and processing instructions are none.
type xmlToken struct {
	kind         xmlKind
	space, local string // namespace and local name of an element
	isNil        bool   // xsi:nil of a start tag
	text         []byte // decoded; valid until the next token
	from, to     int    // where the piece lies in the document
}

// xmlReader reads a document from memory: XML 1.0 with namespaces, without
// document type declarations, and so without entities but the five and characters.
type xmlReader struct {
	doc      []byte
	pos      int
	open     []xmlElement
	scopes   []xmlScope
	elements int
	empty    bool // the last start tag was an empty element
	sawRoot  bool
	buf      []byte
	// The last position whose line is known.
	known, line, lineStart int
}

type xmlElement struct {
	raw, space, local string
	scopes            int // namespaces that were declared before it
}

type xmlScope struct{ prefix, space string }

// newXMLReader takes UTF-8, with or without byte order mark.
func newXMLReader(doc []byte) *xmlReader {
	return &xmlReader{doc: bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf")), line: 1}
}

// position returns line and column of an offset that is not before one asked for earlier.
func (r *xmlReader) position(at int) (line, column int) {
	for i := bytes.IndexByte(r.doc[r.known:at], '\n'); i >= 0; i = bytes.IndexByte(r.doc[r.known:at], '\n') {
		r.known += i + 1
		r.line++
		r.lineStart = r.known
	}
	return r.line, at - r.lineStart + 1
}

// path names the element that is open.
func (r *xmlReader) path() string {
	if len(r.open) == 0 {
		return "/"
	}
	var names []string
	for _, e := range r.open {
		names = append(names, cutUTF8(e.local, 64))
	}
	return strings.Join(names, "/")
}

func (r *xmlReader) fail(reason string) error {
	line, column := r.position(min(max(r.pos, r.known), len(r.doc)))
	return &xmlError{line, column, r.path(), reason}
}

const xmlTooShort = "the document ends too early"

// next returns the next piece; at the end of a whole document one of kind xmlEOF.
// Every error is an *xmlError.
func (r *xmlReader) next() (xmlToken, error) {
	if r.empty {
		r.empty = false
		return r.close(r.pos), nil
	}
	for r.pos < len(r.doc) {
		from := r.pos
		rest := r.doc[from:]
		switch {
		case rest[0] != '<':
			return r.characters()
		case bytes.HasPrefix(rest, []byte("</")):
			return r.endTag()
		case bytes.HasPrefix(rest, []byte("<!--")):
			if err := r.comment(); err != nil {
				return xmlToken{}, err
			}
		case bytes.HasPrefix(rest, []byte("<![CDATA[")):
			return r.cdata()
		case bytes.HasPrefix(rest, []byte("<!")):
			return xmlToken{}, r.fail("document type declarations are refused")
		case bytes.HasPrefix(rest, []byte("<?")):
			if err := r.instruction(); err != nil {
				return xmlToken{}, err
			}
		default:
			return r.startTag()
		}
	}
	if len(r.open) > 0 {
		return xmlToken{}, r.fail(xmlTooShort)
	}
	if !r.sawRoot {
		return xmlToken{}, r.fail("no element at all")
	}
	return xmlToken{kind: xmlEOF, from: r.pos, to: r.pos}, nil
}

// until returns what stands before a mark, and goes on behind it.
func (r *xmlReader) until(mark string) ([]byte, error) {
	i := bytes.Index(r.doc[r.pos:], []byte(mark))
	if i < 0 {
		r.pos = len(r.doc)
		return nil, r.fail(xmlTooShort)
	}
	part := r.doc[r.pos : r.pos+i]
	if bad := badXMLChar(part); bad >= 0 {
		r.pos += bad
		return nil, r.fail(xmlBadChar)
	}
	r.pos += i + len(mark)
	return part, nil
}

func (r *xmlReader) comment() error {
	r.pos += len("<!--")
	if _, err := r.until("--"); err != nil {
		return err
	}
	if !bytes.HasPrefix(r.doc[r.pos:], []byte(">")) {
		return r.fail("two hyphens in a comment")
	}
	r.pos++
	return nil
}

// instruction skips a processing instruction. The declaration's encoding must be
// one that newXMLReader's callers have turned into UTF-8.
func (r *xmlReader) instruction() error {
	first := r.pos == 0
	r.pos += len("<?")
	part, err := r.until("?>")
	if err != nil {
		return err
	}
	name, rest := string(part), ""
	if i := strings.IndexAny(name, " \t\r\n"); i >= 0 {
		name, rest = name[:i], name[i:]
	}
	if !isXMLName(name) || strings.EqualFold(name, "xml") && (!first || name != "xml") {
		return r.fail("a broken processing instruction")
	}
	if name != "xml" {
		return nil
	}
	_, after, has := strings.Cut(rest, "encoding")
	after = strings.TrimLeft(after, " \t\r\n=")
	if has && len(after) > 1 {
		value, _, _ := strings.Cut(after[1:], after[:1])
		switch strings.ToLower(value) {
		case "utf-8", "utf8", "utf-16", "us-ascii", "ascii":
		default:
			return r.fail("the encoding is neither UTF-8 nor UTF-16")
		}
	}
	return nil
}

func (r *xmlReader) cdata() (xmlToken, error) {
	from := r.pos
	if len(r.open) == 0 {
		return xmlToken{}, r.fail("text outside of the root element")
	}
	r.pos += len("<![CDATA[")
	part, err := r.until("]]>")
	if err != nil {
		return xmlToken{}, err
	}
	clear(r.buf)
	r.buf = appendXMLLines(r.buf[:0], part)
	return xmlToken{kind: xmlText, text: r.buf, from: from, to: r.pos}, nil
}

func (r *xmlReader) characters() (xmlToken, error) {
	from := r.pos
	end := bytes.IndexByte(r.doc[from:], '<')
	if end < 0 {
		end = len(r.doc) - from
	}
	part := r.doc[from : from+end]
	if len(r.open) == 0 && len(bytes.Trim(part, " \t\r\n")) > 0 {
		return xmlToken{}, r.fail("text outside of the root element")
	}
	if bytes.Contains(part, []byte("]]>")) {
		return xmlToken{}, r.fail("the end of a CDATA section without its start")
	}
	clear(r.buf)
	var err error
	if r.buf, err = r.decode(r.buf[:0], from, from+end); err != nil {
		return xmlToken{}, err
	}
	r.pos = from + end
	return xmlToken{kind: xmlText, text: r.buf, from: from, to: r.pos}, nil
}

func (r *xmlReader) startTag() (xmlToken, error) {
	tok := xmlToken{kind: xmlStart, from: r.pos}
	if r.sawRoot && len(r.open) == 0 {
		return tok, r.fail("text after the root element")
	}
	if r.elements++; r.elements > maxXMLElements || len(r.open) >= maxXMLDepth {
		return tok, r.fail("too many elements or too deep")
	}
	r.pos++
	name, err := r.name()
	if err != nil {
		return tok, err
	}
	element := xmlElement{raw: name, scopes: len(r.scopes)}
	type attribute struct{ name, value string }
	var attributes []attribute
	for {
		spaced := r.skipSpace()
		rest := r.doc[r.pos:]
		if bytes.HasPrefix(rest, []byte(">")) {
			r.pos++
			break
		}
		if bytes.HasPrefix(rest, []byte("/>")) {
			r.pos += 2
			r.empty = true
			break
		}
		if len(rest) == 0 {
			return tok, r.fail(xmlTooShort)
		}
		if !spaced || len(attributes) == 256 {
			return tok, r.fail("a broken attribute")
		}
		var a attribute
		if a.name, a.value, err = r.attribute(); err != nil {
			return tok, err
		}
		for _, other := range attributes {
			if other.name == a.name {
				return tok, r.fail("an attribute stands twice")
			}
		}
		attributes = append(attributes, a)
		if a.name == "xmlns" {
			r.scopes = append(r.scopes, xmlScope{"", a.value})
		} else if prefix, is := strings.CutPrefix(a.name, "xmlns:"); is {
			r.scopes = append(r.scopes, xmlScope{prefix, a.value})
		}
	}
	var ok bool
	if element.space, element.local, ok = r.resolve(name, true); !ok {
		return tok, r.fail("a namespace prefix that is not declared")
	}
	for _, a := range attributes {
		if a.name == "xmlns" || strings.HasPrefix(a.name, "xmlns:") {
			continue
		}
		space, local, ok := r.resolve(a.name, false)
		if !ok {
			return tok, r.fail("a namespace prefix that is not declared")
		}
		if space == nsXSI && local == "nil" {
			v := strings.TrimSpace(a.value)
			tok.isNil = v == "true" || v == "1"
		}
	}
	r.open = append(r.open, element)
	r.sawRoot = true
	tok.space, tok.local, tok.to = element.space, element.local, r.pos
	return tok, nil
}

func (r *xmlReader) endTag() (xmlToken, error) {
	from := r.pos
	r.pos += len("</")
	name, err := r.name()
	if err != nil {
		return xmlToken{}, err
	}
	r.skipSpace()
	if r.pos == len(r.doc) {
		return xmlToken{}, r.fail(xmlTooShort)
	}
	if r.doc[r.pos] != '>' || len(r.open) == 0 || r.open[len(r.open)-1].raw != name {
		return xmlToken{}, r.fail("an end tag that matches no start tag")
	}
	r.pos++
	return r.close(from), nil
}

// close ends the element that is open.
func (r *xmlReader) close(from int) xmlToken {
	e := r.open[len(r.open)-1]
	r.open = r.open[:len(r.open)-1]
	r.scopes = r.scopes[:e.scopes]
	return xmlToken{kind: xmlEnd, space: e.space, local: e.local, from: from, to: r.pos}
}

func (r *xmlReader) attribute() (name, value string, err error) {
	if name, err = r.name(); err != nil {
		return "", "", err
	}
	r.skipSpace()
	if r.pos+1 >= len(r.doc) {
		return "", "", r.fail(xmlTooShort)
	}
	if r.doc[r.pos] != '=' {
		return "", "", r.fail("a broken attribute")
	}
	r.pos++
	r.skipSpace()
	if r.pos == len(r.doc) {
		return "", "", r.fail(xmlTooShort)
	}
	quote := r.doc[r.pos]
	if quote != '"' && quote != '\'' {
		return "", "", r.fail("a broken attribute")
	}
	r.pos++
	end := bytes.IndexByte(r.doc[r.pos:], quote)
	if end < 0 {
		r.pos = len(r.doc)
		return "", "", r.fail(xmlTooShort)
	}
	part := r.doc[r.pos : r.pos+end]
	if bytes.IndexByte(part, '<') >= 0 {
		return "", "", r.fail("a broken attribute")
	}
	decoded, err := r.decode(nil, r.pos, r.pos+end)
	if err == nil {
		r.pos += end + 1
	}
	return name, string(decoded), err
}

func (r *xmlReader) skipSpace() bool {
	from := r.pos
	for r.pos < len(r.doc) && strings.IndexByte(" \t\r\n", r.doc[r.pos]) >= 0 {
		r.pos++
	}
	return r.pos > from
}

func (r *xmlReader) name() (string, error) {
	end := r.pos
	for end < len(r.doc) && strings.IndexByte(" \t\r\n/>=<?'\"&", r.doc[end]) < 0 {
		end++
	}
	if end == len(r.doc) {
		r.pos = end
		return "", r.fail(xmlTooShort)
	}
	name := string(r.doc[r.pos:end])
	if !isXMLName(name) {
		return "", r.fail("a broken name")
	}
	r.pos = end
	return name, nil
}

// resolve turns a name into namespace and local name. Attributes have no default
// namespace.
func (r *xmlReader) resolve(name string, element bool) (space, local string, ok bool) {
	prefix, local, has := strings.Cut(name, ":")
	if !has {
		prefix, local = "", name
		if !element {
			return "", local, true
		}
	}
	if prefix == "xml" {
		return nsXML, local, true
	}
	for i := len(r.scopes) - 1; i >= 0; i-- {
		if r.scopes[i].prefix == prefix {
			return r.scopes[i].space, local, !has || r.scopes[i].space != ""
		}
	}
	return "", local, !has
}

var xmlEntities = [...]struct {
	name string
	char byte
}{{"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}}

// decode appends the document's part [at, end) with its references resolved.
// After an error the position is where it lies.
func (r *xmlReader) decode(to []byte, at, end int) ([]byte, error) {
	if i := badXMLChar(r.doc[at:end]); i >= 0 {
		r.pos = at + i
		return to, r.fail(xmlBadChar)
	}
	for {
		i := bytes.IndexByte(r.doc[at:end], '&')
		if i < 0 {
			return appendXMLLines(to, r.doc[at:end]), nil
		}
		to = appendXMLLines(to, r.doc[at:at+i])
		at += i
		name, _, has := bytes.Cut(r.doc[at+1:min(end, at+13)], []byte(";"))
		c, ok := xmlReference(string(name))
		if !has || !ok {
			r.pos = at
			return to, r.fail("an unknown entity")
		}
		to = utf8.AppendRune(to, c)
		at += len(name) + 2
	}
}
