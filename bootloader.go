package main

import (
	"errors"
	"strings"
)

// A boot loader's configuration is edited where its kernel command lines stand.
// What is not understood is named in a note and left alone.

// bootTable says where each format is found, a row each:
// format | patterns | for variables their names (NAME=words: what holds without it), for a note what there is to know.
// Files of one row are read together; later ones may overrule earlier ones.
//
//	shell     NAME="words" of a shell file that a generator reads
//	cmdline   a line of words
//	grub      grub.cfg: commands linux, set kernelopts=
//	grubenv   kernelopts=
//	legacy    menu.lst, grub.conf of GRUB 0.97
//	entry     Boot Loader Specification, systemd-boot
//	extlinux  extlinux, syslinux, U-Boot's extlinux.conf
//	note      not edited
const bootTable = `shell|/etc/default/grub /etc/default/grub.d/*.cfg|GRUB_CMDLINE_LINUX GRUB_CMDLINE_LINUX_DEFAULT
shell|/etc/update-extlinux.conf|default_kernel_opts
shell|/etc/default/extlinux|EXTLINUX_PARAMETERS=ro
shell|/etc/default/u-boot|U_BOOT_PARAMETERS=ro
shell|/etc/sysconfig/bootloader|DEFAULT_APPEND
cmdline|/etc/kernel/cmdline|
grub|/boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/efi/EFI/*/grub.cfg /efi/EFI/*/grub.cfg /boot/grub/custom.cfg /boot/grub2/custom.cfg|
grubenv|/boot/grub/grubenv /boot/grub2/grubenv /boot/efi/EFI/*/grubenv|
legacy|/boot/grub/menu.lst /boot/grub/grub.conf|
entry|/boot/loader/entries/*.conf /boot/efi/loader/entries/*.conf /efi/loader/entries/*.conf|
extlinux|/boot/extlinux/*.conf /boot/extlinux/*.cfg /boot/extlinux.conf /extlinux.conf /boot/syslinux/*.cfg /boot/syslinux.cfg /syslinux.cfg /boot/efi/EFI/*/syslinux.cfg|
note|/etc/lilo.conf|LILO: put the words into append= and run lilo
note|/boot/boot.scr /boot/uEnv.txt|a U-Boot script: put the words into its bootargs
note|/boot/EFI/Linux/*.efi /boot/efi/EFI/Linux/*.efi /efi/EFI/Linux/*.efi|a unified kernel image holds its command line: build it anew`

// bootFile is a file under edit.
type bootFile struct {
	path, rel, old string
	lines          []string // without line ends
	end            string   // "\n", or "\r\n" as on an EFI partition
	note           func(path, text string)
}

func newBootFile(p, rel, data string, note func(path, text string)) *bootFile {
	f := &bootFile{path: p, rel: rel, old: data, end: "\n", note: note}
	if n := strings.Count(data, "\n"); n > 0 && strings.Count(data, "\r\n") == n {
		f.end = "\r\n"
	}
	f.lines = strings.Split(data, f.end)
	return f
}

func (f *bootFile) text() string { return strings.Join(f.lines, f.end) }

// insert puts a line at an index; behind the last one that is not empty if there
// are fewer.
func (f *bootFile) insert(i int, line string) {
	if n := len(f.lines); i >= n {
		if i = n; f.lines[n-1] == "" {
			i--
		}
	}
	rest := append([]string{line}, f.lines[i:]...)
	f.lines = append(f.lines[:i:i], rest...)
}

// maxBootFile bounds a configuration that is read, maxBootFiles their number.
const (
	maxBootFile  = 1 << 20
	maxBootFiles = 256
)

