package main

import (
	"bytes"
	"errors"
	"strings"
)

// xmlFields reads the text of elements that are named by their path from the
// root, "GoalState/Incarnation", without namespaces. Of several with one path the
// first that isn't empty counts; white space around is cut off. Another root is an
// error.
func xmlFields(doc []byte, root string, fields map[string]*string) error {
	text, err := xmlUTF8(doc)
	if err != nil {
		return err
	}
	r := newXMLReader(text)
	var path []string
	var value []byte
	for {
		tok, err := r.next()
		if err != nil {
			return err
		}
		switch tok.kind {
		case xmlEOF:
			return nil
		case xmlStart:
			if r.open[0].local != root {
				return errors.New("the root is not " + root)
			}
			path = append(path, tok.local)
			value = value[:0]
		case xmlText:
			value = append(value, tok.text...)
		case xmlEnd:
			if p := fields[strings.Join(path, "/")]; p != nil && *p == "" {
				*p = string(bytes.TrimSpace(value))
			}
			path = path[:len(path)-1]
			value = value[:0]
		}
	}
}
