package main

import (
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// buildProgram builds the test program for an architecture, as azprov is built.
func buildProgram(t *testing.T, arch string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-gcflags=all=-l", "-ldflags=-s -w -buildid=", "-o", name, "./testdata/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return name
}

func TestSlimProgramRunsAlike(t *testing.T) {
	name := buildProgram(t, "amd64")
	want, err := exec.Command(name).CombinedOutput()
	if err != nil {
		t.Fatalf("before: %v\n%s", err, want)
	}
	before, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := slimFile(name); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if after.Size() > before.Size()*9/10 || after.Mode() != before.Mode() {
		t.Errorf("%d bytes, %v became %d bytes, %v", before.Size(), before.Mode(), after.Size(), after.Mode())
	}
	for _, env := range []string{"GOGC=100", "GOGC=1", "GODEBUG=gcstoptheworld=1,clobberfree=1"} {
		cmd := exec.Command(name)
		cmd.Env = append(os.Environ(), env)
		got, err := cmd.CombinedOutput()
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %v\n%s\nwant\n%s", env, err, got, want)
		}
	}
	out, err := exec.Command(name, "out of luck").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("a panic ended with %v", err)
	}
	for _, line := range []string{"panic: out of luck", "main.boom(", "main.main("} {
		if !strings.Contains(string(out), line) {
			t.Errorf("no %q in the traceback:\n%s", line, out)
		}
	}
}

func TestSlimTwice(t *testing.T) {
	data, err := os.ReadFile(buildProgram(t, "arm64"))
	if err != nil {
		t.Fatal(err)
	}
	once, err := slim(slices.Clone(data))
	if err != nil {
		t.Fatal(err)
	}
	twice, err := slim(slices.Clone(once))
	if err != nil {
		t.Fatal(err)
	}
	if len(once) >= len(data) || len(twice) != len(once) {
		t.Errorf("%d bytes, then %d, then %d", len(data), len(once), len(twice))
	}
}

func TestSegmentsKeepTheirContent(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		name := buildProgram(t, arch)
		old, err := elf.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		if err := slimFile(name); err != nil {
			t.Fatal(err)
		}
		slimmed, err := elf.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer slimmed.Close()
		for _, s := range old.Sections {
			if s.Type == elf.SHT_NOBITS || s.Name == ".gopclntab" || s.Name == ".go.module" || s.Type == elf.SHT_NULL {
				continue
			}
			n := slimmed.Section(s.Name)
			if n == nil || n.Addr != s.Addr {
				t.Fatalf("%s: section %s is gone or moved", arch, s.Name)
			}
			want, err := s.Data()
			if err != nil {
				t.Fatal(err)
			}
			got, err := n.Data()
			if err != nil || string(got) != string(want) {
				t.Errorf("%s: section %s has changed: %v", arch, s.Name, err)
			}
			if s.Addr == 0 {
				continue
			}
			i := slices.IndexFunc(slimmed.Progs, func(p *elf.Prog) bool {
				return p.Type == elf.PT_LOAD && p.Vaddr <= s.Addr && s.Addr+s.Size <= p.Vaddr+p.Filesz
			})
			if i < 0 {
				t.Fatalf("%s: section %s is in no segment", arch, s.Name)
			}
			p := slimmed.Progs[i]
			if p.Off%p.Align != p.Vaddr%p.Align || p.Vaddr-p.Off != s.Addr-n.Offset {
				t.Errorf("%s: segment of %s: offset %#x for address %#x", arch, s.Name, p.Off, p.Vaddr)
			}
		}
	}
}

func TestUnknownLayoutIsLeftAlone(t *testing.T) {
	program, err := os.ReadFile(buildProgram(t, "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseELF(program)
	if err != nil {
		t.Fatal(err)
	}
	tab := f.section(".gopclntab")
	magic := slices.Clone(program)
	magic[tab.off]++
	order := slices.Clone(program)
	le.PutUint64(order[tab.off+32:], tab.size+1)
	for _, c := range []struct {
		what string
		data []byte
	}{
		{"an empty file", nil},
		{"a script", []byte("#!/bin/sh\n")},
		{"a cut-off executable", program[:len(program)/2]},
		{"the table of another version", magic},
		{"parts out of order", order},
	} {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, c.data, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := slimFile(name); !errors.Is(err, errLayout) {
			t.Errorf("%s: %v", c.what, err)
		}
		if after, err := os.ReadFile(name); err != nil || string(after) != string(c.data) {
			t.Errorf("%s was changed: %v", c.what, err)
		}
	}
}
