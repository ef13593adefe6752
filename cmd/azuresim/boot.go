package main

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"azprov/sim"
)

// boot runs a kernel in a virtual machine beside a platform.
func boot(args []string) (int, error) {
	var o sim.BootOptions
	var resource string
	m := &o.Machine
	rest, err := flags("boot", args, func(fs *flag.FlagSet) {
		fs.StringVar(&o.VM, "vm", "", "")
		fs.StringVar(&o.Faults, "faults", "", "")
		fs.StringVar(&o.Log, "log", "", "")
		fs.StringVar(&o.Timeline, "timeline", "", "")
		fs.BoolVar(&o.Keep, "keep", false, "")
		fs.DurationVar(&o.Timeout, "timeout", 0, "")
		fs.IntVar(&o.Forward, "ssh", 0, "")
		fs.StringVar(&m.Kernel, "kernel", "", "")
		fs.StringVar(&m.Initrd, "initrd", "", "")
		fs.StringVar(&m.Disk, "disk", "", "")
		fs.StringVar(&m.Append, "append", "", "")
		fs.StringVar(&m.Firmware, "firmware", "", "")
		fs.IntVar(&m.Generation, "gen", 0, "")
		fs.IntVar(&m.MemoryMB, "memory", 512, "")
		fs.IntVar(&m.CPUs, "cpus", 2, "")
		fs.StringVar(&m.Accelerator, "accel", "", "")
		fs.StringVar(&resource, "resource-disk", "", "")
	})
	if err != nil || len(rest) > 0 || m.Kernel == "" || m.Generation < 0 || m.Generation > 2 {
		return 2, errors.Join(err, errors.New("boot needs -kernel FILE, takes -gen 1 or 2, and no other words"))
	}
	if m.Accelerator != "" && m.Accelerator != "tcg" && m.Accelerator != "kvm" {
		return 2, fmt.Errorf("-accel %s: neither tcg nor kvm", m.Accelerator)
	}
	if strings.Contains(resource, "/") {
		m.ResourceDisk = resource
	} else if o.ResourceSize, err = parseSize(resource); err != nil {
		return 2, err
	}
	for _, p := range []*string{&o.VM, &o.Faults, &o.Log, &o.Timeline, &m.Kernel, &m.Initrd, &m.Disk, &m.ResourceDisk, &m.Firmware} {
		if *p != "" {
			if *p, err = filepath.Abs(*p); err != nil {
				return 2, err
			}
		}
	}
	return sim.Boot(o)
}

// parseSize reads bytes, or with K, M, G, T powers of 1024; "" is 0.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	shift := 10 * (1 + strings.IndexByte("KMGT", s[len(s)-1]))
	if shift > 0 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("-resource-disk: %q is no size, and no path of a file", s)
	}
	return n << shift, nil
}
