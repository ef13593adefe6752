package main

import (
	"errors"
	"io"
	"strings"
	"unicode/utf16"
)

// Limits of what is read of a disc.
const (
	maxDiscFile  = 1 << 20  // a file
	maxDiscDir   = 64 << 10 // a directory
	maxDiscNames = 1000     // entries of a directory
	maxDiscRead  = 16 << 20 // all reads together
)

// disc is a block device or image that is read without a kernel file system.
// Every read is bounded, and all of them together.
type disc struct {
	r    io.ReaderAt
	size int64 // 0 when unknown
	left int64 // bytes that may still be read
}

func newDisc(r io.ReaderAt, size int64) *disc { return &disc{r: r, size: size, left: maxDiscRead} }

// sectorError is a place that can't be read.
type sectorError struct {
	offset int64
	err    error
}

func (e *sectorError) Error() string {
	return sprintf("read sector %d: %v", e.offset/2048, e.err)
}
func (e *sectorError) Unwrap() error { return e.err }

var (
	errNoFileSystem = errors.New("no UDF, ISO 9660 or FAT file system")
	errNoDocument   = errors.New("no ovf-env.xml in the root directory")
	errBroken       = errors.New("broken file system")
	errTooMuch      = errors.New("more is to be read than a provisioning medium holds")
)

func broken(what string) error { return errorf("%w: %s", errBroken, what) }

// at reads n bytes at an offset; fewer are an error.
func (d *disc) at(offset int64, n int) ([]byte, error) {
	if offset < 0 || n < 0 || n > maxDiscFile+4096 || d.size > 0 && offset > d.size-int64(n) {
		return nil, broken("a place outside of the disc")
	}
	if d.left -= int64(n); d.left < 0 {
		return nil, errTooMuch
	}
	b := make([]byte, n)
	if got, err := d.r.ReadAt(b, offset); got < n {
		if err == io.EOF {
			return nil, broken("a place outside of the disc")
		}
		return nil, &sectorError{offset, unwrapPath(err)}
	}
	return b, nil
}

// discFS is a file system of which only the root directory matters.
type discFS interface {
	// describe returns kind and label.
	describe() (kind, label string)
	// names returns the root directory's names.
	names() ([]string, error)
	// file returns a file of the root directory by its exact name.
	file(name string) ([]byte, error)
}

// openDisc returns the file systems that a disc holds, in the order in which
// they are to be tried, and why the others are none.
func openDisc(d *disc) ([]discFS, error) {
	var found []discFS
	var errs []error
	for _, open := range []func(*disc) (discFS, error){openUDF, openISO, openFAT} {
		fs, err := open(d)
		switch {
		case err == nil:
			found = append(found, fs)
		case !errors.Is(err, errNoFileSystem):
			errs = append(errs, err)
		}
	}
	if len(found) == 0 {
		errs = append(errs, errNoFileSystem)
	}
	return found, errors.Join(errs...)
}

// readDiscFile finds a file by a name as people write it: case does not matter,
// and where a file system can't hold a hyphen an underscore stands for it.
func readDiscFile(fs discFS, name string) ([]byte, error) {
	list, err := fs.names()
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		if strings.EqualFold(n, name) || strings.EqualFold(n, strings.ReplaceAll(name, "-", "_")) {
			return fs.file(n)
		}
	}
	return nil, errNoDocument
}

// readImage reads the provisioning medium from a block device or image. The
// first file system with an ovf-env.xml counts.
func readImage(r io.ReaderAt, size int64) (*medium, error) {
	d := newDisc(r, size)
	list, openErr := openDisc(d)
	var errs []error
	for _, fs := range list {
		doc, err := readDiscFile(fs, "ovf-env.xml")
		kind, label := fs.describe()
		if errors.Is(err, errNoDocument) {
			names, _ := fs.names()
			err = errorf("%s, label %q: %w, which holds: %s", kind, oneLine(label, 40), err, oneLine(strings.Join(names, ", "), 200))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		med := &medium{FileSystem: kind, Label: label, OVF: doc}
		if custom, err := readDiscFile(fs, "CustomData.bin"); err == nil && len(custom) <= maxCustomData {
			med.CustomBin = custom
		}
		return med, nil
	}
	if err := errors.Join(append(errs, openErr)...); !errors.Is(err, errNoFileSystem) {
		return nil, err
	}
	return nil, errors.Join(append(errs, errorf("%w in %d bytes%s", errNoFileSystem, size, d.signs()), notFileSystem(openErr))...)
}

// notFileSystem drops the plain "none" from an error that is named better.
func notFileSystem(err error) error {
	if err == errNoFileSystem || err != nil && err.Error() == errNoFileSystem.Error() {
		return nil
	}
	return err
}

// signs names what an unknown disc starts with, for the error.
func (d *disc) signs() string {
	s := ""
	if b, err := d.at(32768, 6); err == nil {
		if id := strings.Trim(string(b[1:]), "\x00 "); id != "" {
			s += ", volume id " + oneLine(sprintf("%q", id), 20)
		}
	}
	if b, err := d.at(0, 512); err == nil && b[510] == 0x55 && b[511] == 0xaa {
		s += ", a boot signature"
	}
	return s
}

// utf16Text decodes UTF-16 of either byte order.
func utf16Text(b []byte, bigEndian bool) string {
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		if bigEndian {
			units = append(units, uint16(b[0])<<8|uint16(b[1]))
		} else {
			units = append(units, uint16(b[1])<<8|uint16(b[0]))
		}
	}
	return string(utf16.Decode(units))
}
