package main

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Namespaces of ovf-env.xml.
const (
	nsOVF   = "http://schemas.dmtf.org/ovf/environment/1"
	nsAzure = "http://schemas.microsoft.com/windowsazure"
	nsXSI   = "http://www.w3.org/2001/XMLSchema-instance"
)

// Limits of a document.
const (
	maxOVF         = 1 << 20
	maxOVFDepth    = 32
	maxOVFElements = 10000
	maxCustomData  = 65535
	maxOVFKeys     = 256
)

// ovfError says where a document is broken and why. It never holds text of the
// document, which may be the password.
type ovfError struct {
	Line, Column int
	Element      string // path from the root
	Reason       string
}

func (e *ovfError) Error() string {
	return fmt.Sprintf("line %d, column %d, element %s: %s", e.Line, e.Column, e.Element, e.Reason)
}

// ovfNode is an element: its character data with comments dropped, and its
// child elements.
type ovfNode struct {
	space, name  string
	path         string
	line, column int
	nil_         bool
	text         secret
	children     []*ovfNode
}

func (n *ovfNode) fail(reason string) error { return &ovfError{n.line, n.column, n.path, reason} }

// parseOVF reads an ovf-env.xml document of at most 1 MiB: UTF-8 or, with a byte
// order mark, UTF-16. Elements are known by namespace and local name and looked
// for among direct children only. What is broken or contradictory is an
// *ovfError; what is merely odd is in the spec's Notes.
func parseOVF(doc []byte) (*spec, error) {
	root, err := readOVF(doc)
	if err != nil {
		return nil, err
	}
	defer root.wipe()
	if root.space != nsOVF || root.name != "Environment" {
		return nil, root.fail("the root is not Environment of " + nsOVF)
	}
	p := &ovfParser{spec: &spec{}}
	p.environment(root)
	if p.err != nil {
		p.spec.wipe()
		return nil, p.err
	}
	return p.spec, nil
}

// looksLikeOVF says whether a file is a provisioning document at all, which is
// the condition for taking a disc for the provisioning medium.
func looksLikeOVF(doc []byte) bool {
	text, err := ovfText(doc)
	return err == nil && bytes.Contains(text, []byte("ProvisioningSection"))
}

// ovfText returns the document as UTF-8 without byte order mark and trailing NULs.
func ovfText(doc []byte) ([]byte, error) {
	if len(doc) > maxOVF {
		return nil, &ovfError{1, 1, "/", "the document is larger than 1 MiB"}
	}
	if len(doc) >= 2 && (doc[0] == 0xff && doc[1] == 0xfe || doc[0] == 0xfe && doc[1] == 0xff) {
		units := make([]uint16, 0, len(doc)/2)
		for i := 2; i+1 < len(doc); i += 2 {
			if doc[0] == 0xff {
				units = append(units, uint16(doc[i])|uint16(doc[i+1])<<8)
			} else {
				units = append(units, uint16(doc[i+1])|uint16(doc[i])<<8)
			}
		}
		var out []byte
		for _, r := range utf16.Decode(units) {
			out = utf8.AppendRune(out, r)
		}
		clear(units)
		doc = out
	}
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf"))
	return bytes.TrimRight(doc, "\x00"), nil
}

// newOVFDecoder reads UTF-8 whatever the declaration says: ovfText has converted.
func newOVFDecoder(text []byte) *xml.Decoder {
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(label string, in io.Reader) (io.Reader, error) {
		switch strings.ToLower(label) {
		case "utf-8", "utf8", "utf-16", "us-ascii", "ascii":
			return in, nil
		}
		return nil, errors.New("unknown encoding")
	}
	return d
}

