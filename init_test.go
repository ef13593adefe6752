package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runTool runs a command that must end well.
func runTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sparse makes an image file of so many MiB.
func sparse(t *testing.T, mib int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(mib << 20); err != nil {
		t.Fatal(err)
	}
	return path
}

// blkid is the judge of type, UUID and label.
func TestIdentifyAgreesWithBlkid(t *testing.T) {
	need(t, "blkid", "mkfs.ext4", "mkfs.ext3", "mkfs.ext2", "mkfs.xfs", "mkfs.btrfs")
	for _, c := range [][]string{{"mkfs.ext2", "-q", "-L", "data two"}, {"mkfs.ext3", "-q"}, {"mkfs.ext4", "-q", "-L", "sixteen-letters-"},
		{"mkfs.ext4", "-q", "-O", "^has_journal"}, {"mkfs.xfs", "-q", "-L", "xfsroot"}, {"mkfs.btrfs", "-q", "-L", "a longer label of btrfs"}} {
		image := sparse(t, 320)
		runTool(t, c[0], append(c[1:], image)...)
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		got := identify(f)
		f.Close()
		value := func(tag string) string {
			out, _ := exec.Command("blkid", "-p", "-o", "value", "-s", tag, image).Output()
			return strings.TrimSpace(string(out))
		}
		if want := (identity{value("TYPE"), value("UUID"), value("LABEL")}); got != want {
			t.Errorf("%v: %+v, blkid says %+v", c, got, want)
		}
	}
}

// sfdisk is the judge of partition UUIDs and names.
func TestPartitionIdentityAgreesWithSfdisk(t *testing.T) {
	need(t, "sfdisk")
	for label, script := range map[string]string{
		"gpt": "label: gpt\nsize=2M, name=\"first\"\nsize=2M, name=\"root fs\"\n",
		"dos": "label: dos\nlabel-id: 0x1a2b3c4d\nsize=2M\nsize=2M\n",
	} {
		image := sparse(t, 16)
		cmd := exec.Command("sfdisk", "-q", image)
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("sfdisk: %v: %s", err, out)
		}
		var table struct {
			PartitionTable struct {
				ID         string `json:"id"`
				Partitions []struct{ UUID, Name string }
			}
		}
		if err := json.Unmarshal([]byte(runTool(t, "sfdisk", "-J", image)), &table); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range table.PartitionTable.Partitions {
			want := strings.ToLower(p.UUID)
			if label == "dos" {
				want = strings.TrimPrefix(table.PartitionTable.ID, "0x") + "-0" + string(rune('1'+i))
			}
			uuid, name := partitionIdentity(f, 512, i+1)
			if uuid != want || name != p.Name {
				t.Errorf("%s partition %d: %s %q, want %s %q", label, i+1, uuid, name, want, p.Name)
			}
		}
		if uuid, name := partitionIdentity(f, 512, 200); label == "gpt" && (uuid != "" || name != "") && uuid != "00000000-0000-0000-0000-000000000000" {
			t.Errorf("partition 200: %s %q", uuid, name)
		}
		f.Close()
	}
}

func FuzzIdentify(f *testing.F) {
	ext := make([]byte, 2048)
	copy(ext[1024+56:], "\x53\xef")
	copy(ext[1024+120:], "label")
	f.Add(ext, 1)
	gpt := make([]byte, 2048)
	copy(gpt[512:], "EFI PART")
	copy(gpt[512+72:], []byte{2, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 128})
	f.Add(gpt, 2)
	f.Fuzz(func(t *testing.T, disk []byte, number int) {
		r := bytes.NewReader(disk)
		if id := identify(r); id.fstype == "" && id != (identity{}) {
			t.Errorf("%+v without a type", id)
		}
		partitionIdentity(r, 512, number)
	})
}

