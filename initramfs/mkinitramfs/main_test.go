package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("needs %s, and CI=true allows no skip", tool)
			}
			t.Skip("needs " + tool)
		}
	}
}

// tree makes a directory with files and a link.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"bin/tool": "#!/bin/sh\n", "etc/odd": "123", "etc/empty": ""} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("bin/tool", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func build(t *testing.T, o options) []byte {
	t.Helper()
	data, err := o.build(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// pipe runs a program on input.
func pipe(t *testing.T, input []byte, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}

// GNU cpio reads what we write, whatever it is compressed with.
func TestCpioReadsTheArchive(t *testing.T) {
	need(t, "cpio", "gzip", "xz", "zstd", "go")
	dir := tree(t)
	static := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(filepath.Join(filepath.Dir(static), "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", static, static[:len(static)-len("program")]+"main.go")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	info, err := os.Stat(static)
	if err != nil {
		t.Fatal(err)
	}
	for kind, command := range map[string][]string{"none": {"cat"}, "gzip": {"gzip", "-dc"}, "xz": {"xz", "-dc"}, "zstd": {"zstd", "-dcq"}} {
		data := build(t, options{compress: kind, files: list{dir + ":/opt"}, azprov: static})
		plain := pipe(t, data, command[0], command[1:]...)
		listing := pipe(t, []byte(plain), "cpio", "-itv", "--quiet")
		for _, want := range []string{"crw------- 1 root root 5, 1 dev/console", fmt.Sprintf("-rwxr-xr-x 1 root root %d init", info.Size()), "drwxrwxrwt 2 root root 0 tmp",
			"lrwxrwxrwx 1 root root 8 opt/link -> bin/tool", "-rwxr-xr-x 1 root root 10 opt/bin/tool"} {
			var lines []string
			for line := range strings.Lines(listing) {
				words := strings.Fields(line)
				i := slices.Index(words, "1970")
				if i < 2 {
					t.Fatalf("not of 1970: %s", line)
				}
				lines = append(lines, strings.Join(slices.Delete(words, i-2, i+1), " "))
			}
			if !slices.Contains(lines, want) {
				t.Errorf("%s: no line %q in\n%s", kind, want, strings.Join(lines, "\n"))
			}
		}
	}
}

func TestEqualInputsMakeEqualBytes(t *testing.T) {
	one, two := tree(t), tree(t)
	if err := os.Chtimes(filepath.Join(two, "etc/odd"), testTime, testTime); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"none", "gzip", "xz", "zstd"} {
		a := build(t, options{compress: kind, files: list{one + ":/"}})
		b := build(t, options{compress: kind, files: list{two + ":/"}})
		if !bytes.Equal(a, b) {
			t.Errorf("%s: archives of equal trees differ", kind)
		}
	}
}

func TestAppendStartsAtAMultipleOfFour(t *testing.T) {
	need(t, "cpio")
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, []byte("12345"), 0o644); err != nil {
		t.Fatal(err)
	}
	data := build(t, options{compress: "none", base: base})
	if string(data[:14]) != "12345\x00\x00\x00070701" {
		t.Errorf("starts with %q", data[:14])
	}
	pipe(t, data[8:], "cpio", "-it", "--quiet")
}

// depmod is the judge of the index files.
func TestIndexFilesAsDepmodMakesThem(t *testing.T) {
	need(t, "depmod", "cpio")
	need(t, "dpkg", "apt-get")
	kernel := strings.TrimSpace(pipe(t, nil, "../../scripts/cloudkernel", "../../build/cloudkernel"))
	dirs, err := filepath.Glob(kernel + "/lib/modules/*")
	if err != nil || len(dirs) != 1 {
		t.Fatalf("%q, %v", dirs, err)
	}
	dir := dirs[0]
	data := build(t, options{compress: "none", modules: dir, without: list{"udf", "isofs"}})
	root := t.TempDir()
	cmd := exec.Command("cpio", "-idm", "--quiet", "--no-absolute-filenames", "lib/*")
	cmd.Dir, cmd.Stdin = root, bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v %s", err, out)
	}
	release := filepath.Base(dir)
	lib := filepath.Join(root, "lib/modules", release)
	read := func(name string) []string {
		b, err := os.ReadFile(filepath.Join(lib, name))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		slices.Sort(lines)
		return lines
	}
	ours, oursAlias := read("modules.dep"), read("modules.alias")
	if out, err := exec.Command("depmod", "-b", root, release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v %s", err, out)
	}
	theirs := read("modules.dep")
	if len(ours) != len(theirs) || len(ours) < 10 {
		t.Fatalf("%d modules, depmod finds %d", len(ours), len(theirs))
	}
	for i := range ours {
		a, b := strings.Fields(ours[i]), strings.Fields(theirs[i])
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Errorf("ours %q, depmod %q", ours[i], theirs[i])
		}
	}
	if theirs := read("modules.alias"); !slices.Equal(oursAlias, theirs) {
		t.Errorf("%d aliases, depmod makes %d", len(oursAlias), len(theirs))
	}
}

func TestBadInputIsAnError(t *testing.T) {
	for name, o := range map[string]options{
		"no such binary":     {azprov: "/nowhere", compress: "gzip"},
		"a dynamic program":  {azprov: "/bin/ls", compress: "gzip"},
		"a script":           {azprov: "main_test.go", compress: "gzip"},
		"unknown compressor": {compress: "lzma"},
		"no destination":     {compress: "none", files: list{"x"}},
		"no modules":         {compress: "none", modules: "/nowhere"},
		"a device":           {compress: "none", files: list{"/dev/null:/x"}},
	} {
		if _, err := o.build(io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

var testTime = time.Unix(1700000000, 0)
