package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestNUMA(t *testing.T) {
	m := newTestMachine(t)
	if got := m.numa(); got != "none" {
		t.Errorf("a kernel without: %q", got)
	}
	writeTree(t, m.sysfs, map[string]string{"devices/system/node/online": "0-1\n"})
	if got := m.numa(); got != "0-1" {
		t.Errorf("two nodes: %q", got)
	}
	writeTree(t, m.procfs, map[string]string{"cmdline": "root=/dev/sda1 numa=off quiet\n"})
	if got := m.numa(); got != "off" {
		t.Errorf("numa=off: %q", got)
	}
}

func TestPick(t *testing.T) {
	steps := plan(defaultConfig())
	for names, want := range map[string]string{
		"timeouts": "timeouts", "user": "user spec state media", "ssh,resolv": "ssh resolv user lease spec state media link",
	} {
		got, wanted := pick(steps, strings.Split(names, ",")), strings.Fields(want)
		slices.Sort(got)
		slices.Sort(wanted)
		if !slices.Equal(slices.Compact(got), wanted) {
			t.Errorf("%s: %v, want %v", names, got, wanted)
		}
	}
	if got := pick(steps, nil); len(got) != 0 {
		t.Errorf("nothing: %v", got)
	}
	// Each is a step of the plan, that runs at every boot and needs no other.
	for name := range strings.SplitSeq(kernelSteps, ",") {
		i := slices.IndexFunc(steps, func(s step) bool { return s.name == name })
		if i < 0 || steps[i].when != everyBoot || len(steps[i].needs)+len(steps[i].wants) > 0 {
			t.Errorf("step %s", name)
		}
	}
}

func TestOnly(t *testing.T) {
	b := newBox(t)
	type status struct {
		Kernel, NUMA, Progress string
		Steps                  []struct{ Name, Outcome string }
	}
	last := func() (s status, names string) {
		if err := json.Unmarshal([]byte(b.file("var/lib/azprov/status.json")), &s); err != nil {
			t.Fatal(err)
		}
		for _, step := range s.Steps {
			names += step.Name + " "
		}
		return s, names
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	o := b.run("", "mkdir -p /sys/devices/system/node; echo 0-3 >/sys/devices/system/node/online; /opt/azprov kernel")
	if s, names := last(); o.code != exitOK || names != "entropy timeouts console " || s.Kernel != strings.TrimSpace(string(release)) || s.NUMA != "0-3" {
		t.Errorf("azprov kernel: exit %d, %s, %+v\n%s", o.code, names, s, o.output)
	}
	if o = b.run("", "/opt/azprov -only user"); o.code != exitOK || o.reports() != "" || !strings.Contains(b.file("etc/passwd"), "opsadmin") || b.file("etc/hostname") != "generalized\n" {
		t.Errorf("-only user: exit %d\n%s", o.code, o.output)
	}
	if s, names := last(); names != "state media spec user " || s.Progress != "" {
		t.Errorf("-only user: %s, %+v", names, s)
	}
	if len(o.events) > 2 {
		t.Errorf("-only user has used the network: %+v", o.events)
	}
	if o = b.run(`{"service":"dhcp","action":"drop"}`, "/opt/azprov -only lease -network.wait 1s"); o.code != exitFailed {
		t.Errorf("a lease alone, that can't be had: exit %d\n%s", o.code, o.output)
	}
	if o = b.run("", "/opt/azprov -only ready"); o.code != exitOK || o.reports() != "Ready" {
		t.Errorf("-only ready: exit %d, %s\n%s", o.code, o.reports(), o.output)
	}
	if o = b.run("", "/opt/azprov -only user"); o.code != exitOK || !strings.Contains(o.output, "only user") {
		t.Errorf("-only user when there is nothing to do: exit %d\n%s", o.code, o.output)
	}
	for _, words := range []string{"-only nothing", "kernel now"} {
		if o = b.run("", "/opt/azprov "+words); o.code != exitUsage {
			t.Errorf("%s: exit %d\n%s", words, o.code, o.output)
		}
	}
}