// editBootLoader hands every boot loader file of the image that has to change to
// use, with its new content, and what is left alone to note. It returns how many
// files it knew.
func (m *machine) editBootLoader(w *bootWants, use func(path, old, new string), note func(path, text string)) (int, error) {
	known := 0
	var errs []error
	for _, row := range strings.Split(bootTable, "\n") {
		f := strings.Split(row, "|")
		var files []*bootFile
		for _, p := range m.guest.glob(f[1]) {
			// Of a file with two names, such as menu.lst and grub.conf, one is enough.
			rel, err := m.guest.resolve(p)
			for _, other := range files {
				if other.rel == rel {
					rel = ""
				}
			}
			if err != nil || rel == "" || !m.guest.isFile(p) {
				continue
			}
			if known++; known > maxBootFiles {
				return known, errors.New("more than 256 boot loader files")
			}
			if f[0] == "note" {
				note(p, f[2])
				continue
			}
			data, err := m.guest.read(p, maxBootFile)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			files = append(files, newBootFile(p, rel, string(data), note))
		}
		editBootFiles(f[0], files, strings.Fields(f[2]), w)
		for _, f := range files {
			if text := f.text(); text != f.old {
				use(f.path, f.old, text)
			}
		}
	}
	return known, errors.Join(errs...)
}

// editBootFiles edits the files of a row.
func editBootFiles(format string, files []*bootFile, names []string, w *bootWants) {
	if format == "shell" {
		editShellVariables(files, names, w)
		return
	}
	for _, f := range files {
		switch format {
		case "cmdline":
			f.lines[0] = editArgs(f.lines[0], strings.Join(f.lines[1:], " "), w.words("", w.initrd), true)
		case "grub":
			f.editGRUB(w)
		case "grubenv":
			f.editGRUBEnv(w)
		case "legacy":
			f.editLegacy(w)
		case "entry":
			f.editEntry(w)
		case "extlinux":
			f.editExtlinux(w)
		}
	}
}

// linuxLine splits a line of the form "  COMMAND /path words" at its words;
// words are those after the path and options that begin with "--".
func linuxLine(line string) (command, path string, at int) {
	at = len(line) - len(strings.TrimLeft(line, " \t"))
	next := func(ends string) string {
		n := strings.IndexAny(line[at:], ends)
		if n < 0 {
			n = len(line) - at
		}
		word := line[at : at+n]
		at += n
		at += len(line[at:]) - len(strings.TrimLeft(line[at:], ends))
		return word
	}
	command = next(" \t=")
	start := at
	for path = next(" \t"); strings.HasPrefix(path, "--"); path = next(" \t") {
		start = at
	}
	return command, path, start + len(path)
}

