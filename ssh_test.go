package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	keyEd25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3TrnLVhHVaYsAjSyQfWLhSHnOLUkgJuFT5Q4RV7Iv1"
	keySK      = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIJ3TrnLVhHVaYsAjSyQfWLhSHnOLUkgJuFT5Q4RV7Iv1AAAABHNzaDo="
)

func TestParsePublicKey(t *testing.T) {
	for line, want := range map[string]string{
		keyEd25519:                                   "ssh-ed25519",
		"  " + keyEd25519 + " ops@desk\r\n":          "ssh-ed25519",
		keySK + " token":                             "sk-ssh-ed25519@openssh.com",
		`from="10.0.0.1,b c",no-pty ` + keyEd25519:   "ssh-ed25519",
		`command="echo \"x ssh-rsa\"" ` + keyEd25519: "ssh-ed25519",
		"": "", "# " + keyEd25519: "", "ssh-rsa " + strings.Fields(keyEd25519)[1]: "", "ssh-ed25519 AAAA": "", "ssh-ed25519": "", "a b c d": "",
		"no-pty x " + keyEd25519: "", "ssh-ed25519\x00 AAAA": "",
	} {
		k, err := parsePublicKey(line)
		if got := ""; err == nil {
			if got = k.Type; got != want {
				t.Errorf("%q is %s, want %q", line, got, want)
			}
		} else if want != "" {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// newHome makes a machine with the home of a user.
func newHome(t *testing.T) (*machine, *account) {
	t.Helper()
	needRoot(t)
	m := newTestMachine(t)
	a := &account{Name: "ops", UID: 1234, GID: 1234, Home: "/home/ops"}
	writeTree(t, m.guest.dir, map[string]string{"home/ops/": "", "etc/": ""})
	if err := os.Chown(filepath.Join(m.guest.dir, "home/ops"), 1234, 1234); err != nil {
		t.Fatal(err)
	}
	return m, a
}

func TestAuthorizedKeys(t *testing.T) {
	need(t, "ssh-keygen")
	m, a := newHome(t)
	keys := []sshKey{{Value: keyEd25519 + " ops@desk"}, {Value: keySK, Path: "/home/ops/.ssh/authorized_keys"}, {Value: keyEd25519 + " again"}, {Value: "garbage"}, {Fingerprint: "AB"}}
	for i, want := range []string{"3 keys, 2 new", "3 keys, 0 new"} {
		if text, err := m.applyKeys(a, keys); err != nil || text != want {
			t.Errorf("run %d: %q, %v", i, text, err)
		}
	}
	if n := len(m.warnings); n != 2 { // the garbage; the fingerprint is another step's
		t.Errorf("warnings %v", m.warnings)
	}
	file := filepath.Join(m.guest.dir, "home/ops/.ssh/authorized_keys")
	data, _ := os.ReadFile(file)
	if string(data) != keyEd25519+" ops@desk\n"+keySK+"\n" {
		t.Errorf("%q", data)
	}
	if out := command(t, "ssh-keygen", "-lf", file); strings.Count(out, "\n") != 2 {
		t.Errorf("ssh-keygen: %s", out)
	}
	for p, mode := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): 0o700} {
		info, _ := os.Stat(p)
		if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != mode || st.Uid != 1234 || st.Gid != 1234 {
			t.Errorf("%s: %v %d:%d", p, info.Mode(), st.Uid, st.Gid)
		}
	}
	// Lines of others stay, also without newline at the end.
	if err := os.WriteFile(file, []byte("# mine\n"+keySK+" mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.applyKeys(a, keys); err != nil {
		t.Fatal(err)
	}
	if data, _ = os.ReadFile(file); string(data) != "# mine\n"+keySK+" mine\n"+keyEd25519+" ops@desk\n" {
		t.Errorf("%q", data)
	}
}

func TestKeyPaths(t *testing.T) {
	a := &account{Name: "ops", Home: "/var/home/ops"}
	for asked, want := range map[string]string{
		"": "std", "/var/home/ops/.ssh/authorized_keys": ".ssh/authorized_keys", "/home/ops/.ssh/keys": ".ssh/keys", "$HOME/ops/.ssh/authorized_keys": ".ssh/authorized_keys",
		"/home/ops/../ops/.ssh/x": ".ssh/x", "/etc/passwd": "!", "/home/ops/../root/.ssh/authorized_keys": "!", "/home/opsx/a": "!", "/home/ops": "!", "../x": "!", "/home/ops/.ssh/a\nb": "!",
	} {
		got, err := keyPath(a, asked, "std")
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: %q (%v), want %q", asked, got, err, want)
		}
	}
}

func TestPlantedLinksAreRefused(t *testing.T) {
	for name, plant := range map[string]func(home string) error{
		"directory is a link": func(home string) error { return os.Symlink("/etc", filepath.Join(home, ".ssh")) },
		"file is a link": func(home string) error {
			os.Mkdir(filepath.Join(home, ".ssh"), 0o700)
			return os.Symlink("../../../etc/shadow", filepath.Join(home, ".ssh/authorized_keys"))
		},
		"file has another name": func(home string) error {
			os.Mkdir(filepath.Join(home, ".ssh"), 0o700)
			return os.Link(filepath.Join(home, "../../etc/shadow"), filepath.Join(home, ".ssh/authorized_keys"))
		},
		"file is a fifo": func(home string) error {
			os.Mkdir(filepath.Join(home, ".ssh"), 0o700)
			return syscall.Mkfifo(filepath.Join(home, ".ssh/authorized_keys"), 0o600)
		},
		"directory is a file": func(home string) error { return os.WriteFile(filepath.Join(home, ".ssh"), nil, 0o600) },
	} {
		m, a := newHome(t)
		writeTree(t, m.guest.dir, map[string]string{"etc/shadow": "root:secret:"})
		if err := plant(filepath.Join(m.guest.dir, "home/ops")); err != nil {
			t.Fatal(err)
		}
		_, err := m.applyKeys(a, []sshKey{{Value: keyEd25519}})
		if err == nil || !strings.Contains(err.Error(), "/home/ops/.ssh") {
			t.Errorf("%s: error %v", name, err)
		}
		if data, _ := m.guest.read("/etc/shadow", 100); string(data) != "root:secret:" || len(m.guest.list("/etc")) != 1 {
			t.Errorf("%s: /etc was written", name)
		}
	}
	m, a := newHome(t)
	if err := os.Chown(filepath.Join(m.guest.dir, "home/ops"), 77, 77); err != nil {
		t.Fatal(err)
	}
	if _, err := m.applyKeys(a, []sshKey{{Value: keyEd25519}}); err == nil || !strings.Contains(err.Error(), "belongs to uid 77") {
		t.Errorf("home of someone else: %v", err)
	}
}

// sshdConfigSamples are configurations as distributions and people write them.
var sshdConfigSamples = map[string]string{
	"empty":                   "",
	"debian":                  "Include /etc/ssh/sshd_config.d/*.conf\n#PasswordAuthentication yes\nKbdInteractiveAuthentication no\nUsePAM yes\nX11Forwarding yes\n",
	"no include":              "Port 22\nPasswordAuthentication yes\nUsePAM yes\n",
	"commented":               "#PasswordAuthentication yes\n#KbdInteractiveAuthentication yes\n",
	"lower case, indented":    "  passwordauthentication   no\n\tkbdinteractiveauthentication no\n",
	"equals sign":             "PasswordAuthentication=no\nKbdInteractiveAuthentication = no\n",
	"twice":                   "PasswordAuthentication no\nPasswordAuthentication yes\n",
	"match block":             "UsePAM no\nMatch User git\n  PasswordAuthentication no\n",
	"match without newline":   "Match User git\n\tPasswordAuthentication no",
	"no newline":              "UsePAM no",
	"old keyword":             "PasswordAuthentication no\nChallengeResponseAuthentication no\nUsePAM no\n",
	"value before include":    "PasswordAuthentication yes\nKbdInteractiveAuthentication yes\nInclude /etc/ssh/sshd_config.d/*.conf\n",
	"include in quotes":       "Include \"/etc/ssh/sshd_config.d/*.conf\"\nUsePAM no\n",
	"relative include":        "include sshd_config.d/*.conf\n",
	"include of another":      "Include /etc/crypto-policies/back-ends/opensshserver.config\nPasswordAuthentication no\n",
	"carriage returns":        "Include /etc/ssh/sshd_config.d/*.conf\r\nPasswordAuthentication yes\r\nUsePAM no\r\nMatch User git\r\n  X11Forwarding no\r\n",
	"include at the bottom":   "UsePAM no\nX11Forwarding no\nInclude /etc/ssh/sshd_config.d/*.conf\n",
	"include below the value": "PasswordAuthentication yes\nUsePAM no\nInclude /etc/ssh/sshd_config.d/*.conf",
	"both names":              "KbdInteractiveAuthentication yes\nChallengeResponseAuthentication yes\n",
	"nothing but a match":     "Match all\n  X11Forwarding no\n",
	"include inside of match": "UsePAM no\nMatch all\nInclude /etc/ssh/sshd_config.d/*.conf\n",
}

func TestSSHDPasswordLogins(t *testing.T) {
	needRoot(t)
	need(t, "sshd", "ssh-keygen", "unshare")
	key := filepath.Join(t.TempDir(), "key")
	command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	for name, config := range sshdConfigSamples {
		for _, allow := range []bool{true, false, true} {
			m := newTestMachine(t)
			writeTree(t, m.guest.dir, map[string]string{"etc/ssh/sshd_config": config, "etc/ssh/sshd_config.d/": ""})
			disable := !allow
			for range 2 {
				if _, err := m.applySSHD(&spec{DisablePasswordAuth: &disable}); err != nil {
					t.Fatal(name, err)
				}
			}
			// sshd reads /etc/ssh: it gets ours there.
			out := command(t, "unshare", "-m", "sh", "-ec", fmt.Sprintf("mkdir -p /run/sshd; mount --bind %s/etc/ssh /etc/ssh; sshd -T -f /etc/ssh/sshd_config -h %s", m.guest.dir, key))
			want := map[bool]string{true: "yes", false: "no"}[allow]
			for _, keyword := range []string{"passwordauthentication", "kbdinteractiveauthentication"} {
				if !strings.Contains(out, keyword+" "+want+"\n") {
					data, _ := m.guest.read("/etc/ssh/sshd_config", 1<<20)
					t.Errorf("%s, allow %v: no %q from sshd -T of\n%s", name, allow, keyword+" "+want, data)
				}
			}
		}
	}
}

func TestSSHDIsLeftAloneWithoutOpinion(t *testing.T) {
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"etc/ssh/sshd_config": "PasswordAuthentication no"})
	if text, err := m.applySSHD(&spec{}); err != nil || text != "" {
		t.Errorf("%q %v", text, err)
	}
	if data, _ := m.guest.read("/etc/ssh/sshd_config", 100); string(data) != "PasswordAuthentication no" {
		t.Errorf("%q", data)
	}
}

