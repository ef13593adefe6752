package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCustomData(t *testing.T) {
	binary := string([]byte{0x1f, 0x8b, 8, 0, 0, 0xff, 0, 10, 13, 0})
	for name, c := range map[string]struct {
		data, flags    string
		code           int
		ran, reports   string // what the script wrote; what the platform took
		record, report string // parts of the instance record and of the KVP report
	}{
		"binary, to be run": {binary, "-customdata run", exitOK, "", "Ready", "progress=acknowledged\n", "result=success"},
		"script, stored":    {"#!/bin/sh\necho ran >/var/tmp/out\n", "", exitOK, "", "Ready", "progress=acknowledged\n", "result=success"},
		"after Ready":       {"#!/bin/sh\ntest -e /home/opsadmin/.ssh/authorized_keys && grep -q opsadmin /etc/passwd && echo $INSTANCE_ID >/var/tmp/out\nexit 7\n", "-customdata run", exitOK, "4f6d2c1a-90ab-4cde-8f01-23456789abcd\n", "Ready", "script=exit 7", "custom_data=exit 7"},
		"before Ready":      {"#!/bin/sh\necho before >/var/tmp/out\n", "-customdata run -customdata.when before", exitOK, "before\n", "Ready", "script=exit 0", "custom_data=exit 0"},
		"runs too long":     {"#!/bin/sh\necho begun >/var/tmp/out\nsleep 60 & wait\n", "-customdata run -customdata.timeout 300ms", exitOK, "begun\n", "Ready", "script=timeout", "custom_data=timeout"},
		"no interpreter":    {"#!/no/such/shell\n", "-customdata run", exitOK, "", "Ready", "script=not run: start /var/lib/azprov/custom-data", "custom_data=not run"},
		"killed":            {"#!/bin/sh\nkill -9 $$\n", "-customdata run", exitOK, "", "Ready", "script=signal 9", "custom_data=signal 9"},
	} {
		b := newBox(t)
		delete(b.vm, "customData")
		b.vm["customDataBase64"] = base64.StdEncoding.EncodeToString([]byte(c.data))
		o := b.run("", "/opt/azprov "+c.flags)
		if o.code != c.code || o.reports() != c.reports || b.file("var/tmp/out") != c.ran {
			t.Errorf("%s: exit %d, reports %q, the script wrote %q\n%s", name, o.code, o.reports(), b.file("var/tmp/out"), o.output)
		}
		if r := b.file("var/lib/azprov/instance"); !strings.Contains(r, c.record) {
			t.Errorf("%s: record %q lacks %q", name, r, c.record)
		}
		if r := b.report(); !strings.Contains(r, c.report) {
			t.Errorf("%s: report %q lacks %q", name, r, c.report)
		}
		if b.file("var/lib/azprov/custom-data") != c.data {
			t.Errorf("%s: stored %q", name, b.file("var/lib/azprov/custom-data"))
		}
		if left, err := os.Lstat(filepath.Join(b.dir, "root/var/lib/azprov/custom-data.run")); err == nil {
			t.Errorf("%s: %s is left", name, left.Name())
		}
		if o = b.run("", "/opt/azprov "+c.flags); o.code != exitOK || o.reports() != "" || b.file("var/tmp/out") != c.ran {
			t.Errorf("%s, again: exit %d, reports %q, the script wrote %q\n%s", name, o.code, o.reports(), b.file("var/tmp/out"), o.output)
		}
	}
}

// A root directory other than / is provisioned from outside, and custom data run in it.
func TestOtherRoot(t *testing.T) {
	b := newBox(t)
	o := b.run("", `mkdir -p /mnt/etc /mnt/usr /mnt/bin /mnt/lib /mnt/lib64 /mnt/dev /mnt/var/tmp
for d in usr bin lib lib64; do mount --rbind /$d /mnt/$d 2>/dev/null; done
cp -a /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/login.defs /mnt/etc
before=$(cat /etc/passwd /etc/hostname /etc/shadow | cksum)
/opt/azprov -root /mnt -customdata run || exit
test "$before" = "$(cat /etc/passwd /etc/hostname /etc/shadow | cksum)" || echo OUTSIDE CHANGED`)
	if o.code != exitOK || strings.Contains(o.output, "OUTSIDE") || !strings.Contains(b.file("mnt/etc/passwd"), "opsadmin:x:1000:") || b.file("mnt/var/tmp/ran") != "ran as 0\n" || b.file("var/tmp/ran") != "" {
		t.Errorf("exit %d\n%s\n%s", o.code, o.output, b.file("mnt/etc/passwd"))
	}
	if !strings.Contains(b.file("mnt/home/opsadmin/.ssh/authorized_keys"), "ssh-ed25519") || b.file("etc/resolv.conf") != "" {
		t.Errorf("keys or name servers are in the wrong place\n%s", o.output)
	}
}

func TestDropbearLogins(t *testing.T) {
	need(t, "dropbear", "dropbearkey", "ssh", "sshpass", "ssh-keygen")
	for _, allow := range []bool{true, false} {
		b := newBox(t)
		key := filepath.Join(t.TempDir(), "key")
		command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
		public, _ := os.ReadFile(key + ".pub")
		private, _ := os.ReadFile(key)
		b.vm["sshKeys"] = []any{map[string]any{"value": string(public)}}
		b.vm["disablePasswordAuthentication"] = !allow
		const login = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 opsadmin@127.0.0.1"
		// The image has dropbear and no sshd: what is in /usr/sbin is replaced for this guest.
		o := b.run("", `cat >/tmp/key <<'KEY'
`+string(private)+`KEY
chmod 600 /tmp/key; rm -rf /etc/ssh; cp $(command -v dropbear) /tmp/dropbear; mount -t tmpfs none /usr/sbin && cp /tmp/dropbear /usr/sbin/ || exit 8
echo 'DROPBEAR_PORT=22' >/etc/default/dropbear
/opt/azprov || exit 9
. /etc/default/dropbear; mkdir -p /etc/dropbear
/usr/sbin/dropbear -R -p 127.0.0.1:22 $DROPBEAR_EXTRA_ARGS
ssh -i /tmp/key -o BatchMode=yes `+login+` 'echo key login as $(id -un)'
sshpass -p 'Tr1cky <pass> & more' ssh -o PubkeyAuthentication=no -o PreferredAuthentications=password `+login+` 'echo password login as $(id -un)'; true`)
		if o.code != 0 || !strings.Contains(o.output, "key login as opsadmin") || strings.Contains(o.output, "password login as opsadmin") != allow {
			t.Errorf("password logins allowed %v: exit %d\n%s", allow, o.code, o.output)
		}
	}
}
