package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// modules loads kernel modules as modprobe does, from the index files that
// depmod leaves in /lib/modules/RELEASE. A kernel without that directory has
// everything built in: then there is nothing to load and nothing is an error.
type modules struct {
	dir     string // /lib/modules/RELEASE
	files   map[string]moduleFile
	builtin map[string]bool
	conf    moduleConf
	insert  func(path, options string) error

	mu   sync.Mutex
	done map[string]error // what was tried, and how it ended
}

// moduleFile is a line of modules.dep: a path and what has to be there before
// it, the first needed last. Paths are relative to the directory.
type moduleFile struct {
	path string
	deps []string
}

// softDeps is a softdep line: modules to load before and after, if they exist.
type softDeps struct{ pre, post []string }

var errNoModule = errors.New("no such module")

// openModules reads the index files of a kernel release below a root directory.
func openModules(root, release, cmdline string) (*modules, error) {
	ms := &modules{insert: insertModule, done: map[string]error{}}
	for _, lib := range []string{"lib", "usr/lib"} {
		ms.dir = filepath.Join(root, lib, "modules", release)
		if info, err := os.Stat(ms.dir); err == nil && info.IsDir() {
			break
		}
	}
	if err := readIndex(filepath.Join(ms.dir, "modules.dep"), func(s string) { ms.files = parseModulesDep(s) }); err != nil {
		return nil, err
	}
	if err := readIndex(filepath.Join(ms.dir, "modules.builtin"), func(s string) { ms.builtin = parseModulesBuiltin(s) }); err != nil {
		return nil, err
	}
	ms.conf = readModuleConf(root, cmdline)
	if err := readIndex(filepath.Join(ms.dir, "modules.softdep"), func(s string) { ms.conf.parse(s) }); err != nil {
		return nil, err
	}
	return ms, nil
}

// readIndex hands the contents of an index file on; a missing file is no error.
func readIndex(path string, use func(string)) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failure("open module index", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxModuleIndex+1))
	if err != nil {
		return failure("read module index", path, err)
	}
	if len(data) > maxModuleIndex {
		return failure("read module index", path, errorf("larger than %d bytes", maxModuleIndex))
	}
	use(string(data))
	return nil
}

// maxModuleIndex is several times the modules.alias of a distribution's kernel (1.2 MB).
const maxModuleIndex = 16 << 20

// known says whether a module is there to be loaded, or is built in.
func (ms *modules) known(name string) bool {
	name = moduleName(name)
	_, file := ms.files[name]
	return file || ms.builtin[name]
}

// load loads a module by name, with what it depends on. What is built in or
// loaded already is no error.
func (ms *modules) load(name string) error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.loadLocked(moduleName(name), 0)
}

// maxSoftDepth bounds chains of soft dependencies, which may be circular.
const maxSoftDepth = 8

func (ms *modules) loadLocked(name string, depth int) error {
	if err, tried := ms.done[name]; tried {
		return err
	}
	if ms.builtin[name] {
		return nil
	}
	file, exists := ms.files[name]
	if !exists {
		return failureHint("load module", name, errNoModule, "neither in "+ms.dir+"/modules.dep nor built in")
	}
	ms.done[name] = nil // a circle ends here
	soft := ms.conf.soft[name]
	if depth < maxSoftDepth {
		for _, pre := range soft.pre {
			_ = ms.loadLocked(moduleName(pre), depth+1) // soft: it need not exist
		}
	}
	err := ms.insertFiles(name, file)
	ms.done[name] = err
	if err == nil && depth < maxSoftDepth {
		for _, post := range soft.post {
			_ = ms.loadLocked(moduleName(post), depth+1)
		}
	}
	return err
}

// insertFiles inserts the dependencies that have not been tried yet, then the
// module itself.
func (ms *modules) insertFiles(name string, file moduleFile) error {
	for _, dep := range slices.Backward(file.deps) {
		dependency := moduleName(dep)
		if _, tried := ms.done[dependency]; !tried {
			ms.done[dependency] = ms.insertFile(dependency, dep)
		}
		if err := ms.done[dependency]; err != nil {
			return err
		}
	}
	return ms.insertFile(name, file.path)
}

func (ms *modules) insertFile(name, path string) error {
	if !filepath.IsAbs(path) {
		path = filepath.Join(ms.dir, path)
	}
	return ms.insert(path, strings.Join(ms.conf.options[name], " "))
}

// MODULE_INIT_COMPRESSED_FILE of include/uapi/linux/module.h, since Linux 5.17.
const moduleInitCompressedFile = 4

// insertModule is finit_module(2). A module that is loaded already is no error.
// Compressed files are left to the kernel to unpack.
func insertModule(path, options string) error {
	f, err := os.Open(path)
	if err != nil {
		return failure("open module", path, err)
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = moduleInitCompressedFile
	}
	err = unix.FinitModule(int(f.Fd()), options, flags)
	if err == unix.ENOSYS && flags == 0 {
		var image []byte
		if image, err = io.ReadAll(io.LimitReader(f, maxModule)); err == nil {
			err = unix.InitModule(image, options)
		}
	}
	if err == nil || err == unix.EEXIST {
		return nil
	}
	return failureHint("load module", path, err, moduleHint(err, flags))
}

// maxModule bounds a module that is read into memory for an old kernel.
const maxModule = 64 << 20

// moduleHint says what the errors of finit_module mean, which is seldom what
// their names say.
func moduleHint(err error, flags int) string {
	switch {
	case flags != 0 && (err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOSYS):
		return "this kernel can't unpack it (CONFIG_MODULE_DECOMPRESS): put the module uncompressed into the image, as mkinitramfs does"
	case err == unix.ENOEXEC:
		return "built for another kernel"
	case err == unix.ENOKEY || err == unix.EKEYREJECTED:
		return "not signed with a key that this kernel trusts"
	case err == unix.EPERM:
		return "module loading is forbidden: not root, locked down, or kernel.modules_disabled"
	case err == unix.ENOENT:
		return "a symbol that it needs is missing: dmesg names it"
	case err == unix.ENODEV:
		return "its device is not there"
	}
	return ""
}

// loaded counts the modules that were loaded.
func (ms *modules) loaded() int {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	n := 0
	for _, err := range ms.done {
		if err == nil {
			n++
		}
	}
	return n
}
