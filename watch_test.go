package main

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// shortLeases gives leases of so many seconds.
func shortLeases(b *guestBox, seconds int) { b.vm["leaseSeconds"] = seconds }

// inWatch runs commands while azprov watch runs, and ends it with SIGTERM.
func inWatch(b *guestBox, faults, commands string) outcomeOf {
	return b.run(faults, "exec 2>&1; /opt/azprov || exit; echo WATCH; /opt/azprov watch & pid=$!; sleep 0.7; "+commands+"; kill $pid; wait $pid; echo ended with $?")
}

func TestWatchRenews(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	shortLeases(b, 12)
	o := inWatch(b, "", "sleep 7; cat /run/azprov/lease.json")
	var renewed bool
	for _, e := range o.events {
		renewed = renewed || e.Type == "REQUEST" && e.Address == "" && e.Name == "edge-fra-07" && e.Text == "unicast"
	}
	if !renewed || !strings.Contains(o.output, "ended with 0") || !strings.Contains(o.output, "the lease of 10.1.0.4/24 on eth0 is good") {
		t.Errorf("renewed %v\n%s", renewed, o.output)
	}
}

func TestWatchGivesUpWhatHasEnded(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	shortLeases(b, 10)
	// Nobody answers from the first renewal on, until the lease has ended.
	o := inWatch(b, `{"service":"dhcp","after":2,"count":10,"action":"drop"}`, "sleep 18; ip -br addr show eth0; ip route")
	_, watched, _ := strings.Cut(o.output, "WATCH\n")
	if !strings.Contains(watched, "has ended: starting over") || !regexp.MustCompile(`eth0\S* +UP +10\.1\.0\.4/24`).MatchString(watched) || !strings.Contains(watched, "default via 10.1.0.1") {
		t.Errorf("%s", o.output)
	}
}

func TestWatchFollowsTheHostName(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	o := inWatch(b, "", watchLink+"hostname edge-new; sleep 1.5; "+resolves("edge-new")+"; grep host_name /run/azprov/lease.json"+shownLink)
	if !strings.Contains(o.output, "edge-new resolves") || !strings.Contains(o.output, `"host_name": "edge-new"`) {
		t.Errorf("%s", o.output)
	}
	if strings.Count(o.output, "is published") != 1 {
		t.Errorf("published more than once, or not at all:\n%s", o.output)
	}
}

func TestWatchFollowsLinks(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.vm["driver"] = driverNetvsc
	// Down and up: the routes are back. A function comes: it is left alone.
	o := inWatch(b, "", "ip link set eth0 down; sleep 0.5; ip link set eth0 up; sleep 2.5; ip route; ip link add enP1s0 type veth peer name x; ip link set enP1s0 address 00:0d:3a:04:75:98; sleep 1; ip -br link show enP1s0")
	_, watched, _ := strings.Cut(o.output, "WATCH\n")
	if !strings.Contains(watched, "has carrier again") || !strings.Contains(watched, "default via 10.1.0.1 dev eth0 proto dhcp") || !regexp.MustCompile(`(?m)^enP1s0@x +DOWN`).MatchString(watched) {
		t.Errorf("%s", o.output)
	}
	// Refused after a flap: another network. The old address goes, DHCP starts over.
	b = newBox(t)
	o = inWatch(b, `{"service":"dhcp","match":"REQUEST","after":1,"count":1,"action":"nak"}`, "ip link set eth0 down; sleep 0.5; ip link set eth0 up; sleep 4; ip -br addr show eth0")
	if !strings.Contains(o.output, "starting over on eth0") || !regexp.MustCompile(`eth0\S* +UP +10\.1\.0\.4/24`).MatchString(o.output) {
		t.Errorf("%s", o.output)
	}
}

func TestWatchIsOne(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	o := inWatch(b, "", "/opt/azprov watch; echo second $?")
	if !strings.Contains(o.output, "another azprov watch is running") || !strings.Contains(o.output, "second 1") || !strings.Contains(o.output, "ended with 0") {
		t.Errorf("%s", o.output)
	}
}

func TestWatchIsSmall(t *testing.T) {
	b := newBox(t)
	o := inWatch(b, "", "ip link set eth0 down; ip link set eth0 up; sleep 1; hostname edge-x; sleep 1; grep VmHWM /proc/$pid/status")
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(o.output)
	if m == nil {
		t.Fatal(o.output)
	}
	kib, _ := strconv.Atoi(m[1])
	if t.Logf("azprov watch: at most %d kB resident", kib); kib*1024 > 6e6 {
		t.Errorf("azprov watch needs %d kB, more than 6 MB", kib)
	}
}

func TestWatchSetsTimeoutsOfNewDisks(t *testing.T) {
	m := newTestMachine(t)
	writeTree(t, m.sysfs, map[string]string{"block/sdc/device/vendor": "Msft    \n", "block/sdc/device/timeout": "30\n", "block/sdd/device/vendor": "Msft    \n", "block/sdd/device/timeout": "30\n"})
	w := &watcher{machine: m, ctx: t.Context()}
	timeout := func(disk string) string { return sysAttr(m.sys("block", disk, "device/timeout")) }
	w.followDevices([]uevent{{Action: "add", Subsystem: "block", DevName: "sdc"}, {Action: "remove", Subsystem: "block", DevName: "sdd"}, {Action: "add", Subsystem: "block", DevName: "sdc1"}}, false)
	if timeout("sdc") != "300" || timeout("sdd") != "30" {
		t.Errorf("timeouts %s, %s", timeout("sdc"), timeout("sdd"))
	}
	if w.followDevices(nil, true); timeout("sdd") != "300" {
		t.Errorf("after lost events %s", timeout("sdd"))
	}
}
