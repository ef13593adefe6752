package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// keysBoot is a run on a machine that gets as far as host keys.
func keysBoot(t *testing.T, m *machine, phase occasion, words string) *boot {
	t.Helper()
	if err := setHostKeys(&m.cfg.HostKeys)(words); err != nil {
		t.Fatal(err)
	}
	m.cfg.KVP = "none"
	done := make(chan struct{})
	close(done)
	return &boot{machine: m, phase: phase, spec: &spec{HostName: "edge"},
		run: &running{began: time.Now(), results: map[string]*result{}, done: map[string]chan struct{}{"spec": done, "hostkeys": done, "rsakey": done}}}
}

// makeHostKeys runs both steps that make host keys.
func makeHostKeys(t *testing.T, b *boot) error {
	t.Helper()
	if _, err := b.stepHostKeys(context.Background()); err != nil {
		return err
	}
	_, err := b.stepRSAKey(context.Background())
	return err
}

// keyTree returns the public keys below a guest's /etc as their own tools read
// them from the private key files: path to "type base64". It checks modes and
// what stands beside them.
func keyTree(t *testing.T, m *machine) map[string]string {
	t.Helper()
	keys := map[string]string{}
	err := filepath.WalkDir(filepath.Join(m.guest.dir, "etc"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, "_key") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s: mode %v", p, info.Mode())
		}
		name := strings.TrimPrefix(p, m.guest.dir)
		if strings.Contains(filepath.Base(p), "dropbear") {
			out := command(t, "dropbearkey", "-y", "-f", p)
			keys[name] = strings.Join(strings.Fields(out[strings.Index(out, "\n"):])[:2], " ")
			return nil
		}
		keys[name] = strings.Join(strings.Fields(command(t, "ssh-keygen", "-y", "-f", p))[:2], " ")
		public, err := os.Stat(p + ".pub")
		if err != nil || public.Mode() != 0o644 {
			t.Errorf("%s.pub: %v, %v", p, public, err)
		}
		line, _ := os.ReadFile(p + ".pub")
		if !strings.HasPrefix(string(line), keys[name]+" ") {
			t.Errorf("%s.pub is of another key", p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// imageKeys makes keys of several types with ssh-keygen and dropbearkey once: the
// keys that came with images.
func imageKeys(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{}
	read := func(name string) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(data)
	}
	for kind, bits := range map[string]string{"ed25519": "256", "ecdsa": "256", "rsa": "1024"} {
		name := "ssh_host_" + kind + "_key"
		command(t, "ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-C", "image", "-f", filepath.Join(dir, name))
		command(t, "dropbearkey", "-t", kind, "-s", bits, "-f", filepath.Join(dir, "dropbear_"+kind+"_host_key"))
		read(name)
		read(name + ".pub")
		read("dropbear_" + kind + "_host_key")
	}
	return files
}

func TestHostKeys(t *testing.T) {
	needRoot(t)
	need(t, "ssh-keygen", "dropbearkey")
	image := imageKeys(t)
	// of puts files of the image's keys into a tree.
	of := func(tree map[string]string, dir string, names ...string) map[string]string {
		tree = maps.Clone(tree)
		for _, name := range names {
			tree[dir+name] = image[name]
			if pub := image[name+".pub"]; pub != "" {
				tree[dir+name+".pub"] = pub
			}
		}
		return tree
	}
	sshd := map[string]string{"usr/sbin/sshd": "", "etc/ssh/sshd_config": "UsePAM no\n"}
	three := []string{"ssh_host_ed25519_key", "ssh_host_ecdsa_key", "ssh_host_rsa_key"}
	withDSA := of(sshd, "etc/ssh/", three...)
	withDSA["etc/ssh/ssh_host_dsa_key"], withDSA["etc/ssh/ssh_host_dsa_key.pub"] = "old", "old"
	const e, c, r = "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_rsa_key"
	dropbear := map[string]string{"usr/sbin/dropbear": ""}
	both := map[string]string{"usr/sbin/sshd": "", "usr/sbin/dropbear": ""}
	const de, dr = "/etc/dropbear/dropbear_ed25519_host_key", "/etc/dropbear/dropbear_rsa_host_key"
	named := map[string]string{"usr/sbin/sshd": "", "etc/ssh/sshd_config": "Include sshd_config.d/*.conf\nMatch all\n",
		"etc/ssh/sshd_config.d/10-a.conf": "HostKey /etc/keys/ecdsa_key\n", "etc/ssh/sshd_config.d/20-b.conf": "hostkey=\"/etc/keys/my_key\" # best\n"}
	for name, test := range map[string]struct {
		tree        map[string]string
		words       string
		phase       occasion
		specialized bool
		fresh       string // paths of fresh keys, in order
		kept        string // of the image's keys
		err         string
	}{
		"no keys":                  {tree: sshd, words: "auto", fresh: e + " " + r},
		"keys of the image":        {tree: withDSA, words: "auto,ed25519,ecdsa", fresh: c + " " + e},
		"ecdsa where the image is": {tree: of(sshd, "etc/ssh/", three[1]), words: "auto", fresh: c + " " + e + " " + r},
		"files without keys":       {tree: of(map[string]string{"usr/sbin/sshd": "", "etc/ssh/ssh_host_rsa_key": "", "etc/ssh/ssh_host_ed25519_key": "junk"}, ""), words: "keep,ed25519", fresh: e},
		"keep":                     {tree: of(sshd, "etc/ssh/", three[1]), words: "keep", kept: c},
		"keep, but there are none": {tree: sshd, words: "keep,ecdsa", fresh: c},
		"specialized":              {tree: of(sshd, "etc/ssh/", three...), words: "auto", specialized: true, kept: c + " " + e + " " + r},
		"specialized without keys": {tree: sshd, words: "auto,ed25519", specialized: true, fresh: e},
		"specialized, regenerate":  {tree: of(sshd, "etc/ssh/", three...), words: "regenerate,ed25519", specialized: true, fresh: e},
		"rsa alone":                {tree: of(sshd, "etc/ssh/", three...), words: "rsa", fresh: r},
		"a later boot":             {tree: of(sshd, "etc/ssh/", three...), words: "regenerate", phase: everyBoot, kept: c + " " + e + " " + r},
		"a later boot without any": {tree: sshd, words: "auto", phase: unacknowledged},
		"places in drop-ins":       {tree: named, words: "auto", fresh: "/etc/keys/ecdsa_key /etc/keys/my_key"},
		"one place":                {tree: map[string]string{"usr/sbin/sshd": "", "etc/ssh/sshd_config": "HostKey /etc/keys/k_key\n"}, words: "auto", fresh: "/etc/keys/k_key"},
		"no place for that":        {tree: map[string]string{"usr/sbin/sshd": "", "etc/ssh/sshd_config": "HostKey /etc/ssh/ssh_host_ecdsa_key\n"}, words: "ed25519", err: "names no key of a wanted type"},
		"agent":                    {tree: map[string]string{"usr/sbin/sshd": "", "etc/ssh/sshd_config": "HostKeyAgent /run/agent\nHostKey /etc/ssh/a.pub\n"}, words: "auto"},
		"dropbear":                 {tree: dropbear, words: "auto", fresh: de + " " + dr},
		"dropbear, keys of images": {tree: of(dropbear, "etc/dropbear/", "dropbear_ed25519_host_key", "dropbear_ecdsa_host_key", "dropbear_rsa_host_key"), words: "ed25519", fresh: de},
		"dropbear beside sshd":     {tree: of(both, "etc/dropbear/", "dropbear_ecdsa_host_key"), words: "ed25519", fresh: de + " " + e},
		"both servers":             {tree: both, words: "ed25519", fresh: e},
		"no server":                {tree: map[string]string{"etc/": ""}, words: "auto"},
		"a folder in the way":      {tree: map[string]string{"usr/sbin/sshd": "", "etc/ssh/ssh_host_ed25519_key/": ""}, words: "ed25519", err: "ssh_host_ed25519_key: not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTestMachine(t)
			writeTree(t, m.guest.dir, test.tree)
			filepath.WalkDir(m.guest.dir, func(p string, d os.DirEntry, err error) error {
				if strings.HasSuffix(p, "_key") {
					os.Chmod(p, 0o600)
				}
				if strings.Contains(p, "/usr/sbin/") {
					os.Chmod(p, 0o755)
				}
				return err
			})
			b := keysBoot(t, m, test.phase, test.words)
			b.specialized = test.specialized
			before := ""
			if test.err == "" {
				before = manifest(t, m.guest.dir)
			}
			if err := makeHostKeys(t, b); test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %s", err, test.err)
				}
				return
			} else if err != nil {
				t.Fatal(err)
			}
			if len(m.warnings) > 0 {
				t.Errorf("warnings %v", m.warnings)
			}
			var fresh, kept []string
			keys := keyTree(t, m)
			for _, p := range slices.Sorted(maps.Keys(keys)) {
				old := image[filepath.Base(p)+".pub"]
				if old != "" && strings.HasPrefix(old, keys[p]+" ") {
					kept = append(kept, p)
				} else {
					fresh = append(fresh, p)
				}
			}
			if got := strings.Join(fresh, " "); got != test.fresh {
				t.Errorf("fresh keys %q, want %q", got, test.fresh)
			}
			if got := strings.Join(kept, " "); got != test.kept {
				t.Errorf("kept keys %q, want %q", got, test.kept)
			}
			if after := manifest(t, m.guest.dir); test.fresh == "" && after != before {
				t.Errorf("changed:\n%s", lineDiff(before, after))
			}
			// What the platform is told is what the tools say.
			told := map[string]bool{}
			for _, k := range b.knownHostKeys() {
				told[publicLine(k.Public, "")] = true
			}
			for p, line := range keys {
				if !told[line] {
					t.Errorf("%s is not told", p)
				}
			}
			// No later run changes anything.
			now := manifest(t, m.guest.dir)
			for _, phase := range []occasion{everyBoot, unacknowledged} {
				if err := makeHostKeys(t, keysBoot(t, m, phase, "regenerate")); err != nil {
					t.Fatal(err)
				}
			}
			if test.fresh != "" {
				if err := makeHostKeys(t, keysBoot(t, m, firstBoot, test.words)); err != nil {
					t.Fatal(err)
				}
			}
			if after := manifest(t, m.guest.dir); after != now {
				t.Errorf("a later run changed:\n%s", lineDiff(now, after))
			}
		})
	}
}