// notLinux says whether a file that a boot loader starts is no Linux kernel.
func notLinux(path string) bool {
	name := strings.ToLower(path[strings.LastIndexByte(path, '/')+1:])
	if strings.HasPrefix(name, "vmlinuz") {
		return false
	}
	for _, s := range []string{".c32", ".com", ".bin", ".efi", ".0", ".img", ".iso"} {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return name == "" || strings.Contains(name, "memtest") || strings.HasPrefix(name, "xen") || strings.HasPrefix(name, "memdisk")
}

// editGRUB edits the commands linux, linux16 and linuxefi, and the variable
// kernelopts of Fedora and Red Hat.
func (f *bootFile) editGRUB(w *bootWants) {
	for i, line := range f.lines {
		if indent, set, ok := strings.Cut(line, "set "); ok && strings.TrimSpace(indent) == "" {
			n, v := findAssignment(set, []string{"kernelopts", "default_kernelopts"})
			if v != nil {
				f.lines[i] = indent + "set " + v.head + editArgs(v.words, "", w.words("", w.initrd), true) + v.tail
			} else if n >= 0 {
				f.note(f.path, "kernelopts is set in a way that is not known: left alone")
			}
			continue
		}
		command, kernel, at := linuxLine(line)
		inner := strings.Contains(line, "{ linux") || strings.Contains(line, "; linux")
		if !inner && (!isLinuxCommand(command) || notLinux(kernel)) {
			continue
		}
		if inner || strings.HasSuffix(line, "\\") {
			f.note(f.path, sprintf("line %d is not one command: left alone", i+1))
			continue
		}
		args, rest := grubArgs(line[at:])
		want := w.words(kernel, f.entryHas(i, "initrd"))
		f.lines[i] = line[:at] + editArgs(args, "", want, !mentionsOpts(args)) + rest
	}
}

func isLinuxCommand(word string) bool {
	return word == "linux" || word == "linux16" || word == "linuxefi" || word == "linux${sfx}"
}

// mentionsOpts says whether the words take in kernelopts, where the wanted ones are.
func mentionsOpts(args string) bool {
	return strings.Contains(args, "$kernelopts") || strings.Contains(args, "${kernelopts}")
}

// grubArgs cuts what follows a command in the same line: "; next", "}", a comment.
func grubArgs(s string) (args, rest string) {
	for rest = s; ; {
		blanks, word, more := cutWord(rest)
		if word == "" || strings.ContainsAny(word[:1], ";}#&|") {
			return s[:len(s)-len(rest)], rest
		}
		if strings.HasSuffix(word, ";") && !strings.HasSuffix(word, "\\;") {
			n := len(s) - len(rest) + len(blanks) + len(word) - 1
			return s[:n], s[n:]
		}
		rest = more
	}
}

// entryHas says whether a command that starts with word follows line i within
// the same menu entry.
func (f *bootFile) entryHas(i int, word string) bool {
	for _, line := range f.lines[i+1:] {
		command, _, _ := linuxLine(line)
		switch {
		case strings.HasPrefix(command, word):
			return true
		case isLinuxCommand(command), command == "}", command == "menuentry", command == "title", command == "kernel":
			return false
		}
	}
	return false
}

// grubEnvSize is the size of a grubenv: GRUB writes it in place.
const grubEnvSize = 1024

// editGRUBEnv edits kernelopts= and fills the block up again.
func (f *bootFile) editGRUBEnv(w *bootWants) {
	if len(f.old) != grubEnvSize || !strings.HasPrefix(f.old, "# GRUB Environment Block\n") {
		return
	}
	for i, line := range f.lines {
		value, ok := strings.CutPrefix(line, "kernelopts=")
		if !ok {
			continue
		}
		f.lines[i] = "kernelopts=" + editArgs(value, "", w.words("", w.initrd), true)
		last := len(f.lines) - 1
		padding := f.lines[last]
		f.lines[last] = ""
		if size := len(f.text()); size <= grubEnvSize && strings.Trim(padding, "#") == "" {
			for len(padding) < grubEnvSize {
				padding += "#"
			}
			f.lines[last] = padding[:grubEnvSize-size]
			return
		}
		f.note(f.path, "the words do not fit into its 1024 bytes: left alone")
		f.lines = strings.Split(f.old, "\n")
		return
	}
}

// editLegacy edits the kernel lines of GRUB 0.97, and what Debian's update-grub
// reads from the comments of menu.lst.
func (f *bootFile) editLegacy(w *bootWants) {
	kopt := ""
	for _, line := range f.lines {
		if strings.HasPrefix(line, "# kopt") || strings.HasPrefix(line, "# defoptions=") {
			kopt += " " + line
		}
	}
	for i, line := range f.lines {
		if name, value, ok := strings.Cut(line, "="); ok && (strings.HasPrefix(name, "# kopt") || name == "# defoptions") {
			version := strings.ReplaceAll(strings.TrimPrefix(name, "# kopt"), "_", ".")
			f.lines[i] = name + "=" + editArgs(value, kopt, w.words(strings.Trim(version, "."), w.initrd), name != "# defoptions")
			continue
		}
		command, kernel, at := linuxLine(line)
		if command != "kernel" || notLinux(kernel) {
			continue
		}
		want := w.words(kernel, f.entryHas(i, "initrd"))
		f.lines[i] = line[:at] + editArgs(line[at:], "", want, true)
	}
}
