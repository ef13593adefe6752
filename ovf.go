package main

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// Namespaces of ovf-env.xml.
const (
	nsOVF   = "http://schemas.dmtf.org/ovf/environment/1"
	nsAzure = "http://schemas.microsoft.com/windowsazure"
)

// Limits of a document.
const (
	maxOVF        = maxXML
	maxCustomData = 65535
	maxOVFKeys    = 256
)

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

func (n *ovfNode) fail(reason string) error { return &xmlError{n.line, n.column, n.path, reason} }

// parseOVF reads an ovf-env.xml document of at most 1 MiB: UTF-8 or, with a byte
// order mark, UTF-16. Elements are known by namespace and local name and looked
// for among direct children only. What is broken or contradictory is an
// *xmlError; what is merely odd is in the spec's Notes.
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
	text, err := xmlUTF8(doc)
	return err == nil && bytes.Contains(text, []byte("ProvisioningSection"))
}

// readOVF turns the text into a tree.
func readOVF(doc []byte) (root *ovfNode, err error) {
	text, err := xmlUTF8(doc)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && root != nil {
			root.wipe()
			root = nil
		}
	}()
	r := newXMLReader(text)
	var stack []*ovfNode
	for {
		tok, err := r.next()
		if err != nil {
			return root, err
		}
		switch tok.kind {
		case xmlEOF:
			return root, nil
		case xmlStart:
			n := &ovfNode{space: tok.space, name: tok.local, path: r.path(), nil_: tok.isNil}
			n.line, n.column = r.position(tok.from)
			if len(stack) > 0 {
				parent := stack[len(stack)-1]
				parent.children = append(parent.children, n)
			} else {
				root = n
			}
			stack = append(stack, n)
		case xmlEnd:
			stack = stack[:len(stack)-1]
		case xmlText:
			if len(stack) > 0 {
				top := stack[len(stack)-1]
				top.text = append(top.text, tok.text...)
			}
		}
	}
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
		p.spec.Notes = append(p.spec.Notes, sprintf(format, args...))
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

func (p *ovfParser) base64(n *ovfNode, text []byte) secret {
	data, err := looseBase64(text)
	if err != nil {
		p.fail(n, err.Error())
	}
	return data
}

// looseBase64 decodes custom data: white space anywhere, padding or none. It is
// nil for no data.
func looseBase64(text []byte) (secret, error) {
	out, err := decodeBase64(text)
	switch {
	case err != nil:
		return nil, errors.New("not base64")
	case len(out) > maxCustomData:
		return nil, errors.New("more than 65535 bytes of custom data")
	case len(out) == 0:
		return nil, nil
	}
	return out, nil
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
	p.spec.Preprovisioned = poolType(kind, pool != nil && *pool)
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

// ovf is a document with what the spec says and no secret, for software that
// looks for one where the VM had no medium.
func (s *spec) ovf() []byte {
	var b strings.Builder
	element := func(name, value string) {
		if value != "" {
			b.WriteString("<" + name + ">" + escapeXML(value) + "</" + name + ">")
		}
	}
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?><Environment xmlns="` + nsOVF + `" xmlns:wa="` + nsAzure +
		`"><wa:ProvisioningSection><wa:Version>1.0</wa:Version><LinuxProvisioningConfigurationSet xmlns="` + nsAzure + `">`)
	element("ConfigurationSetType", "LinuxProvisioningConfiguration")
	element("HostName", s.HostName)
	element("UserName", s.UserName)
	if allow, known := s.passwordAuth(); known {
		element("DisableSshPasswordAuthentication", strconv.FormatBool(!allow))
	}
	b.WriteString("<SSH><PublicKeys>")
	for _, k := range s.Keys {
		b.WriteString("<PublicKey>")
		element("Path", k.Path)
		element("Value", k.Value)
		b.WriteString("</PublicKey>")
	}
	b.WriteString("</PublicKeys></SSH></LinuxProvisioningConfigurationSet></wa:ProvisioningSection><wa:PlatformSettingsSection><wa:Version>1.0</wa:Version>" +
		"<wa:PlatformSettings><wa:ProvisionGuestAgent>true</wa:ProvisionGuestAgent></wa:PlatformSettings></wa:PlatformSettingsSection></Environment>")
	return []byte(b.String())
}
