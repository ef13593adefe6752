package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// machine is the virtual machine that both initramfs are measured in.
type machine struct{ kernel, modules, dir string }

// benchBoot measures the time from the kernel's first word to Ready acknowledged
// in a virtual machine: azprov's initramfs, and one that loads the same modules
// and runs the bare program.
func benchBoot(rounds int) (map[string][]float64, error) {
	kernels, _ := filepath.Glob("build/cloudkernel/boot/vmlinuz-*")
	modules, _ := filepath.Glob("build/cloudkernel/lib/modules/*")
	if len(kernels) != 1 || len(modules) != 1 {
		return nil, fmt.Errorf("%d kernels and %d module directories in build/cloudkernel: run scripts/cloudkernel", len(kernels), len(modules))
	}
	dir, err := os.MkdirTemp("", "azprov-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	m := &machine{kernels[0], modules[0], dir}
	ours := filepath.Join(dir, "azprov.img")
	if err := m.image(ours, "-azprov", "azprov"); err != nil {
		return nil, err
	}
	// What azprov loads in this machine, the other loads too.
	lister := filepath.Join(dir, "lister.img")
	if err := m.image(lister, "-azprov", "", "-append-to", ours, "-file", "build/bareinit:/lister"); err != nil {
		return nil, err
	}
	text, err := m.boot(lister, "-keep", "-append", "quiet azprov.init.command=/lister")
	if err != nil {
		return nil, err
	}
	var names strings.Builder
	for _, found := range regexp.MustCompile(`\] module (\S+)`).FindAllStringSubmatch(text, -1) {
		names.WriteString(found[1] + "\n")
	}
	if names.Len() == 0 {
		return nil, fmt.Errorf("no module was loaded:\n%s", text)
	}
	list := filepath.Join(dir, "modules.list")
	if err := os.WriteFile(list, []byte(names.String()), 0o600); err != nil {
		return nil, err
	}
	bare := filepath.Join(dir, "bare.img")
	if err := m.image(bare, "-azprov", "", "-file", "build/bareinit:/init", "-file", "build/bare:/bare", "-file", list+":/modules.list"); err != nil {
		return nil, err
	}
	results := map[string][]float64{}
	for i := range rounds + 1 {
		for name, image := range map[string]string{"bare": bare, "azprov": ours} {
			text, err := m.boot(image, "-append", "loglevel=6 earlyprintk=serial")
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			took, err := kernelToReady(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if i > 0 {
				results[name] = append(results[name], took)
			}
		}
	}
	return results, nil
}

func (m *machine) image(out string, flags ...string) error {
	return command("build/mkinitramfs", append([]string{"-modules", m.modules, "-without", "udf,isofs", "-o", out}, flags...)...)
}

func (m *machine) boot(image string, flags ...string) (string, error) {
	out, err := exec.Command("./azuresim", append([]string{"boot", "-kernel", m.kernel, "-initrd", image, "-accel", "tcg", "-memory", "128", "-cpus", "1", "-timeout", "2m"}, flags...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("boot: %w\n%s", err, out)
	}
	return string(out), nil
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

var (
	firstWord = regexp.MustCompile(`(?m)^\[ *([0-9.]+)\] \[.*Linux version`)
	readyLine = regexp.MustCompile(`(?m)^Ready after ([0-9.]+) s`)
)

// kernelToReady reads the seconds between two lines of azuresim's.
func kernelToReady(text string) (float64, error) {
	var at [2]float64
	for i, line := range []*regexp.Regexp{firstWord, readyLine} {
		found := line.FindStringSubmatch(text)
		if found == nil {
			return 0, fmt.Errorf("no line like %s:\n%s", line, text)
		}
		var err error
		if at[i], err = strconv.ParseFloat(found[1], 64); err != nil {
			return 0, err
		}
	}
	return at[1] - at[0], nil
}
