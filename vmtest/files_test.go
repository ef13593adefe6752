package vmtest

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Every shell file that we hand out is understood by the shell that will read it,
// also those whose init or generator is not run here.
func TestShellFilesParse(t *testing.T) {
	need(t, "dash", "bash", "busybox")
	seen := 0
	for _, top := range []string{"../init", "../initramfs", "../scripts"} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			first, _, _ := strings.Cut(string(text), "\n")
			shells := [][]string{{"dash"}, {"busybox", "ash"}}
			switch {
			case strings.HasPrefix(first, "#!/bin/bash"):
				shells = [][]string{{"bash"}}
			case strings.HasPrefix(first, "#!/bin/sh"), strings.HasPrefix(first, "#!/usr/bin/ash"), strings.HasPrefix(first, "#!/sbin/openrc-run"),
				strings.HasSuffix(path, ".sh"):
			default:
				return nil
			}
			seen++
			for _, shell := range shells {
				if out, err := exec.Command(shell[0], append(shell[1:], "-n", path)...).CombinedOutput(); err != nil {
					t.Errorf("%s -n %s: %v: %s", shell[0], path, err, out)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 15 {
		t.Errorf("%d shell files were looked at", seen)
	}
}
