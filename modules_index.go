package main

import "strings"

// moduleName is how the kernel names a module: base name without suffixes, "_"
// for "-".
func moduleName(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	if i := strings.Index(name, ".ko"); i > 0 {
		name = name[:i]
	}
	return strings.ReplaceAll(name, "-", "_")
}

// parseModulesDep reads lines "path: dep dep ...".
func parseModulesDep(text string) map[string]moduleFile {
	files := map[string]moduleFile{}
	for line := range strings.Lines(text) {
		path, deps, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if ok && path != "" {
			files[moduleName(path)] = moduleFile{path, strings.Fields(deps)}
		}
	}
	return files
}

// parseModulesBuiltin reads a path a line.
func parseModulesBuiltin(text string) map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			names[moduleName(line)] = true
		}
	}
	return names
}

// matchAliases reads lines "alias PATTERN MODULE" and returns, for each of the
// device aliases, the modules whose pattern matches, in the order of the file.
func matchAliases(text string, devices []string) [][]string {
	found := make([][]string, len(devices))
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "alias ")
		if !ok {
			continue
		}
		// A pattern holds no blank: the kernel's generators replace them.
		pattern, module, ok := strings.Cut(strings.TrimSpace(rest), " ")
		if !ok {
			continue
		}
		for i, device := range devices {
			if matchGlob(pattern, device) {
				found[i] = append(found[i], moduleName(module))
			}
		}
	}
	return found
}

// matchGlob matches a pattern of "*", "?" and "[...]" sets, as depmod writes
// them, against a whole string. It takes time proportional to the product of
// both lengths at most.
func matchGlob(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0 // where to go on after a mismatch
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if n, ok := matchOne(pattern[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne matches one byte against the first element of a pattern and returns
// the element's length.
func matchOne(pattern string, c byte) (int, bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		end := strings.IndexByte(pattern, ']')
		if end < 2 {
			break // not a set: a bracket
		}
		set := pattern[1:end]
		for len(set) > 0 {
			low, high, n := set[0], set[0], 1
			if len(set) > 2 && set[1] == '-' {
				high, n = set[2], 3
			}
			if low <= c && c <= high {
				return end + 1, true
			}
			set = set[n:]
		}
		return 0, false
	}
	return 1, pattern[0] == c
}
