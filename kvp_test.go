package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// readKVP returns a pool's keys and values; a later record of a key wins.
func readKVP(data []byte) (map[string]string, error) {
	if len(data)%kvpRecordSize != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of records", len(data))
	}
	pool := map[string]string{}
	for ; len(data) > 0; data = data[kvpRecordSize:] {
		pool[kvpText(data[:kvpKeySize])] = kvpText(data[kvpKeySize:kvpRecordSize])
	}
	return pool, nil
}

func readPool(t *testing.T, m *machine) map[string]string {
	t.Helper()
	data, err := m.guest.read("/var/lib/hyperv/.kvp_pool_1", 1<<22)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := readKVP(data)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestWriteKVP(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	boot := time.Now().Add(-time.Hour)
	set := func(key, value string) {
		t.Helper()
		if err := writeKVP(m.guest, "/var/lib/hyperv", key, value, boot); err != nil {
			t.Fatal(err)
		}
	}
	set("other", "kept")
	set(kvpReportKey, "result=error|"+strings.Repeat("x", 3000))
	set(kvpReportKey, "result=success")
	if pool := readPool(t, m); len(pool) != 2 || pool["other"] != "kept" || pool[kvpReportKey] != "result=success" {
		t.Errorf("pool %v", pool)
	}
	file := filepath.Join(m.guest.dir, "var/lib/hyperv/.kvp_pool_1")
	if err := os.Chtimes(file, boot.Add(-time.Minute), boot.Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	set("new", "boot")
	if pool := readPool(t, m); len(pool) != 1 || pool["new"] != "boot" {
		t.Errorf("records of an older boot are left: %v", pool)
	}
}

func TestKVPWaitsForTheDaemonsLock(t *testing.T) {
	needRoot(t)
	m := newTestMachine(t)
	writeTree(t, m.guest.dir, map[string]string{"var/lib/hyperv/.kvp_pool_1": ""})
	f, err := os.OpenFile(filepath.Join(m.guest.dir, "var/lib/hyperv/.kvp_pool_1"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	released := make(chan bool)
	go func() {
		time.Sleep(50 * time.Millisecond)
		f.Close()
		close(released)
	}()
	if err := writeKVP(m.guest, "/var/lib/hyperv", "k", "v", time.Time{}); err != nil {
		t.Error(err)
	}
	select {
	case <-released:
	default:
		t.Error("the record was written while the lock was held")
	}
}

func FuzzKVP(f *testing.F) {
	f.Add([]byte("torn"), "key", "value")
	f.Add(upsertKVP(upsertKVP(nil, "a", "1"), "b", "2"), "a", "\x00\xff")
	f.Fuzz(func(t *testing.T, old []byte, key, value string) {
		out := upsertKVP(old, key, value)
		if len(out)%kvpRecordSize != 0 || len(out) == 0 || len(out) > len(old)/kvpRecordSize*kvpRecordSize+kvpRecordSize {
			t.Fatalf("%d bytes became %d", len(old), len(out))
		}
		again := upsertKVP(out, key, value)
		if !bytes.Equal(out, again) && utf8.ValidString(key) && !strings.Contains(key, "\x00") {
			t.Errorf("setting %q twice differs", key)
		}
	})
}
