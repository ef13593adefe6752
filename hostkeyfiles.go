package main

import (
	"encoding/base64"
	"errors"
	"path"
	"slices"
	"strings"
)

// keyKinds are the kinds of host keys by their names in file names, in the order
// in which they are made and told. "dsa" is known only to be removed.
var keyKinds = [...]string{"ed25519", "ecdsa", "rsa", "dsa"}

// setHostKeys is a list of one mode at most, and kinds of keys.
func setHostKeys(p *[]string) func(string) error {
	return func(s string) error {
		var words []string
		if err := setList(&words)(s); err != nil {
			return err
		}
		modes := 0
		for _, w := range words {
			switch w {
			case "auto", "keep", "regenerate":
				modes++
			case "ed25519", "ecdsa", "rsa":
			default:
				return errorf("%q is none of auto, keep, regenerate, ed25519, ecdsa, rsa", w)
			}
		}
		if modes > 1 || len(words) == 0 {
			return errors.New("one of auto, keep, regenerate, and kinds of keys")
		}
		*p = words
		return nil
	}
}

// keyFile is a place where an SSH server of the image looks for a host key.
type keyFile struct {
	kind     string // of keyKinds
	path     string // of the private key
	dropbear bool   // in dropbear's form, without a .pub file beside it
	named    bool   // by the server's configuration
	exists   bool
	public   []byte // in wire form; nil if there is no key in the file
}

// keyKindOf returns the kind of a public key in wire form.
func keyKindOf(public []byte) string {
	switch kind := blobType(public); {
	case kind == sshEd25519:
		return "ed25519"
	case kind == sshRSA:
		return "rsa"
	case kind == "ssh-dss":
		return "dsa"
	case strings.HasPrefix(kind, sshECDSA):
		return "ecdsa"
	}
	return ""
}

// keyFiles lists the places for host keys of the image's SSH servers: those that
// HostKey lines name, else OpenSSH's usual ones; and dropbear's, if it is the only
// server or has keys. None means that there is no server, or that an agent holds
// its keys.
func (m *machine) keyFiles() ([]keyFile, error) {
	c, err := m.loadSSHD()
	if err != nil {
		return nil, err
	}
	dropbear := m.hasProgram("dropbear")
	openSSH := m.hasProgram("sshd") || c != nil && !dropbear
	var files []keyFile
	if openSSH {
		files = m.openSSHKeyFiles(c)
	}
	if dropbear {
		var theirs []keyFile
		for _, kind := range keyKinds {
			name := kind
			if kind == "dsa" {
				name = "dss"
			}
			f := keyFile{kind: kind, path: "/etc/dropbear/dropbear_" + name + "_host_key", dropbear: true}
			m.readHostKey(&f)
			theirs = append(theirs, f)
		}
		if !openSSH || slices.ContainsFunc(theirs, func(f keyFile) bool { return f.exists }) {
			files = append(files, theirs...)
		}
	}
	return files, nil
}

func (m *machine) openSSHKeyFiles(c *sshdConfig) []keyFile {
	var files []keyFile
	if c != nil {
		if agent := m.sshdValues(c, "hostkeyagent"); len(agent) > 0 && agent[0] != "none" {
			m.log.note("hostkeys", "an agent holds the host keys of sshd: they are left alone")
			return nil
		}
		for _, p := range m.sshdValues(c, "hostkey") {
			f := keyFile{path: path.Clean(p), named: true}
			if p == "" || p[0] != '/' || strings.ContainsAny(p, "\x00\r\n") || slices.ContainsFunc(files, func(g keyFile) bool { return g.path == f.path }) {
				continue
			}
			m.readHostKey(&f)
			if f.kind = keyKindOf(f.public); f.kind == "" {
				f.kind = kindInName(path.Base(p))
			}
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		for _, kind := range keyKinds {
			f := keyFile{kind: kind, path: "/etc/ssh/ssh_host_" + kind + "_key"}
			m.readHostKey(&f)
			files = append(files, f)
		}
		return files
	}
	// A name that tells nothing is given the best kind that no other has.
	for i := range files {
		for _, kind := range keyKinds {
			if files[i].kind == "" && !slices.ContainsFunc(files, func(f keyFile) bool { return f.kind == kind }) {
				files[i].kind = kind
			}
		}
	}
	return files
}

// kindInName finds a kind in a file name; "dsa" stands in "ecdsa" as well.
func kindInName(name string) string {
	for _, kind := range keyKinds {
		if strings.Contains(strings.ToLower(name), kind) {
			return kind
		}
	}
	return ""
}

const maxKeyFile = 64 << 10

// readHostKey looks at the file: whether it exists, and which key is in it. That
// of a file in an older form (PEM) is taken from the .pub file.
func (m *machine) readHostKey(f *keyFile) {
	f.public = nil
	data, err := m.guest.read(f.path, maxKeyFile)
	f.exists = err == nil
	if err != nil || len(data) == 0 {
		return
	}
	defer secret(data).wipe()
	if f.dropbear {
		f.public, _ = parseDropbear(data)
		return
	}
	public, err := parseOpenSSH(data)
	if errors.Is(err, errNoOpenSSHKey) && strings.HasPrefix(string(data), "-----BEGIN ") {
		public, err = nil, nil
		if line, readErr := m.guest.read(f.path+".pub", maxKeyFile); readErr == nil {
			if k, keyErr := parsePublicKey(string(line)); keyErr == nil {
				public, _ = base64.StdEncoding.DecodeString(k.Base64)
			}
		}
	}
	if err == nil {
		f.public = public
	}
}

// sshdValues returns the first argument of every global line of a keyword, in the
// order in which sshd reads them, included files in their places.
func (m *machine) sshdValues(c *sshdConfig, keyword string) []string {
	var values []string
	files := 0
	var visit func(c *sshdConfig, depth int)
	visit = func(c *sshdConfig, depth int) {
		for _, l := range c.lines[:c.global()] {
			k, args := sshdLine(l)
			if k == keyword {
				value, _ := cutField(args)
				values = append(values, strings.Trim(value, `"`))
			}
			if k != "include" || depth == 0 {
				continue
			}
			for _, p := range m.included(args) {
				if data, err := m.guest.read(p, 1<<20); err == nil && files < 256 {
					files++
					visit(parseSSHD(p, data), depth-1)
				}
			}
		}
	}
	visit(c, 16) // as deep as sshd goes
	return values
}

// included returns the files that the arguments of an Include line name, in
// their order. Only the last part of a path may be a pattern.
func (m *machine) included(args string) []string {
	var files []string
	for args != "" {
		var pattern string
		pattern, args = cutField(args)
		pattern = strings.Trim(pattern, `"`)
		if !strings.HasPrefix(pattern, "/") {
			pattern = "/etc/ssh/" + pattern
		}
		dir, base := path.Split(pattern)
		if !strings.ContainsAny(base, `*?[\`) {
			files = append(files, pattern)
			continue
		}
		for _, name := range m.guest.list(dir) {
			hidden := name[0] == '.' && base[0] != '.'
			if ok, err := path.Match(base, name); ok && err == nil && !hidden {
				files = append(files, dir+name)
			}
		}
	}
	return files
}
