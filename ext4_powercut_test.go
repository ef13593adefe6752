package main

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// writeLog notes what is written, in order, and hands it on to a store if there is
// one. It can't discard.
type writeLog struct {
	store
	ops []storeOp
}

// storeOp is one write; a sync has no bytes.
type storeOp struct {
	off int64
	b   []byte
}

func (r *writeLog) writev(off int64, bufs ...[]byte) error {
	r.ops = append(r.ops, storeOp{off, bytes.Join(bufs, nil)})
	if r.store == nil {
		return nil
	}
	return r.store.writev(off, bufs...)
}

func (r *writeLog) sync() error {
	r.ops = append(r.ops, storeOp{})
	if r.store == nil {
		return nil
	}
	return r.store.sync()
}

func (r *writeLog) writeSync(off int64, b []byte) error {
	return errors.Join(r.writev(off, b), r.sync())
}

func (r *writeLog) discard(off, n int64) error { return errors.New("can't discard") }

// noise is the same bytes every time.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// Wherever the power fails, what is left holds the marker, so that the next run
// starts over, or is the whole file system, or is what the disk held before; and
// what holds the marker is no file system to anyone.
func TestFormatPowerCut(t *testing.T) {
	need(t, "e2fsck", "dumpe2fs", "blkid", "losetup")
	needRoot(t)
	const size, from = 16 << 20, 1 << 20
	options := ext4Options{Size: size, Label: "new", UUID: [16]byte{9, 6: 0x40, 8: 0x80}, Sequence: 7, Now: time.Unix(1.8e9, 0)}
	for _, block := range []int{1024, 4096} {
		options.BlockSize = block
		w := &writeLog{}
		if err := errors.Join(w.writeSync(0, formatMarker(size+from, from)), formatExt4(context.Background(), w, options)); err != nil {
			t.Fatal(err)
		}
		old := options
		old.Label, old.UUID[0], old.Sequence = "old", 1, 3
		before := &writeLog{}
		if err := formatExt4(context.Background(), before, old); err != nil {
			t.Fatal(err)
		}
		oldImage := replay(make([]byte, size), before.ops)
		for name, disk := range map[string][]byte{"noise": noise(size), "ext4": oldImage} {
			c := &powerCut{t: t, block: block, disk: disk, whole: replay(slices.Clone(disk), w.ops), dir: imageDir(t), total: size + from, from: from}
			c.clean(c.whole)
			stable := slices.Clone(disk) // what has been synced
			var pending []storeOp
			for i, op := range w.ops {
				if op.b == nil {
					// Until here any of the sectors may have reached the medium.
					for range 12 {
						c.check(replay(slices.Clone(stable), someSectors(pending)))
					}
					stable, pending = replay(stable, pending), nil
					c.check(stable)
					continue
				}
				// The writes so far, in order, and a part of the next one.
				torn := storeOp{op.off, op.b[:len(op.b)/2/512*512]}
				c.check(replay(slices.Clone(stable), append(slices.Clone(pending), torn)))
				pending = append(pending, w.ops[i])
				c.check(replay(slices.Clone(stable), pending))
			}
			t.Logf("%s, blocks of %d: %d writes, %d states with the marker, %d whole, %d as before", name, block, len(w.ops), c.marked, c.complete, c.untouched)
			if c.marked < 40 || c.complete == 0 {
				t.Errorf("%s: not every state was met", name)
			}
			// The next run starts over, on what the last torn one has left.
			again := &writeLog{}
			if err := errors.Join(again.writeSync(0, formatMarker(size+from, from)), formatExt4(context.Background(), again, options)); err != nil {
				t.Fatal(err)
			}
			c.clean(replay(c.last, again.ops))
		}
	}
}

// fullStore fails after so many writes.
type fullStore struct {
	writeLog
	left int
}

func (s *fullStore) writev(off int64, bufs ...[]byte) error {
	if s.left--; s.left < 0 {
		return unix.EIO
	}
	return s.writeLog.writev(off, bufs...)
}

func (s *fullStore) writeSync(off int64, b []byte) error {
	return errors.Join(s.writev(off, b), s.sync())
}

