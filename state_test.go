package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const testID = "527c2691-029f-fe4c-b1f4-a4da7ebac2cf"

func TestInstanceSurvives(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	if in, err := loadInstance(m.guest); err != nil || in != (instance{}) {
		t.Fatalf("no record: %+v, %v", in, err)
	}
	want := instance{ID: testID, Progress: applied, Script: "exit 3"}
	if err := want.save(m.guest); err != nil {
		t.Fatal(err)
	}
	if got, err := loadInstance(m.guest); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if info, _ := m.guest.stat(stateDir + "/instance"); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	for _, torn := range []string{"", "id=x\n", "progress=done\n", "\x00\x00"} {
		writeTree(t, m.guest.dir, map[string]string{stateDir[1:] + "/instance": torn})
		if _, err := loadInstance(m.guest); err == nil {
			t.Errorf("%q was understood", torn)
		}
	}
}

func TestPhase(t *testing.T) {
	needRoot(t)
	other := "00000000-1111-2222-3333-444444444444"
	for _, c := range []struct {
		name   string
		record instance
		uuid   string
		want   occasion
	}{
		{"nothing recorded", instance{}, testID, firstBoot},
		{"cut off while applying", instance{ID: testID, Progress: applying}, testID, firstBoot},
		{"applied, not acknowledged", instance{ID: testID, Progress: applied}, testID, unacknowledged},
		{"acknowledged", instance{ID: testID, Progress: acknowledged}, testID, everyBoot},
		{"acknowledged, upper case", instance{ID: testID, Progress: acknowledged}, strings.ToUpper(testID), everyBoot},
		{"acknowledged, other byte order", instance{ID: testID, Progress: acknowledged}, swapUUID(testID), everyBoot},
		{"a clone", instance{ID: other, Progress: acknowledged}, testID, firstBoot},
		{"a clone of an unacknowledged VM", instance{ID: other, Progress: applied}, testID, firstBoot},
		{"no UUID now", instance{ID: testID, Progress: acknowledged}, "", everyBoot},
	} {
		m := newTestMachine(t)
		if c.uuid != "" {
			writeTree(t, m.sysfs, map[string]string{"class/dmi/id/product_uuid": c.uuid + "\n"})
		}
		if c.record != (instance{}) {
			if err := c.record.save(m.guest); err != nil {
				t.Fatal(err)
			}
		}
		if b := newBoot(m); b.stateErr != nil || b.phase != c.want {
			t.Errorf("%s: phase %v, %v; want %v", c.name, b.phase, b.stateErr, c.want)
		}
	}
}

func TestLockKeepsASecondRunOut(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	first, err := lockState(m.guest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockState(m.guest); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("second lock: %v", err)
	}
	first.Close()
	again, err := lockState(m.guest)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	again.Close()
}

func TestStatusIsJSON(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	b := newBoot(m)
	b.run = &running{began: time.Now()}
	b.warn("disk", "left \x1b alone")
	o := b.status([]result{{Name: "media", Outcome: failed, Err: failure("open", "/dev/sr0", unix.ENOMEDIUM)}}, exitFailed)
	if err := b.saveStatus(o); err != nil {
		t.Fatal(err)
	}
	data, err := m.guest.read(stateDir+"/status.json", maxJSON)
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Schema, Exit int
		Steps        []struct {
			Error struct {
				Errno      int
				Name, Path string
			}
		}
		Warnings []struct{ Step, Text string }
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	if s.Schema != statusSchema || s.Exit != 1 || s.Steps[0].Error.Errno != 123 || s.Steps[0].Error.Name != "ENOMEDIUM" || s.Steps[0].Error.Path != "/dev/sr0" || s.Warnings[0].Step != "disk" {
		t.Errorf("status: %s", data)
	}
}

func FuzzInstance(f *testing.F) {
	f.Add("id=" + testID + "\nprogress=applied\nscript=pending\n")
	f.Fuzz(func(t *testing.T, text string) {
		in, err := parseInstance([]byte(text))
		if err != nil {
			return
		}
		again, err := parseInstance(in.encode())
		if err != nil || again.ID != in.ID || again.Progress != in.Progress {
			t.Errorf("%q: %+v became %+v, %v", text, in, again, err)
		}
	})
}
