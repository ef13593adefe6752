package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openedDisk is a disk that is held exclusively from its decision to its mount.
type openedDisk struct {
	foundDisk
	node    string
	f       *os.File // nil when someone else holds it
	size    int64
	sector  int64
	view    diskView
	verdict verdict
	why     string
}

func (d *openedDisk) close() {
	if d.f != nil {
		d.f.Close()
		d.f = nil
	}
}

// String is one line: what the disk is, what becomes of it and why.
func (d *openedDisk) String() string {
	role := d.role
	if role == roleOther {
		role = "disk"
	}
	s := sprintf("%s, %s, %s: %s, because %s", d.node, string(role), sizeText(d.size), d.verdict, d.why)
	if d.view.detail != "" {
		s += " (" + d.view.detail + ")"
	}
	return s
}

// sizeText is a size with a binary unit.
func sizeText(n int64) string {
	unit := 0
	tenths := 10 * n
	for tenths >= 10240 && unit < 4 {
		tenths, unit = tenths>>10, unit+1
	}
	text := strconv.FormatInt(tenths/10, 10)
	if tenths%10 != 0 {
		text += "." + strconv.FormatInt(tenths%10, 10)
	}
	return text + " " + [...]string{"bytes", "KiB", "MiB", "GiB", "TiB"}[unit]
}

// openDisk claims a disk and decides about it.
func (m *machine) openDisk(d foundDisk) (*openedDisk, error) {
	o := &openedDisk{foundDisk: d, node: m.dev(strings.ReplaceAll(d.name, "!", "/"))}
	if err := m.awaitNode(m.sys("block", d.name), o.node); err != nil {
		return nil, err
	}
	var seen diskSigns
	if m.mountedOn(d.name) != "" {
		seen = signMounted
	}
	f, err := os.OpenFile(o.node, os.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		seen |= signBusy
		o.view.detail = m.holderOf(d.name)
		f, err = os.OpenFile(o.node, os.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, failure("open", o.node, err)
	}
	defer func() {
		if o.f == nil {
			f.Close()
		}
	}()
	size, err := ioctlUint64(int(f.Fd()), unix.BLKGETSIZE64)
	if err != nil {
		return nil, failure("get size of", o.node, err)
	}
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return nil, failure("get sector size of", o.node, err)
	}
	o.size, o.sector = int64(size), int64(sector)
	if seen == 0 {
		o.view = viewDisk(f, o.size, o.sector)
		o.f = f
	}
	if sysAttr(m.sys("block", d.name, "ro")) == "1" {
		seen |= signReadOnly
	}
	if m.cfg.ResourceDisk != "auto" {
		seen |= signNamed
	}
	if m.cfg.ResourceRedo == "damaged" {
		seen |= signReformat
	}
	if m.cfg.ResourceFS == "none" {
		seen |= signFormatOff
	}
	o.decide(seen)
	return o, nil
}

func (d *openedDisk) decide(more diskSigns) {
	d.view.signs |= more
	d.verdict, d.why = decideDisk(d.view.signs)
}

// holderOf says where a busy disk or its partitions are mounted or what holds them.
func (m *machine) holderOf(name string) string {
	var found []string
	data, _ := os.ReadFile(m.proc("self/mountinfo"))
	mounts := strings.Split(string(data), "\n")
	for _, dir := range append([]string{m.sys("block", name)}, listDir(m.sys("block", name))...) {
		number := sysAttr(dir + "/dev")
		if number == "" {
			continue
		}
		for _, line := range mounts {
			if f := strings.Fields(line); len(f) > 4 && f[2] == number {
				found = append(found, "mounted on "+f[4])
			}
		}
		for _, h := range listDir(dir + "/holders") {
			found = append(found, "held by "+h[strings.LastIndexByte(h, '/')+1:])
		}
	}
	return oneLine(strings.Join(found, ", "), 200)
}

// chooseDisk opens the disks and returns the one to use: one that is in use or can
// be mounted before one that would be formatted. All are handed to say.
func (m *machine) chooseDisk(list []foundDisk, say func(*openedDisk)) (*openedDisk, error) {
	var best *openedDisk
	var errs []error
	for _, d := range list {
		o, err := m.openDisk(d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		say(o)
		if best == nil || o.verdict < best.verdict {
			o, best = best, o
		}
		if o != nil {
			o.close()
		}
	}
	if best == nil {
		return nil, errors.Join(errs...)
	}
	return best, nil
}

// setUpDisk finds the resource disk, decides, and does what was decided. It
// returns a summary, "" when there is no such disk. With dry it only says.
func (m *machine) setUpDisk(ctx context.Context, dry bool, say func(*openedDisk)) (string, error) {
	list, err := m.findDisks(ctx)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		if m.cfg.ResourceNeeded {
			return "", failureHint("find resource disk", "", unix.ENODEV, "this VM size has none, or its driver is missing")
		}
		return "", nil
	}
	d, err := m.chooseDisk(list, say)
	if err != nil {
		return "", err
	}
	defer d.close()
	if dry {
		return d.String(), nil
	}
	text, err := m.useDisk(ctx, d)
	if err != nil {
		return "", err
	}
	if d.verdict == diskKeep && d.view.signs&signMounted == 0 {
		if m.cfg.ResourceNeeded || m.cfg.Swap > 0 {
			return "", failure("use resource disk", d.node, errors.New(d.String()))
		}
		return d.String(), nil
	}
	swap, err := m.furnish(d)
	return joinTexts(text, swap), err
}

