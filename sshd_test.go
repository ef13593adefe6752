package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sshdOf returns what sshd makes of a guest's configuration, by keyword.
func sshdOf(t *testing.T, m *machine, key string) map[string]string {
	t.Helper()
	config := "/etc/ssh/sshd_config"
	if !m.guest.isFile(config) {
		config = "/usr/etc/ssh/sshd_config"
	}
	// sshd looks for what is included below its own /etc: it gets the guest's there.
	out := command(t, "unshare", "-m", "sh", "-ec", fmt.Sprintf("mkdir -p /run/sshd /usr/etc /etc/crypto-policies; cd %s; "+
		"for d in etc/ssh usr/etc etc/crypto-policies; do [ ! -d $d ] || mount --bind $d /$d; done; sshd -T -f %s -h %s", m.guest.dir, config, key))
	values := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		values[k] = v
	}
	return values
}

// Configurations as distributions ship them: directives, their order, and what
// they include.
func TestSSHDOfDistributions(t *testing.T) {
	needRoot(t)
	need(t, "sshd", "ssh-keygen", "unshare")
	key := filepath.Join(t.TempDir(), "key")
	command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	trees, err := os.ReadDir("testdata/sshd")
	if err != nil || len(trees) < 10 {
		t.Fatalf("%d configurations, %v", len(trees), err)
	}
	yes, no := true, false
	for _, tree := range trees {
		load := func() *machine {
			m := newTestMachine(t)
			if err := os.CopyFS(m.guest.dir, os.DirFS(filepath.Join("testdata/sshd", tree.Name()))); err != nil {
				t.Fatal(err)
			}
			writeTree(t, m.guest.dir, map[string]string{"etc/ssh/": ""})
			return m
		}
		before := sshdOf(t, load(), key)
		for name, c := range map[string]struct {
			spec  spec
			alive int
			want  string // of passwords; "" for what it was before
		}{
			"DisableSshPasswordAuthentication true":                     {spec{DisablePasswordAuth: &yes, Password: secret("x")}, 0, "no"},
			"DisableSshPasswordAuthentication false":                    {spec{DisablePasswordAuth: &no}, 77, "yes"},
			"DisableSshPasswordAuthentication absent, with a password":  {spec{Password: secret("x")}, 0, "yes"},
			"DisableSshPasswordAuthentication absent, without password": {spec{}, 0, ""},
			"ClientAliveInterval alone":                                 {spec{}, 99, ""},
		} {
			m := load()
			m.cfg.ClientAlive = c.alive
			var trees [2]string
			for run := range trees {
				if _, err := m.applySSHD(&c.spec); err != nil {
					t.Fatalf("%s, %s: %v", tree.Name(), name, err)
				}
				trees[run] = manifest(t, m.guest.dir)
			}
			if trees[0] != trees[1] {
				t.Errorf("%s, %s: the second run changes\n%s", tree.Name(), name, lineDiff(trees[0], trees[1]))
			}
			want := maps.Clone(before)
			if c.want != "" {
				want["passwordauthentication"], want["kbdinteractiveauthentication"] = c.want, c.want
			}
			if c.alive > 0 {
				want["clientaliveinterval"] = fmt.Sprint(c.alive)
			}
			after := sshdOf(t, m, key)
			for _, k := range slices.Sorted(maps.Keys(want)) {
				if after[k] != want[k] {
					t.Errorf("%s, %s: %s is %q, want %q", tree.Name(), name, k, after[k], want[k])
				}
			}
			if len(m.warnings) > 0 {
				t.Errorf("%s, %s: warnings %v", tree.Name(), name, m.warnings)
			}
		}
	}
}

// What sets the same for some connections, or before us, is named.
func TestSSHDWarnings(t *testing.T) {
	disable := true
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"match":     {map[string]string{"etc/ssh/sshd_config": "UsePAM no\nMatch User a\n  PasswordAuthentication yes\nMatch User b\n  PasswordAuthentication no\n"}, "sshd_config:"},
		"earlier":   {map[string]string{"etc/ssh/sshd_config": "Include sshd_config.d/*.conf\n", "etc/ssh/sshd_config.d/01-x.conf": "passwordauthentication=yes\r\n"}, "01-x.conf is read first"},
		"not later": {map[string]string{"etc/ssh/sshd_config": "Include sshd_config.d/*.conf\n", "etc/ssh/sshd_config.d/50-x.conf": "PasswordAuthentication yes\n"}, ""},
	} {
		needRoot(t)
		m := newTestMachine(t)
		writeTree(t, m.guest.dir, c.files)
		if _, err := m.applySSHD(&spec{DisablePasswordAuth: &disable}); err != nil {
			t.Fatal(err)
		}
		if (c.want == "") != (len(m.warnings) == 0) || c.want != "" && (len(m.warnings) != 1 || !strings.Contains(m.warnings[0].Text, c.want)) {
			t.Errorf("%s: %v", name, m.warnings)
		}
	}
}
