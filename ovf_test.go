package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// ovfDoc is a document with given content of LinuxProvisioningConfigurationSet
// and PlatformSettings.
func ovfDoc(linux, platform string) string {
	return `<?xml version="1.0" encoding="utf-8"?>` + "\r\n" +
		`<Environment xmlns="` + nsOVF + `" xmlns:wa="` + nsAzure + `" xmlns:xsi="` + nsXSI + `">` + "\r\n" +
		`<wa:ProvisioningSection><wa:Version>1.0</wa:Version>` + "\r\n" +
		`<LinuxProvisioningConfigurationSet xmlns="` + nsAzure + `">` + linux + `</LinuxProvisioningConfigurationSet></wa:ProvisioningSection>` +
		`<wa:PlatformSettingsSection><wa:PlatformSettings>` + platform + `</wa:PlatformSettings></wa:PlatformSettingsSection></Environment>`
}

const ovfNames = "<HostName>h</HostName><UserName>u</UserName>"

func TestParseOVF(t *testing.T) {
	sum := strings.Repeat("0F", 20)
	for _, c := range []struct {
		name, linux, platform string
		want                  string // of the fields below
	}{
		{"least", ovfNames, "", "h u pw= off=nil cd= keys=[] agent=nil pps="},
		{"text is trimmed but in passwords", "<HostName> h\r\n</HostName><UserName>\tu </UserName><UserPassword> p </UserPassword>", "", "h u pw= p  off=nil cd= keys=[] agent=nil pps="},
		{"entities", ovfNames + "<UserPassword>&lt;&amp;&#33;</UserPassword>", "", "h u pw=<&! off=nil cd= keys=[] agent=nil pps="},
		{"cdata and comments", ovfNames + "<UserPassword>a<![CDATA[<b>]]><!-- no -->c</UserPassword>", "", "h u pw=a<b>c off=nil cd= keys=[] agent=nil pps="},
		{"empties are absent", ovfNames + "<UserPassword/><DisableSshPasswordAuthentication></DisableSshPasswordAuthentication><CustomData></CustomData>", `<wa:ProvisionGuestAgent xsi:nil="true"/>`, "h u pw= off=nil cd= keys=[] agent=nil pps="},
		{"nil with 1", ovfNames + `<UserPassword xmlns:i="` + nsXSI + `" i:nil="1">x</UserPassword>`, "", "h u pw= off=nil cd= keys=[] agent=nil pps="},
		{"booleans", ovfNames + "<DisableSshPasswordAuthentication> Yes\r\n</DisableSshPasswordAuthentication>", "<wa:ProvisionGuestAgent>OFF</wa:ProvisionGuestAgent>", "h u pw= off=true cd= keys=[] agent=false pps="},
		{"custom data in lines without padding", ovfNames + "<CustomData>IyEv\r\n Ymlu L3No</CustomData>", "", "h u pw= off=nil cd=#!/bin/sh keys=[] agent=nil pps="},
		{"keys", ovfNames + "<SSH><PublicKeys><PublicKey><Fingerprint>" + strings.ToLower(sum) + "</Fingerprint><Path>/p</Path><Value> ssh-rsa AAAA\r\n</Value></PublicKey><PublicKey><Path>/q</Path></PublicKey></PublicKeys></SSH>", "",
			"h u pw= off=nil cd= keys=[{ssh-rsa AAAA " + sum + " /p dvd}] agent=nil pps="},
		{"equal doubles", ovfNames + "<HostName>h</HostName>", "", "h u pw= off=nil cd= keys=[] agent=nil pps="},
		{"pool", ovfNames, "<wa:PreprovisionedVm>true</wa:PreprovisionedVm><wa:PreprovisionedVmType>None</wa:PreprovisionedVmType>", "h u pw= off=nil cd= keys=[] agent=nil pps=Running"},
		{"savable pool", ovfNames, "<wa:PreprovisionedVm>false</wa:PreprovisionedVm><wa:PreprovisionedVMType>Savable</wa:PreprovisionedVMType>", "h u pw= off=nil cd= keys=[] agent=nil pps=Savable"},
		{"unknown elements", ovfNames + "<Novelty>1</Novelty>", "", "h u pw= off=nil cd= keys=[] agent=nil pps="},
	} {
		s, err := parseOVF([]byte(ovfDoc(c.linux, c.platform)))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		flag := func(p *bool) string {
			if p == nil {
				return "nil"
			}
			return fmt.Sprint(*p)
		}
		got := fmt.Sprintf("%s %s pw=%s off=%s cd=%s keys=%v agent=%s pps=%s", s.HostName, s.UserName, string(s.Password), flag(s.DisablePasswordAuth), string(s.CustomData), s.Keys, flag(s.ProvisionGuestAgent), s.Preprovisioned)
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestParseOVFForms(t *testing.T) {
	plain := ovfDoc(ovfNames, "")
	utf16 := func(big bool) []byte {
		var b []byte
		for _, r := range "\ufeff" + plain {
			if big {
				b = append(b, byte(r>>8), byte(r))
			} else {
				b = append(b, byte(r), byte(r>>8))
			}
		}
		return b
	}
	renamed := strings.NewReplacer("wa:", "ns7:", "xmlns:wa", "xmlns:ns7").Replace(plain)
	renamed = strings.Replace(renamed, "xmlns:ns7", "xmlns:ns7", 1)
	for name, doc := range map[string][]byte{
		"plain": []byte(plain), "byte order mark": append([]byte("\xef\xbb\xbf"), plain...), "NULs at the end": append([]byte(plain), 0, 0, 0),
		"UTF-16LE": utf16(false), "UTF-16BE": utf16(true), "other prefix": []byte(renamed),
		"no platform section": []byte(plain[:strings.Index(plain, "<wa:PlatformSettingsSection>")] + "</Environment>"),
	} {
		if s, err := parseOVF(doc); err != nil || s.HostName != "h" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseOVFErrors(t *testing.T) {
	const hidden = "hunter2"
	password := "<UserPassword>" + hidden + "</UserPassword>"
	for _, c := range []struct{ name, doc, want string }{
		{"dtd", "<!DOCTYPE x [<!ENTITY e \"x\">]>" + ovfDoc(ovfNames, ""), "document type"},
		{"unknown entity", ovfDoc(ovfNames+password+"<X>&e;</X>", ""), "line 4, column"},
		{"cut off", ovfDoc(ovfNames+password, "")[:300], "ends too early"},
		{"wrong end tag", ovfDoc(ovfNames+"<UserPassword>"+hidden+"</HostName>", ""), "LinuxProvisioningConfigurationSet/UserPassword"},
		{"junk before", "junk" + ovfDoc(ovfNames, ""), "text outside"},
		{"junk behind", ovfDoc(ovfNames, "") + "junk", "text outside"},
		{"second root", ovfDoc(ovfNames, "") + "<x/>", "after the root"},
		{"contradiction", ovfDoc(ovfNames+"<HostName>other</HostName>"+password, ""), "HostName: stands twice with different content"},
		{"contradicting passwords", ovfDoc(ovfNames+password+"<UserPassword>x</UserPassword>", ""), "UserPassword: stands twice"},
		{"boolean", ovfDoc(ovfNames+"<DisableSshPasswordAuthentication>"+hidden+"</DisableSshPasswordAuthentication>", ""), "neither true nor false"},
		{"base64", ovfDoc(ovfNames+"<CustomData>"+hidden+"!</CustomData>", ""), "CustomData: not base64"},
		{"custom data too large", ovfDoc(ovfNames+"<CustomData>"+base64.StdEncoding.EncodeToString(make([]byte, 65536))+"</CustomData>", ""), "more than 65535 bytes"},
		{"fingerprint", ovfDoc(ovfNames+"<SSH><PublicKeys><PublicKey><Fingerprint>12</Fingerprint></PublicKey></PublicKeys></SSH>", ""), "40 hex digits"},
		{"no host name", ovfDoc("<UserName>u</UserName>", ""), "HostName is missing"},
		{"no user name", ovfDoc("<HostName>h</HostName><UserName/>", ""), "UserName is missing"},
		{"windows", strings.ReplaceAll(ovfDoc(ovfNames, ""), "LinuxProv", "WindowsProv"), "Windows VM"},
		{"no section", `<Environment xmlns="` + nsOVF + `"/>`, "no ProvisioningSection"},
		{"wrong namespace", strings.ReplaceAll(ovfDoc(ovfNames, ""), nsOVF, "http://example.com"), "the root is not"},
		{"nested too deep", strings.Repeat("<a>", 40), "too deep"},
		{"too many elements", "<a>" + strings.Repeat("<b/>", 10001), "too many"},
		{"empty", "", "no element"},
		{"too large", strings.Repeat(" ", maxOVF+1), "larger than 1 MiB"},
	} {
		_, err := parseOVF([]byte(c.doc))
		var broken *xmlError
		if !errors.As(err, &broken) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
			continue
		}
		if strings.Contains(err.Error(), hidden) {
			t.Errorf("%s: the error shows the password: %v", c.name, err)
		}
	}
}

func TestScrubOVF(t *testing.T) {
	for in, want := range map[string]string{
		"<UserPassword>secret</UserPassword>":                                        "<UserPassword>REDACTED</UserPassword>",
		"<UserPassword a='b'>se\r\ncret</UserPassword>":                              "<UserPassword a='b'>REDACTED</UserPassword>",
		"<UserPassword>se<!-- secret --><![CDATA[cret]]></UserPassword>":             "<UserPassword>REDACTED</UserPassword>",
		"<x:UserPassword xmlns:x='u'>secret</x:UserPassword>":                        "<x:UserPassword xmlns:x='u'>REDACTED</x:UserPassword>",
		"<UserPassword></UserPassword>":                                              "<UserPassword></UserPassword>",
		"<UserPassword/>":                                                            "<UserPassword/>",
		"<AdminPassword><Value>secret</Value></AdminPassword>":                       "<AdminPassword>REDACTED</AdminPassword>",
		"<DisableSshPasswordAuthentication>false</DisableSshPasswordAuthentication>": "<DisableSshPasswordAuthentication>false</DisableSshPasswordAuthentication>",
	} {
		got, err := scrubOVF([]byte(ovfDoc(ovfNames+in, "")))
		if err != nil || string(got) != ovfDoc(ovfNames+want, "") {
			t.Errorf("%s:\n got %s, %v", in, got, err)
		}
	}
	if got, err := scrubOVF([]byte("<a><UserPassword>secret</a>")); err == nil {
		t.Errorf("a broken document became %s", got)
	}
}

func FuzzOVF(f *testing.F) {
	f.Add([]byte(ovfDoc(ovfNames+"<UserPassword>hunter2</UserPassword><CustomData>IyEv</CustomData><SSH><PublicKeys><PublicKey><Value>ssh-rsa A</Value></PublicKey></PublicKeys></SSH>", "<wa:ProvisionGuestAgent>false</wa:ProvisionGuestAgent>")))
	f.Add([]byte("\xff\xfe<\x00a\x00/\x00>\x00"))
	f.Add([]byte("<!DOCTYPE x><x/>"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		s, err := parseOVF(doc)
		if err != nil {
			return
		}
		if s.HostName == "" || s.UserName == "" {
			t.Errorf("accepted without names: %q", doc)
		}
		scrubbed, err := scrubOVF(doc)
		if err != nil {
			t.Errorf("parsed but not scrubbed: %v", err)
		}
		again, err := parseOVF(scrubbed)
		if err != nil {
			t.Fatalf("the scrubbed copy of %q: %v", doc, err)
		}
		if len(s.Password) > 0 && !wasScrubbed(again.Password) {
			t.Errorf("the scrubbed copy keeps the password: %q", scrubbed)
		}
		if !bytes.Equal(s.CustomData, again.CustomData) {
			t.Error("the scrubbed copy lost custom data")
		}
	})
}
