package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// oem0 makes the ACPI table as Hyper-V does.
func oem0(id string, length int, data []byte) []byte {
	table := make([]byte, acpiHeader, acpiHeader+len(data))
	copy(table, "OEM0")
	binary.LittleEndian.PutUint32(table[4:], uint32(length))
	copy(table[10:], "VRTUAL")
	copy(table[16:], id)
	return append(table, data...)
}

// struct rand_pool_info: two 32-bit numbers, then the bytes. The size of the
// fixed part is in the request's number (_IOW of include/uapi/asm-generic/ioctl.h).
func TestPoolInfoLayout(t *testing.T) {
	info := poolInfo([]byte{0xaa, 0xbb, 0xcc}, 0x01020304)
	if size := int(uint(unix.RNDADDENTROPY) >> 16 & 0x3fff); size != 8 || len(info) != size+3 {
		t.Errorf("%d bytes for 3 of data; the fixed part is %d", len(info), size)
	}
	if binary.NativeEndian.Uint32(info) != 0x01020304 || binary.NativeEndian.Uint32(info[4:]) != 3 || !bytes.Equal(info[8:], []byte{0xaa, 0xbb, 0xcc}) {
		t.Errorf("% x", info)
	}
}

func TestParseOEM0(t *testing.T) {
	random := bytes.Repeat([]byte{1, 2, 3, 4}, 16)
	for name, c := range map[string]struct {
		table []byte
		n     int
		taken bool
		fails bool
	}{
		"of the host":         {oem0("MICROSFT", 100, random), 64, false, false},
		"used by the kernel":  {oem0("MICROSFT", 36, nil), 0, true, false},
		"zeroed":              {oem0("MICROSFT", 100, make([]byte, 64)), 0, true, false},
		"of somebody else":    {oem0("BOCHSOEM", 100, random), 0, false, false},
		"another signature":   {append([]byte("SSDT"), oem0("MICROSFT", 100, random)[4:]...), 0, false, false},
		"no header":           {[]byte("OEM0"), 0, false, false},
		"empty":               {nil, 0, false, false},
		"says more":           {oem0("MICROSFT", 4000, random), 0, false, true},
		"says less":           {oem0("MICROSFT", 40, random), 0, false, true},
		"says all":            {oem0("MICROSFT", -1, random), 0, false, true},
		"seven bytes":         {oem0("MICROSFT", 43, random[:7]), 0, false, true},
		"a page":              {oem0("MICROSFT", 4096, bytes.Repeat(random, 64)[:4060]), 4060, false, false},
		"more than a page":    {oem0("MICROSFT", 4097, bytes.Repeat(random, 64)[:4061]), 0, false, true},
		"shorter than header": {oem0("MICROSFT", 20, nil), 0, false, true},
	} {
		data, taken, err := parseOEM0(c.table)
		if len(data) != c.n && err == nil || taken != c.taken || (err != nil) != c.fails {
			t.Errorf("%s: %d bytes, taken %v, %v", name, len(data), taken, err)
		}
	}
}

func FuzzOEM0(f *testing.F) {
	f.Add(oem0("MICROSFT", 100, bytes.Repeat([]byte{7}, 64)))
	f.Add(oem0("MICROSFT", 36, nil))
	f.Fuzz(func(t *testing.T, table []byte) {
		data, taken, err := parseOEM0(table)
		if err == nil && len(data) > 0 && (taken || len(data) < minOEM0 || len(data) > maxOEM0 || len(data)+acpiHeader != len(table)) {
			t.Errorf("%d bytes of a table of %d, taken %v", len(data), len(table), taken)
		}
	})
}

// The table is only looked for on Hyper-V, and a run after the first of a boot
// does nothing.
func TestEntropyOnlyOnHyperVAndOnce(t *testing.T) {
	m := newTestMachine(t)
	writeTree(t, m.sysfs, map[string]string{"firmware/acpi/tables/OEM0": string(oem0("MICROSFT", 44, []byte("random!!")))})
	b := &boot{machine: m}
	if text, err := b.stepEntropy(t.Context()); text != "" || err != nil {
		t.Errorf("not on Hyper-V: %q, %v", text, err)
	}
	writeTree(t, m.sysfs, map[string]string{"bus/vmbus/": ""})
	if _, err := b.stepEntropy(t.Context()); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "dev/random") {
		t.Errorf("without /dev/random: %v", err)
	}
	// A file takes no ioctl: what is shown is that it is tried, once.
	writeTree(t, m.devfs, map[string]string{"random": ""})
	writeTree(t, m.procfs, map[string]string{"sys/kernel/random/boot_id": "b00t\n"})
	if _, err := b.stepEntropy(t.Context()); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("the first run: %v", err)
	}
	if text, err := b.stepEntropy(t.Context()); text != "" || err != nil {
		t.Errorf("the second run: %q, %v", text, err)
	}
	writeTree(t, m.procfs, map[string]string{"sys/kernel/random/boot_id": "an0ther\n"})
	if _, err := b.stepEntropy(t.Context()); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("the next boot: %v", err)
	}
}