// readOVF turns the text into a tree.
func readOVF(doc []byte) (*ovfNode, error) {
	text, err := ovfText(doc)
	if err != nil {
		return nil, err
	}
	d := newOVFDecoder(text)
	var root *ovfNode
	var stack []*ovfNode
	elements := 0
	fail := func(reason string) error {
		if root != nil {
			root.wipe()
		}
		line, column := d.InputPos()
		path := "/"
		if len(stack) > 0 {
			path = stack[len(stack)-1].path
		}
		return &ovfError{line, column, path, reason}
	}
	for {
		line, column := d.InputPos()
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fail(xmlReason(err))
		}
		switch t := tok.(type) {
		case xml.Directive:
			return nil, fail("document type declarations are refused")
		case xml.StartElement:
			if elements++; elements > maxOVFElements || len(stack) >= maxOVFDepth {
				return nil, fail("too many elements or too deep")
			}
			n := &ovfNode{space: t.Name.Space, name: t.Name.Local, line: line, column: column}
			for _, a := range t.Attr {
				if a.Name.Space == nsXSI && a.Name.Local == "nil" {
					v := strings.TrimSpace(a.Value)
					n.nil_ = v == "true" || v == "1"
				}
			}
			switch {
			case len(stack) > 0:
				parent := stack[len(stack)-1]
				n.path = parent.path + "/" + cutUTF8(n.name, 64)
				parent.children = append(parent.children, n)
			case root != nil:
				return nil, fail("text after the root element")
			default:
				root, n.path = n, cutUTF8(n.name, 64)
			}
			stack = append(stack, n)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 0 {
				top := stack[len(stack)-1]
				top.text = append(top.text, t...)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return nil, fail("text outside of the root element")
			}
		}
	}
	if root == nil {
		return nil, fail("no element at all")
	}
	return root, nil
}

// xmlReason is the decoder's complaint without what it quotes of the document.
func xmlReason(err error) string {
	var syntax *xml.SyntaxError
	if !errors.As(err, &syntax) {
		return "the encoding is neither UTF-8 nor UTF-16"
	}
	switch msg := syntax.Msg; {
	case strings.Contains(msg, "unexpected EOF"):
		return "the document ends too early"
	case strings.Contains(msg, "entity"):
		return "an unknown entity"
	case strings.Contains(msg, "closed by"), strings.Contains(msg, "end element"):
		return "an end tag that matches no start tag"
	case strings.Contains(msg, "UTF-8"), strings.Contains(msg, "illegal character"):
		return "a character that XML does not allow"
	case strings.Contains(msg, "attribute"):
		return "a broken attribute"
	}
	return "broken XML"
}

func (n *ovfNode) wipe() {
	n.text.wipe()
	for _, c := range n.children {
		c.wipe()
	}
}

// ovfParser fills a spec and remembers its first error.
type ovfParser struct {
	spec *spec
	err  error
}

func (p *ovfParser) fail(n *ovfNode, reason string) {
	if p.err == nil {
		p.err = n.fail(reason)
	}
}

func (p *ovfParser) note(format string, args ...any) {
	if len(p.spec.Notes) < 32 {
		p.spec.Notes = append(p.spec.Notes, fmt.Sprintf(format, args...))
	}
}

// child returns the only direct child of Azure's namespace with a name. Doubles
// with equal content are noted; with different content they are an error.
func (p *ovfParser) child(parent *ovfNode, name string) *ovfNode {
	var found *ovfNode
	if parent == nil {
		return nil
	}
	for _, c := range parent.children {
		switch {
		case c.space != nsAzure || c.name != name:
		case found == nil:
			found = c
		case len(found.children) == 0 && len(c.children) == 0 && found.nil_ == c.nil_ && bytes.Equal(found.text, c.text):
			p.note("element %s stands twice with equal text", c.path)
		default:
			p.fail(c, "stands twice with different content")
		}
	}
	return found
}

// raw is an element's text as it stands, nil when it is absent, empty or nil.
func (p *ovfParser) raw(parent *ovfNode, name string) (secret, *ovfNode) {
	n := p.child(parent, name)
	if n == nil || n.nil_ || len(n.text) == 0 {
		return nil, n
	}
	if len(n.children) > 0 {
		p.fail(n, "holds elements instead of text")
	}
	return n.text, n
}

