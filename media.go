package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// medium is the provisioning medium as read into memory.
type medium struct {
	Device     string // node, image, directory or file that it came from
	FileSystem string // "udf 1.02", "rock ridge", "fat16", "directory", "file", or the kernel's name of a mounted one
	Label      string
	OVF        secret // ovf-env.xml
	CustomBin  secret // CustomData.bin beside it, nil when there is none
}

// errNoMedium is a search that found no provisioning medium.
var errNoMedium = errors.New("no provisioning medium")

// ioctls of CD drives (include/uapi/linux/cdrom.h).
const (
	cdromEject       = 0x5309
	cdromDriveStatus = 0x5326
	cdromLockDoor    = 0x5329
	cdslCurrent      = 0x7fffffff
	cdsNoDisc        = 1
	cdsTrayOpen      = 2
	cdsNotReady      = 3
)

// The search polls quickly at first, for a drive that is about to appear.
const (
	mediaFirstPoll = 50 * time.Millisecond
	mediaLastPoll  = 500 * time.Millisecond
	// mediaGrace is how long a drive may take to appear when all that it could
	// hold is known already.
	mediaGrace = 2 * time.Second
)

// findMedium reads the configured medium, or looks at every drive that may hold
// one, again and again for up to media.wait or until nothing more is expected of
// one. Of several the first in order whose document is a provisioning document
// counts. The error says what was seen of each.
func (m *machine) findMedium(ctx context.Context, enough func() bool) (*medium, error) {
	began := time.Now()
	end := began.Add(m.cfg.MediaWait)
	poll := mediaFirstPoll
	for {
		var seen []string
		explicit := m.cfg.Media != ""
		list := []string{m.cfg.Media}
		if !explicit {
			list = m.drives()
		}
		for _, name := range list {
			med, err := m.readMedium(name, explicit)
			if err == nil {
				return med, nil
			}
			seen = append(seen, oneLine(sprintf("%s%s: %v", name, m.driveModel(name), err), 400))
			if explicit && !errors.Is(err, os.ErrNotExist) && !retryMedium(err) {
				return nil, failure("read provisioning medium", name, err)
			}
		}
		if !time.Now().Add(poll).Before(end) || ctx.Err() != nil || time.Since(began) >= mediaGrace && enough != nil && enough() {
			text := "no drive that may hold one" + m.blockNames()
			if len(seen) > 0 {
				text = strings.Join(seen, "; ")
			}
			return nil, failureHint("find provisioning medium", m.cfg.Media, errNoMedium,
				sprintf("waited %s s; seen: %s", decimal(time.Since(began)/(100*time.Millisecond), 1), text))
		}
		timer := time.NewTimer(poll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		poll = min(2*poll, mediaLastPoll)
	}
}

// retryMedium says whether a drive may do better in a moment.
func retryMedium(err error) bool {
	for _, no := range []error{unix.ENOMEDIUM, unix.ENXIO, unix.EIO, unix.EBUSY, unix.EAGAIN, errNotReady} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// drives lists what may hold a provisioning medium, optical drives first.
// Whole disks of other kinds are looked at too, since some hypervisors show the
// medium as one; the content decides.
func (m *machine) drives() []string {
	var optical, others []string
	add := func(name string) {
		switch {
		case numbered(name, "sr"), numbered(name, "cd"), numbered(name, "cdrom"):
			optical = append(optical, name)
		case len(name) == 3 && name[:2] == "hd" && name[2] >= 'c' && name[2] <= 'z', len(name) == 3 && name[:2] == "vd" && name[2] >= 'a' && name[2] <= 'z',
			isNVMe(name), sysAttr(m.sys("block", name, "removable")) == "1" && !strings.HasPrefix(name, "loop"):
			others = append(others, name)
		}
	}
	for _, dir := range []string{m.devfs, m.sys("block")} {
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, _ := d.Readdirnames(8192)
		d.Close()
		for _, n := range names {
			if !slices.Contains(optical, n) && !slices.Contains(others, n) {
				add(n)
			}
		}
	}
	byNumber := func(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }
	sortFew(optical, byNumber)
	sortFew(others, byNumber)
	list := append(optical, others...)
	for i, n := range list {
		list[i] = m.dev(n)
	}
	return list
}

func numbered(name, stem string) bool {
	n, ok := strings.CutPrefix(name, stem)
	return ok && n != "" && len(n) < 4 && strings.Trim(n, "0123456789") == ""
}

// isNVMe says whether a name is that of an NVMe namespace, nvme0n1, not of a partition.
func isNVMe(name string) bool {
	rest, ok := strings.CutPrefix(name, "nvme")
	controller, namespace, has := strings.Cut(rest, "n")
	return ok && has && numbered(controller, "") && numbered(namespace, "")
}

// driveModel is " (vendor model)" of a drive, as far as sysfs knows it.
func (m *machine) driveModel(name string) string {
	dir := m.sys("block", filepath.Base(name), "device")
	text := strings.TrimSpace(sysAttr(dir+"/vendor") + " " + sysAttr(dir+"/model"))
	if text == "" {
		return ""
	}
	return " (" + oneLine(text, 60) + ")"
}

// blockNames names the block devices that there are, for the error.
func (m *machine) blockNames() string {
	d, err := os.Open(m.sys("block"))
	if err != nil {
		return ", no block devices at all"
	}
	defer d.Close()
	names, _ := d.Readdirnames(64)
	sortFew(names, func(a, b string) bool { return a < b })
	return ", block devices: " + oneLine(strings.Join(names, " "), 200) + "; are the modules sr_mod, cdrom and hv_storvsc or ata_piix there?"
}

var errNotReady = errors.New("the drive is not ready")

// readMedium reads one device, image, directory or file. Only one that was named
// explicitly, or an optical drive, is mounted by the kernel as a last resort.
func (m *machine) readMedium(name string, explicit bool) (*medium, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() && explicit {
		return readMediumDir(name)
	}
	f, err := m.openDrive(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, unwrapPath(err)
	}
	device := info.Mode()&os.ModeDevice != 0
	size := info.Size()
	if device {
		if size, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, unwrapPath(err)
		}
	}
	med, err := readImage(f, size)
	if errors.Is(err, errNoFileSystem) && !device && explicit {
		if doc, readErr := readBounded(f, size); readErr == nil && looksLikeOVF(doc) {
			med, err = &medium{FileSystem: "file", OVF: doc}, nil
		}
	}
	if errors.Is(err, errNoFileSystem) && device && (explicit || strings.HasPrefix(filepath.Base(name), "sr")) {
		if mounted, mountErr := m.mountMedium(name); mountErr == nil {
			med, err = mounted, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if !looksLikeOVF(med.OVF) {
		return nil, errorf("its ovf-env.xml (%s, %d bytes) has no ProvisioningSection", med.FileSystem, len(med.OVF))
	}
	med.Device = name
	return med, nil
}

func readBounded(f *os.File, size int64) ([]byte, error) {
	if size > maxOVF {
		return nil, errTooMuch
	}
	b := make([]byte, size)
	_, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b, err
}

func readMediumDir(dir string) (*medium, error) {
	f, err := os.Open(filepath.Join(dir, "ovf-env.xml"))
	if err != nil {
		return nil, unwrapPath(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("ovf-env.xml is not a regular file")
	}
	doc, err := readBounded(f, info.Size())
	if err != nil {
		return nil, unwrapPath(err)
	}
	if !looksLikeOVF(doc) {
		return nil, errors.New("its ovf-env.xml has no ProvisioningSection")
	}
	med := &medium{Device: dir, FileSystem: "directory", OVF: doc}
	if c, err := os.Open(filepath.Join(dir, "CustomData.bin")); err == nil {
		defer c.Close()
		if info, err := c.Stat(); err == nil && info.Mode().IsRegular() && info.Size() <= maxCustomData {
			med.CustomBin, _ = readBounded(c, info.Size())
		}
	}
	return med, nil
}

// openDrive asks a drive for its state before it is opened for reading. A node
// that devfs lacks is made for as long as it takes to open it.
func (m *machine) openDrive(name string) (*os.File, error) {
	node := name
	if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
		made, err := m.makeNode(filepath.Base(name))
		if err != nil {
			return nil, unix.ENOENT
		}
		defer func() {
			os.Remove(made)
			os.Remove(filepath.Dir(made))
		}()
		node = made
	}
	fd, err := unix.Open(node, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFBLK && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("neither a block device nor a file")
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	status, err := ioctlArg(fd, cdromDriveStatus, cdslCurrent)
	unix.Close(fd)
	switch {
	case err != nil: // no CD drive: try to read
	case status == cdsNoDisc:
		return nil, unix.ENOMEDIUM
	case status == cdsTrayOpen:
		return nil, errorf("tray open: %w", errNotReady)
	case status == cdsNotReady:
		return nil, errNotReady
	}
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, unwrapPath(err)
	}
	return f, nil
}

// makeNode makes a block device node from sysfs in a private directory.
func (m *machine) makeNode(name string) (string, error) {
	major, minor, ok := strings.Cut(sysAttr(m.sys("block", name, "dev")), ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return "", unix.ENOENT
	}
	dir, err := privateDir()
	if err != nil {
		return "", err
	}
	node := filepath.Join(dir, name)
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(ma), uint32(mi)))); err != nil {
		os.Remove(dir)
		return "", err
	}
	return node, nil
}