func TestDropbearOptions(t *testing.T) {
	for _, c := range []struct {
		old, key string
		allow    bool
		want     string
	}{
		{"", "DROPBEAR_EXTRA_ARGS", false, "DROPBEAR_EXTRA_ARGS=\"-s\"\n"},
		{"DROPBEAR_PORT=22\nDROPBEAR_EXTRA_ARGS=\"-w -s\"\n", "DROPBEAR_EXTRA_ARGS", true, "DROPBEAR_PORT=22\nDROPBEAR_EXTRA_ARGS=\"-w\"\n"},
		{"DROPBEAR_OPTS='-w'", "DROPBEAR_OPTS", false, "DROPBEAR_OPTS=\"-w -s\"\n"},
		{"# nothing\n", "DROPBEAR_OPTS", true, "# nothing\n"},
	} {
		got := editDropbear([]byte(c.old), c.key, c.allow)
		if string(got) != c.want || string(editDropbear(got, c.key, c.allow)) != c.want {
			t.Errorf("%q: %q, want %q", c.old, got, c.want)
		}
	}
}

func TestHostNames(t *testing.T) {
	for name, good := range map[string]bool{"edge-fra-07": true, "a.b.example": true, "A1": true, "": false, "-a": false, "a-": false, "a..b": false, "a_b": false, "a b": false, "a\nb": false, "10.0.0.1": false,
		"::1": false, strings.Repeat("a", 64): false, strings.Repeat("a.", 130): false, "ü": false} {
		if (validHostName(name) == nil) != good {
			t.Errorf("%q: %v", name, validHostName(name))
		}
	}
	for old, want := range map[string]string{
		"":                                     "127.0.0.1\tlocalhost\n127.0.1.1\th.x h\n::1\tlocalhost ip6-localhost ip6-loopback\n",
		"127.0.0.1 localhost":                  "127.0.0.1 localhost\n127.0.1.1\th.x h\n",
		"::1 localhost\n127.0.1.1 old other\n": "::1 localhost\n127.0.1.1\th.x h\n",
		"127.0.1.1 a\n# c\n127.0.1.1 b\n":      "127.0.1.1\th.x h\n# c\n",
	} {
		got := string(editHosts([]byte(old), "h.x", "h"))
		if got != want || string(editHosts([]byte(got), "h.x", "h")) != want {
			t.Errorf("%q: %q, want %q", old, got, want)
		}
	}
}

