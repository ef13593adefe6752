package main

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"os"
	"path"
	"strings"
)

// maxAuthorizedKeys is the size of the largest authorized_keys file that is edited.
const maxAuthorizedKeys = 1 << 20

// publicKey is a line of authorized_keys (sshd(8)): options, type, base64 of the
// key in SSH wire form, comment.
type publicKey struct{ Type, Base64, Line string }

// parsePublicKey reads a line. The type must be that which the key itself names;
// every type is taken.
func parsePublicKey(line string) (*publicKey, error) {
	line = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, line))
	if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return nil, errors.New("control characters in the key")
	}
	if strings.HasPrefix(line, "#") {
		return nil, errors.New("a comment, not a key")
	}
	for rest := line; rest != ""; {
		field, after := cutField(rest)
		blob, _ := cutField(after)
		if key := wireKey(field, blob); key {
			return &publicKey{Type: field, Base64: blob, Line: line}, nil
		}
		if rest != line {
			break
		}
		rest = after // the first field may be options
	}
	return nil, errors.New("not a public key in OpenSSH form")
}

// cutField splits off the first field; blanks inside double quotes don't end it.
func cutField(s string) (field, rest string) {
	s = strings.TrimLeft(s, " \t")
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted && i+1 < len(s):
			i++
		case s[i] == '"':
			quoted = !quoted
		case (s[i] == ' ' || s[i] == '\t') && !quoted:
			return s[:i], strings.TrimLeft(s[i:], " \t")
		}
	}
	return s, ""
}

// wireKey says whether a text is the base64 of a key of a type: it starts with
// that type as a string of SSH (RFC 4251, 5).
func wireKey(kind, text string) bool {
	if kind == "" || len(text) > 1<<15 {
		return false
	}
	blob, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(blob) < 4+len(kind)+4 {
		return false
	}
	return int(binary.BigEndian.Uint32(blob)) == len(kind) && string(blob[4:4+len(kind)]) == kind
}

// applyKeys puts the keys of a spec into the user's authorized_keys: each once,
// in order, behind what is there; those that are known by fingerprint alone are
// the business of certs. A key that is none is a warning; a path outside of the
// home or through a link is an error.
func (m *machine) applyKeys(a *account, keys []sshKey) (string, error) {
	standard := m.authorizedKeysPath(a)
	var paths []string
	byPath := map[string][]*publicKey{}
	for i, k := range keys {
		if k.Value == "" {
			continue
		}
		rel, err := keyPath(a, k.Path, standard)
		if err != nil && k.Source == sourceIMDS {
			// It is not the guest's own document: a key at the usual place is better than none.
			m.warn("ssh", "%v", err)
			rel, err = standard, nil
		}
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(k.Value) {
			if strings.TrimSpace(line) == "" {
				continue
			}
			key, err := parsePublicKey(line)
			if err != nil {
				m.warn("ssh", "public key %d is left out: %v", i+1, err)
				continue
			}
			if byPath[rel] == nil {
				paths = append(paths, rel)
			}
			byPath[rel] = append(byPath[rel], key)
		}
	}
	if len(paths) == 0 {
		return "no keys", nil
	}
	h, err := m.openHome(a)
	if err != nil {
		return "", err
	}
	defer h.close()
	total, added := 0, 0
	for _, p := range paths {
		n, err := h.mergeKeys(p, byPath[p])
		if err != nil {
			return "", err
		}
		total += len(byPath[p])
		added += n
	}
	return sprintf("%d keys, %d new", total, added), nil
}

// keyPath turns the path asked for into one relative to the account's home.
// $HOME stands for the parent of home directories.
func keyPath(a *account, asked, standard string) (string, error) {
	if asked == "" {
		return standard, nil
	}
	if strings.ContainsAny(asked, "\x00\n\r") {
		return "", failure("use key path", oneLine(asked, 200), errors.New("control characters in it"))
	}
	p := path.Clean("/" + strings.ReplaceAll(asked, "$HOME", "/home"))
	for _, home := range []string{a.Home, "/home/" + a.Name} {
		if rel, below := strings.CutPrefix(p, home+"/"); below {
			return rel, nil
		}
	}
	return "", failure("use key path", oneLine(asked, 200), errorf("it leaves the home %s", a.Home))
}

// authorizedKeysPath is where sshd looks first: the first entry of
// AuthorizedKeysFile if that is in the home, else .ssh/authorized_keys.
func (m *machine) authorizedKeysPath(a *account) string {
	const standard = ".ssh/authorized_keys"
	c, err := m.loadSSHD()
	if err != nil || c == nil {
		return standard
	}
	values := m.sshdValues(c, "authorizedkeysfile")
	if len(values) == 0 || values[0] == "" || values[0] == "none" {
		return standard
	}
	value := values[0]
	value = strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(value, "%h", a.Home), "%u", a.Name), "%%", "%")
	if !strings.HasPrefix(value, "/") {
		value = path.Join(a.Home, value)
	}
	if rel, below := strings.CutPrefix(path.Clean(value), a.Home+"/"); below {
		return rel
	}
	m.warn("ssh", "sshd reads keys from %s, outside of the home: the image must copy them", oneLine(value, 200))
	return standard
}

// mergeKeys adds to a file of keys those that it lacks and returns how many.
func (h *home) mergeKeys(p string, keys []*publicKey) (int, error) {
	old, err := h.read(p, maxAuthorizedKeys)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	text, added := mergeKeyLines(string(old), keys)
	if added == 0 {
		return 0, nil
	}
	return added, h.put(p, []byte(text), 0o600)
}

func mergeKeyLines(old string, keys []*publicKey) (text string, added int) {
	have := map[string]bool{}
	for line := range strings.Lines(old) {
		if k, err := parsePublicKey(line); err == nil {
			have[k.Type+" "+k.Base64] = true
		}
	}
	if old != "" && !strings.HasSuffix(old, "\n") {
		old += "\n"
	}
	for _, k := range keys {
		if id := k.Type + " " + k.Base64; !have[id] {
			have[id] = true
			old += k.Line + "\n"
			added++
		}
	}
	return old, added
}
