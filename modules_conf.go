package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// moduleConf is what /etc/modprobe.d and the kernel command line say.
type moduleConf struct {
	blacklist map[string]bool     // not to be loaded for a device
	options   map[string][]string // module parameters
	soft      map[string]softDeps
	aliases   strings.Builder // lines of modules.alias
}

// readModuleConf reads the *.conf files of the modprobe.d directories below a
// root, in the order of their names; a name in an earlier directory hides the
// same name in a later one (modprobe.d(5)). From the command line come
// modprobe.blacklist=a,b and MODULE.PARAMETER=value.
func readModuleConf(root, cmdline string) moduleConf {
	c := moduleConf{blacklist: map[string]bool{}, options: map[string][]string{}, soft: map[string]softDeps{}}
	paths := map[string]string{}
	var names []string
	for _, dir := range []string{"etc", "run", "usr/local/lib", "usr/lib", "lib"} {
		for _, path := range listDir(filepath.Join(root, dir, "modprobe.d")) {
			if name := filepath.Base(path); strings.HasSuffix(name, ".conf") && paths[name] == "" && len(names) < 512 {
				paths[name] = path
				names = append(names, name)
			}
		}
	}
	sortNames(names)
	for _, name := range names {
		f, err := os.Open(paths[name])
		if err != nil {
			continue
		}
		data, _ := io.ReadAll(io.LimitReader(f, 256<<10))
		f.Close()
		c.parse(string(data))
	}
	for _, word := range splitCommandLine(cmdline) {
		key, value, _ := strings.Cut(word, "=")
		module, parameter, ok := strings.Cut(key, ".")
		switch {
		case key == "modprobe.blacklist":
			for name := range strings.SplitSeq(value, ",") {
				c.blacklist[moduleName(name)] = true
			}
		case ok && module != "azprov":
			if strings.Contains(value, " ") {
				value = `"` + value + `"`
			}
			c.addOption(moduleName(module), strings.TrimSuffix(parameter+"="+value, "="))
		}
	}
	return c
}

func (c *moduleConf) addOption(module, option string) {
	c.options[module] = append(c.options[module], option)
}

// parse reads lines of modprobe.d(5). Of install lines only the usual way to
// forbid a module is understood, a command that does nothing: azprov starts no
// program.
func (c *moduleConf) parse(text string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		name := moduleName(words[1])
		switch words[0] {
		case "blacklist":
			c.blacklist[name] = true
		case "install":
			if len(words) > 2 && slices.Contains([]string{"true", "false", "nologin"}, filepath.Base(words[2])) {
				c.blacklist[name] = true
			}
		case "options":
			for _, option := range words[2:] {
				c.addOption(name, option)
			}
		case "alias":
			if len(words) == 3 {
				c.aliases.WriteString("alias " + words[1] + " " + words[2] + "\n")
			}
		case "softdep":
			c.soft[name] = parseSoftDeps(words[2:])
		}
	}
}

// parseSoftDeps reads "pre: a b post: c".
func parseSoftDeps(words []string) softDeps {
	var d softDeps
	list := &d.pre
	for _, word := range words {
		switch word {
		case "pre:":
			list = &d.pre
		case "post:":
			list = &d.post
		default:
			*list = append(*list, word)
		}
	}
	return d
}
