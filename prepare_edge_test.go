package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// imageRoot is a small root with an account.
func imageRoot(t *testing.T) string {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	writeTree(t, root, map[string]string{
		"etc/passwd":                    "root:x:0:0:root:/root:/bin/sh\nsam:x:1000:1000::/home/sam:/bin/sh\nkim:x:1001:1001::/home/kim:/bin/sh\n",
		"etc/shadow":                    "root:$6$salt$hash:1::::::\nsam:$6$salt$secrethash:1::::::\nkim:!:1::::::\n",
		"etc/shadow-":                   "root:$6$salt$hash:1::::::\nsam:$6$salt$olderhash:1::::::\n",
		"etc/group":                     "root:x:0:\nsudo:x:27:kim,sam\nsam:x:1000:\nsamba:x:1002:sam,kim\n",
		"etc/gshadow":                   "root:*::\nsudo:*:sam:kim,sam\nsam:!::\n",
		"etc/subuid":                    "sam:100000:65536\nkim:165536:65536\n",
		"etc/sudoers.d/azprov":          "# Written by azprov\nsam ALL=(ALL:ALL) ALL\n",
		"etc/sudoers.d/waagent":         "sam ALL=(ALL) ALL\nsamuel ALL=(ALL) ALL\n",
		"etc/doas.conf":                 "permit persist :wheel\npermit nopass sam\n",
		"home/sam/.ssh/authorized_keys": "key\n", "home/kim/.bash_history": "ls\n", "var/mail/sam": "mail\n", "var/spool/cron/crontabs/sam": "* * * * * x\n",
		"root/.bash_history": "ls\n", "etc/machine-id": "uninitialized\n"})
	for name, id := range map[string]int{"sam": 1000, "kim": 1001} {
		if err := os.Chown(filepath.Join(root, "home", name), id, id); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func readTree(t *testing.T, root, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return "missing"
	}
	return string(data)
}

func TestPrepareRemovesTheAccount(t *testing.T) {
	root := imageRoot(t)
	before := treeManifest(t, root)
	text := runPrepare(t, exitOK, "-root", root, "-n", "-user", "sam")
	if strings.Contains(text, "hash\n") || strings.Contains(text, "secrethash") || strings.Contains(text, "olderhash") || !strings.Contains(text, "-sam:[redacted]:") {
		t.Errorf("hashes in the dry run:\n%s", text)
	}
	prepared(t, root, "-user", "sam", "-root.lock", "yes")
	expectDifferences(t, "prepared", before, treeManifest(t, root), "* /etc/doas.conf", "* /etc/group", "* /etc/gshadow", "* /etc/passwd", "* /etc/shadow", "* /etc/shadow-", "* /etc/subuid",
		"* /etc/sudoers.d/waagent", "- /etc/sudoers.d/azprov", "- /home/kim/.bash_history", "- /home/sam", "- /root/.bash_history", "- /var/mail/sam", "- /var/spool/cron/crontabs/sam", "+ /etc/.pwd.lock")
	for name, want := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nkim:x:1001:1001::/home/kim:/bin/sh\n", "etc/shadow": "root:!$6$salt$hash:1::::::\nkim:!:1::::::\n", "etc/shadow-": "root:!$6$salt$hash:1::::::\n",
		"etc/group": "root:x:0:\nsudo:x:27:kim\nsamba:x:1002:kim\n", "etc/gshadow": "root:*::\nsudo:*::kim\n", "etc/subuid": "kim:165536:65536\n",
		"etc/sudoers.d/waagent": "samuel ALL=(ALL) ALL\n", "etc/doas.conf": "permit persist :wheel\n"} {
		if got := readTree(t, root, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// What must not be removed stays, and is named.
func TestPrepareLeavesWhatIsNotItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		change func(root string) error
		user   string
		code   int
		stays  string
	}{
		"root": {nil, "root", exitFailed, "etc/passwd"},
		"system account": {func(r string) error {
			return os.WriteFile(r+"/etc/passwd", []byte("d:x:33:33::/home/sam:/bin/sh\n"), 0o644)
		}, "d", exitFailed, "home/sam"},
		"a path as name": {nil, "../x", exitFailed, "home/sam"},
		"a group's name": {nil, "samba", exitOK, "home/sam"},
		"home is shared": {func(r string) error {
			return os.WriteFile(r+"/etc/passwd", []byte("sam:x:1000:1000::/home/sam:\nkim:x:1001:1::/home/sam/kim:\n"), 0o644)
		}, "sam", exitOK, "home/sam"},
		"home of another": {func(r string) error { return os.Chown(r+"/home/sam", 1001, 1001) }, "sam", exitOK, "home/sam"},
		"home is /etc":    {func(r string) error { return os.WriteFile(r+"/etc/passwd", []byte("sam:x:1000:1000::/etc:\n"), 0o644) }, "sam", exitOK, "etc/group"},
		"home is the root": {func(r string) error {
			return os.WriteFile(r+"/etc/passwd", []byte("sam:x:1000:1000::/home/..:\n"), 0o644)
		}, "sam", exitOK, "etc/group"},
		"home leads to etc": {func(r string) error { return os.Rename(r+"/home/sam", r+"/home/s") }, "sam", exitOK, "home/s"},
	} {
		t.Run(name, func(t *testing.T) {
			root := imageRoot(t)
			if c.change != nil {
				if err := c.change(root); err != nil {
					t.Fatal(err)
				}
			}
			before := treeManifest(t, root)
			runPrepare(t, c.code, "-root", root, "-user", c.user)
			for p, s := range before {
				if p != "/"+c.stays && strings.HasPrefix(p, "/"+c.stays+"/") && !strings.HasSuffix(p, "_history") {
					if after := treeManifest(t, root)[p]; after != s {
						t.Errorf("%s: %s, was %s", p, after, s)
					}
				}
			}
			if _, err := os.Lstat(filepath.Join(root, c.stays)); err != nil {
				t.Error(err)
			}
			if strings.Contains(readTree(t, root, "etc/group"), "samba:x:1002:sam,kim") == (c.user == "sam") {
				t.Errorf("group: %s", readTree(t, root, "etc/group"))
			}
		})
	}
}

// Links in the image lead nowhere: not out of the root, not from a user's home.
func TestPrepareFollowsNoLinks(t *testing.T) {
	root, outside := imageRoot(t), t.TempDir()
	writeTree(t, outside, map[string]string{"keep": "x", "ssh_host_rsa_key": "x", "lib/azprov/instance": "x"})
	link := func(target, name string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(outside, "home/sam/out")
	link(outside, "etc/ssh")
	link(outside, "var/lib")
	link("../../../../../../../.."+outside, "var/log")
	link(outside+"/keep", "etc/hostname")
	link("/home/kim", "home/sam/kim")
	prepared(t, root, "-user", "sam")
	if got := treeManifest(t, outside); len(got) != 6 {
		t.Errorf("outside of the root: %v", got)
	}
	if readTree(t, root, "home/kim/.bash_history") != "missing" {
		t.Error("the history of the other account is still there")
	}
	if info, err := os.Stat(filepath.Join(root, "home/kim")); err != nil || !info.IsDir() {
		t.Error("the other account's home is gone")
	}
}

func TestPrepareRefuses(t *testing.T) {
	needRoot(t)
	m := machineOf(t, "/")
	closed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	if err := m.mayPrepare(&arguments{}, closed); err == nil || !strings.Contains(err.Error(), "running system") {
		t.Errorf("the running system, without a terminal: %v", err)
	}
	if err := m.mayPrepare(&arguments{dry: true}, closed); err != nil {
		t.Errorf("a dry run: %v", err)
	}
	for answer, ok := range map[string]bool{"yes\n": true, "y\n": false, "no\n": false} {
		terminal, user := openTerminal(t)
		if _, err := user.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		if err := m.mayPrepare(&arguments{}, terminal); (err == nil) != ok {
			t.Errorf("%q on a terminal: %v", answer, err)
		}
	}
	m.cfg.Force = true
	if err := m.mayPrepare(&arguments{}, closed); err != nil {
		t.Errorf("by force: %v", err)
	}
	empty := t.TempDir()
	var out, complaints bytes.Buffer
	for _, args := range [][]string{{"-root", empty, "prepare"}, {"prepare", "-root", filepath.Dir(empty)}, {"-user", "sam"}, {"plan", "-n"}, {"prepare", "x", "-root", empty}, {"prepare", "-root", empty, "-prepare.args", "a;reboot"}} {
		if code := run(args, &out, &complaints, time.Now()); code != exitUsage {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}

// openTerminal makes a pseudo terminal and returns the program's side and the user's.
func openTerminal(t *testing.T) (*os.File, *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		skip(t, "needs pseudo terminals")
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		skip(t, "needs pseudo terminals")
	}
	t.Cleanup(func() { user.Close(); terminal.Close() })
	return terminal, user
}

func TestPrepareWordsOfTheUser(t *testing.T) {
	root := imageRoot(t)
	writeTree(t, root, map[string]string{"etc/default/grub": "GRUB_CMDLINE_LINUX=\"net.ifnames=1 rootdelay=60\"\n", "bin/sh": elf(62), "lib/modules/2.6.32-754.el6.x86_64/": "", "lib/modules/5.4.0/": ""})
	prepared(t, root, "-prepare.args", "net.ifnames=0 rootdelay=120 earlyprintk=ttyS0,115200")
	if got, want := readTree(t, root, "etc/default/grub"), "GRUB_CMDLINE_LINUX=\"net.ifnames=0 rootdelay=120 console=tty1 console=ttyS0,115200n8 rootwait numa=off earlyprintk=ttyS0,115200\"\n"; got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestKernelVersion(t *testing.T) {
	for name, want := range map[string][3]uint64{"vmlinuz-2.6.32-754.el6.x86_64": {2, 6, 32}, "/boot/vmlinuz-6.1.0-28-amd64": {6, 1, 0}, "6.11.4-301.fc41": {6, 11, 4}, "vmlinuz-linux": {}, "kernel-5.4": {5, 4},
		"vmlinuz-0-rescue-9f3e": {}, "2.6.37": {2, 6, 37}, "vmlinuz-3.10.0": {3, 10, 0}, "": {}, "99999999999999999999.1": {}, "x6.1": {}} {
		if got := kernelVersion(name); got != want[0]<<32|want[1]<<16|want[2] {
			t.Errorf("%s: %x", name, got)
		}
	}
}

// What patch(1) makes of our differences is the new text, whatever the texts.
func TestDiffIsWhatPatchTakes(t *testing.T) {
	need(t, "patch")
	r := rand.New(rand.NewPCG(1, 2))
	text := func(lines []string) []byte {
		s := strings.Join(lines, "\n")
		if len(lines) > 0 && r.IntN(4) > 0 {
			s += "\n"
		}
		return []byte(s)
	}
	dir := t.TempDir()
	for range 60 {
		var a []string
		for range r.IntN(40) {
			a = append(a, fmt.Sprint("line ", r.IntN(8)))
		}
		b := slices.Clone(a)
		for range r.IntN(5) {
			i := r.IntN(len(b) + 1)
			if r.IntN(2) == 0 || i == len(b) {
				b = slices.Insert(b, i, fmt.Sprint("new ", r.IntN(8)))
			} else {
				b = slices.Delete(b, i, i+1)
			}
		}
		old, new := text(a), text(b)
		diff := unifiedDiff("/f", old, new)
		if (diff == "") != bytes.Equal(old, new) {
			t.Fatalf("%q %q: %q", old, new, diff)
		}
		if err := os.WriteFile(dir+"/f", old, 0o600); err != nil {
			t.Fatal(err)
		}
		if diff == "" {
			continue
		}
		cmd := exec.Command("patch", "-s", "-p1", "-d", dir, "--no-backup-if-mismatch", "--fuzz=0")
		cmd.Stdin = strings.NewReader(diff)
		out, err := cmd.CombinedOutput()
		got, _ := os.ReadFile(dir + "/f")
		if err != nil || !bytes.Equal(got, new) {
			t.Fatalf("patch: %v %s\n%q\n%q\n%s", err, out, old, new, diff)
		}
	}
}

// Any command line: all words that are not ours stay, in order, and a second edit
// changes nothing.
func FuzzEditArgs(f *testing.F) {
	f.Add("root=/dev/sda1 ro  quiet ", " console=tty0")
	f.Add(" \"a b\" ${x y} quiet -- quiet", "")
	f.Add("splash $vt_handoff", "rootdelay=1")
	f.Fuzz(func(t *testing.T, line, known string) {
		want := []string{"console=ttyS0,115200n8", "rootdelay=300", "numa=off"}
		once := editArgs(line, known, want, true)
		if twice := editArgs(once, known, want, true); twice != once {
			t.Fatalf("%q, then %q, then %q", line, once, twice)
		}
		words := func(s string) []string {
			var kept []string
			for {
				var word string
				if _, word, s = cutWord(s); word == "" {
					return kept
				}
				if !hushing(word) && !slices.Contains([]string{"console", "rootdelay", "numa"}, argKey(word)) {
					kept = append(kept, word)
				}
			}
		}
		if a, b := words(line), words(once); !slices.Equal(a, b) {
			t.Fatalf("%q became %q", a, b)
		}
	})
}