// A file that is not a seed is never replaced, and a seed that can't be replaced
// is never used.
func TestSeedFileOfSomebodyElse(t *testing.T) {
	m := newTestMachine(t)
	b := &boot{machine: m}
	for name, text := range map[string]string{"hosts": "127.0.0.1 localhost\n", "short": seedMagic + "\nshort", "long": seedMagic + "\n" + strings.Repeat("x", 65)} {
		writeTree(t, m.guest.dir, map[string]string{"etc/" + name: text})
		if _, err := b.restoreSeed(&pool{f: os.Stdin}, "/etc/"+name); err == nil || !strings.Contains(err.Error(), "not a seed") {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := m.guest.read("/etc/"+name, 4096); string(got) != text {
			t.Errorf("%s was replaced by %q", name, got)
		}
	}
	if err := os.MkdirAll(filepath.Join(m.guest.dir, "etc/.seed.azprov/x"), 0o755); err != nil { // no temporary file can be made
		t.Fatal(err)
	}
	writeTree(t, m.guest.dir, map[string]string{"etc/seed": seedMagic + "\n" + strings.Repeat("s", seedSize)})
	_, err := b.restoreSeed(&pool{f: os.Stdin}, "/etc/seed")
	if err == nil || strings.Contains(err.Error(), "add entropy") {
		t.Errorf("a seed that can't be replaced: %v", err)
	}
}

// strace is the witness of what reaches the kernel.
func TestEntropyReachesTheKernel(t *testing.T) {
	need(t, "strace")
	b := newBox(t)
	random := strings.Repeat("random bytes of the host 16bytes", 2)
	hex := func(s string) string { return regexp.MustCompile("..").ReplaceAllString(fmt.Sprintf("%x", s), `\x$0`) }
	call := func(bits int, data string) string {
		return fmt.Sprintf(`RNDADDENTROPY, {entropy_count=%d, buf_size=%d, buf="%s"}) = 0`, bits, len(data), hex(data))
	}
	writeTree(t, filepath.Join(b.dir, "root"), map[string]string{"opt/OEM0": string(oem0("MICROSFT", 100, []byte(random)))})
	run := func(flags string) (string, outcomeOf) {
		o := b.run("", "mkdir -p /sys/firmware/acpi/tables; cp /opt/OEM0 /sys/firmware/acpi/tables; strace -f -xx -s 128 -e trace=ioctl,rename,renameat,renameat2,fsync -o /var/tmp/trace /opt/azprov kernel "+flags)
		return b.file("var/tmp/trace"), o
	}
	trace, o := run("")
	if o.code != exitOK || !strings.Contains(trace, call(0, random)) || !strings.Contains(o.output, "64 bytes of the host, 0 bits credited") {
		t.Errorf("exit %d, no uncredited call in\n%s\n%s", o.code, trace, o.output)
	}
	// /run of a sandbox is new in each run, as in each boot.
	if trace, o = run("-entropy.credit yes; /opt/azprov kernel -entropy.credit yes"); strings.Count(trace, "RNDADDENTROPY") != 1 || !strings.Contains(trace, call(256, random)) ||
		strings.Count(o.output, "256 bits credited") != 1 {
		t.Errorf("exit %d, not one call with credit in\n%s\n%s", o.code, trace, o.output)
	}
	const file = "/var/lib/azprov/seed"
	seedOf := func() string {
		line, seed, _ := strings.Cut(b.file(file), "\n")
		if line != "azprov-seed 4f6d2c1a-90ab-4cde-8f01-23456789abcd" || len(seed) != seedSize {
			t.Fatalf("seed file %q", b.file(file))
		}
		return seed
	}
	if trace, o = run("-entropy.seed " + file); o.code != exitOK || strings.Count(trace, "RNDADDENTROPY") != 1 {
		t.Errorf("no seed yet: exit %d\n%s", o.code, trace)
	}
	used := map[string]bool{}
	for _, bits := range []int{256, 0} {
		seed := seedOf()
		if used[seed] {
			t.Error("a seed is used twice")
		}
		used[seed] = true
		trace, _ = run("-entropy.credit yes -entropy.seed " + file)
		at := strings.Index(trace, call(bits, seed))
		replaced := regexp.MustCompile(`(?s)fsync\(.*?renameat.*?fsync\(`).FindStringIndex(trace)
		if at < 0 || replaced == nil || replaced[1] > at {
			t.Errorf("the seed is not used with %d bits after it was replaced:\n%s", bits, trace)
		}
		// The next VM is another, with a copy of this one's disk.
		if bits != 0 {
			b.vm["vmId"] = "00000000-1111-2222-3333-444444444444"
		}
	}
	if info, err := os.Stat(filepath.Join(b.dir, "root", file)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the seed file: %v, %v", info.Mode(), err)
	}
}