func TestParseRootParams(t *testing.T) {
	for line, want := range map[string]rootParams{
		`console=ttyS0 root=UUID=1-2 rw rootfstype=ext4,xfs rootflags=noatime rootwait rootdelay=3 init=/bin/x`: {device: "UUID=1-2", write: true,
			fstype: "ext4,xfs", flags: "noatime", wait: true, delay: 3 * time.Second, init: "/bin/x"},
		`root="LABEL=a b" rw ro -- root=/dev/no`: {device: "LABEL=a b"},
		`rootdelay=-5 rootdelay=x`:               {},
		`rootdelay=99999999`:                     {delay: time.Hour},
	} {
		if got := parseRootParams(line); got != want {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
}

func TestMountOptions(t *testing.T) {
	flags, data := mountOptions("noatime,subvol=@,ro,,compress=zstd")
	if flags != unix.MS_NOATIME|unix.MS_RDONLY || data != "subvol=@,compress=zstd" {
		t.Errorf("%#x %q", flags, data)
	}
}

func TestConsoleNames(t *testing.T) {
	got := consoleNames("console=ttyS0,115200n8 console=tty0 console= console=../x console=ttyS1 console=ttyS0")
	if want := []string{"tty0", "ttyS1", "ttyS0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestConsolesSendErrorsToTheKernelLogToo(t *testing.T) {
	var one, two, kmsg bytes.Buffer
	c := &consoles{out: []io.Writer{&one, &two}, kmsg: &kmsg}
	lines := "azprov: user       ok\nazprov: media      error: no medium\nnot azprov: x error: y\n"
	for i := range lines { // whatever the pieces
		if _, err := c.Write([]byte{lines[i]}); err != nil {
			t.Fatal(err)
		}
	}
	if one.String() != lines || two.String() != lines || kmsg.String() != "<3>azprov: media      error: no medium\n" {
		t.Errorf("consoles %q %q, kernel log %q", one.String(), two.String(), kmsg.String())
	}
	lost := &consoles{kmsg: &kmsg}
	kmsg.Reset()
	if _, err := lost.Write([]byte("azprov: user ok\n")); err != nil || kmsg.Len() == 0 {
		t.Errorf("without a console the kernel log gets %q", kmsg.String())
	}
}

func TestFindInit(t *testing.T) {
	root := t.TempDir()
	if _, err := findInit(root, rootParams{}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("an empty root: %v", err)
	}
	for _, dir := range []string{"lib/systemd", "sbin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "lib/systemd/systemd"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/lib/systemd/systemd", filepath.Join(root, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	if got, err := findInit(root, rootParams{}); got != "/sbin/init" || err != nil {
		t.Errorf("an absolute link in the root: %q, %v", got, err)
	}
	if _, err := findInit(root, rootParams{init: "/sbin/none"}); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "init=") {
		t.Errorf("a wrong init=: %v", err)
	}
}

func TestAwaitRootSaysWhatIsThere(t *testing.T) {
	sys := t.TempDir()
	for name, text := range map[string]string{"class/block/sda/size": "8\n", "class/block/loop0/size": "8\n", "class/block/sr0/size": "8\n"} {
		p := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := &machine{cfg: defaultConfig(), sysfs: sys, devfs: t.TempDir()}
	m.cfg.RootWait = time.Millisecond
	_, err := m.awaitRoot(rootParams{device: "LABEL=none"}, nil)
	if !errors.Is(err, errNoRoot) || !strings.Contains(err.Error(), "block devices are: sda)") {
		t.Errorf("%v", err)
	}
}

func TestFindNodeUnderstandsNumbers(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(sys, "dev/block"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../devices/block/null", filepath.Join(sys, "dev/block/8:17")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dev, "null")); err != nil {
		t.Fatal(err)
	}
	m := &machine{sysfs: sys, devfs: dev}
	for root, want := range map[string]string{"8:17": dev + "/null", "811": dev + "/null", "8:18": "", "/dev/null": dev + "/null", "/dev/none": "", "nonsense": ""} {
		if got := m.findNode(root); got != want {
			t.Errorf("root=%s: %q, want %q", root, got, want)
		}
	}
}

// makeNodes against this machine's own devtmpfs.
func TestMakeNodesAsDevtmpfsDoes(t *testing.T) {
	needRoot(t)
	dev := t.TempDir()
	if err := makeNodes("/sys", dev); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"null", "zero", "urandom", "loop0", "loop-control"} {
		var got, want unix.Stat_t
		if err := unix.Stat("/dev/"+name, &want); err != nil {
			continue
		}
		if err := unix.Lstat(filepath.Join(dev, name), &got); err != nil || got.Rdev != want.Rdev || got.Mode&unix.S_IFMT != want.Mode&unix.S_IFMT {
			t.Errorf("%s: %v, device %#x, want %#x", name, err, got.Rdev, want.Rdev)
		}
	}
	if info, err := os.Stat(filepath.Join(dev, "null")); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("null: %v, %v", info.Mode(), err)
	}
}

func TestPowerSignalsAreBusyboxInits(t *testing.T) {
	for s, want := range map[unix.Signal]string{unix.SIGTERM: "reboot", unix.SIGINT: "reboot", unix.SIGUSR2: "poweroff", unix.SIGUSR1: "halt"} {
		if p, asked := powerSignal(s); !asked || p.String() != want {
			t.Errorf("%v: %v", s, p)
		}
	}
	if _, asked := powerSignal(unix.SIGHUP); asked {
		t.Error("SIGHUP ends the machine")
	}
}

func TestUsageOfInit(t *testing.T) {
	var stderr bytes.Buffer
	for _, args := range [][]string{{"init"}, {"init", "--"}, {"init", "x"}} {
		stderr.Reset()
		if code := initCommand(args, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "PID 1") {
			t.Errorf("%q: exit %d, %s", args, code, stderr.String())
		}
	}
	if !startedAsInit([]string{"/sbin/init"}, 7) || !startedAsInit([]string{"x"}, 1) || startedAsInit([]string{"azprov", "status"}, 7) {
		t.Error("startedAsInit")
	}
}

func TestUnescapeMount(t *testing.T) {
	for in, want := range map[string]string{`/a\040b\011c\012d\134e`: "/a b\tc\nd\\e", `\04`: `\04`, `\999`: `\999`, `\134040`: `\040`, "": ""} {
		if got := unescapeMount(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
