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

// cutWord cuts the first word off a command line, with the blanks before it.
// Blanks within quotes and ${…} or $(…) end no word. At the end word is "" and
// blanks are what is left.
func cutWord(line string) (blanks, word, rest string) {
	n := len(line) - len(strings.TrimLeft(line, " \t"))
	end := n + wordEnd(line[n:])
	return line[:n], line[n:end], line[end:]
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

// maxCommandLine is far more than any kernel takes (2048 to 4096 bytes). A longer
// line is none.
const maxCommandLine = 16 << 10

// editArgs returns a kernel command line without the words that hush the console
// and with the wanted ones: a word that is there gets the wanted value; with add,
// one that is missing is put at the end, before a "--" of init's arguments. Words
// in known, which the kernel gets besides, are not missing. All else stays byte
// for byte.
func editArgs(line, known string, want []string, add bool) string {
	if len(line)+len(known) > maxCommandLine {
		return line
	}
	lead, kernel, init, tail, word := "", "", "", "", ""
	for rest, first := line, true; ; first = false {
		if wordEnd(word+" ") > len(word) {
			return line // a quote or bracket is open
		}
		var blanks string
		blanks, word, rest = cutWord(rest)
		if first {
			lead = blanks
		}
		if word == "" {
			tail = blanks
			break
		}
		if hushing(word) {
			continue
		}
		for _, w := range want {
			if key := argKey(w); key == argKey(word) && key != "console" {
				word = w
			}
		}
		switch {
		case init != "" || !first && strings.Trim(word, "-") == "":
			init += blanks + word
		case kernel == "":
			kernel = lead + word
		default:
			kernel += blanks + word
		}
	}
	for _, w := range want {
		if !add || hasArg(known, w) || hasArg(kernel, w) {
			continue
		}
		if argKey(w) == "console" && !hasArg(known, "console") && !hasArg(kernel, "console") {
			w = "console=tty1 " + w // a lone serial console would leave the screen without messages
		}
		if kernel == "" {
			kernel = lead + w
		} else {
			kernel += " " + w
		}
	}
	switch {
	case kernel+init == "":
		return lead
	case kernel == "":
		return lead + strings.TrimLeft(init, " \t") + tail
	}
	return kernel + init + tail
}

// hasArg says whether a command line has a word of want's key; of a console, of
// the same device. The word console stands for any.
func hasArg(line, want string) bool {
	key := argKey(want)
	for line != "" {
		var word string
		_, word, line = cutWord(line)
		if word == "" {
			return false
		}
		if argKey(word) == key && (key != "console" || want == key || sameConsole(word, want)) {
			return true
		}
	}
	return false
}
