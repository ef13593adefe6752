package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A pool file is a row of records (tools/hv/hv_kvp_daemon.c, struct kvp_record):
//
//	char key[512];    UTF-8, NUL padded
//	char value[2048]; UTF-8, NUL padded
//
// The kernel converts both to UTF-16 in fields of the same size, which leaves
// room for 254 and 1022 characters.
const (
	kvpKeySize    = 512
	kvpValueSize  = 2048
	kvpRecordSize = kvpKeySize + kvpValueSize
	kvpMaxKey     = 254
	kvpMaxValue   = 1022
	kvpMaxRecords = 1024
	kvpReportKey  = "PROVISIONING_REPORT"
)

// bootTime is when the kernel started, by its uptime.
func bootTime(procfs string, now time.Time) time.Time {
	text, _, _ := strings.Cut(sysAttr(procfs+"/uptime"), " ")
	up, err := time.ParseDuration(text + "s")
	if err != nil || up < 0 {
		return time.Time{}
	}
	return now.Add(-up)
}

// writeKVP sets a key in pool 1 (guest to host) below dir, which it creates.
// Records older than the boot are dropped: the host takes them for this boot's.
// The daemon keeps its descriptor, so the file is changed in place, under both
// kinds of lock that the daemon and other provisioners take.
func writeKVP(g *guest, dir, key, value string, boot time.Time) error {
	if err := g.mkdir(dir, 0o755, 0, 0); err != nil {
		return err
	}
	name := path.Join(dir, ".kvp_pool_1")
	rel, err := g.resolve(name)
	if err != nil {
		return err
	}
	f, err := g.open(rel, os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return failure("open", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return failure("open", name, errors.Join(err, errors.New("not a regular file")))
	}
	if err := lockKVP(int(f.Fd())); err != nil {
		return failureHint("lock", name, err, "another program holds it")
	}
	var old []byte
	if !info.ModTime().Before(boot) {
		if old, err = io.ReadAll(io.LimitReader(f, kvpMaxRecords*kvpRecordSize)); err != nil {
			return failure("read", name, err)
		}
	}
	data := upsertKVP(old, key, value)
	if _, err := f.WriteAt(data, 0); err != nil {
		return failure("write", name, err)
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		return failure("truncate", name, err)
	}
	return nil
}

// lockKVP takes flock and the fcntl lock of the open file description, for
// which the daemon's fcntl lock is a rival. It gives up after two seconds.
func lockKVP(fd int) error {
	end := time.Now().Add(2 * time.Second)
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		}
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// upsertKVP returns the records with one key set: in place of its first record,
// others of the key dropped, else at the end. A torn record at the end is
// dropped; a full pool loses its oldest record.
func upsertKVP(old []byte, key, value string) []byte {
	record := make([]byte, kvpRecordSize)
	copy(record, cutUTF8(cleanKVP(key), kvpMaxKey))
	copy(record[kvpKeySize:], cutUTF8(cleanKVP(value), kvpMaxValue))
	var out []byte
	done := false
	for ; len(old) >= kvpRecordSize; old = old[kvpRecordSize:] {
		r := old[:kvpRecordSize]
		switch {
		case kvpText(r[:kvpKeySize]) != cutUTF8(key, kvpMaxKey):
			out = append(out, r...)
		case !done:
			out = append(out, record...)
			done = true
		}
	}
	if !done {
		out = append(out, record...)
	}
	if over := len(out) - kvpMaxRecords*kvpRecordSize; over > 0 {
		out = out[over:]
	}
	return out
}

// cleanKVP makes a text that the kernel can convert: valid UTF-8 without NUL.
func cleanKVP(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", " ")
}

func kvpText(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
