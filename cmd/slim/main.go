// Command slim makes Go executables smaller after the link. It rewrites the
// function table (.gopclntab), which is a third of a small Go program, to hold
// only what a running program needs to unwind stacks, collect garbage, recover
// panics and preempt goroutines. What goes is what tracebacks print: file names,
// line numbers, argument layouts, and the names of functions outside of package
// main. The code is not touched.
//
//	slim FILE...
//
// A traceback of the result still names package main's functions and gives the
// offset in each; the same sources built without slim tell the line.
//
// A file of a layout that slim doesn't know (ELF64 little-endian and the tables of
// Go 1.20 to 1.26 are what it knows) is left as it is, with a message and exit
// status 0: it works, and the size gate tells whether it is small enough.
package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	for _, name := range os.Args[1:] {
		if err := slimFile(name); err != nil {
			fmt.Fprintf(os.Stderr, "slim: %s: %v\n", name, err)
			if !errors.Is(err, errLayout) {
				os.Exit(1)
			}
		}
	}
}

// errLayout says that a file is none that slim understands.
var errLayout = errors.New("unknown layout: left as it is")

// slimFile replaces a file by its slim form, with the same mode.
func slimFile(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	out, err := slim(data)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".slim", out, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(name+".slim", name)
}

// slim returns the slim form of an executable.
func slim(data []byte) ([]byte, error) {
	f, err := parseELF(data)
	if err != nil {
		return nil, err
	}
	tab := f.section(".gopclntab")
	if tab == nil {
		return nil, fmt.Errorf("no .gopclntab: %w", errLayout)
	}
	section := data[tab.off : tab.off+tab.size]
	old, err := parseHeader(section)
	if err != nil {
		return nil, err
	}
	mod, err := f.moduledata(old, tab.addr)
	if err != nil {
		return nil, err
	}
	old.gofunc, old.find = le.Uint64(mod[modGofunc:])-tab.addr, le.Uint64(mod[modFindfunctab:])-tab.addr
	if err := old.parse(section); err != nil {
		return nil, err
	}
	out, err := old.rewrite()
	if err != nil {
		return nil, err
	}
	if len(out.data) > len(section) {
		return nil, errors.New("the new table is larger than the old one")
	}
	if err := out.sameAs(old); err != nil {
		return nil, fmt.Errorf("the new table: %w", err)
	}
	out.point(mod, tab.addr)
	copy(section, out.data)
	return f.cut(tab, uint64(len(out.data)))
}
