// Command mkinitramfs makes an initramfs with azprov as /init and the kernel
// modules that it needs, or the archive to put behind an existing one.
//
//	mkinitramfs -azprov azprov -modules /lib/modules/6.1.0-cloud-amd64 -o initrd.img
//
// Equal inputs make equal bytes: files are sorted, belong to root and carry the
// time SOURCE_DATE_EPOCH, or none. No root is needed, nor depmod, cpio or a
// compressor.
package main

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// list is a flag that may be given more than once, or with commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }
func (l *list) Set(s string) error {
	for v := range strings.SplitSeq(s, ",") {
		if v = strings.TrimSpace(v); v != "" {
			*l = append(*l, v)
		}
	}
	return nil
}

// options are the flags.
type options struct {
	azprov, modules, out, compress, base string
	add, without, files                  list
}

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "mkinitramfs:", err)
		}
		os.Exit(1)
	}
}

func run(args []string, stderr io.Writer) error {
	var o options
	f := flag.NewFlagSet("mkinitramfs", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.azprov, "azprov", "azprov", "azprov binary that becomes /init; empty for none")
	f.StringVar(&o.modules, "modules", "", "the kernel's /lib/modules/RELEASE; empty for a kernel with everything built in")
	f.Var(&o.add, "add", "more modules")
	f.Var(&o.without, "without", "modules to leave out")
	f.Var(&o.files, "file", "SOURCE:DESTINATION: a file, link or directory to put into the image")
	f.StringVar(&o.compress, "compress", "gzip", "gzip, xz, zstd or none")
	f.StringVar(&o.base, "append-to", "", "existing initramfs: the result is that file and our archive behind it")
	f.StringVar(&o.out, "o", "initrd.img", "file to write")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected word %q", f.Arg(0))
	}
	data, err := o.build(stderr)
	if err != nil {
		return err
	}
	temp := o.out + ".new"
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, o.out)
}

// build returns the bytes of the image.
func (o *options) build(log io.Writer) ([]byte, error) {
	mtime := int64(0)
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		mtime = int64(n)
	}
	a := newArchive(mtime)
	for _, dir := range []string{"proc", "sys", "dev", "run", "etc", "sysroot", "var"} {
		a.add(dir, entry{mode: typeDir | 0o755})
	}
	a.add("root", entry{mode: typeDir | 0o700})
	a.add("tmp", entry{mode: typeDir | 0o1777})
	// The kernel opens /dev/console for /init before anything is mounted; Go
	// falls back to /dev/null where there is none.
	a.add("dev/console", entry{mode: typeChar | 0o600, major: 5, minor: 1})
	a.add("dev/null", entry{mode: typeChar | 0o666, major: 1, minor: 3})
	if o.azprov != "" {
		data, err := os.ReadFile(o.azprov)
		if err != nil {
			return nil, err
		}
		if err := checkStatic(data); err != nil {
			return nil, fmt.Errorf("%s: %w", o.azprov, err)
		}
		a.add("init", entry{mode: typeFile | 0o755, data: data})
	}
	if o.modules != "" {
		if err := o.addModules(a, log); err != nil {
			return nil, err
		}
	}
	for _, pair := range o.files {
		from, to, ok := strings.Cut(pair, ":")
		if !ok {
			return nil, fmt.Errorf("-file %s: want SOURCE:DESTINATION", pair)
		}
		if err := addTree(a, from, to); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	if o.base != "" {
		data, err := os.ReadFile(o.base)
		if err != nil {
			return nil, err
		}
		out.Write(data)
		out.Write(make([]byte, pad(out.Len()))) // an archive starts at a multiple of four
	}
	w, err := compressor(&out, o.compress)
	if err != nil {
		return nil, err
	}
	if err := a.write(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// checkStatic refuses a program that needs a loader, of which the kernel would
// only say that /init does not exist.
func checkStatic(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("linked dynamically: build it with CGO_ENABLED=0")
		}
	}
	return nil
}

// addModules adds the default modules that the kernel has, and those that were
// asked for, which it must have.
func (o *options) addModules(a *archive, log io.Writer) error {
	dir := filepath.Clean(o.modules)
	k, err := openKernelModules(dir, o.without)
	if err != nil {
		return err
	}
	for _, name := range defaultModules() {
		if _, err := k.choose(name); err != nil {
			return err
		}
	}
	for _, name := range o.add {
		found, err := k.choose(name)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("the kernel has no module %s", name)
		}
	}
	fmt.Fprintln(log, "modules:", strings.Join(k.names(), " "))
	return k.addTo(a, filepath.Base(dir))
}

// addTree adds a file, a link or a directory with all that is in it.
func addTree(a *archive, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := filepath.Join(to, rel)
		mode := uint32(info.Mode().Perm())
		for _, bit := range []struct {
			mode fs.FileMode
			bits uint32
		}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
			if info.Mode()&bit.mode != 0 {
				mode |= bit.bits
			}
		}
		switch {
		case info.IsDir():
			a.add(name, entry{mode: typeDir | mode})
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			a.add(name, entry{mode: typeLink | 0o777, data: []byte(target)})
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			a.add(name, entry{mode: typeFile | mode, data: data})
		default:
			return fmt.Errorf("%s is neither file, directory nor link", path)
		}
		return nil
	})
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// compressor wraps a writer. The kernel wants CRC32 in xz.
func compressor(w io.Writer, kind string) (io.WriteCloser, error) {
	switch kind {
	case "gzip":
		return gzip.NewWriterLevel(w, gzip.BestCompression)
	case "xz":
		return xz.WriterConfig{CheckSum: xz.CRC32, DictCap: 8 << 20}.NewWriter(w)
	case "zstd":
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	case "none":
		return nopCloser{w}, nil
	}
	return nil, fmt.Errorf("-compress %s: none of gzip, xz, zstd, none", kind)
}
