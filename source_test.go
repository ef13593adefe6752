package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func yes(v bool) *bool { return &v }

func TestMergeOrder(t *testing.T) {
	key := func(value, fingerprint, source string) sshKey {
		return sshKey{Value: value, Fingerprint: fingerprint, Source: source}
	}
	dvd := &spec{Source: "dvd", HostName: "a", UserName: "u", Password: secret("p"), DisablePasswordAuth: yes(false), Keys: []sshKey{key(keyEd25519, "", "dvd")},
		KeyPairs: []keyPair{{"F", "P"}}, CustomData: secret("c"), ProvisionGuestAgent: yes(false), Preprovisioned: poolRunning}
	imds := &spec{Source: "imds", HostName: "b", UserName: "v", DisablePasswordAuth: yes(true),
		Keys: []sshKey{key(keyEd25519+" other comment", "", "imds"), key(keySK, "", "imds")}, Preprovisioned: poolSavable}

	m := mergeSpecs([]*spec{dvd, imds})
	if m.HostName != "a" || m.UserName != "u" || string(m.Password) != "p" || *m.DisablePasswordAuth || string(m.CustomData) != "c" || *m.ProvisionGuestAgent ||
		len(m.KeyPairs) != 1 || m.Preprovisioned != poolSavable {
		t.Errorf("%+v", m)
	}
	if len(m.Keys) != 2 || m.Keys[0].Source != "dvd" || m.Keys[1].Value != keySK {
		t.Errorf("keys %+v", m.Keys)
	}
	notes := strings.Join(m.Notes, "\n")
	for _, want := range []string{`host name: "a" counts, imds says "b"`, `user name: "u" counts, imds says "v"`, "password logins disabled: false counts, imds says true"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q in %s", want, notes)
		}
	}
	if m = mergeSpecs([]*spec{imds}); m.HostName != "b" || m.Password != nil || len(m.Keys) != 2 || len(m.Notes) > 0 {
		t.Errorf("imds alone: %+v", m)
	}
	if m = mergeSpecs(nil); m.UserName != "" || m.Keys != nil {
		t.Errorf("nothing: %+v", m)
	}
}

// A key that the DVD knows only by fingerprint is one of those that the metadata
// service lists by value.
func TestMergeKeysByFingerprint(t *testing.T) {
	value := func(v string) sshKey { return sshKey{Value: v} }
	cert := sshKey{Fingerprint: strings.Repeat("AB", 20)}
	for name, c := range map[string]struct {
		first, second []sshKey
		want          int
		open          bool // the fingerprint stays
	}{
		"given by value":    {[]sshKey{value(keyEd25519), cert}, []sshKey{value(keyEd25519), value(keySK)}, 2, false},
		"not given":         {[]sshKey{value(keyEd25519), cert}, []sshKey{value(keyEd25519)}, 2, true},
		"no second list":    {[]sshKey{cert}, nil, 1, true},
		"alone":             {[]sshKey{cert}, []sshKey{value(keySK)}, 1, false},
		"doubled in second": {[]sshKey{cert}, []sshKey{value(keySK), value(keySK)}, 1, false},
	} {
		got := mergeKeys(c.first, c.second)
		open := false
		for _, k := range got {
			open = open || k.Value == ""
		}
		if len(got) != c.want || open != c.open {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// The README's table of the merge order is that of the code.
func TestReadmeHasTheMergeOrder(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range sources() {
		names = append(names, s.name())
	}
	if want := "`" + strings.Join(names, "`, then `") + "`"; !strings.Contains(string(readme), want) {
		t.Errorf("the README does not say %s", want)
	}
	for _, field := range []string{"host name", "user name", "password", "password logins", "keys", "key pairs", "custom data", "user data", "guest agent", "pool type"} {
		if !regexp.MustCompile(`(?m)^\| ` + field + ` \|`).Match(readme) {
			t.Errorf("the README's table lacks %s", field)
		}
	}
}

func TestDocumentWithoutMedium(t *testing.T) {
	s := &spec{HostName: "h<&>", UserName: "u", Password: secret("Tr1cky"), Keys: []sshKey{{Value: keyEd25519 + ` a"<b>`, Path: "/home/u/.ssh/authorized_keys"}}, DisablePasswordAuth: yes(true)}
	doc := s.ovf()
	back, err := parseOVF(doc)
	if err != nil || back.HostName != s.HostName || back.UserName != "u" || back.Password != nil || !*back.DisablePasswordAuth || len(back.Keys) != 1 || back.Keys[0].Value != s.Keys[0].Value {
		t.Errorf("%v %+v\n%s", err, back, doc)
	}
	if strings.Contains(string(doc), "Tr1cky") {
		t.Error("the password is in it")
	}
}
