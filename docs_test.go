package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The manual names every key with its default, in the order of the help text,
// and nothing else.
func TestManualNamesEveryKey(t *testing.T) {
	page, err := os.ReadFile("man/azprov.8")
	if err != nil {
		t.Fatal(err)
	}
	_, keys, _ := strings.Cut(string(page), ".SH CONFIGURATION")
	keys, _, _ = strings.Cut(keys, ".SH EXIT STATUS")
	var got, want []string
	for _, m := range regexp.MustCompile(`(?m)^\.BR (\S+) " \((.*)\)"$`).FindAllStringSubmatch(keys, -1) {
		got = append(got, m[1]+"="+m[2])
	}
	for _, o := range defaultConfig().options() {
		want = append(want, o.name+"="+o.value)
	}
	if !slices.Equal(got, want) {
		t.Errorf("manual  %v\noptions %v", got, want)
	}
}

func TestExitCodesAreDocumented(t *testing.T) {
	page, _ := os.ReadFile("man/azprov.8")
	readme, _ := os.ReadFile("README.md")
	for _, code := range []int{exitOK, exitFailed, exitUsage, exitNotAzure, exitUnacknowledged} {
		if !bytes.Contains(page, fmt.Appendf(nil, ".B %d\n", code)) {
			t.Errorf("exit code %d is not in the manual", code)
		}
		if !bytes.Contains(readme, fmt.Appendf(nil, "| %d |", code)) {
			t.Errorf("exit code %d is not in the README", code)
		}
	}
	if !bytes.Contains(page, []byte(`"azprov `+version+`"`)) {
		t.Error("the manual is of another version")
	}
}

// Every make target and azprov command that the README shows exists.
func TestReadmeCommandsExist(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	makefile, _ := os.ReadFile("Makefile")
	for _, m := range regexp.MustCompile("(?m)(?:^ {4}|`)make ([a-z]+)").FindAllStringSubmatch(string(readme), -1) {
		if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
			t.Errorf("README: make %s does not exist", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`azprov ([a-z]+)").FindAllStringSubmatch(string(readme), -1) {
		if !strings.Contains(usageText, "azprov "+m[1]) && !strings.Contains(usageText, "| "+m[1]) {
			t.Errorf("README: azprov %s does not exist", m[1])
		}
	}
}

func TestManualIsWellFormed(t *testing.T) {
	if _, err := exec.LookPath("man"); err != nil {
		t.Log("man is not installed: the page is not formatted")
		return
	}
	cmd := exec.Command("man", "--warnings", "-l", "man/azprov.8")
	cmd.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C")
	var warnings bytes.Buffer
	cmd.Stderr = &warnings
	if out, err := cmd.Output(); err != nil || warnings.Len() > 0 || !bytes.Contains(out, []byte("PROVISIONING_REPORT")) {
		t.Errorf("man: %v %s", err, warnings.String())
	}
}