// privateDir makes a directory for this process alone.
func privateDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "azprov-"+strconv.Itoa(os.Getpid()))
	// One that exists is not ours.
	return dir, os.Mkdir(dir, 0o700)
}

// mountMedium reads a medium by way of the kernel: for file systems that are
// none of ours.
func (m *machine) mountMedium(device string) (*medium, error) {
	list, err := os.ReadFile(m.proc("filesystems"))
	if err != nil {
		return nil, err
	}
	dir, err := privateDir()
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	for line := range strings.Lines(string(list)) {
		kind := strings.TrimSpace(line)
		if strings.HasPrefix(line, "nodev") || slices.Contains([]string{"udf", "iso9660", "vfat", "msdos"}, kind) {
			continue
		}
		mountErr := unix.Mount(device, dir, kind, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		if mountErr != nil {
			err = mountErr
			continue
		}
		med, readErr := readMediumDir(dir)
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			m.warn("media", "%s stays mounted on %s: %v", device, dir, err)
		}
		if readErr != nil {
			return nil, readErr
		}
		med.FileSystem = kind + " (mounted)"
		return med, nil
	}
	if err == nil {
		err = errNoFileSystem
	}
	return nil, err
}

// ejectMedium opens a drive's tray; what is no CD drive is left alone.
func (m *machine) ejectMedium(device string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return failure("open", device, err)
	}
	defer unix.Close(fd)
	if _, err := ioctlArg(fd, cdromDriveStatus, cdslCurrent); err != nil {
		return failure("eject", device, errors.New("not a CD drive"))
	}
	// The door may not be locked at all: only the eject counts.
	ioctlArg(fd, cdromLockDoor, 0)
	if _, err := ioctlArg(fd, cdromEject, 0); err != nil {
		return failure("eject", device, err)
	}
	return nil
}
