package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPoolType(t *testing.T) {
	for _, c := range []struct {
		kind string
		pool bool
		want string
	}{{"Savable", false, poolSavable}, {"Savable", true, poolSavable}, {"PreprovisionedOSDisk", false, poolOSDisk}, {"Running", false, poolRunning}, {"", true, poolRunning},
		{"None", true, poolRunning}, {"Later", true, poolRunning}, {"", false, ""}, {"None", false, ""}, {"Later", false, ""}} {
		if got := poolType(c.kind, c.pool); got != c.want {
			t.Errorf("%q, %v: %q, want %q", c.kind, c.pool, got, c.want)
		}
	}
}

// Every line is what the interfaces look like at one look: index, + for running,
// how often the carrier has changed.
func TestPoolWatchJudges(t *testing.T) {
	nic := func(text string) []*link {
		var list []*link
		for _, f := range strings.Fields(text) {
			l := &link{MAC: mac{1}}
			state := ""
			if n, _ := fmt.Sscanf(f, "%d%1s%d", &l.Index, &state, &l.Changes); n != 3 {
				t.Fatalf("%q", f)
			}
			if l.Index == 9 {
				l.MAC = mac{9} // another card
			}
			if state == "+" {
				l.Flags = unix.IFF_RUNNING
			}
			list = append(list, l)
		}
		return list
	}
	for name, c := range map[string]struct {
		kind  string
		looks []string
		at    int // the look at which the VM is given away; -1: never
	}{
		"down and up":                {poolRunning, []string{"2+1", "2-2", "2+3"}, 2},
		"nothing":                    {poolRunning, []string{"2+1", "2+1"}, -1},
		"down only":                  {poolRunning, []string{"2+1", "2-2"}, -1},
		"missed both":                {poolRunning, []string{"2+1", "2+3"}, 1},
		"missed the up":              {poolRunning, []string{"2+1", "2-4", "2-4"}, -1},
		"not running yet":            {poolRunning, []string{"2-1", "2+1", "2+1"}, -1},
		"no counter":                 {poolRunning, []string{"2+0", "2-0", "2+0"}, 2},
		"replaced by the same card":  {poolRunning, []string{"2+1", "5+1"}, 1},
		"replaced, still down":       {poolRunning, []string{"2+1", "5-0", "5+1"}, 2},
		"gone":                       {poolRunning, []string{"2+1", "9+1"}, -1},
		"another comes":              {poolRunning, []string{"2+1", "2+1 9+1"}, -1},
		"replug":                     {poolSavable, []string{"2+1", "9-0"}, 1},
		"unplug, then plug":          {poolSavable, []string{"2+1", "", "", "7-0"}, 3},
		"unplug one of two":          {poolSavable, []string{"2+1 9+1", "2+1", "2+1 7-0"}, 2},
		"plug without unplug":        {poolSavable, []string{"2+1", "2+1 9+1", "9+1"}, -1},
		"flap of a savable":          {poolSavable, []string{"2+1", "2-2", "2+3"}, -1},
		"same card under a new name": {poolSavable, []string{"2+1", "3-0"}, 1},
	} {
		first := nic(c.looks[0])
		w := &poolWatch{kind: c.kind, index: 2, mac: mac{1}, change: first[0].Changes, before: map[int]bool{}}
		for _, l := range first {
			w.before[l.Index] = true
		}
		at := -1
		for i, look := range c.looks {
			if w.given(nic(look)) {
				at = i
				break
			}
		}
		if at != c.at {
			t.Errorf("%s: given at look %d, want %d", name, at, c.at)
		}
	}
}

func TestPoolMarkerIsOfTheInstance(t *testing.T) {
	for text, want := range map[string]bool{
		"id=a\nprogress=pooled\n": true, "id=a\nprogress=pooling\n": true, "id=b\nprogress=pooled\n": false, "id=a\nprogress=applied\n": false, "id=a\nprogress=applying\n": false,
	} {
		in, err := parseInstance([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		m := newTestMachine(t)
		writeTree(t, m.sysfs, map[string]string{"class/dmi/id/product_uuid": "A\n"})
		if b := (&boot{machine: m, instance: in}); b.inPool() != want {
			t.Errorf("%q: in the pool: %v", text, !want)
		}
	}
}

// Events that the kernel had to drop, and those of others, don't matter: what has
// happened is in the kernel's list.
func TestPoolWatchLosesEvents(t *testing.T) {
	needRoot(t)
	need(t, "ip")
	runtime.LockOSThread() // never unlocked: the thread ends with its namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ip := func(lines string) {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(lines)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ip("link add own type veth peer name host\nlink set own up\nlink set host up\n")
	own, err := net.InterfaceByName("own")
	if err != nil {
		t.Fatal(err)
	}
	w := &poolWatch{m: newTestMachine(t), kind: poolRunning, done: make(chan struct{})}
	if err := w.begin(own.Index); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(w.events.conn.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	ip("link set host down\nlink set host up\n" + strings.Repeat("link set lo up\nlink set lo down\n", 200))
	if _, err := w.events.conn.receive(0); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("no event was lost: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if w.watch(ctx); ctx.Err() != nil {
		t.Error("the switch was not seen")
	}
}
