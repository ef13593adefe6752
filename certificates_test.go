package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// platformCertificate is a certificate of the platform in the description of a VM.
type platformCertificate struct {
	thumbprint, key, crt string // hex; PEM
	keyFile              string
}

// certificate makes one with openssl.
func (k *madeKeys) certificate(name string, newkey ...string) platformCertificate {
	key, crt := k.make(name, newkey...)
	c := platformCertificate{key: string(readFile(k.t, key)), crt: string(readFile(k.t, crt)), keyFile: key}
	block, _ := pem.Decode([]byte(c.crt))
	own, err := parseCertificate(block.Bytes)
	if err != nil {
		k.t.Fatal(err)
	}
	c.thumbprint = own.thumbprint()
	return c
}

// TestLoginByFingerprint gives the VM keys by the fingerprint of certificates and
// a key pair, asks the platform for both kinds of envelope, and logs in with the
// private key of a certificate by real ssh to real sshd.
func TestLoginByFingerprint(t *testing.T) {
	need(t, "sshd", "ssh", "ssh-keygen")
	keys := newMadeKeys(t)
	login := keys.certificate("login", "rsa:2048")
	ec := keys.certificate("ec", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
	pair := keys.certificate("pair", "rsa:2048")
	edPair := keys.certificate("edpair", "ed25519")
	other := keys.certificate("other", "rsa:2048")
	for name, c := range map[string]struct{ faults, ciphers string }{
		"aes":  {"", "AES128_CBC"},
		"3des": {`{"service":"wire","match":"comp=certificates","count":1,"action":"status","status":400}`, "DES_EDE3_CBC"},
	} {
		b := newBox(t)
		b.vm["certificates"] = []string{other.crt + other.key, login.crt, pair.crt + pair.key, ec.crt, edPair.key + edPair.crt}
		b.vm["sshKeys"] = []any{
			map[string]any{"fingerprint": strings.ToLower(login.thumbprint), "path": "$HOME/opsadmin/.ssh/authorized_keys"},
			map[string]any{"fingerprint": ec.thumbprint},
			map[string]any{"value": keyEd25519 + " ops@desk", "fingerprint": other.thumbprint}, // the value wins
		}
		b.vm["keyPairs"] = []any{map[string]any{"fingerprint": pair.thumbprint, "path": "/home/opsadmin/.ssh/id_rsa"},
			map[string]any{"fingerprint": edPair.thumbprint, "path": "/home/opsadmin/deep/er/id_ed25519"}}
		b.vm["imds"] = map[string]any{"sshKeys": []any{}}
		const sshLogin = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 opsadmin@127.0.0.1"
		script := "/opt/azprov || exit 9; ssh-keygen -q -A; mkdir -p /run/sshd; $(command -v sshd) -o UsePAM=no -E /var/log/sshd; cat >/tmp/key; chmod 600 /tmp/key; " +
			"for i in $(seq 200); do grep -q 'listening on 0.0.0.0' /var/log/sshd && break; sleep 0.05; done; " +
			"ssh -i /tmp/key " + sshLogin + " 'echo fingerprint login as $(id -un)'; " +
			// What the user makes of the key pairs.
			"for k in .ssh/id_rsa deep/er/id_ed25519; do setpriv --reuid 1000 --regid 1000 --clear-groups ssh-keygen -y -f /home/opsadmin/$k >/var/tmp/$(basename $k).pub; done; " +
			"stat -c '%n %a %U:%G' /home/opsadmin/.ssh/* /home/opsadmin/deep/er/*; ls /var/lib/waagent; cat /var/log/sshd"
		o := b.run(c.faults, "cat >/tmp/in <<'KEY'\n"+login.key+"KEY\nexec </tmp/in; "+script)
		if !strings.Contains(o.output, "fingerprint login as opsadmin") {
			t.Errorf("%s: no login\n%s", name, o.output)
		}
		for _, want := range []string{".ssh/id_rsa 600 opsadmin:opsadmin", ".ssh/id_rsa.pub 644 opsadmin:opsadmin", "er/id_ed25519 600 opsadmin:opsadmin", "er/id_ed25519.pub 644 opsadmin:opsadmin", ".ssh/authorized_keys 600 opsadmin:opsadmin"} {
			if !strings.Contains(o.output, want) {
				t.Errorf("%s: no %q\n%s", name, want, o.output)
			}
		}
		for made, public := range map[string]string{"id_rsa.pub": "home/opsadmin/.ssh/id_rsa.pub", "id_ed25519.pub": "home/opsadmin/deep/er/id_ed25519.pub"} {
			if got, want := strings.TrimSpace(b.file("var/tmp/"+made)), strings.TrimSpace(b.file(public)); got != want || got == "" {
				t.Errorf("%s: ssh-keygen -y says %q, %s is %q", name, got, public, want)
			}
		}
		if n := strings.Count(b.file("home/opsadmin/.ssh/authorized_keys"), "\n"); n != 3 {
			t.Errorf("%s: %d keys: %s", name, n, b.file("home/opsadmin/.ssh/authorized_keys"))
		}
		ciphers := ""
		for _, e := range o.events {
			if strings.Contains(e.Path, "comp=certificates") && e.Status == 200 {
				ciphers += " " + e.Name
			}
		}
		if strings.TrimSpace(ciphers) != c.ciphers {
			t.Errorf("%s: asked for %q, want %q", name, ciphers, c.ciphers)
		}
		if strings.Contains(o.output, login.thumbprint+".crt") {
			t.Errorf("%s: certificates were left behind", name)
		}
	}
}

// TestCertificatesAreKept looks at certificates=keep with and without keys that
// are wanted, and at VMs that want none.
func TestCertificatesAreKept(t *testing.T) {
	keys := newMadeKeys(t)
	pair := keys.certificate("pair", "rsa:2048")
	alone := keys.certificate("alone", "rsa:2048")
	b := newBox(t)
	b.vm["certificates"] = []string{alone.crt, pair.crt + pair.key}
	o := b.run("", "/opt/azprov -certificates keep; code=$?; stat -c '%n %a %U' /var/lib/waagent/*.crt /var/lib/waagent/*.prv; exit $code")
	if o.code != exitOK {
		t.Fatalf("exit %d\n%s", o.code, o.output)
	}
	for _, name := range []string{pair.thumbprint + ".crt", pair.thumbprint + ".prv", alone.thumbprint + ".crt"} {
		if !strings.Contains(o.output, "/var/lib/waagent/"+name+" 600 root") {
			t.Errorf("no %s\n%s", name, o.output)
		}
	}
	if b.file("var/lib/waagent/"+pair.thumbprint+".crt") != pair.crt || b.file("var/lib/waagent/"+pair.thumbprint+".prv") != pair.key || b.file("var/lib/waagent/"+alone.thumbprint+".prv") != "" {
		t.Error("the files differ from what the platform has")
	}
	b = newBox(t)
	b.vm["certificates"] = []string{alone.crt, pair.crt + pair.key}
	o = b.run("", "/opt/azprov")
	for _, e := range o.events {
		if strings.Contains(e.Path, "comp=certificates") {
			t.Error("certificates were fetched although none are wanted")
		}
	}
	if o.code != exitOK || strings.Contains(o.output, "transport") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
}

// TestMissingCertificates has keys depend on certificates that can't be had.
func TestMissingCertificates(t *testing.T) {
	keys := newMadeKeys(t)
	c := keys.certificate("login", "rsa:2048")
	const flags = " -deadline 8s -network.wait 2s"
	for name, v := range map[string]struct {
		certificates    []string
		faults          string
		pair            string
		code            int
		reports, report string
	}{
		"not there":     {nil, "", "", exitFailed, "NotReady/ProvisioningFailed", "the wire server has no certificate of this fingerprint"},
		"without a key": {[]string{c.crt}, "", "/home/opsadmin/.ssh/id", exitFailed, "NotReady/ProvisioningFailed", "its certificate came without a private key"},
		"elsewhere":     {[]string{c.crt + c.key}, "", "/etc/id", exitFailed, "NotReady/ProvisioningFailed", "it leaves the home"},
		"garbage":       {[]string{c.crt}, `{"service":"wire","match":"comp=certificates","action":"garbage"}`, "", exitFailed, "NotReady/ProvisioningFailed", "open certificates"},
		"error":         {[]string{c.crt}, `{"service":"wire","match":"comp=certificates","action":"status","status":500}`, "", exitFailed, "NotReady/ProvisioningFailed", "http status 500"},
		"gone":          {[]string{c.crt}, `{"service":"wire","match":"comp=certificates","count":1,"action":"status","status":410}`, "", exitOK, "Ready", "result=success"},
		"dead network":  {[]string{c.crt}, `{"service":"dhcp","action":"drop"}`, "", exitUnacknowledged, "", "get a DHCP lease"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.vm["certificates"] = v.certificates
			key := map[string]any{"fingerprint": c.thumbprint}
			b.vm["sshKeys"] = []any{map[string]any{"value": keyEd25519}, key}
			if v.pair != "" {
				b.vm["keyPairs"] = []any{map[string]any{"fingerprint": c.thumbprint, "path": v.pair}}
			}
			b.vm["imds"] = map[string]any{"sshKeys": []any{}}
			o := b.run(v.faults, "/opt/azprov"+flags)
			if o.code != v.code || o.reports() != v.reports || !strings.Contains(b.report(), v.report) {
				t.Errorf("exit %d, reports %q, kvp %q\n%s", o.code, o.reports(), b.report(), o.output)
			}
			if !strings.Contains(b.file("home/opsadmin/.ssh/authorized_keys"), keyEd25519) {
				t.Error("the key by value is missing")
			}
			if name == "dead network" {
				again := b.run("", "/opt/azprov")
				if again.code != exitOK || again.reports() != "Ready" || strings.Count(b.file("home/opsadmin/.ssh/authorized_keys"), "\n") != 2 {
					t.Errorf("next run: exit %d, reports %q\n%s", again.code, again.reports(), again.output)
				}
			}
		})
	}
}

