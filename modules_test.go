package main

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// moduleTree makes a root with index files for release "1".
func moduleTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// recorder opens the modules of a tree and notes what would be inserted.
func recorder(t *testing.T, root, cmdline string, fail map[string]error) (*modules, *[]string) {
	t.Helper()
	ms, err := openModules(root, "1", cmdline)
	if err != nil {
		t.Fatal(err)
	}
	var inserted []string
	ms.insert = func(path, options string) error {
		name := moduleName(path)
		inserted = append(inserted, strings.TrimSpace(name+" "+options))
		return fail[name]
	}
	return ms, &inserted
}

const depText = "kernel/hv/hv_netvsc.ko: kernel/net/net_failover.ko kernel/net/failover.ko kernel/hv/hv_vmbus.ko\n" +
	"kernel/hv/hv_vmbus.ko:\nkernel/net/failover.ko:\nkernel/net/net_failover.ko: kernel/net/failover.ko\n" +
	"kernel/a-b.ko.xz:\nkernel/ptp.ko:\nkernel/late.ko:\n"

func TestModulesLoadInOrder(t *testing.T) {
	root := moduleTree(t, map[string]string{
		"lib/modules/1/modules.dep":     depText,
		"lib/modules/1/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
		"lib/modules/1/modules.softdep": "softdep hv_netvsc pre: ptp missing post: late\nsoftdep ptp pre: hv_netvsc\n",
		"etc/modprobe.d/a.conf":         "options hv-netvsc ring=4 \\\n  name=\"a b\"\n",
	})
	for name, c := range map[string]struct {
		ask  string
		fail map[string]error
		want []string
		err  error
	}{
		"dependencies first, soft ones around, circle ends": {ask: "hv_netvsc",
			want: []string{"ptp", "hv_vmbus", "failover", "net_failover", `hv_netvsc ring=4 name="a b"`, "late"}},
		"dash is underscore, compressed is found": {ask: "a-b", want: []string{"a_b"}},
		"built in needs nothing":                  {ask: "ext4"},
		"missing is said":                         {ask: "udf", err: errNoModule},
		"a failed dependency fails the module": {ask: "net_failover", fail: map[string]error{"failover": unix.ENOEXEC},
			want: []string{"failover"}, err: unix.ENOEXEC},
	} {
		t.Run(name, func(t *testing.T) {
			ms, got := recorder(t, root, "", c.fail)
			err := ms.load(c.ask)
			if !errors.Is(err, c.err) || !slices.Equal(*got, c.want) {
				t.Errorf("inserted %q, error %v; want %q, %v", *got, err, c.want, c.err)
			}
			n := len(*got)
			if again := ms.load(c.ask); !errors.Is(again, c.err) || len(*got) != n {
				t.Errorf("second load: %v, inserted %q", again, (*got)[n:])
			}
		})
	}
}

func TestModuleConfiguration(t *testing.T) {
	root := moduleTree(t, map[string]string{
		"lib/modules/1/modules.dep": depText,
		"etc/modprobe.d/x.conf":     "blacklist hv-netvsc\ninstall udf /bin/true\ninstall real /sbin/modprobe real\n",
		"usr/lib/modprobe.d/x.conf": "blacklist hidden\n",
		"usr/lib/modprobe.d/y.conf": "blacklist seen\nalias net-pf-* a_b\n",
	})
	ms, _ := recorder(t, root, `quiet modprobe.blacklist=one,t-wo ptp.debug=1 ptp.quiet azprov.force=yes late.name="x y"`, nil)
	for name, want := range map[string]bool{"hv_netvsc": true, "udf": true, "real": false, "hidden": false, "seen": true, "one": true, "t_wo": true} {
		if ms.conf.blacklist[name] != want {
			t.Errorf("blacklist of %s is %v", name, !want)
		}
	}
	if got := ms.conf.options["ptp"]; !slices.Equal(got, []string{"debug=1", "quiet"}) {
		t.Errorf("options of ptp: %q", got)
	}
	if got := ms.conf.options["late"]; !slices.Equal(got, []string{`name="x y"`}) {
		t.Errorf("options of late: %q", got)
	}
	if got := ms.conf.options["azprov"]; got != nil {
		t.Errorf("azprov's own keys became module options: %q", got)
	}
	if got := ms.forAliases([]string{"net-pf-17"}); len(got) != 1 || !slices.Equal(got[0], []string{"a_b"}) {
		t.Errorf("alias of modprobe.d: %q", got)
	}
}

func TestNoModulesDirectoryIsFine(t *testing.T) {
	ms, inserted := recorder(t, t.TempDir(), "", nil)
	p := &prober{m: &machine{cfg: defaultConfig(), sysfs: t.TempDir(), log: &console{w: io.Discard}}, ms: ms, tried: map[string]bool{}}
	p.loadDefaults()
	p.coldplug()
	if len(*inserted) != 0 || len(p.m.currentWarnings()) != 0 {
		t.Errorf("inserted %q, warned %v", *inserted, p.m.currentWarnings())
	}
}

