package main

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// object is a JSON object whose members keep their order.
type object []member

type member struct {
	Key   string
	Value any
}

// get returns the value of the first member with a key, or nil.
func (o object) get(key string) any {
	for _, m := range o {
		if m.Key == key {
			return m.Value
		}
	}
	return nil
}

// text returns a member as text: strings as they are, numbers and booleans in
// their JSON form, all else "".
func (o object) text(key string) string {
	switch v := o.get(key).(type) {
	case string:
		return v
	case jsonNumber, bool:
		return encodeJSON(v)
	}
	return ""
}

// jsonNumber is a number as it stands in a document.
type jsonNumber string

// int is the number if it is a whole one that fits, else 0.
func (n jsonNumber) int() int {
	i, err := strconv.Atoi(string(n))
	if err != nil {
		return 0
	}
	return i
}

// encodeJSON returns the JSON form of nil, bool, string, secret, integers,
// jsonNumber, []string, []any and object. Secrets are "[redacted]". Any other type
// is a programming error and panics.
func encodeJSON(v any) string { return string(appendJSON(nil, v)) }

func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case *bool:
		if v == nil {
			return append(b, "null"...)
		}
		return strconv.AppendBool(b, *v)
	case string:
		return appendJSONString(b, v)
	case secret:
		return appendJSONString(b, v.String())
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case uint32:
		return strconv.AppendUint(b, uint64(v), 10)
	case uint64:
		return strconv.AppendUint(b, v, 10)
	case jsonNumber:
		return append(b, v...)
	case []string:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSONString(b, e)
		}
		return append(b, ']')
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, e)
		}
		return append(b, ']')
	case object:
		b = append(b, '{')
		for i, m := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSONString(b, m.Key)
			b = append(b, ':')
			b = appendJSON(b, m.Value)
		}
		return append(b, '}')
	}
	panic("encodeJSON: a value of another type")
}

func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r < 0x20 || r == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[r>>4], hexDigits[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// indentJSON is encodeJSON for people: two blanks a level, a line a member, and
// a final newline.
func indentJSON(v any) string {
	var b strings.Builder
	indentInto(&b, v, "")
	b.WriteByte('\n')
	return b.String()
}

func indentInto(b *strings.Builder, v any, indent string) {
	inner := indent + "  "
	switch v := v.(type) {
	case object:
		if len(v) == 0 {
			b.WriteString("{}")
			return
		}
		b.WriteString("{")
		for i, m := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString("\n" + inner + encodeJSON(m.Key) + ": ")
			indentInto(b, m.Value, inner)
		}
		b.WriteString("\n" + indent + "}")
	case []any:
		if len(v) == 0 {
			b.WriteString("[]")
			return
		}
		b.WriteString("[")
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString("\n" + inner)
			indentInto(b, e, inner)
		}
		b.WriteString("\n" + indent + "]")
	default:
		b.WriteString(encodeJSON(v))
	}
}

const (
	maxJSON      = 1 << 20 // bytes of a document
	maxJSONDepth = 32      // nesting of arrays and objects
	maxJSONNodes = 1 << 16 // values in a document
)

// decodeJSON reads one JSON document (RFC 8259) of at most 1 MiB, 32 levels
// and 65,536 values. It returns nil, bool, jsonNumber, string, []any or object.
func decodeJSON(data []byte) (any, error) {
	if len(data) > maxJSON {
		return nil, errors.New("json: document over 1 MiB")
	}
	d := jsonDecoder{data: data}
	v := d.value(0)
	d.space()
	if d.err == nil && d.pos != len(d.data) {
		d.fail("text after the document")
	}
	if d.err != nil {
		return nil, d.err
	}
	return v, nil
}

// jsonDecoder remembers its first error, so that the parse code needs no ladder.
type jsonDecoder struct {
	data  []byte
	pos   int
	nodes int
	err   error
}

func (d *jsonDecoder) fail(what string) {
	if d.err == nil {
		d.err = errorf("json: %s at byte %d", what, d.pos)
	}
}

func (d *jsonDecoder) space() {
	for d.pos < len(d.data) && strings.IndexByte(" \t\r\n", d.data[d.pos]) >= 0 {
		d.pos++
	}
}

// peek returns the next byte after white space, or 0 at the end or after an error.
func (d *jsonDecoder) peek() byte {
	d.space()
	if d.err != nil || d.pos >= len(d.data) {
		return 0
	}
	return d.data[d.pos]
}

