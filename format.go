package main

import (
	"io"
	"strconv"
	"unicode/utf8"
)

// appendFormat formats as package fmt does, which with package reflect takes
// 150 kB more, what azprov prints: %s, %v and %d of strings, bytes, integers,
// booleans, errors and values with a String method, %q, %x, and %w for errorf; with
// a width, and the flags - and 0. A named type without methods has to be converted
// by the caller: a value of any other type is "!".
func appendFormat(b []byte, format string, args []any) []byte {
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b = append(b, format[i])
			continue
		}
		var left, zero bool
		width := 0
		for i++; i < len(format) && (format[i] == '-' || format[i] >= '0' && format[i] <= '9'); i++ {
			switch {
			case format[i] == '-':
				left = true
			case format[i] == '0' && width == 0:
				zero = true
			default:
				width = width*10 + int(format[i]-'0')
			}
		}
		if i == len(format) || format[i] == '%' {
			b = append(b, '%')
			continue
		}
		if len(args) == 0 {
			b = append(b, '!')
			continue
		}
		start := len(b)
		b = appendVerb(b, format[i], args[0])
		args = args[1:]
		pad := width - utf8.RuneCount(b[start:])
		for range pad {
			b = append(b, ' ')
		}
		if pad > 0 && !left {
			copy(b[start+pad:], b[start:])
			for j := range pad {
				b[start+j] = ' '
				if zero {
					b[start+j] = '0'
				}
			}
		}
	}
	return b
}

// appendVerb appends one value. Errors and Stringers go before the kinds, so that
// a secret stays one however it is printed.
func appendVerb(b []byte, verb byte, v any) []byte {
	var text string
	switch v := v.(type) {
	case nil:
		return append(b, "<nil>"...)
	case error:
		text = v.Error()
	case interface{ String() string }:
		text = v.String()
	case string:
		text = v
	case []byte:
		text = string(v)
	case bool:
		return strconv.AppendBool(b, v)
	default:
		n, negative, ok := integer(v)
		if !ok {
			return append(b, '!')
		}
		if negative {
			b = append(b, '-')
		}
		base := 10
		if verb == 'x' {
			base = 16
		}
		return strconv.AppendUint(b, n, base)
	}
	switch verb {
	case 'q':
		return strconv.AppendQuote(b, text)
	case 'x':
		for i := range len(text) {
			b = append(b, hexDigits[text[i]>>4], hexDigits[text[i]&15])
		}
		return b
	}
	return append(b, text...)
}

const hexDigits = "0123456789abcdef"

// integer returns the magnitude and sign of an integer.
func integer(v any) (n uint64, negative, ok bool) {
	var i int64
	switch v := v.(type) {
	case int:
		i = int64(v)
	case int32:
		i = int64(v)
	case int64:
		i = v
	case uint:
		return uint64(v), false, true
	case uint8:
		return uint64(v), false, true
	case uint16:
		return uint64(v), false, true
	case uint32:
		return uint64(v), false, true
	case uint64:
		return v, false, true
	default:
		return 0, false, false
	}
	if i < 0 {
		return -uint64(i), true, true
	}
	return uint64(i), false, true
}

func sprintf(format string, args ...any) string {
	return string(appendFormat(nil, format, args))
}

func fprintf(w io.Writer, format string, args ...any) {
	w.Write(appendFormat(nil, format, args))
}

// errorf makes an error that wraps the argument of every %w.
func errorf(format string, args ...any) error {
	e := &formattedError{text: sprintf(format, args...)}
	for i, at := 0, 0; i+1 < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		if i++; format[i] == '%' {
			continue
		}
		if cause, is := args[at].(error); is && format[i] == 'w' {
			e.causes = append(e.causes, cause)
		}
		at++
	}
	return e
}

type formattedError struct {
	text   string
	causes []error
}

func (e *formattedError) Error() string   { return e.text }
func (e *formattedError) Unwrap() []error { return e.causes }
