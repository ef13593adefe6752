package main

import (
	"strings"
)

// editEntry edits the options lines of a Boot Loader Specification entry.
func (f *bootFile) editEntry(w *bootWants) {
	kernel, all, last, initrd := "", "", -1, false
	for i, line := range f.lines {
		command, value, at := linuxLine(line)
		switch command {
		case "linux":
			kernel = value
		case "initrd":
			initrd = true
		case "options":
			all += " " + line[at-len(value):]
			last = i
		}
	}
	if kernel == "" || notLinux(kernel) {
		return
	}
	want := w.words(kernel, initrd)
	if last < 0 {
		f.insert(len(f.lines), "options "+editArgs("", "", want, true))
		return
	}
	for i, line := range f.lines {
		if command, value, at := linuxLine(line); command == "options" {
			at -= len(value)
			f.lines[i] = line[:at] + editArgs(line[at:], all, want, i == last && !mentionsOpts(all))
		}
	}
}

// extLabel is an entry of an extlinux.conf; index -1 stands for what is missing.
type extLabel struct {
	kernel         string
	kernelAt, args int
	initrd         bool
}

// editExtlinux edits the APPEND line of every LABEL that starts a Linux kernel;
// one without gets its own, unless the APPEND before all labels is for it.
func (f *bootFile) editExtlinux(w *bootWants) {
	global := -1
	labels := []*extLabel{{kernelAt: -1, args: -1}}
	for i, line := range f.lines {
		at := labels[len(labels)-1]
		command, value, _ := linuxLine(line)
		switch strings.ToLower(command) {
		case "label":
			labels = append(labels, &extLabel{kernelAt: -1, args: -1})
		case "kernel", "linux", "fit":
			at.kernel, at.kernelAt = value, i
		case "initrd":
			at.initrd = true
		case "append":
			at.args = i
			at.initrd = at.initrd || strings.Contains(line, "initrd=")
		}
	}
	if labels[0].args >= 0 && labels[0].kernelAt < 0 {
		global = labels[0].args
	}
	shared := false
	for n := len(labels) - 1; n >= 0; n-- { // from the end, since lines are inserted
		l := labels[n]
		if l.kernelAt < 0 || notLinux(l.kernel) {
			continue
		}
		want := w.words(l.kernel, l.initrd)
		switch {
		case l.args >= 0:
			f.editAppend(l.args, want)
		case global >= 0:
			shared = true
		default:
			line := f.lines[l.kernelAt]
			word := "append "
			if command, _, _ := linuxLine(line); command == strings.ToUpper(command) {
				word = "APPEND "
			}
			indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
			f.insert(l.kernelAt+1, indent+word+editArgs("", "", want, true))
		}
	}
	if shared {
		f.editAppend(global, w.words("", w.initrd))
	}
}

func (f *bootFile) editAppend(i int, want []string) {
	line := f.lines[i]
	_, first, at := linuxLine(line)
	if first == "-" {
		f.note(f.path, sprintf("line %d turns all words off: left alone", i+1))
		return
	}
	at -= len(first)
	f.lines[i] = line[:at] + editArgs(line[at:], "", want, true)
}

// assignment is a line of a shell file, cut around the words of NAME=words.
type assignment struct {
	head, words, tail string
	quoted            bool
	appends           bool // NAME+=, or the words take in the old ones
}

// findAssignment says which of the names a line sets, -1 for none. The result is nil when
// the line holds more than one assignment with a comment at most.
func findAssignment(line string, names []string) (int, *assignment) {
	text := strings.TrimLeft(strings.TrimPrefix(strings.TrimLeft(line, " \t"), "export "), " \t")
	name, value, _ := strings.Cut(text, "=")
	plain := strings.TrimSuffix(name, "+")
	for n, s := range names {
		if s == plain && name != text {
			return n, parseAssignment(line[:len(line)-len(value)], value, plain, name != plain)
		}
	}
	return -1, nil
}

func parseAssignment(head, value, name string, appends bool) *assignment {
	a := &assignment{head: head}
	if value != "" && (value[0] == '"' || value[0] == '\'') {
		n, quote := wordEnd(value), value[:1]
		if n < 2 || value[n-1:n] != quote || strings.Count(value[:n], quote)-strings.Count(value[:n], `\`+quote) != 2 {
			return nil
		}
		a.head, a.words, a.tail, a.quoted = head+quote, value[1:n-1], value[n:], true
	} else {
		n := strings.IndexAny(value, " \t;#")
		if n < 0 {
			n = len(value)
		}
		a.words, a.tail = value[:n], value[n:]
		if strings.ContainsAny(a.words, "\"'`\\") {
			return nil
		}
	}
	a.appends = appends || strings.Contains(a.words, "$"+name) || strings.Contains(a.words, "${"+name)
	rest := strings.TrimSpace(a.tail)
	if a.quoted {
		a.tail = a.head[len(a.head)-1:] + a.tail
	}
	if rest != "" && rest[0] != '#' {
		return nil
	}
	return a
}

// editShellVariables edits the variables in files that are read one after the
// other. Missing words go where the first variable gets its last value.
func editShellVariables(files []*bootFile, names []string, w *bootWants) {
	if len(files) == 0 {
		return
	}
	var standard string
	names[0], standard, _ = strings.Cut(names[0], "=")
	value := make([]string, len(names)) // what each variable comes to
	last, obscure := files[0], false    // where the first variable is set last
	lastLine := -1
	for _, f := range files {
		for i, line := range f.lines {
			n, a := findAssignment(line, names)
			switch {
			case n < 0:
				continue
			case a == nil:
				f.note(f.path, sprintf("line %d sets %s in a way that is not known: left alone", i+1, names[n]))
				obscure = obscure || n == 0
				continue
			case a.appends:
				value[n] += " " + a.words
			default:
				value[n] = a.words
			}
			if n == 0 {
				last, lastLine = f, i
			}
		}
	}
	known, want := strings.Join(value, " "), w.words("", w.initrd)
	for _, f := range files {
		for i, line := range f.lines {
			_, a := findAssignment(line, names)
			if a == nil {
				continue
			}
			words := editArgs(a.words, known, want, f == last && i == lastLine && !obscure)
			if words != a.words && !a.quoted && strings.ContainsAny(words, " \t") {
				words = `"` + words + `"`
			}
			f.lines[i] = a.head + words + a.tail
		}
	}
	if lastLine < 0 && !obscure {
		last.insert(len(last.lines), names[0]+`="`+editArgs(standard, known, want, true)+`"`)
	}
}