// TestKeysOfTheMetadataService has the metadata service know the key by value: no
// certificate is fetched.
func TestKeysOfTheMetadataService(t *testing.T) {
	b := newBox(t)
	b.vm["sshKeys"] = []any{map[string]any{"fingerprint": strings.Repeat("0A", 20)}}
	b.vm["imds"] = map[string]any{"sshKeys": []any{map[string]any{"value": keyEd25519}}}
	o := b.run("", "/opt/azprov")
	for _, e := range o.events {
		if strings.Contains(e.Path, "comp=certificates") {
			t.Error("certificates were fetched")
		}
	}
	if o.code != exitOK || o.reports() != "Ready" || !strings.Contains(b.file("home/opsadmin/.ssh/authorized_keys"), keyEd25519) {
		t.Errorf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
	}
}

// TestShowCertificates opens a captured document of the simulated platform's shape.
func TestShowCertificates(t *testing.T) {
	keys := newMadeKeys(t)
	key, crt := keys.make("transport", "rsa:2048")
	pair := keys.certificate("pair", "rsa:2048")
	pfx := openssl(t, nil, "pkcs12", "-export", "-passout", "pass:", "-inkey", pair.keyFile, "-in", filepath.Join(keys.dir, "pair.crt"), "-certfile", crt)
	cms := openssl(t, pfx, "cms", "-encrypt", "-binary", "-outform", "DER", "-aes128", "-recip", crt)
	doc := fmt.Sprintf("<CertificateFile><Version>2012-11-30</Version><Format>Pkcs7BlobWithPfxContents</Format><Data>\r\n%s</Data></CertificateFile>",
		strings.ReplaceAll(string(openssl(t, cms, "base64")), "\n", "\r\n"))
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	pkcs1 := file("pkcs1.key", string(openssl(t, nil, "rsa", "-in", key, "-traditional")))
	show := func(args ...string) (string, int) {
		var out, errs strings.Builder
		code := run(append([]string{"show", "certificates"}, args...), &out, &errs, time.Now())
		return out.String() + errs.String(), code
	}
	xmlFile, derFile := file("doc.xml", doc), file("doc.der", string(cms))
	for _, args := range [][]string{{"-key", key, xmlFile}, {"-key", pkcs1, "-cert", crt, derFile}} {
		text, code := show(args...)
		var got struct {
			Certificates []struct {
				Thumbprint, Subject string
				PublicKey           string `json:"public_key"`
				PrivateKey          bool   `json:"private_key"`
			}
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil || code != exitOK || len(got.Certificates) != 2 {
			t.Fatalf("%v: exit %d, %v: %s", args, code, err, text)
		}
		for _, c := range got.Certificates {
			if c.PrivateKey != (c.Thumbprint == pair.thumbprint) || c.PrivateKey && c.Subject != "O=Contoso, CN=pair" || !strings.HasPrefix(c.PublicKey, "ssh-rsa ") {
				t.Errorf("%+v", c)
			}
		}
		if strings.Contains(text, strings.Split(pair.key, "\n")[1]) || strings.Contains(text, "PRIVATE") {
			t.Error("a private key is shown")
		}
	}
	for what, args := range map[string][]string{
		"no key":       {xmlFile},
		"another key":  {"-key", pair.keyFile, "-cert", filepath.Join(keys.dir, "pair.crt"), xmlFile},
		"a wrong file": {"-key", key, key},
		"no file":      {"-key", filepath.Join(dir, "none"), xmlFile},
		"no pem":       {"-key", xmlFile, xmlFile},
	} {
		if text, code := show(args...); code == exitOK {
			t.Errorf("%s: exit %d: %s", what, code, text)
		}
	}
}
