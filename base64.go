package main

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// decodeBase64 decodes text with white space anywhere, with padding or without.
// What it leaves in memory besides the result is wiped.
func decodeBase64(text []byte) ([]byte, error) {
	packed := make(secret, 0, len(text))
	defer packed.wipe()
	for _, c := range text {
		if !strings.ContainsRune(" \t\r\n", rune(c)) {
			packed = append(packed, c)
		}
	}
	packed = bytes.TrimRight(packed, "=")
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(packed)))
	n, err := base64.RawStdEncoding.Decode(out, packed)
	return out[:n], err
}
