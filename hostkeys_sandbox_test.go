package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"azprov/sim"
)

// keysBox is a guest that makes the host keys that an image gets by default.
func keysBox(t *testing.T) *guestBox {
	b := newBox(t)
	if err := os.Remove(filepath.Join(b.dir, "root/etc/azprov.conf")); err != nil {
		t.Fatal(err)
	}
	return b
}

// properties returns the role properties that the platform took last.
func properties(events []sim.Event) (list []string) {
	for _, e := range events {
		if len(e.Props) > 0 && e.Status/100 == 2 {
			list = e.Props
		}
	}
	return list
}

// fingerprintsOf asks ssh-keygen for both fingerprints of key files of a guest.
func fingerprintsOf(t *testing.T, b *guestBox, names ...string) (sha, md5 []string) {
	t.Helper()
	for _, name := range names {
		file := filepath.Join(b.dir, "root", name)
		sha = append(sha, strings.Fields(command(t, "ssh-keygen", "-l", "-f", file))[1])
		md5 = append(md5, strings.Fields(command(t, "ssh-keygen", "-l", "-E", "md5", "-f", file))[1])
	}
	return sha, md5
}

// Keys of a first boot: the platform, the console, the host and status.json are
// told what a real client of a real sshd sees; Ready does not wait for RSA.
func TestHostKeysInTheSandbox(t *testing.T) {
	need(t, "sshd", "ssh", "ssh-keyscan", "ssh-keygen", "dropbear")
	b := keysBox(t)
	const scan = "for i in $(seq 200); do ssh-keyscan -p %s -t ed25519,rsa 127.0.0.1 2>/dev/null >/var/tmp/%s; [ $(wc -l </var/tmp/%[2]s) = 2 ] && break; sleep 0.05; done; "
	o := b.run("", "/opt/azprov || exit 9; mkdir -p /run/sshd; $(command -v sshd) -t || exit 8; $(command -v sshd) -o UsePAM=no; "+
		fmt.Sprintf(scan, "22", "sshd")+"ssh -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/var/tmp/sshd -o BatchMode=yes opsadmin@127.0.0.1; ")
	sha, md5 := fingerprintsOf(t, b, "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_rsa_key")
	// The client that knows the scanned keys gets as far as the login.
	if !strings.Contains(o.output, "Permission denied") || strings.Contains(o.output, "verification failed") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
	for i, line := range strings.Split(strings.TrimSpace(command(t, "ssh-keygen", "-l", "-f", filepath.Join(b.dir, "root/var/tmp/sshd"))), "\n") {
		if i < 2 && !slices.Contains(sha, strings.Fields(line)[1]) {
			t.Errorf("a client sees %s, the files hold %v", line, sha)
		}
	}
	want := []string{"CertificateThumbprint=" + sha[0], "SshHostKey:ssh-ed25519=" + sha[0], "SshHostKey:ssh-ed25519=" + md5[0], "SshHostKey:ssh-rsa=" + sha[1], "SshHostKey:ssh-rsa=" + md5[1]}
	if got := properties(o.events); !slices.Equal(got, want) {
		t.Errorf("role properties %q, want %q", got, want)
	}
	block := regexp.MustCompile(`(?m)^-----BEGIN SSH HOST KEY FINGERPRINTS-----\n((?:.*\n)*?)-----END SSH HOST KEY FINGERPRINTS-----\n-----BEGIN SSH HOST KEY KEYS-----\n((?:.*\n)*?)-----END SSH HOST KEY KEYS-----$`).FindStringSubmatch(o.output)
	if block == nil {
		t.Fatalf("no marked block in\n%s", o.output)
	}
	prints := command(t, "ssh-keygen", "-l", "-f", filepath.Join(b.dir, "root/etc/ssh/ssh_host_ed25519_key")) + command(t, "ssh-keygen", "-l", "-f", filepath.Join(b.dir, "root/etc/ssh/ssh_host_rsa_key"))
	if block[1] != prints || block[2] != b.file("etc/ssh/ssh_host_ed25519_key.pub")+b.file("etc/ssh/ssh_host_rsa_key.pub") || !strings.Contains(prints, "root@edge-fra-07") {
		t.Errorf("console\n%s\n%s, ssh-keygen\n%s", block[1], block[2], prints)
	}
	pool, err := readKVP([]byte(b.file("var/lib/hyperv/.kvp_pool_1")))
	if err != nil || pool[kvpHostKeys] != "ED25519 "+sha[0]+" "+md5[0]+"|RSA "+sha[1]+" "+md5[1] || !strings.HasPrefix(pool[kvpReportKey], "result=success") {
		t.Errorf("kvp %v %v", pool, err)
	}
	status := b.file("var/lib/azprov/status.json")
	for i := range sha {
		if !strings.Contains(status, `"sha256": "`+sha[i]+`"`) || !strings.Contains(status, `"md5": "`+strings.TrimPrefix(md5[i], "MD5:")+`"`) {
			t.Errorf("status.json lacks %s %s", sha[i], md5[i])
		}
	}
	order := []string{}
	for _, e := range o.events {
		if e.State == "Ready" || len(e.Props) > 0 {
			order = append(order, e.State)
		}
	}
	if !slices.Equal(order, []string{"Ready", ""}) || strings.Index(o.output, "azprov: ready ") > strings.Index(o.output, "azprov: rsakey ") {
		t.Errorf("Ready waited for keys: %q\n%s", order, o.output)
	}
}

