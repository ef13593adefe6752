package main

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// defaultModules is what azprov needs on Azure and in a QEMU virtual machine:
// VMBus, network, disks, DVD. What a kernel has built in, or has not, is left out.
func defaultModules() []string {
	return []string{"hv_vmbus", "hv_netvsc", "hv_storvsc", "hv_utils", "sr_mod", "cdrom", "sd_mod", "ata_piix", "nvme",
		"pci_hyperv", "mana", "mlx5_core", "mlx4_en",
		"virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "ext4", "af_packet"}
}

// module is a module file and what its .modinfo section says.
type module struct {
	name, path string // path below /lib/modules/RELEASE, without a compression suffix
	image      []byte
	depends    []string
	aliases    []string
	softdeps   []string
}

// kernelModules finds modules of one kernel below its /lib/modules/RELEASE. The
// index files of depmod are not needed: a package that was only unpacked has none.
type kernelModules struct {
	dir     string
	paths   map[string]string // by name
	builtin map[string]bool
	chosen  map[string]*module
	exclude []string
}

// moduleName is how the kernel names a module file.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func openKernelModules(dir string, exclude []string) (*kernelModules, error) {
	k := &kernelModules{dir: dir, paths: map[string]string{}, builtin: map[string]bool{}, chosen: map[string]*module{}}
	for _, name := range exclude {
		k.exclude = append(k.exclude, moduleName(name))
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type().IsRegular() && strings.Contains(d.Name(), ".ko") {
			k.paths[moduleName(path)] = path
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		k.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return k, nil
}

// choose takes a module and all that it needs. One that is built in needs
// nothing; found is false when the kernel has no such module.
func (k *kernelModules) choose(name string) (found bool, err error) {
	name = moduleName(name)
	if k.chosen[name] != nil || k.builtin[name] {
		return true, nil
	}
	path, exists := k.paths[name]
	if !exists || slices.Contains(k.exclude, name) {
		return false, nil
	}
	m, err := readModule(path)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	rel, err := filepath.Rel(k.dir, path)
	if err != nil {
		return false, err
	}
	base, _, _ := strings.Cut(filepath.Base(rel), ".ko")
	m.name, m.path = name, filepath.Join(filepath.Dir(rel), base+".ko")
	k.chosen[name] = m
	for _, dep := range m.depends {
		found, err := k.choose(dep)
		if err != nil {
			return false, err
		}
		if !found {
			return false, fmt.Errorf("module %s needs %s, which is left out or not there", name, dep)
		}
	}
	for _, soft := range m.softdeps {
		for _, word := range strings.Fields(soft) {
			if !strings.HasSuffix(word, ":") {
				if _, err := k.choose(word); err != nil {
					return false, err
				}
			}
		}
	}
	return true, nil
}

// readModule reads a module, unpacked, and its .modinfo: strings "key=value",
// each ended by NUL.
func readModule(path string) (*module, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if data, err = unpack(path, data); err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	m := &module{image: data}
	for field := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "depends":
			for dep := range strings.SplitSeq(value, ",") {
				if dep != "" {
					m.depends = append(m.depends, dep)
				}
			}
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep":
			m.softdeps = append(m.softdeps, value)
		}
	}
	return m, nil
}

// unpack undoes the compression that a module's name tells: inside of an archive
// that is compressed as a whole it only costs, and not every kernel can.
func unpack(path string, data []byte) ([]byte, error) {
	var r io.Reader = bytes.NewReader(data)
	var err error
	switch filepath.Ext(path) {
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r); err == nil {
			defer d.Close()
			r = d
		}
	default:
		return data, nil
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// closure lists everything that a module needs, what is needed first last, as
// modules.dep has it.
func (k *kernelModules) closure(m *module) []string {
	var list []string
	var visit func(*module)
	visit = func(m *module) {
		for _, dep := range m.depends {
			d := k.chosen[moduleName(dep)]
			if d == nil {
				continue // built in
			}
			if i := slices.Index(list, d.path); i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
			list = append(list, d.path)
			visit(d)
		}
	}
	visit(m)
	return list
}

// addTo puts the chosen modules and their index files into an archive.
func (k *kernelModules) addTo(a *archive, release string) error {
	base := "lib/modules/" + release + "/"
	var dep, alias, soft strings.Builder
	for _, name := range k.names() {
		m := k.chosen[name]
		a.add(base+m.path, entry{mode: typeFile | 0o644, data: m.image})
		fmt.Fprintf(&dep, "%s:", m.path)
		for _, d := range k.closure(m) {
			fmt.Fprintf(&dep, " %s", d)
		}
		dep.WriteByte('\n')
		for _, pattern := range m.aliases {
			fmt.Fprintf(&alias, "alias %s %s\n", pattern, name)
		}
		for _, s := range m.softdeps {
			fmt.Fprintf(&soft, "softdep %s %s\n", name, s)
		}
	}
	for file, text := range map[string]string{"modules.dep": dep.String(), "modules.alias": alias.String(), "modules.softdep": soft.String()} {
		a.add(base+file, entry{mode: typeFile | 0o644, data: []byte(text)})
	}
	data, err := os.ReadFile(filepath.Join(k.dir, "modules.builtin"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	a.add(base+"modules.builtin", entry{mode: typeFile | 0o644, data: data})
	return err
}

// names lists the chosen modules in order.
func (k *kernelModules) names() []string {
	var names []string
	for name := range k.chosen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