func (d *jsonDecoder) value(depth int) any {
	if d.nodes++; d.nodes > maxJSONNodes || depth > maxJSONDepth {
		d.fail("document too large")
		return nil
	}
	switch c := d.peek(); {
	case c == '{':
		return d.object(depth)
	case c == '[':
		return d.array(depth)
	case c == '"':
		return d.string()
	case c == 't':
		return d.word("true", true)
	case c == 'f':
		return d.word("false", false)
	case c == 'n':
		return d.word("null", nil)
	case c == '-' || c >= '0' && c <= '9':
		return d.number()
	}
	d.fail("no value")
	return nil
}

func (d *jsonDecoder) word(w string, v any) any {
	if !strings.HasPrefix(string(d.data[d.pos:min(len(d.data), d.pos+len(w))]), w) {
		d.fail("unknown word")
		return nil
	}
	d.pos += len(w)
	return v
}

func (d *jsonDecoder) number() any {
	start := d.pos
	digits := func() (n int) {
		for d.pos < len(d.data) && d.data[d.pos] >= '0' && d.data[d.pos] <= '9' {
			d.pos++
			n++
		}
		return n
	}
	accept := func(chars string) bool {
		if d.pos < len(d.data) && strings.IndexByte(chars, d.data[d.pos]) >= 0 {
			d.pos++
			return true
		}
		return false
	}
	accept("-")
	sound := accept("0") || digits() > 0
	if accept(".") {
		sound = digits() > 0 && sound
	}
	if accept("eE") {
		accept("+-")
		sound = digits() > 0 && sound
	}
	if !sound {
		d.fail("bad number")
		return nil
	}
	return jsonNumber(d.data[start:d.pos])
}

func (d *jsonDecoder) array(depth int) any {
	d.pos++
	list := []any{}
	if d.peek() == ']' {
		d.pos++
		return list
	}
	for d.err == nil {
		list = append(list, d.value(depth+1))
		switch d.peek() {
		case ',':
			d.pos++
		case ']':
			d.pos++
			return list
		default:
			d.fail("no comma or ]")
		}
	}
	return nil
}

func (d *jsonDecoder) object(depth int) any {
	d.pos++
	o := object{}
	if d.peek() == '}' {
		d.pos++
		return o
	}
	for d.err == nil {
		if d.peek() != '"' {
			d.fail("no member name")
			return nil
		}
		key := d.string()
		if d.peek() != ':' {
			d.fail("no colon")
			return nil
		}
		d.pos++
		o = append(o, member{key, d.value(depth + 1)})
		switch d.peek() {
		case ',':
			d.pos++
		case '}':
			d.pos++
			return o
		default:
			d.fail("no comma or }")
		}
	}
	return nil
}

func (d *jsonDecoder) string() string {
	d.pos++
	var b []byte
	for d.pos < len(d.data) {
		c := d.data[d.pos]
		d.pos++
		switch {
		case c == '"':
			return string([]rune(string(b))) // a broken byte becomes U+FFFD, each for itself
		case c < 0x20:
			d.fail("control character in a string")
			return ""
		case c == '\\':
			b = d.escape(b)
			if d.err != nil {
				return ""
			}
		default:
			b = append(b, c)
		}
	}
	d.fail("string without end")
	return ""
}

func (d *jsonDecoder) escape(b []byte) []byte {
	if d.pos >= len(d.data) {
		d.fail("string without end")
		return b
	}
	c := d.data[d.pos]
	d.pos++
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		return append(b, "\"\\/\b\f\n\r\t"[i])
	}
	if c != 'u' {
		d.fail("unknown escape")
		return b
	}
	r := rune(d.hex4())
	if utf16.IsSurrogate(r) && d.pos+6 <= len(d.data) && d.data[d.pos] == '\\' && d.data[d.pos+1] == 'u' {
		back := d.pos
		d.pos += 2
		if r2 := utf16.DecodeRune(r, rune(d.hex4())); r2 != utf8.RuneError {
			return utf8.AppendRune(b, r2)
		}
		d.pos = back
	}
	return utf8.AppendRune(b, r)
}

func (d *jsonDecoder) hex4() uint64 {
	if d.pos+4 > len(d.data) {
		d.fail("short escape")
		return 0
	}
	n, err := strconv.ParseUint(string(d.data[d.pos:d.pos+4]), 16, 16)
	if err != nil {
		d.fail("bad escape")
	}
	d.pos += 4
	return n
}