func TestDropbearStartsWithOurKeys(t *testing.T) {
	need(t, "dropbear", "ssh-keyscan", "ssh-keygen")
	b := keysBox(t)
	// An image whose only server is dropbear: sshd's programs and files are not there.
	o := b.run("", "rm -rf /etc/ssh; mkdir /tmp/empty; touch /tmp/no; mount --bind /tmp/no $(command -v sshd) || exit 7; /opt/azprov || exit 9; "+
		"dropbear -E -p 2222; for i in $(seq 200); do ssh-keyscan -p 2222 -t ed25519,rsa 127.0.0.1 2>/dev/null >/var/tmp/keys; [ $(wc -l </var/tmp/keys) = 2 ] && break; sleep 0.05; done; ls -l /etc/dropbear")
	seen := command(t, "ssh-keygen", "-l", "-f", filepath.Join(b.dir, "root/var/tmp/keys"))
	got := properties(o.events)
	if o.code != exitOK || len(got) != 5 || strings.Count(seen, "\n") != 2 {
		t.Fatalf("exit %d, properties %q, keys %q\n%s", o.code, got, seen, o.output)
	}
	for _, p := range []string{got[0], got[1], got[3]} {
		if _, sha, _ := strings.Cut(p, "="); !strings.Contains(seen, " "+sha+" ") {
			t.Errorf("the platform was told %s, a client sees\n%s", p, seen)
		}
	}
}

// An sshd that runs with the image's keys while azprov replaces them answers with
// the new ones, and is the same process.
func TestRunningSSHDTakesNewKeys(t *testing.T) {
	need(t, "sshd", "ssh-keyscan", "ssh-keygen")
	b := keysBox(t)
	const scan = "ssh-keyscan -t ed25519,rsa 127.0.0.1 2>/dev/null | sort"
	o := b.run("", "ssh-keygen -q -A; mkdir -p /run/sshd; $(command -v sshd); for i in $(seq 200); do "+scan+" >/var/tmp/before; [ $(wc -l </var/tmp/before) = 2 ] && break; sleep 0.05; done; "+
		"cp /run/sshd.pid /var/tmp/pid; /opt/azprov || exit 9; cut -d' ' -f1,2 /etc/ssh/ssh_host_*_key.pub | sort >/var/tmp/want; "+
		"for i in $(seq 200); do "+scan+" | cut -d' ' -f2,3 | sort >/var/tmp/after; grep -v ecdsa /var/tmp/want | cmp -s - /var/tmp/after && break; sleep 0.05; done; cmp /run/sshd.pid /var/tmp/pid || exit 8")
	before, after, want := b.file("var/tmp/before"), b.file("var/tmp/after"), b.file("var/tmp/want")
	if o.code != exitOK || strings.Count(before, "\n") != 2 || strings.Count(after, "\n") != 2 || strings.Count(want, "\n") != 3 {
		t.Fatalf("exit %d\nbefore\n%safter\n%swant\n%s%s", o.code, before, after, want, o.output)
	}
	for line := range strings.Lines(after) {
		if !strings.Contains(want, line) || strings.Contains(before, line) {
			t.Errorf("sshd answers with %s; the files hold\n%s", line, want)
		}
	}
}