func TestHostKeysInFIPSMode(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"etc/ssh/sshd_config": ""})
	writeTree(t, m.procfs, map[string]string{"sys/crypto/fips_enabled": "1\n"})
	files, err := m.keyFiles()
	if kinds := m.wantedKinds(files); err != nil || fmt.Sprint(kinds) != "[ecdsa rsa]" {
		t.Errorf("%v, %v", kinds, err)
	}
}

// A run that is cut off after the quick keys is finished by the next, also when
// it is a later boot; what was damaged meanwhile is made again.
func TestHostKeysCutOff(t *testing.T) {
	needRoot(t)
	need(t, "ssh-keygen")
	image := imageKeys(t)
	for _, damage := range []string{"", "etc/ssh/ssh_host_ed25519_key"} {
		m := newTestMachine(t)
		writeTree(t, m.guest.dir, map[string]string{"etc/ssh/sshd_config": "", "etc/ssh/ssh_host_rsa_key": image["ssh_host_rsa_key"], "etc/ssh/ssh_host_rsa_key.pub": image["ssh_host_rsa_key.pub"]})
		b := keysBoot(t, m, firstBoot, "auto")
		if _, err := b.stepHostKeys(context.Background()); err != nil {
			t.Fatal(err)
		}
		half := keyTree(t, m)
		if len(half) != 1 || m.guest.isFile("/etc/ssh/ssh_host_rsa_key.pub") {
			t.Errorf("half way: %v", half)
		}
		// No time is left for RSA.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := b.stepRSAKey(ctx); err == nil || len(b.knownHostKeys()) != 1 {
			t.Errorf("cut off: %v, %d keys", err, len(b.knownHostKeys()))
		}
		if damage != "" {
			if err := os.Truncate(filepath.Join(m.guest.dir, damage), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := makeHostKeys(t, keysBoot(t, m, everyBoot, "auto")); err != nil {
			t.Fatal(err)
		}
		whole := keyTree(t, m)
		const e, r = "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key"
		if len(whole) != 2 || (whole[e] == half[e]) != (damage == "") || strings.HasPrefix(image["ssh_host_rsa_key.pub"], whole[r]) {
			t.Errorf("half way %v, in the end %v", half, whole)
		}
		record, _ := m.guest.read(hostKeysFile, 4096)
		if !strings.HasSuffix(string(record), "\ndone=yes\n") {
			t.Errorf("record %q", record)
		}
	}
}

func TestHostKeysSetting(t *testing.T) {
	for words, good := range map[string]bool{"auto": true, "keep": true, "regenerate,rsa": true, "ed25519, ecdsa": true, "": false, "dsa": false, "auto,keep": false, "rsa,x": false} {
		var list []string
		if err := setHostKeys(&list)(words); (err == nil) != good || good != (len(list) > 0) {
			t.Errorf("%q: %v, %v", words, list, err)
		}
	}
}

// FuzzHostKeyPlaces: whatever sshd's configuration is, the places are absolute,
// each once, and their kinds known.
func FuzzHostKeyPlaces(f *testing.F) {
	f.Add("HostKey /etc/ssh/a_rsa\nHostKey \"/b c\"\nInclude x*.conf /etc/ssh/sshd_config\n")
	f.Add("Include sshd_config\nHostKey=/etc/../x\nHostKey /x\nHostKey y\nHostKey none\nHostKeyAgent none\n")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "etc/ssh"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "etc/ssh/sshd_config"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		g, err := openGuest(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer g.close()
		m := &machine{cfg: defaultConfig(), guest: g, procfs: dir}
		files, err := m.keyFiles()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, p := range files {
			if !strings.HasPrefix(p.path, "/") || seen[p.path] || p.kind != "" && !slices.Contains(keyKinds[:], p.kind) {
				t.Errorf("%q: %+v", text, p)
			}
			seen[p.path] = true
		}
		m.wantedKinds(files)
	})
}