func (p *ovfParser) text(parent *ovfNode, name string) (string, *ovfNode) {
	raw, n := p.raw(parent, name)
	return strings.TrimSpace(string(raw)), n
}

func (p *ovfParser) boolean(parent *ovfNode, name string) *bool {
	text, n := p.text(parent, name)
	if text == "" {
		return nil
	}
	v, err := parseBool(text)
	if err != nil {
		p.fail(n, "neither true nor false")
		return nil
	}
	return &v
}

// known lists the element names that mean something, to note the others.
const knownOVF = " ProvisioningSection PlatformSettingsSection Version LinuxProvisioningConfigurationSet ConfigurationSetType HostName UserName" +
	" UserPassword DisableSshPasswordAuthentication SSH PublicKeys PublicKey KeyPairs KeyPair Fingerprint Path Value CustomData DisableAdminAccount" +
	" UserData dscfg PlatformSettings KmsServerHostname ProvisionGuestAgent GuestAgentPackageName UseAVMA RetainWindowsPEPassInUnattend" +
	" RetainOfflineServicingPassInUnattend PreprovisionedVm PreprovisionedVMType PreprovisionedVmType ProvisionGuestProxyAgent EnableTrustedImageIdentifier "

func (p *ovfParser) noteUnknown(n *ovfNode) {
	for _, c := range n.children {
		if c.space != nsAzure || !strings.Contains(knownOVF, " "+c.name+" ") {
			p.note("element %s is not known", oneLine(c.path, 200))
			continue
		}
		p.noteUnknown(c)
	}
}

func (p *ovfParser) environment(root *ovfNode) {
	p.noteUnknown(root)
	section := p.child(root, "ProvisioningSection")
	if section == nil {
		p.fail(root, "no ProvisioningSection: not a provisioning document of Azure")
		return
	}
	set := p.child(section, "LinuxProvisioningConfigurationSet")
	if set == nil {
		reason := "no LinuxProvisioningConfigurationSet"
		if p.child(section, "WindowsProvisioningConfigurationSet") != nil {
			reason = "this VM was created as a Windows VM"
		}
		p.fail(section, reason)
		return
	}
	p.linux(set)
	p.platform(p.child(p.child(root, "PlatformSettingsSection"), "PlatformSettings"))
}

func (p *ovfParser) linux(set *ovfNode) {
	s := p.spec
	s.HostName, _ = p.text(set, "HostName")
	if s.HostName == "" {
		p.fail(set, "HostName is missing or empty")
	}
	s.UserName, _ = p.text(set, "UserName")
	if s.UserName == "" {
		p.fail(set, "UserName is missing or empty")
	}
	if password, _ := p.raw(set, "UserPassword"); password != nil {
		s.Password = bytes.Clone(password)
	}
	s.DisablePasswordAuth = p.boolean(set, "DisableSshPasswordAuthentication")
	if disable := p.boolean(set, "DisableAdminAccount"); disable != nil && *disable {
		p.note("DisableAdminAccount is set; its meaning is not known, the account is made")
	}
	ssh := p.child(set, "SSH")
	for i, n := range p.list(ssh, "PublicKeys", "PublicKey") {
		p.publicKey(i, n)
	}
	for _, n := range p.list(ssh, "KeyPairs", "KeyPair") {
		pair := keyPair{Fingerprint: p.fingerprint(n)}
		pair.Path, _ = p.text(n, "Path")
		if pair.Fingerprint == "" || pair.Path == "" {
			p.fail(n, "a key pair needs Fingerprint and Path")
		}
		s.KeyPairs = append(s.KeyPairs, pair)
	}
	if data, n := p.raw(set, "CustomData"); data != nil {
		s.CustomData = p.base64(n, data)
	}
}

func (p *ovfParser) list(parent *ovfNode, container, name string) []*ovfNode {
	c := p.child(parent, container)
	if c == nil {
		return nil
	}
	var list []*ovfNode
	for _, n := range c.children {
		if n.space == nsAzure && n.name == name {
			list = append(list, n)
		}
	}
	if len(list) > maxOVFKeys {
		p.fail(c, "more than 256 keys")
		return nil
	}
	return list
}

