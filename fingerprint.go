package main

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hostKey is a host key that an SSH server of the image has.
type hostKey struct {
	Path        string // of the private key
	Public      []byte // in wire form
	SHA256, MD5 string // fingerprints as ssh-keygen -l prints them, MD5 without its name
}

// listHostKeys returns each key once, the best first.
func listHostKeys(files []keyFile) []hostKey {
	var list []hostKey
	for _, kind := range keyKinds {
		for _, f := range files {
			if f.kind != kind || f.public == nil || slices.ContainsFunc(list, func(k hostKey) bool { return bytes.Equal(k.Public, f.public) }) {
				continue
			}
			k := hostKey{Path: f.path, Public: f.public}
			k.SHA256, k.MD5 = fingerprints(f.public)
			list = append(list, k)
		}
	}
	return list
}

// keyBits is the size of a public key that ssh-keygen -l prints.
func keyBits(public []byte) int {
	r := sshReader{rest: public}
	kind := string(r.string())
	if curve, is := strings.CutPrefix(kind, sshECDSA+"nistp"); is {
		bits, _ := strconv.Atoi(curve)
		return bits
	}
	if kind != sshRSA {
		return 256
	}
	r.string()
	n := bytes.TrimLeft(r.string(), "\x00")
	bits := 8 * len(n)
	for b := byte(0x80); len(n) > 0 && n[0]&b == 0; b >>= 1 {
		bits--
	}
	return bits
}

// kvpHostKeys is the key under which the host finds the fingerprints.
const kvpHostKeys = "SSH_HOST_KEY_FINGERPRINTS"

// tellHostKeys prints the host keys between the marks that readers of cloud-init's
// console output look for, and leaves their fingerprints for the Hyper-V host.
func (b *boot) tellHostKeys(list []hostKey) {
	if len(list) == 0 {
		return
	}
	name := b.knownHostName()
	if validHostName(name) != nil {
		name = "localhost"
	}
	prints, lines, rows := []string{}, []string{}, []string{}
	for _, k := range list {
		kind := strings.ToUpper(keyKindOf(k.Public))
		prints = append(prints, sprintf("%d %s root@%s (%s)", keyBits(k.Public), k.SHA256, name, kind))
		lines = append(lines, publicLine(k.Public, "root@"+name))
		rows = append(rows, kind+" "+k.SHA256+" MD5:"+k.MD5)
	}
	b.log.block("SSH HOST KEY FINGERPRINTS", prints)
	b.log.block("SSH HOST KEY KEYS", lines)
	b.writeKVP("rsakey", kvpHostKeys, strings.Join(rows, "|"))
}

// block prints lines between marks, in one piece, so that nothing comes between.
func (c *console) block(title string, lines []string) {
	if c == nil || c.quiet {
		return
	}
	all := append([]string{"-----BEGIN " + title + "-----"}, lines...)
	all = append(all, "-----END "+title+"-----")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.json {
		io.WriteString(c.w, encodeJSON(object{{"level", "info"}, {"step", "rsakey"}, {"text", title}, {"lines", lines}})+"\n")
		return
	}
	if c.kmsg { // a record a write
		for _, l := range all {
			io.WriteString(c.w, "<6>"+l+"\n")
		}
		return
	}
	io.WriteString(c.w, strings.Join(all, "\n")+"\n")
}

// hostKeysJSON is the list as it stands in status.json.
func hostKeysJSON(list []hostKey) []any {
	out := []any{}
	for _, k := range list {
		out = append(out, object{{"type", blobType(k.Public)}, {"bits", keyBits(k.Public)}, {"file", k.Path}, {"sha256", k.SHA256}, {"md5", k.MD5}})
	}
	return out
}

// knownHostKeys are those of the steps that have ended.
func (b *boot) knownHostKeys() []hostKey {
	switch {
	case b.run.ended("rsakey") && b.allHostKeys != nil:
		return b.allHostKeys
	case b.run.ended("hostkeys"):
		return b.hostKeys
	}
	return nil
}

// fingerprintWait is how long the platform may take for what it may ignore.
const fingerprintWait = 10 * time.Second

// stepFingerprint tells the wire server the fingerprints, as role properties.
func (b *boot) stepFingerprint(ctx context.Context) (string, error) {
	list := b.knownHostKeys()
	if len(list) == 0 || b.wire == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, fingerprintWait)
	defer cancel()
	err := b.wire.roleProperties(ctx, b.goal, list)
	if status := statusOf(err); status/100 == 4 && status != 410 && status != 429 {
		return sprintf("the platform does not take fingerprints (http status %d)", status), nil
	}
	if err != nil {
		return "", err
	}
	return list[0].SHA256, nil
}

// roleProperties posts fingerprints: that of the first key under the name that
// the platform is known to know, and both forms of all. A server that refuses the
// whole gets the first alone. The goal state may be nil.
func (w *wireServer) roleProperties(ctx context.Context, gs *goalState, keys []hostKey) error {
	var err error
	all := true
	for range 3 {
		if gs == nil || time.Since(gs.Fetched) > goalStateFresh {
			if gs, err = w.fetchGoalState(ctx); err != nil {
				return err
			}
		}
		_, err = w.send(ctx, &httpRequest{method: "POST", target: "/machine?comp=roleProperties", body: rolePropertiesXML(gs, keys, all),
			header: append([]httpHeader{{"Content-Type", "text/xml; charset=utf-8"}}, machineHeader...)})
		switch status := statusOf(err); {
		case status == 410:
			gs = nil
		case status/100 == 4 && all:
			all = false
		default:
			return err
		}
	}
	return err
}

// rolePropertiesXML is the document.
func rolePropertiesXML(gs *goalState, keys []hostKey, all bool) []byte {
	var b bytes.Buffer
	fprintf(&b, `<?xml version="1.0" encoding="utf-8"?><RoleProperties><Container><ContainerId>%s</ContainerId><RoleInstances><RoleInstance><Id>%s</Id><Properties>`,
		escapeXML(gs.ContainerID), escapeXML(gs.InstanceID))
	property := func(name, value string) {
		fprintf(&b, `<Property name="%s" value="%s" />`, escapeXML(name), escapeXML(value))
	}
	property("CertificateThumbprint", keys[0].SHA256)
	for _, k := range keys {
		if name := "SshHostKey:" + blobType(k.Public); all {
			property(name, k.SHA256)
			property(name, "MD5:"+k.MD5)
		}
	}
	b.WriteString("</Properties></RoleInstance></RoleInstances></Container></RoleProperties>")
	return b.Bytes()
}