// A host key file is never readable by others: not for an instant.
func TestHostKeysAreNeverReadable(t *testing.T) {
	need(t, "strace")
	b := keysBox(t)
	o := b.run("", "umask 0; mkdir -p /etc/dropbear; touch /etc/dropbear/dropbear_rsa_host_key; chmod 644 /etc/dropbear/*; strace -f -y -e trace=openat,openat2,fchmod,fchmodat,chmod,rename,renameat,renameat2 -o /var/tmp/trace /opt/azprov -hostkeys ed25519,ecdsa,rsa")
	created, names := 0, regexp.MustCompile(`_key(\.azprov)?[">]`)
	for line := range strings.Lines(b.file("var/tmp/trace")) {
		if !names.MatchString(line) {
			continue
		}
		if strings.Contains(line, "O_CREAT") {
			created++
		}
		if mode := regexp.MustCompile(`, 0([0-7]+)\)`).FindStringSubmatch(line); mode != nil && mode[1] != "600" && !strings.Contains(line, "O_RDONLY") {
			t.Errorf("%s", line)
		}
	}
	if o.code != exitOK || created != 6 {
		t.Errorf("exit %d, %d files created\n%s", o.code, created, b.file("var/tmp/trace"))
	}
}

// Runs that are killed at many moments: in the end there is one whole set, and it
// is what the platform was told.
func TestHostKeysOfKilledRuns(t *testing.T) {
	need(t, "ssh-keygen")
	b := keysBox(t)
	for _, after := range []string{"0.004", "0.008", "0.015", "0.03", "0.06", "0.1", "0.2"} {
		b.run("", "timeout -s KILL "+after+" /opt/azprov -hostkeys ed25519,ecdsa,rsa; true")
	}
	o := b.run("", "/opt/azprov -hostkeys ed25519,ecdsa,rsa; code=$?; ls -A /etc/ssh; exit $code")
	names := []string{"etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ecdsa_key", "etc/ssh/ssh_host_rsa_key"}
	if o.code != exitOK || strings.Contains(o.output, ".azprov\n") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
	sha, _ := fingerprintsOf(t, b, names...)
	for i, name := range names {
		if strings.Join(strings.Fields(command(t, "ssh-keygen", "-y", "-f", filepath.Join(b.dir, "root", name)))[:2], " ") != strings.Join(strings.Fields(b.file(name + ".pub"))[:2], " ") {
			t.Errorf("%s and its .pub are two keys", name)
		}
		if !strings.Contains(b.file(hostKeysFile), "="+sha[i]+"\n") {
			t.Errorf("%s is not in the record", name)
		}
	}
	all, err := os.Open(filepath.Join(b.dir, "platform.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	events, err := sim.ReadEvents(all)
	told := properties(events)
	for _, p := range told {
		if _, value, _ := strings.Cut(p, "="); strings.HasPrefix(value, "SHA256:") && !slices.Contains(sha, value) {
			t.Errorf("the platform was told %s, the files hold %v", p, sha)
		}
	}
	if err != nil || strings.Contains(b.file("var/lib/azprov/instance"), "progress=acknowledged") == false {
		t.Errorf("%v, instance %q", err, b.file("var/lib/azprov/instance"))
	}
}

func TestRolePropertiesFaults(t *testing.T) {
	for name, c := range map[string]struct {
		faults string
		want   int // properties that were taken
		text   string
	}{
		"refused as a whole": {`{"service":"wire","match":"roleProperties","count":1,"action":"status","status":400}`, 1, "azprov: fingerprint SHA256:"},
		"ids out of date":    {`{"service":"wire","match":"roleProperties","count":1,"action":"status","status":410}`, 3, "azprov: fingerprint SHA256:"},
		"not known at all":   {`{"service":"wire","match":"roleProperties","action":"status","status":404}`, 0, "does not take fingerprints (http status 404)"},
		"server error":       {`{"service":"wire","match":"roleProperties","action":"status","status":500}`, 0, "warning: POST"},
		"reset":              {`{"service":"wire","match":"roleProperties","action":"reset"}`, 0, "azprov: fingerprint warning"},
	} {
		b := newBox(t)
		o := b.run(c.faults, "/opt/azprov")
		if got := properties(o.events); o.code != exitOK || o.reports() != "Ready" || len(got) != c.want || !strings.Contains(o.output, c.text) {
			t.Errorf("%s: exit %d, reports %q, properties %q\n%s", name, o.code, o.reports(), got, o.output)
		}
	}
}