func (p *ovfParser) publicKey(i int, n *ovfNode) {
	key := sshKey{Source: "dvd", Fingerprint: p.fingerprint(n)}
	key.Path, _ = p.text(n, "Path")
	key.Value, _ = p.text(n, "Value")
	if key.Value == "" && key.Fingerprint == "" {
		p.note("public key %d has neither Value nor Fingerprint", i+1)
		return
	}
	p.spec.Keys = append(p.spec.Keys, key)
}

// fingerprint returns the SHA-1 fingerprint of a key element as 40 upper-case
// hex digits, "" when there is none.
func (p *ovfParser) fingerprint(parent *ovfNode) string {
	text, n := p.text(parent, "Fingerprint")
	text = strings.ToUpper(strings.Map(func(r rune) rune {
		if strings.ContainsRune(": \t\r\n", r) {
			return -1
		}
		return r
	}, text))
	if text == "" {
		return ""
	}
	if len(text) != 40 || strings.Trim(text, "0123456789ABCDEF") != "" {
		p.fail(n, "a fingerprint is 40 hex digits")
	}
	return text
}

// base64 decodes custom data: white space anywhere, padding or none.
func (p *ovfParser) base64(n *ovfNode, text []byte) secret {
	packed := make([]byte, 0, len(text))
	defer func() { clear(packed) }()
	for _, c := range text {
		if !strings.ContainsRune(" \t\r\n", rune(c)) {
			packed = append(packed, c)
		}
	}
	packed = bytes.TrimRight(packed, "=")
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(packed)))
	size, err := base64.RawStdEncoding.Decode(out, packed)
	switch {
	case err != nil:
		p.fail(n, "not base64")
		return nil
	case size > maxCustomData:
		p.fail(n, "more than 65535 bytes of custom data")
		return nil
	case size == 0:
		return nil
	}
	return out[:size]
}

func (p *ovfParser) platform(n *ovfNode) {
	if n == nil {
		return
	}
	p.spec.ProvisionGuestAgent = p.boolean(n, "ProvisionGuestAgent")
	if v := p.boolean(n, "ProvisionGuestProxyAgent"); v != nil {
		p.spec.ProvisionProxyAgent = *v
	}
	pool := p.boolean(n, "PreprovisionedVm")
	kind, _ := p.text(n, "PreprovisionedVMType")
	if kind == "" {
		kind, _ = p.text(n, "PreprovisionedVmType")
	}
	switch {
	case kind == "Savable", kind == "PreprovisionedOSDisk", kind == "Running":
		p.spec.Preprovisioned = kind
	case pool != nil && *pool:
		p.spec.Preprovisioned = "Running"
	}
}

// json is the spec as azprov show prints it: all of it but the secrets, of
// which only presence, size and kind are said.
func (s *spec) json() object {
	o := object{{"host_name", s.HostName}, {"user_name", s.UserName}, {"password", s.Password}, {"disable_password_authentication", s.DisablePasswordAuth}}
	keys := []any{}
	for _, k := range s.Keys {
		keys = append(keys, object{{"value", k.Value}, {"fingerprint", k.Fingerprint}, {"path", k.Path}})
	}
	pairs := []any{}
	for _, k := range s.KeyPairs {
		pairs = append(pairs, object{{"fingerprint", k.Fingerprint}, {"path", k.Path}})
	}
	o = append(o, member{"public_keys", keys}, member{"key_pairs", pairs})
	if s.CustomData != nil {
		o = append(o, member{"custom_data", object{{"content", s.CustomData}, {"bytes", len(s.CustomData)}, {"kind", customDataKind(s.CustomData)}}})
	}
	return append(o, member{"provision_guest_agent", s.ProvisionGuestAgent}, member{"provision_guest_proxy_agent", s.ProvisionProxyAgent},
		member{"preprovisioned", s.Preprovisioned}, member{"notes", s.Notes})
}