// useDisk carries the verdict out, up to the mount.
func (m *machine) useDisk(ctx context.Context, d *openedDisk) (string, error) {
	formatted := false
	for {
		switch d.verdict {
		case diskKeep:
			if name := m.mountedOn(d.name); name != "" {
				d.node = m.dev(name)
			}
			return d.node + " on " + m.cfg.ResourceMount, nil
		case diskRefuse:
			return "", failureHint("use resource disk", d.node, errors.New(d.String()), "nothing was changed; azprov disk -n looks again")
		case diskFormat:
			if err := m.formatDisk(ctx, d); err != nil {
				return "", err
			}
			formatted = true
		}
		err := m.mountDisk(ctx, d)
		if err == nil {
			text := sprintf("%s, %s, on %s", d.node, sizeText(d.size), m.cfg.ResourceMount)
			if formatted {
				text += ", formatted: " + d.why
			}
			return text, nil
		}
		if formatted || !damagedFS(err, m.cfg.ResourceOpts) {
			return "", err
		}
		m.log.note("disk", err.Error())
		f, openErr := os.OpenFile(d.node, os.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if openErr != nil {
			return "", err
		}
		// Nothing says that it is still the disk that was looked at.
		d.f, d.view = f, viewDisk(f, d.size, d.sector)
		d.decide(d.view.signs | signDamaged | m.damagedPolicy())
	}
}

// damagedPolicy is what the configuration says about damaged file systems.
func (m *machine) damagedPolicy() (s diskSigns) {
	if m.cfg.ResourceRedo == "damaged" {
		s = signReformat
	}
	if m.cfg.ResourceFS == "none" {
		s |= signFormatOff
	}
	return s
}

// formatDisk partitions and formats a disk. It checks first what would make that
// useless.
func (m *machine) formatDisk(ctx context.Context, d *openedDisk) error {
	if err := m.needFileSystem("ext4"); err != nil {
		return err
	}
	if err := m.checkMountPoint(); err != nil {
		return err
	}
	// d.f holds the claim; this descriptor can write.
	f, err := os.OpenFile(d.node, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return failure("open for writing", d.node, err)
	}
	defer f.Close()
	var st, held unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || unix.Fstat(int(d.f.Fd()), &held) != nil || st.Rdev != held.Rdev {
		return failure("open for writing", d.node, errors.New("it is another device by now"))
	}
	until := time.Now().Add(discardTime)
	store := func(from int64) store { return &resourceStore{area{f, from}, until} }
	if err := formatResource(ctx, store, d.view, d.size, d.sector, m.now()); err != nil {
		return failure("format", d.node, err)
	}
	from, n := resourceSpan(d.size, d.sector)
	d.view.part = partition{number: 1, from: from, size: n}
	d.view.id.fstype = "ext4"
	return nil
}

// discardTime bounds how long discards may take: they are a hint, and Ready waits.
const discardTime = 10 * time.Second

// resourceStore is an area whose discards end after some time.
type resourceStore struct {
	area
	until time.Time
}

func (s *resourceStore) discard(off, n int64) error {
	if time.Now().After(s.until) {
		return unix.ETIME
	}
	return s.area.discard(off, n)
}

// formatResource makes a GPT with one ext4 on a disk that was decided to be
// formatted. at returns the disk from an offset on.
//
// The marker comes first, where a file system stood and where one will stand, so
// that whatever a power cut leaves is known as a format that was cut off until the
// file system is whole.
func formatResource(ctx context.Context, at func(from int64) store, old diskView, size, sector int64, now time.Time) error {
	from, n := resourceSpan(size, sector)
	o, err := newExt4Options(n, int(sector), resourceLabel, now)
	if err != nil {
		return err
	}
	if _, err := planExt4(o); err != nil {
		return err
	}
	disk := at(0)
	for _, start := range []int64{old.part.from, from} {
		if start > 0 {
			if err := disk.writeSync(start, formatMarker(size, start)); err != nil {
				return err
			}
		}
	}
	if err := writeGPT(disk, size, sector); err != nil {
		return err
	}
	if old.signs&signTable != 0 {
		// What stood between the old table and the new partition.
		head := 2*sector + gptEntries*gptEntrySize
		if err := disk.writeSync(head, make([]byte, from-head)); err != nil {
			return err
		}
	}
	return formatExt4(ctx, at(from), o)
}

// stepDisk is setUpDisk in the plan.
func (b *boot) stepDisk(ctx context.Context) (string, error) {
	if b.cfg.ResourceDisk == "none" {
		return "", nil
	}
	return b.setUpDisk(ctx, false, func(*openedDisk) {})
}

// diskCommand is azprov disk: what was found and decided, a line a disk, and what
// came of it.
func diskCommand(m *machine, dry bool, stdout io.Writer) int {
	if m.cfg.ResourceDisk == "none" {
		m.cfg.ResourceDisk = "auto"
	}
	found := false
	text, err := m.setUpDisk(context.Background(), dry, func(d *openedDisk) {
		found = true
		fprintf(stdout, "%s\n", d)
	})
	switch {
	case err != nil:
		m.log.fail("disk", err.Error())
		return exitFailed
	case !found:
		io.WriteString(stdout, "this VM has no resource disk\n")
	case !dry:
		io.WriteString(stdout, text+"\n")
	}
	return exitOK
}
