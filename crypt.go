package main

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// SHA-512-crypt (Drepper, "Unix crypt using SHA-256 and SHA-512"), the form
// that every C library's crypt understands.
const (
	cryptPrefix        = "$6$"
	cryptDefaultRounds = 5000
	cryptMinRounds     = 1000
	cryptMaxRounds     = 999999999
	cryptMaxSalt       = 16
	cryptAlphabet      = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// hashPassword returns the hash with a fresh salt of 16 characters.
func hashPassword(password secret, rounds int) (string, error) {
	var salt [cryptMaxSalt]byte
	if err := randomBytes(salt[:]); err != nil {
		return "", err
	}
	for i := range salt {
		salt[i] = cryptAlphabet[salt[i]&63]
	}
	return sha512Crypt(password, string(salt[:]), rounds), nil
}

// randomBytes fills b from the kernel's generator.
func randomBytes(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Getrandom(b, 0)
		if err != nil && err != unix.EINTR {
			return failure("get random bytes", "", err)
		}
		b = b[max(n, 0):]
	}
	return nil
}

// verifyPassword says whether a "$6$" hash is that of a password.
func verifyPassword(password secret, hash string) bool {
	rest, ok := strings.CutPrefix(hash, cryptPrefix)
	if !ok {
		return false
	}
	rounds := cryptDefaultRounds
	if r, has := strings.CutPrefix(rest, "rounds="); has {
		text, after, _ := strings.Cut(r, "$")
		n, err := strconv.Atoi(text)
		if err != nil || n > 10000000 { // more would only burn time
			return false
		}
		rounds, rest = n, after
	}
	salt, _, ok := strings.Cut(rest, "$")
	return ok && sha512Crypt(password, salt, rounds) == hash
}

// sha512Crypt computes the hash. The salt is cut to 16 bytes, rounds are clamped
// to 1000-999999999 and named in the result unless they are 5000.
func sha512Crypt(password secret, salt string, rounds int) string {
	rounds = min(max(rounds, cryptMinRounds), cryptMaxRounds)
	p, s := []byte(password), []byte(salt)
	if len(s) > cryptMaxSalt {
		s = s[:cryptMaxSalt]
	}
	h := &sha512{}
	sum := func(parts ...[]byte) []byte {
		h.reset()
		for _, part := range parts {
			h.write(part)
		}
		return h.sum(nil)
	}
	// stretch repeats a digest and cuts it to n bytes.
	stretch := func(digest []byte, n int) []byte {
		out := make([]byte, 0, n+len(digest))
		for len(out) < n {
			out = append(out, digest...)
		}
		return out[:n]
	}
	b := sum(p, s, p)
	parts := [][]byte{p, s, stretch(b, len(p))}
	for n := len(p); n > 0; n >>= 1 {
		if n&1 != 0 {
			parts = append(parts, b)
		} else {
			parts = append(parts, p)
		}
	}
	c := sum(parts...)

	h.reset()
	for range p {
		h.write(p)
	}
	pSeq := stretch(h.sum(nil), len(p))
	h.reset()
	for range 16 + int(c[0]) {
		h.write(s)
	}
	sSeq := stretch(h.sum(nil), len(s))

	for i := range rounds {
		h.reset()
		if i&1 != 0 {
			h.write(pSeq)
		} else {
			h.write(c)
		}
		if i%3 != 0 {
			h.write(sSeq)
		}
		if i%7 != 0 {
			h.write(pSeq)
		}
		if i&1 != 0 {
			h.write(c)
		} else {
			h.write(pSeq)
		}
		c = h.sum(c[:0])
	}
	out := []byte(cryptPrefix)
	if rounds != cryptDefaultRounds {
		out = append(strconv.AppendInt(append(out, "rounds="...), int64(rounds), 10), '$')
	}
	out = append(append(out, s...), '$')
	for i, x, y, z := 0, 0, 21, 42; i < 21; i++ {
		out = cryptChars(out, uint(c[x])<<16|uint(c[y])<<8|uint(c[z]), 4)
		x, y, z = y+1, z+1, x+1
	}
	out = cryptChars(out, uint(c[63]), 2)
	clear(pSeq)
	clear(b)
	return string(out)
}

func cryptChars(out []byte, v uint, n int) []byte {
	for range n {
		out = append(out, cryptAlphabet[v&63])
		v >>= 6
	}
	return out
}

// alreadyHashed says whether a text is a crypt(5) hash and no password.
func alreadyHashed(s []byte) bool {
	text := string(s)
	for _, id := range []string{"$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$7$", "$y$", "$gy$"} {
		if rest, has := strings.CutPrefix(text, id); has {
			return len(text) >= 30 && strings.Contains(rest, "$") && strings.Trim(rest, cryptAlphabet+"$=,") == ""
		}
	}
	return false
}
