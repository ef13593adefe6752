package main

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// plain turns our values into those of encoding/json, which judges us.
func plain(v any) any {
	switch v := v.(type) {
	case object:
		m := map[string]any{}
		for _, e := range v {
			m[e.Key] = plain(e.Value)
		}
		return m
	case []any:
		l := []any{}
		for _, e := range v {
			l = append(l, plain(e))
		}
		return l
	case jsonNumber:
		return json.Number(v)
	}
	return v
}

var jsonSamples = []string{
	`{}`, `[]`, `null`, `true`, ` false `, `0`, `-1.5e3`, `"a\u00e9\ud83d\ude00\n\/"`, `"\ud800"`, `"\ud800\u0041"`,
	`{"compute":{"name":"edge","tags":[1,2,{"a":null}]},"network":{"interface":[{"macAddress":"6045BD12AB34"}]}}`,
	`{"a":1,"a":2}`, `01`, `1.`, `.5`, `+1`, `-`, `1e`, `[1,]`, `{"a"}`, `{"a":}`, `{,}`, `"`, `"\x"`, `"\u12"`, "\"\x01\"", `tru`, `[1] x`, ``, `[`, `{"a":1`,
	strings.Repeat("[", 40) + strings.Repeat("]", 40),
}

func TestJSONAgreesWithEncodingJSON(t *testing.T) {
	for _, s := range jsonSamples {
		checkJSON(t, s)
	}
}

// unmarshalNumbers is json.Unmarshal with numbers as they stand in the text.
func unmarshalNumbers(s string, v any) error {
	if !json.Valid([]byte(s)) {
		return errors.New("not valid")
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	return d.Decode(v)
}

// checkJSON compares our decoder with encoding/json. We may refuse what it
// takes only for our limits; we never take what it refuses.
func checkJSON(t *testing.T, s string) {
	v, err := decodeJSON([]byte(s))
	var want any
	wantErr := unmarshalNumbers(s, &want)
	if err != nil {
		if wantErr == nil && !strings.Contains(err.Error(), "too large") {
			t.Errorf("%q: %v, but it is valid", s, err)
		}
		return
	}
	if wantErr != nil {
		t.Errorf("%q: accepted, but %v", s, wantErr)
		return
	}
	if got := plain(v); !reflect.DeepEqual(got, want) {
		t.Errorf("%q: got %#v, want %#v", s, got, want)
	}
	for _, text := range []string{encodeJSON(v), indentJSON(v)} {
		var back any
		if err := unmarshalNumbers(text, &back); err != nil || !reflect.DeepEqual(back, want) {
			t.Errorf("%q: encoded as %q (%v)", s, text, err)
		}
	}
}

func TestJSONSecrets(t *testing.T) {
	if s := encodeJSON(object{{"p", secret("hunter2")}}); s != `{"p":"[redacted]"}` {
		t.Error(s)
	}
}

func FuzzJSON(f *testing.F) {
	for _, s := range jsonSamples {
		f.Add(s)
	}
	f.Fuzz(checkJSON)
}
