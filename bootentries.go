package main

import (
	"fmt"
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
		f.note(f.path, fmt.Sprintf("line %d turns all words off: left alone", i+1))
		return
	}
	at -= len(first)
	f.lines[i] = line[:at] + editArgs(line[at:], "", want, true)
}

// assignment is NAME=value of a shell file: where its words stand in the line.
type assignment struct {
	name     string
	from, to int
	quote    string // around the words: ", ' or none
	appends  bool   // NAME+=, or the value takes in the old one
}

// parseAssignment understands a line that holds nothing but one assignment, with
// a comment at most.
func parseAssignment(line string) (a assignment, ok bool) {
	text := strings.TrimLeft(line, " \t")
	text = strings.TrimLeft(strings.TrimPrefix(text, "export "), " \t")
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return a, false
	}
	a.name = strings.TrimSuffix(name, "+")
	a.from = len(line) - len(value)
	rest := ""
	if value != "" && (value[0] == '"' || value[0] == '\'') {
		n := wordEnd(value)
		if n < 2 || value[n-1] != value[0] || strings.Count(value[:n], value[:1])-strings.Count(value[:n], `\`+value[:1]) != 2 {
			return a, false
		}
		a.quote = value[:1]
		a.from++
		a.to = a.from + n - 2
		rest = value[n:]
	} else {
		n := strings.IndexAny(value, " \t;#")
		if n < 0 {
			n = len(value)
		}
		a.to = a.from + n
		rest = value[n:]
		if strings.ContainsAny(value[:n], "\"'`\\") {
			return a, false
		}
	}
	rest = strings.TrimSpace(rest)
	words := line[a.from:a.to]
	a.appends = strings.HasSuffix(name, "+") || strings.Contains(words, "$"+a.name) || strings.Contains(words, "${"+a.name)
	return a, rest == "" || rest[0] == '#'
}

// editShellVariables edits the variables in files that are read one after the
// other. Missing words go where the first variable gets its last value.
func editShellVariables(files []*bootFile, names []string, w *bootWants) {
	if len(files) == 0 {
		return
	}
	var standard string
	names[0], standard, _ = strings.Cut(names[0], "=")
	type place struct {
		f *bootFile
		i int
		a assignment
	}
	var all []place
	value := make([]string, len(names)) // what each variable comes to
	target := -1
	for _, f := range files {
		for i, line := range f.lines {
			for n, name := range names {
				trimmed := strings.TrimPrefix(strings.TrimLeft(line, " \t"), "export ")
				if rest, ok := strings.CutPrefix(trimmed, name); !ok || !strings.HasPrefix(rest, "=") && !strings.HasPrefix(rest, "+=") {
					continue
				}
				a, ok := parseAssignment(line)
				if !ok {
					f.note(f.path, fmt.Sprintf("line %d sets %s in a way that is not known: left alone", i+1, name))
					if n == 0 {
						target = -2
					}
					continue
				}
				if a.appends {
					value[n] += " " + line[a.from:a.to]
				} else {
					value[n] = line[a.from:a.to]
				}
				if n == 0 && target != -2 {
					target = len(all)
				}
				all = append(all, place{f, i, a})
			}
		}
	}
	known := strings.Join(value, " ")
	want := w.words("", w.initrd)
	for n, p := range all {
		line := p.f.lines[p.i]
		old := line[p.a.from:p.a.to]
		words := editArgs(old, known, want, n == target)
		if words != old && p.a.quote == "" && strings.ContainsAny(words, " \t") {
			words = `"` + words + `"`
		}
		p.f.lines[p.i] = line[:p.a.from] + words + line[p.a.to:]
	}
	if target == -1 {
		files[0].insert(len(files[0].lines), names[0]+`="`+editArgs(standard, known, want, true)+`"`)
	}
}