// Whichever write fails, that is the outcome, and the marker stays.
func TestFormatWriteError(t *testing.T) {
	for _, o := range []ext4Options{{Size: 16 << 20}, {Size: 2 << 30}, {Size: 16 << 30, BlockSize: 2048}} {
		for n := 0; ; n++ {
			s := &fullStore{left: n}
			err := formatExt4(context.Background(), s, o)
			if err == nil {
				if n < 10 {
					t.Errorf("%d bytes were formatted by %d writes", o.Size, n)
				}
				break
			}
			if !errors.Is(err, unix.EIO) {
				t.Errorf("write %d: %v", n, err)
			}
			for _, op := range s.ops {
				if op.b != nil && op.off < superOffset+superSize/2 {
					t.Errorf("write %d fails, and the marker is overwritten", n)
				}
			}
		}
	}
}

// replay applies writes to a disk.
func replay(disk []byte, ops []storeOp) []byte {
	for _, op := range ops {
		copy(disk[op.off:], op.b)
	}
	return disk
}

// someSectors is a random part of writes, sector by sector.
func someSectors(ops []storeOp) (part []storeOp) {
	keep := rand.IntN(100)
	for _, op := range ops {
		for at := 0; at < len(op.b); at += 512 {
			if rand.IntN(100) < keep {
				part = append(part, storeOp{op.off + int64(at), op.b[at:min(at+512, len(op.b))]})
			}
		}
	}
	return part
}

// powerCut judges what a format left.
type powerCut struct {
	t                                       *testing.T
	block                                   int
	disk, whole                             []byte // before and after
	last                                    []byte // the last state with the marker
	dir                                     string
	total, from                             int64
	marked, complete, untouched, foreigners int
}

func (c *powerCut) check(state []byte) {
	c.t.Helper()
	const super = superOffset + superSize
	same := func(other []byte, to, from int) bool {
		return bytes.Equal(state[:to], other[:to]) && bytes.Equal(state[from:], other[from:])
	}
	switch {
	case hasFormatMarker(state[:formatMarkerArea], c.total, c.from):
		c.marked++
		switch {
		case bytes.Equal(state[superOffset:super], c.whole[superOffset:super]):
			c.clean(state) // the boot sector alone is missing
		case same(c.disk, 0, formatMarkerArea) && !bytes.Equal(state[:formatMarkerArea], formatMarker(c.total, c.from)):
			// The marker isn't whole, and nothing else has been changed yet.
		default:
			c.last = slices.Clone(state)
			c.foreign(state)
		}
	case same(c.whole, super, max(super, c.block)):
		c.complete++
	case same(c.disk, super, formatMarkerArea):
		c.untouched++
	default:
		c.t.Error("a torn file system without its marker")
	}
}

// file writes a state to a file.
func (c *powerCut) file(state []byte) string {
	c.t.Helper()
	name := filepath.Join(c.dir, "image")
	if err := os.WriteFile(name, state, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return name
}

// clean is a whole file system for e2fsck.
func (c *powerCut) clean(state []byte) {
	c.t.Helper()
	checkExt4(c.t, c.file(state))
}

// foreign is no file system, for e2fsprogs, blkid and the kernel.
func (c *powerCut) foreign(state []byte) {
	c.t.Helper()
	if c.foreigners++; c.foreigners%8 != 0 && hasFormatMarker(state[:512], c.total, c.from) {
		return // most have the same start
	}
	image := c.file(state)
	if out, err := exec.Command("dumpe2fs", "-h", image).CombinedOutput(); err == nil {
		c.t.Errorf("dumpe2fs takes a torn file system:\n%s", out)
	}
	if out, err := exec.Command("blkid", "-p", image).CombinedOutput(); err == nil {
		c.t.Errorf("blkid takes a torn file system: %s", out)
	}
	if out, err := exec.Command("unshare", "-m", "mount", "-t", "ext4", "-o", "loop,ro,noload", image, "/mnt").CombinedOutput(); err == nil {
		c.t.Errorf("the kernel mounts a torn file system: %s", out)
	}
}
