package main

import "strings"

// bootWants is what a kernel command line needs on Azure, by what is in the image.
type bootWants struct {
	console string   // console= of the serial port; "" when the architecture is not known
	old     bool     // the image has a kernel that needs numa=off
	initrd  bool     // the image has an initramfs
	args    []string // the key prepare.args
}

// words lists the wanted words for a kernel file and whether it is booted with
// an initramfs. An empty name stands for all of the image's kernels.
//
// rootdelay= is the time that an initramfs waits at most for a slow disk, but a
// kernel that mounts the root itself sleeps that long in any case
// (init/do_mounts.c): it gets rootwait.
func (w *bootWants) words(kernel string, initrd bool) []string {
	var list []string
	if w.console != "" {
		list = append(list, w.console)
	}
	if initrd {
		list = append(list, "rootdelay=300")
	} else {
		list = append(list, "rootwait")
	}
	old := w.old
	if v := kernelVersion(kernel); v != 0 {
		old = v < firstNUMA
	}
	if old {
		list = append(list, "numa=off")
	}
	for _, word := range w.args {
		// What the user asks for comes in the place of what stands here.
		for i, s := range list {
			if argKey(s) == argKey(word) && argKey(s) != "console" {
				list[i], word = word, ""
				break
			}
		}
		if word != "" {
			list = append(list, word)
		}
	}
	return list
}

// firstNUMA is the first kernel whose NUMA code copes with Hyper-V: 2.6.37.
const firstNUMA = 2<<32 | 6<<16 | 37

// kernelVersion finds the version in a release or in the name of a kernel file,
// such as vmlinuz-2.6.32-754.el6, as a number that orders; 0 when there is none.
func kernelVersion(name string) uint64 {
	name = name[strings.LastIndexByte(name, '/')+1:]
	for i := range len(name) {
		if name[i] < '0' || name[i] > '9' || i > 0 && name[i-1] != '-' && name[i-1] != '_' {
			continue
		}
		var v, x uint64
		n, digits := 0, 0
		for _, c := range []byte(name[i:] + "-") {
			if c >= '0' && c <= '9' && digits < 4 {
				x = x*10 + uint64(c-'0')
				digits++
				continue
			}
			if digits == 0 || n == 3 {
				break
			}
			v |= x << (32 - 16*n)
			x, digits = 0, 0
			if n++; c != '.' {
				break
			}
		}
		if n >= 2 {
			return v
		}
	}
	return 0
}

// hushing says whether a word keeps kernel messages from the console.
func hushing(word string) bool {
	switch argKey(word) {
	case "quiet", "rhgb", "splash", "vt.handoff":
		return true
	}
	return word == "$vt_handoff" || word == "${vt_handoff}"
}

// argKey is a word up to its "=", without quotes.
func argKey(word string) string {
	key, _, _ := strings.Cut(strings.Trim(word, `"'`), "=")
	return key
}

// sameConsole says whether a word is console= of the same device as want,
// whatever its speed.
func sameConsole(word, want string) bool {
	a, _, _ := strings.Cut(strings.Trim(word, `"'`), ",")
	b, _, _ := strings.Cut(want, ",")
	return a == b
}

// argWord is a word of a command line with the blanks before it.
type argWord struct{ blanks, text string }

// splitArgs splits a command line into words and the blanks at its end. Blanks
// within quotes and ${…} or $(…) split nothing.
func splitArgs(line string) (words []argWord, tail string) {
	for line != "" {
		n := len(line) - len(strings.TrimLeft(line, " \t"))
		end := wordEnd(line[n:])
		if end == 0 {
			return words, line
		}
		words = append(words, argWord{line[:n], line[n : n+end]})
		line = line[n+end:]
	}
	return words, ""
}

// wordEnd is the length of the word that a text starts with.
func wordEnd(s string) int {
	quote, depth := byte(0), 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quote != '\'':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '$' && i+1 < len(s) && (s[i+1] == '{' || s[i+1] == '('):
			depth++
			i++
		case depth > 0:
			if c == '}' || c == ')' {
				depth--
			}
		case c == ' ' || c == '\t':
			return i
		}
	}
	return len(s)
}

// editArgs returns a kernel command line without the words that hush the console
// and with the wanted ones: a word that is there gets the wanted value; with add,
// one that is missing is put at the end, before a "--" of init's arguments. Words
// in known, which the kernel gets besides, are not missing. All else stays byte
// for byte.
func editArgs(line, known string, want []string, add bool) string {
	words, tail := splitArgs(line)
	var kept []argWord
	end := -1 // where arguments of init begin
	for i, word := range words {
		if hushing(word.text) {
			continue
		}
		for _, w := range want {
			if key := argKey(w); key == argKey(word.text) && key != "console" {
				word.text = w
			}
		}
		if len(kept) == 0 {
			word.blanks = words[0].blanks
		}
		if end < 0 && i > 0 && strings.Trim(word.text, "-") == "" {
			end = len(kept)
		}
		kept = append(kept, word)
	}
	if end < 0 {
		end = len(kept)
	}
	if add {
		others, _ := splitArgs(known)
		missing := missingArgs(append(others, kept[:end]...), want)
		if end == 0 && len(missing) > 0 {
			missing[0].blanks = ""
			if len(words) > 0 {
				missing[0].blanks = words[0].blanks
			}
			if len(kept) > 0 {
				kept[0].blanks = " "
			}
		}
		kept = append(append(kept[:end:end], missing...), kept[end:]...)
	}
	var b strings.Builder
	for _, word := range kept {
		b.WriteString(word.blanks)
		b.WriteString(word.text)
	}
	if len(kept) == 0 && len(words) > 0 {
		return words[0].blanks
	}
	b.WriteString(tail)
	return b.String()
}

// missingArgs lists the wanted words that are not present.
func missingArgs(present []argWord, want []string) []argWord {
	var missing []argWord
	for _, w := range want {
		there, screen := false, argKey(w) == "console"
		for _, p := range present {
			if argKey(p.text) != argKey(w) {
				continue
			}
			if argKey(w) != "console" {
				there = true
				continue
			}
			screen = false
			there = there || sameConsole(p.text, w)
		}
		if there {
			continue
		}
		if screen { // a lone serial console would leave the screen without messages
			missing = append(missing, argWord{" ", "console=tty1"})
			present = append(present, argWord{" ", "console=tty1"})
		}
		missing = append(missing, argWord{" ", w})
	}
	return missing
}