// The devices of a Generation 2 VM, as sysfs shows them.
func TestColdplugLoadsForDevices(t *testing.T) {
	root := moduleTree(t, map[string]string{
		"lib/modules/1/modules.dep":        depText,
		"lib/modules/1/modules.alias":      "alias vmbus:635161f83edfc546913ff2d2f965ed0e hv_netvsc\nalias pci:v00001414d000000BAsv*sd*bc*sc*i* late\nalias scsi:t-0x05* ptp\n",
		"etc/modprobe.d/x.conf":            "blacklist ptp\n",
		"sys/bus/vmbus/devices/a/modalias": "vmbus:635161f83edfc546913ff2d2f965ed0e\n",
		"sys/bus/scsi/devices/b/modalias":  "scsi:t-0x05\n",
		"sys/bus/pci/devices/c/modalias":   "pci:v00008086d00007110sv00000000sd00000000bc06sc01i00\n",
	})
	ms, inserted := recorder(t, root, "", nil)
	m := &machine{cfg: defaultConfig(), sysfs: root + "/sys", log: &console{w: io.Discard}}
	p := &prober{m: m, ms: ms, tried: map[string]bool{}}
	p.loadDefaults()
	p.coldplug()
	want := []string{"hv_vmbus", "failover", "net_failover", "hv_netvsc"}
	if !slices.Equal(*inserted, want) {
		t.Errorf("inserted %q, want %q: blacklisted and unknown devices load nothing", *inserted, want)
	}
	p.handle([]uevent{{Action: "add", Subsystem: "pci", Modalias: "pci:v00001414d000000BAsv00001414sd000000BAbc02sc00i00"},
		{Action: "remove", Subsystem: "scsi", Modalias: "scsi:t-0x00"}})
	if got := (*inserted)[len(want):]; !slices.Equal(got, []string{"late"}) {
		t.Errorf("after the event inserted %q", got)
	}
	if got := m.undriven(); len(got) != 2 || !strings.HasPrefix(got[0], "network a ") || !strings.HasPrefix(got[1], "dvd b ") {
		t.Errorf("undriven: %q", got)
	}
}

func TestInsertModuleSaysWhatToDo(t *testing.T) {
	needRoot(t)
	bad := filepath.Join(t.TempDir(), "bad.ko")
	if err := os.WriteFile(bad, []byte("no module"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := insertModule(bad, ""); err == nil {
		t.Error("a text file was loaded as a module")
	}
	if err := insertModule(bad+".gone", ""); !errors.Is(err, unix.ENOENT) {
		t.Errorf("missing file: %v", err)
	}
	for no, want := range map[unix.Errno]string{unix.ENOKEY: "signed", unix.ENOEXEC: "another kernel", unix.EPERM: "forbidden", unix.ENOENT: "symbol"} {
		if got := moduleHint(no, 0); !strings.Contains(got, want) {
			t.Errorf("%v: %q", no, got)
		}
	}
	if got := moduleHint(unix.EOPNOTSUPP, moduleInitCompressedFile); !strings.Contains(got, "uncompressed") {
		t.Errorf("compressed: %q", got)
	}
}

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"pci:v*d*", "pci:v00001414d000000B9", true}, {"a*b*c", "aXbXbXc", true}, {"a*b", "aXc", false},
		{"x[0-9a-f]y", "xby", true}, {"x[0-9]y", "xay", false}, {"?", "", false}, {"*", "", true}, {"a**", "a", true},
		{"a[", "a[", true}, {"", "a", false},
	} {
		if got := matchGlob(c.pattern, c.s); got != c.want {
			t.Errorf("matchGlob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

// path.Match is the judge where both speak the same language.
func FuzzMatchGlob(f *testing.F) {
	f.Add("pci:v00001414d000000B[9A]sv*", "pci:v00001414d000000B9sv0")
	f.Add("*a*b*a*b*", "aaaabaabab")
	f.Add("[a-c]?*", "bx")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := matchGlob(pattern, s)
		ascii := func(s string) bool {
			return strings.IndexFunc(s, func(r rune) bool { return r > 0x7e || r == '/' }) < 0
		}
		if !ascii(pattern) || !ascii(s) || strings.ContainsAny(pattern, `[]\`) {
			return
		}
		if want, err := path.Match(pattern, s); err == nil && got != want {
			t.Errorf("matchGlob(%q, %q) = %v", pattern, s, got)
		}
	})
}

func FuzzModuleIndex(f *testing.F) {
	f.Add(depText, "pci:v0")
	f.Add("alias pci:v* mod\nsoftdep a pre: b post: c\noptions a b=c\nblacklist d\n", "pci:v0")
	f.Fuzz(func(t *testing.T, text, device string) {
		for name := range parseModulesDep(text) {
			if name != moduleName(name) {
				t.Errorf("name %q is not normal", name)
			}
		}
		parseModulesBuiltin(text)
		matchAliases(text, []string{device})
		c := moduleConf{blacklist: map[string]bool{}, options: map[string][]string{}, soft: map[string]softDeps{}}
		c.parse(text)
	})
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("add@/devices/vmbus/x\x00ACTION=add\x00SUBSYSTEM=vmbus\x00MODALIAS=vmbus:63\x00SEQNUM=1\x00"))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if u, ok := parseUevent(data); ok && strings.ContainsRune(u.Action+u.Subsystem+u.DevName, 0) {
			t.Errorf("NUL in %+v", u)
		}
	})
}

// A loop device that is set up makes the kernel send real events.
func TestUeventsFromTheKernel(t *testing.T) {
	needRoot(t)
	need(t, "losetup")
	s, err := listenUevents()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--show", "-f", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", loop).Run()
	for {
		events, _, err := s.receive()
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(events, func(e uevent) bool {
			return e.Subsystem == "block" && "/dev/"+e.DevName == loop && e.Action != ""
		}) {
			break
		}
	}
	s.interrupt()
	if _, _, err := s.receive(); err != errInterrupted {
		t.Errorf("after interrupt: %v", err)
	}
}

func TestSortNames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 200 {
		names := make([]string, n)
		for i := range names {
			names[i] = strconv.Itoa(r.IntN(n + 1))
		}
		want := slices.Sorted(slices.Values(names))
		if sortNames(names); !slices.Equal(names, want) {
			t.Fatalf("%q, want %q", names, want)
		}
	}
}