func TestHostNameFiles(t *testing.T) {
	needRoot(t)
	if os.Getenv("AZPROV_TEST_UTS") == "" {
		cmd := exec.Command("unshare", "-u", os.Args[0], "-test.run", "^TestHostNameFiles$")
		cmd.Env = append(os.Environ(), "AZPROV_TEST_UTS=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"etc/conf.d/hostname": "# x\nhostname=\"localhost\"\n", "etc/HOSTNAME": "old\n", "etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=old\n"})
	if _, err := m.applyHostname("edge.example.com"); err != nil {
		t.Fatal(err)
	}
	if name, _ := os.Hostname(); name != "edge" {
		t.Errorf("kernel: %s", name)
	}
	for p, want := range map[string]string{"/etc/hostname": "edge\n", "/etc/conf.d/hostname": "# x\nhostname=\"edge\"\n", "/etc/HOSTNAME": "edge\n", "/etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=edge\n"} {
		if data, _ := m.guest.read(p, 100); string(data) != want {
			t.Errorf("%s: %q", p, data)
		}
	}
}

func FuzzAuthorizedKeys(f *testing.F) {
	f.Add("# c\n"+keyEd25519+"\n", `from="a b" `+keySK+" x")
	f.Fuzz(func(t *testing.T, old, line string) {
		k, err := parsePublicKey(line)
		if err != nil {
			return
		}
		if strings.ContainsAny(k.Line, "\r\n") {
			t.Errorf("line %q", k.Line)
		}
		text, _ := mergeKeyLines(old, []*publicKey{k, k})
		again, added := mergeKeyLines(text, []*publicKey{k})
		if added != 0 || again != text || !strings.HasPrefix(text, old) {
			t.Errorf("%q and %q: %q, then %d more", old, line, text, added)
		}
	})
}

func FuzzSSHDConfig(f *testing.F) {
	for _, s := range sshdConfigSamples {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := parseSSHD("f", []byte(text))
		c.includes()
		c.set("PasswordAuthentication", "no")
		if got := parseSSHD("f", c.encode()).value("passwordauthentication"); got != "no" {
			t.Errorf("%q: the value is %q", text, got)
		}
	})
}
