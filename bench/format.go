package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// formatting is one measurement of a format.
type formatting struct {
	WallMS float64 `json:"wall_ms"`
	CPUMS  float64 `json:"cpu_ms"`
	// Of the first run only: they are much the same in each.
	Bytes    int64 `json:"bytes,omitempty"` // written
	Syscalls int   `json:"syscalls,omitempty"`
	RSSKB    int64 `json:"rss_kb,omitempty"` // peak, KiB
}

// formatRounds are the runs of each program and size. They take turns.
const formatRounds = 5

// benchFormat measures how long azprov's formatter and mke2fs take for a sparse
// file in memory, and what they write.
func benchFormat() (map[string][]formatting, error) {
	dir, err := os.MkdirTemp("/dev/shm", "azprov-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	mkext4 := filepath.Join(dir, "mkext4")
	if err := buildFormatter(mkext4); err != nil {
		return nil, err
	}
	programs := []struct {
		name string
		args []string
	}{
		{"azprov", []string{mkext4}},
		{"mke2fs -F -t ext4", []string{"mke2fs", "-q", "-F", "-t", "ext4"}},
		{"mke2fs -F -t ext4 -O ^resize_inode", []string{"mke2fs", "-q", "-F", "-t", "ext4", "-O", "^resize_inode"}},
	}
	results := map[string][]formatting{}
	fmt.Printf("%-42s %9s %9s %12s %9s %8s   medians of %d runs in turns\n", "format ext4", "wall ms", "CPU ms", "bytes", "syscalls", "RSS MB", formatRounds)
	for _, size := range []struct {
		name string
		gib  int64
	}{{"16 GiB", 16}, {"256 GiB", 256}, {"1 TiB", 1024}, {"4 TiB", 4096}} {
		image := filepath.Join(dir, "image")
		for i := range formatRounds + 1 {
			for _, p := range programs {
				r, err := runFormat(image, size.gib<<30, p.args)
				if err != nil {
					return nil, err
				}
				if i > 0 { // the first round warms the caches
					key := p.name + ", " + size.name
					results[key] = append(results[key], r)
				}
			}
		}
		for _, p := range programs {
			key := p.name + ", " + size.name
			r := &results[key][0]
			if r.Bytes, r.Syscalls, err = traceFormat(image, size.gib<<30, p.args); err != nil {
				return nil, err
			}
			if r.RSSKB, err = peakFormat(image, size.gib<<30, p.args); err != nil {
				return nil, err
			}
			wall := median(results[key], func(r formatting) float64 { return r.WallMS })
			cpu := median(results[key], func(r formatting) float64 { return r.CPUMS })
			fmt.Printf("%-42s %9.1f %9.1f %12d %9d %8.1f\n", key, wall, cpu, r.Bytes, r.Syscalls, float64(r.RSSKB)*1024/1e6)
		}
	}
	return results, nil
}

// buildFormatter builds bench/mkext4 with azprov's own formatter laid over it, by
// the flags that azprov is built with.
func buildFormatter(program string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	files, _ := filepath.Glob("ext4*.go")
	replace := map[string]string{}
	for _, name := range append(files, "area.go", "formatmarker.go", "format.go", "ioctl.go") {
		if matched, _ := filepath.Match("*_test.go", name); !matched {
			replace[filepath.Join(here, "bench", "mkext4", name)] = filepath.Join(here, name)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	if err := os.WriteFile(program+".json", overlay, 0o600); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-tags", "mkext4", "-overlay", program+".json", "-trimpath", "-buildvcs=false", "-gcflags=all=-l", "-ldflags=-s -w -buildid= -funcalign=1", "-o", program, "./bench/mkext4")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build of the formatter: %w: %s", err, out)
	}
	return nil
}

// freshImage makes a sparse file.
func freshImage(image string, size int64) error {
	os.Remove(image)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(image, size)
}

// runFormat measures a program that formats a new file.
func runFormat(image string, size int64, args []string) (formatting, error) {
	if err := freshImage(image, size); err != nil {
		return formatting{}, err
	}
	cmd := exec.Command(args[0], append(args[1:len(args):len(args)], image)...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(start)
	if err != nil {
		return formatting{}, fmt.Errorf("%s: %w: %s", args[0], err, out)
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return formatting{WallMS: float64(wall) / 1e6, CPUMS: float64(cpu) / 1e6}, nil
}

// traceFormat counts the system calls of a format and the bytes that they write,
// with strace.
func traceFormat(image string, size int64, args []string) (written int64, calls int, err error) {
	if err := freshImage(image, size); err != nil {
		return 0, 0, err
	}
	log := image + ".strace"
	cmd := exec.Command("strace", append(append([]string{"-f", "-qq", "-e", "signal=none", "-o", log}, args...), image)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("strace: %w: %s", err, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return 0, 0, err
	}
	// A call that another thread's interrupts in the log ends in a line of its own.
	calls = len(regexp.MustCompile(`(?m)^\d+ +\w+\(`).FindAll(text, -1))
	for _, m := range regexp.MustCompile(`(?m)^\d+ +(?:<\.\.\. )?(?:pwritev|pwrite64|write)\b.* = (\d+)$`).FindAllSubmatch(text, -1) {
		n, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			return 0, 0, err
		}
		written += n
	}
	return written, calls, nil
}

// peakFormat is the most KiB of memory that a format had resident. What wait4 says
// counts this process too, which a child shares until it executes its program: so
// it is read when the program is about to end.
func peakFormat(image string, size int64, args []string) (kib int64, err error) {
	if err := freshImage(image, size); err != nil {
		return 0, err
	}
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(args[0], append(args[1:len(args):len(args)], image)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid := cmd.Process.Pid
	for first := true; ; first = false {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != nil {
			return 0, err
		}
		switch {
		case status.Exited() && status.ExitStatus() == 0:
			return kib, nil
		case !status.Stopped():
			return 0, fmt.Errorf("%s ended with status %#x", args[0], uint32(status))
		}
		signal := int(status.StopSignal())
		if first {
			err = syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACEEXIT)
		} else if status.TrapCause() == syscall.PTRACE_EVENT_EXIT {
			var text []byte
			if text, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
				_, peak, _ := strings.Cut(string(text), "VmHWM:")
				_, err = fmt.Sscan(peak, &kib)
			}
		}
		if signal == int(syscall.SIGTRAP) {
			signal = 0
		}
		if err == nil {
			err = syscall.PtraceCont(pid, signal)
		}
		if err != nil {
			return 0, errors.Join(err, cmd.Process.Kill())
		}
	}
}
