package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCryptAgreesWithOpenSSL(t *testing.T) {
	need(t, "openssl")
	for _, password := range []string{"a", "Tr1cky <pass> & more", strings.Repeat("x", 63), strings.Repeat("y", 64), strings.Repeat("z", 65), strings.Repeat("ü", 72), strings.Repeat("w", 128)} {
		for _, salt := range []string{"a", "saltstring", "0123456789abcdef"} {
			cmd := exec.Command("openssl", "passwd", "-6", "-salt", salt, "-stdin")
			cmd.Stdin = strings.NewReader(password + "\n")
			got, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.TrimSpace(string(got)); sha512Crypt(secret(password), salt, 5000) != want {
				t.Errorf("%q %q: %s, want %s", password, salt, sha512Crypt(secret(password), salt, 5000), want)
			}
		}
	}
	// A vector of the algorithm's description: a long salt, other rounds.
	if got := sha512Crypt(secret("Hello world!"), "saltstringsaltstring", 10000); got != "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v." {
		t.Errorf("with rounds: %s", got)
	}
}

func TestVerifyPassword(t *testing.T) {
	hash, err := hashPassword(secret("right"), 1000)
	if err != nil || !regexp.MustCompile(`^\$6\$rounds=1000\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}$`).MatchString(hash) {
		t.Fatal(hash, err)
	}
	if !verifyPassword(secret("right"), hash) || verifyPassword(secret("wrong"), hash) || verifyPassword(secret("right"), "!"+hash) || verifyPassword(secret("x"), "$6$") {
		t.Error("verification")
	}
	for text, want := range map[string]bool{hash: true, "$6$notahash": false, "$y$j9T$abcdefghijklmnop$abcdefghijklmnopqrstu": true, "plain": false, "$6$a:b$" + strings.Repeat("x", 86): false} {
		if alreadyHashed([]byte(text)) != want {
			t.Errorf("alreadyHashed(%q) = %v", text, !want)
		}
	}
}

