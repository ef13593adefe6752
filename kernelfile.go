package main

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// maxUnpacked bounds what is unpacked of a kernel or an initramfs.
const maxUnpacked = 1 << 30

// maxKernelConfig is several times the configuration of a distribution's kernel (0.3 MB).
const maxKernelConfig = 2 << 20

var errNoConfig = errors.New("no configuration in it (CONFIG_IKCONFIG)")

// compressions names what an image is packed with, by its first bytes.
var compressions = [...]struct{ magic, name string }{{"\x1f\x8b", "gzip"}, {"\xfd7zXZ", "xz"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"\x02\x21\x4c\x18", "lz4"}, {"\x04\x22\x4d\x18", "lz4"},
	{"\x5d\x00\x00", "lzma"}, {"BZh", "bzip2"}, {"\x89LZO", "lzo"}}

func compression(head []byte) string {
	for _, c := range compressions {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return c.name
		}
	}
	return ""
}

// errPacked is a compression that azprov does not unpack.
type errPacked string

func (e errPacked) Error() string {
	return "packed with " + string(e) + "; azprov opens only gzip"
}

// readKernelConfig returns the configuration that a kernel file holds. It knows
// x86's bzImage (Documentation/arch/x86/boot.rst), the EFI images of other
// architectures (drivers/firmware/efi/libstub/zboot-header.S), Image and Image.gz,
// vmlinux, and a configuration file alone, plain or packed as /proc/config.gz.
func readKernelConfig(r io.Reader) (string, error) {
	s := &stream{r: r}
	head := s.peek(0x250)
	switch {
	case len(head) == 0x250 && string(head[0x202:0x206]) == "HdrS":
		sectors := int64(head[0x1f1])
		if sectors == 0 {
			sectors = 4
		}
		if le.Uint16(head[0x206:]) < 0x208 {
			return "", errors.New("a bzImage of before Linux 2.6.26, whose kernel is not found")
		}
		skip := (sectors+1)*512 + int64(le.Uint32(head[0x248:]))
		if !s.skip(skip) {
			return "", io.ErrUnexpectedEOF
		}
	case len(head) >= 28 && string(head[:2]) == "MZ" && string(head[4:8]) == "zimg":
		if !s.skip(int64(le.Uint32(head[8:]))) {
			return "", io.ErrUnexpectedEOF
		}
	}
	switch packed := compression(s.peek(6)); packed {
	case "":
	case "gzip":
		s = &stream{r: io.LimitReader(newInflater(s), maxUnpacked)}
	default:
		return "", errPacked(packed)
	}
	if head := s.peek(4096); bytes.Contains(head, []byte("\nCONFIG_")) {
		return limitedText(s)
	}
	if !s.find("IKCFG_ST") {
		if s.err != nil && s.err != io.EOF {
			return "", s.err
		}
		return "", errNoConfig
	}
	return limitedText(&stream{r: newInflater(s)})
}

func (s *stream) Read(p []byte) (int, error) {
	if !s.fill(1) {
		return 0, s.err
	}
	n := copy(p, s.buf[s.pos:s.end])
	s.pos += n
	return n, nil
}

func limitedText(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKernelConfig+1))
	if err == nil && len(data) > maxKernelConfig {
		err = errors.New("a configuration larger than 2 MiB")
	}
	return string(data), err
}

// configOption is how a kernel configuration has CONFIG_NAME: "y", "m", another value,
// or "n".
func configOption(config, name string) string {
	_, rest, found := strings.Cut("\n"+config, "\nCONFIG_"+name+"=")
	if !found {
		return "n"
	}
	value, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(value)
}

// kernelConfigRelease is the release in the title of a configuration file:
// "# Linux/x86 6.1.0-28-cloud-amd64 Kernel Configuration".
func kernelConfigRelease(config string) string {
	_, rest, _ := strings.Cut(config[:min(len(config), 512)], "# Linux/")
	if f := strings.Fields(rest); len(f) > 1 && kernelVersion(f[1]) != 0 {
		return f[1]
	}
	return ""
}

// Limits of an initramfs.
const maxArchiveNames = 1 << 18

// initramfsNames calls use with the name of every file of an initramfs, and with
// azprov for an init that is azprov or calls it: archives
// of the kind newc one behind the other, plain or packed with gzip
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func initramfsNames(r io.Reader, use func(name string)) error {
	s := &stream{r: r}
	for names, some := 0, false; ; some = true {
		for s.fill(1) && s.buf[s.pos] == 0 { // between archives
			s.pos++
		}
		head := s.peek(6)
		packed := compression(head)
		switch {
		case len(head) == 0 && some:
			return nil
		case packed == "gzip":
			inner := &stream{r: io.LimitReader(newInflater(s), maxUnpacked)}
			if err := inner.archive(&names, use); err != nil {
				return err
			}
			for inner.skip(1 << 20) { // to the end of the member
			}
		case packed != "":
			return errPacked(packed)
		default:
			if err := s.archive(&names, use); err != nil {
				return err
			}
		}
	}
}

// archive reads one newc archive up to its trailer.
func (s *stream) archive(names *int, use func(string)) error {
	for {
		h := s.peek(110)
		if len(h) < 110 || string(h[:6]) != "070701" && string(h[:6]) != "070702" {
			return errors.New("not an initramfs")
		}
		size, err1 := strconv.ParseUint(string(h[54:62]), 16, 32)
		length, err2 := strconv.ParseUint(string(h[94:102]), 16, 32)
		if *names++; err1 != nil || err2 != nil || length < 1 || length > 3000 || *names > maxArchiveNames {
			return errors.New("a broken initramfs")
		}
		s.skip(110)
		name := string(bytes.TrimRight(s.peek(int(length)), "\x00"))
		// Name and content are padded to 4 bytes, from the start of the header.
		if !s.skip(int64((110+length+3)&^3 - 110)) {
			return io.ErrUnexpectedEOF
		}
		padded := int64((size + 3) &^ 3)
		if name == "init" && size > 0 { // a script that calls it, or itself
			content := &stream{r: io.LimitReader(s, padded)}
			if content.find("azprov") {
				name = "azprov"
			}
			for content.skip(padded) {
			}
		} else if !s.skip(padded) {
			return io.ErrUnexpectedEOF
		}
		if name == "TRAILER!!!" {
			return nil
		}
		use(name)
	}
}