// hostRoot copies the real account files of this machine, without its people.
func hostRoot(t *testing.T, dir string, loginDefs string) {
	t.Helper()
	for _, name := range []string{"passwd", "group", "shadow", "gshadow"} {
		data, err := os.ReadFile("/etc/" + name)
		if err != nil {
			skip(t, "needs /etc/"+name)
		}
		writeTree(t, dir, map[string]string{"etc/" + name: string(data)})
	}
	defs, _ := os.ReadFile("/etc/login.defs")
	useradd, _ := os.ReadFile("/etc/default/useradd")
	writeTree(t, dir, map[string]string{"etc/login.defs": string(defs) + "\n" + loginDefs, "etc/default/useradd": string(useradd), "etc/subuid": "other:100000:65536\n", "etc/subgid": "other:100000:65536\n",
		"etc/skel/.profile": "profile\n", "etc/skel/.config/app/rc": "rc\n", "home/": "", "bin/": "", "tmp/": "", "var/mail/": ""})
	if err := os.Symlink(".profile", filepath.Join(dir, "etc/skel/.link")); err != nil {
		t.Fatal(err)
	}
	for _, sh := range []string{"bin/sh", "bin/bash"} {
		if err := os.WriteFile(filepath.Join(dir, sh), []byte("#!"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "etc/skel/.config"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// manifest lists a tree: mode, owner, type and content of everything, hashes and
// dates replaced.
func manifest(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	hash := regexp.MustCompile(`\$6\$[^:]*`)
	date := regexp.MustCompile(`(?m)^([^:\n]*:[^:\n]*):\d+:`)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, dir)
		if strings.HasSuffix(rel, "-") || rel == "/etc/.pwd.lock" || rel == "/etc" || rel == "" {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		content := ""
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = string(data)
			if strings.HasSuffix(rel, "shadow") {
				content = date.ReplaceAllString(hash.ReplaceAllString(content, "HASH"), "$1:DATE:")
			}
		case info.Mode()&os.ModeSymlink != 0:
			content, _ = os.Readlink(p)
		}
		fmt.Fprintf(&b, "%s %v %d:%d %q\n", rel, info.Mode(), st.Uid, st.Gid, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAccountIsWhatUseraddMakes(t *testing.T) {
	needRoot(t)
	need(t, "useradd", "usermod", "chpasswd")
	for name, defs := range map[string]string{
		"distribution's settings": "", "home mode": "HOME_MODE 0711\n", "umask": "UMASK 077\n", "high ids": "UID_MIN 3000\nUID_MAX 4000\nGID_MIN 5000\nGID_MAX 6000\n",
		"fewer subordinate ids": "SUB_UID_MIN 200000\nSUB_UID_COUNT 1000\nSUB_GID_MIN 200000\nSUB_GID_COUNT 1000\n",
	} {
		t.Run(name, func(t *testing.T) {
			m := newTestMachine(t)
			theirs := t.TempDir()
			hostRoot(t, m.guest.dir, defs)
			hostRoot(t, theirs, defs)
			// useradd -R would run in a chroot, without its libraries.
			command(t, "useradd", "--prefix", theirs, "-m", "-k", filepath.Join(theirs, "etc/skel"), "-s", "/bin/sh", "opsadmin")
			command(t, "usermod", "--prefix", theirs, "-aG", "adm,sudo", "opsadmin")
			chpasswd(t, theirs, "opsadmin:hunter2")
			m.cfg.UserGroups = []string{"adm"}
			m.cfg.UserShell = "/bin/sh"
			a, _, err := m.applyUser(context.Background(), &spec{UserName: "opsadmin", Password: secret("hunter2")})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.guest.settle(); err != nil {
				t.Fatal(err)
			}
			if !a.Created || !a.HasPassword {
				t.Errorf("%+v", a)
			}
			got, want := manifest(t, m.guest.dir), manifest(t, theirs)
			if got != want {
				t.Errorf("ours differs from useradd's:\n%s", lineDiff(want, got))
			}
			before := manifest(t, m.guest.dir)
			shadow, _ := m.guest.read("/etc/shadow", 1<<20)
			if _, _, err := m.applyUser(context.Background(), &spec{UserName: "opsadmin", Password: secret("hunter2")}); err != nil {
				t.Fatal(err)
			}
			again, _ := m.guest.read("/etc/shadow", 1<<20)
			if manifest(t, m.guest.dir) != before || !bytes.Equal(shadow, again) {
				t.Error("a second run changes the accounts")
			}
		})
	}
}

// chpasswd sets a SHA-512 password in another root by chpasswd's own means.
func chpasswd(t *testing.T, root, line string) {
	t.Helper()
	// A chroot needs chpasswd's own libraries, and Debian 12's has no --prefix.
	args := []string{"--kill-child", "-m", "sh", "-ec"}
	script := "mount --bind " + root + "/etc /etc; chpasswd -c SHA512"
	cmd := exec.Command("unshare", append(args, script)...)
	cmd.Stdin = strings.NewReader(line + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("chpasswd: %v %s", err, out)
	}
}

// lineDiff shows the lines that only one of two texts has.
func lineDiff(want, got string) string {
	in := func(text string) map[string]bool {
		m := map[string]bool{}
		for l := range strings.Lines(text) {
			m[l] = true
		}
		return m
	}
	var b strings.Builder
	w, g := in(want), in(got)
	for l := range strings.Lines(want) {
		if !g[l] {
			b.WriteString("- " + l)
		}
	}
	for l := range strings.Lines(got) {
		if !w[l] {
			b.WriteString("+ " + l)
		}
	}
	return b.String()
}

func TestUserNames(t *testing.T) {
	for name, good := range map[string]bool{"opsadmin": true, "a.b-c_1": true, "_x": true, "Abc": true, "": false, "1a": false, "a:b": false, "a\nb": false, "a/b": false, "..": false, "-x": false, "a b": false, strings.Repeat("a", 33): false, "ü": false} {
		if (validUserName(name) == nil) != good {
			t.Errorf("%q: %v", name, validUserName(name))
		}
	}
}

func TestUserPolicies(t *testing.T) {
	needRoot(t)
	base := map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nold:x:1500:1500::/home/old:/bin/sh\n+::::::\n", "etc/group": "root:x:0:\nwheel:x:10:\nold:x:1500:\nnew:x:1001:",
		"etc/shadow": "root:rootpw:1:0:99999:7:::\ndaemon:*:1:::::\nold:$6$x$y:2:0:99999:7:::\n", "bin/": ""}
	start := func(t *testing.T) *machine {
		m := newTestMachine(t)
		writeTree(t, m.guest.dir, base)
		if err := os.WriteFile(filepath.Join(m.guest.dir, "bin/sh"), []byte("#!"), 0o755); err != nil {
			t.Fatal(err)
		}
		m.now = func() time.Time { return time.Unix(20000*86400, 0) }
		return m
	}
	file := func(m *machine, p string) string {
		data, _ := m.guest.read(p, 1<<20)
		return string(data)
	}
	t.Run("system accounts", func(t *testing.T) {
		for _, name := range []string{"root", "daemon"} {
			m := start(t)
			if _, _, err := m.applyUser(context.Background(), &spec{UserName: name, Password: secret("x")}); err == nil || !strings.Contains(err.Error(), "system account") {
				t.Errorf("%s: %v", name, err)
			}
			if file(m, "/etc/shadow") != base["etc/shadow"] {
				t.Error("shadow was changed")
			}
		}
	})
	t.Run("key only", func(t *testing.T) {
		m := start(t)
		m.cfg.RootLock = true
		a, _, err := m.applyUser(context.Background(), &spec{UserName: "fresh"})
		if err != nil {
			t.Fatal(err)
		}
		if want := "root:!rootpw:1:0:99999:7:::\ndaemon:*:1:::::\nold:$6$x$y:2:0:99999:7:::\nfresh:*:20000:::::\n"; strings.ReplaceAll(file(m, "/etc/shadow"), "::::::", ":::::") != strings.ReplaceAll(want, "::::::", ":::::") {
			t.Errorf("shadow %q", file(m, "/etc/shadow"))
		}
		if a.HasPassword || !strings.Contains(file(m, "/etc/passwd"), "fresh:x:1501:1501::/home/fresh:/bin/sh\n+::::::\n") {
			t.Errorf("passwd %q", file(m, "/etc/passwd"))
		}
		if !strings.Contains(file(m, "/etc/group"), "wheel:x:10:fresh\n") || !strings.Contains(file(m, "/etc/group"), "new:x:1001:\nfresh:x:1501:\n") {
			t.Errorf("group %q", file(m, "/etc/group"))
		}
	})
	t.Run("existing user keeps its password", func(t *testing.T) {
		m := start(t)
		a, _, err := m.applyUser(context.Background(), &spec{UserName: "old", Password: secret("REDACTED")})
		if err != nil || a.Created || file(m, "/etc/shadow") != base["etc/shadow"] {
			t.Errorf("%+v, %v: %q", a, err, file(m, "/etc/shadow"))
		}
	})
	t.Run("no shadow file", func(t *testing.T) {
		m := start(t)
		os.Remove(filepath.Join(m.guest.dir, "etc/shadow"))
		if _, _, err := m.applyUser(context.Background(), &spec{UserName: "fresh", Password: secret("pw")}); err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^fresh:\$6\$[^:]+:1501:`).MatchString(file(m, "/etc/passwd")) {
			t.Errorf("passwd %q", file(m, "/etc/passwd"))
		}
	})
	t.Run("stale lock", func(t *testing.T) {
		m := start(t)
		writeTree(t, m.guest.dir, map[string]string{"etc/passwd.lock": "999999999"})
		if _, _, err := m.applyUser(context.Background(), &spec{UserName: "fresh"}); err != nil {
			t.Error(err)
		}
		if _, err := m.guest.stat("/etc/passwd.lock"); err == nil {
			t.Error("the lock is still there")
		}
	})
	t.Run("a name that would be a line", func(t *testing.T) {
		m := start(t)
		if _, _, err := m.applyUser(context.Background(), &spec{UserName: "x:x:0:0::/:/bin/sh\ny"}); err == nil || file(m, "/etc/passwd") != base["etc/passwd"] {
			t.Errorf("%v", err)
		}
	})
}

func TestSudo(t *testing.T) {
	needRoot(t)
	need(t, "visudo")
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"usr/bin/": "", "etc/sudoers": "Defaults env_reset\nroot ALL=(ALL:ALL) ALL"})
	if err := os.WriteFile(filepath.Join(m.guest.dir, "usr/bin/sudo"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, password := range []bool{true, false, false} {
		e := m.guest.edit()
		if how, err := m.allowRoot(e, &account{Name: "ops.admin-1", HasPassword: password}); err != nil || how != "sudo" {
			t.Fatal(how, err)
		}
		if err := e.commit(); err != nil {
			t.Fatal(err)
		}
		rule, _ := m.guest.read(sudoersFile, 4096)
		if bytes.Contains(rule, []byte("NOPASSWD")) == password {
			t.Errorf("with password %v: %s", password, rule)
		}
		for _, f := range []string{sudoersFile, "/etc/sudoers"} {
			command(t, "visudo", "-c", "-f", filepath.Join(m.guest.dir, f))
		}
	}
	main, _ := m.guest.read("/etc/sudoers", 4096)
	if n := bytes.Count(main, []byte("includedir")); n != 1 {
		t.Errorf("%d includedir lines", n)
	}
}

func TestDoas(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"usr/bin/": "", "etc/doas.conf": "permit persist :wheel\npermit nopass ops"})
	if err := os.WriteFile(filepath.Join(m.guest.dir, "usr/bin/doas"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		e := m.guest.edit()
		if how, err := m.allowRoot(e, &account{Name: "ops", HasPassword: true}); err != nil || how != "doas" {
			t.Fatal(how, err)
		}
		if err := e.commit(); err != nil {
			t.Fatal(err)
		}
		if got, _ := m.guest.read("/etc/doas.conf", 4096); string(got) != "permit persist :wheel\npermit persist ops\n" {
			t.Errorf("%q", got)
		}
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:0::/root:/bin/sh\n# comment\n+::::::\nbroken\n", "user")
	f.Fuzz(func(t *testing.T, text, name string) {
		if validUserName(name) != nil {
			return
		}
		a := &accountFile{path: "passwd"}
		if a.parse([]byte(text)) != nil {
			return
		}
		before := len(a.lines)
		if _, err := newID(a.ids(2), 1000, 60000); err == nil && a.find(name) < 0 {
			a.add(name, "x", "1000", "1000", "", "/home/"+name, "/bin/sh")
			if a.find(name) < 0 || len(a.lines) != before+1 {
				t.Errorf("%q: added to %q", name, text)
			}
		}
		a.newSubRange(100000, 600100000, 65536)
		for l := range strings.Lines(text) {
			if !strings.Contains(string(a.encode()), strings.TrimSuffix(l, "\n")) {
				t.Errorf("lost %q", l)
			}
		}
	})
}

func FuzzLoginDefs(f *testing.F) {
	f.Add([]byte("UID_MIN 1000\nUMASK\t022\nSHELL=\"/bin/sh\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := parseSettings(b).number("UID_MIN", 1000); n < 0 {
			t.Error(n)
		}
	})
}
