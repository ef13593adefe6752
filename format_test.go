package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFormatsAsTheStandardLibrary(t *testing.T) {
	for _, c := range []struct {
		format string
		args   []any
	}{
		{"plain", nil},
		{"100 %%", nil},
		{"%s|%v|%d", []any{"text", "text", 7}},
		{"%-10s|%10s|%-3s|%2s", []any{"left", "right", "longer", "longer"}},
		{"%-6s|%6s", []any{"größe", "größe"}},
		{"%d %d %d %d %d", []any{0, -1, int64(-1 << 63), uint64(1<<64 - 1), uint8(200)}},
		{"%5d|%-5d|%05d|%05d", []any{42, 42, 42, 12345678}},
		{"%x %02x %08x %04x %x", []any{255, uint8(7), uint32(0xdeadbeef), uint16(0xab), uint64(0)}},
		{"%x|%x", []any{"bytes", []byte{0, 0xff}}},
		{"%q|%q|%q", []any{"a \"quoted\"\ttext", "\x00\xffé", []byte("bytes")}},
		{"%v %s %v", []any{true, unix.EIO, errors.New("an error")}},
		{"%v %s", []any{90 * time.Second, fs.FileMode(0o644)}},
		{"%v", []any{nil}},
		{"%s %x %v", []any{[]byte("bytes"), "x", []byte(nil)[:0:0] == nil}},
		{"%s: %d of %d, %q and %02x", []any{"a", 1, 2, "b", uint8(3)}},
	} {
		if got, want := sprintf(c.format, c.args...), fmt.Sprintf(c.format, c.args...); got != want {
			t.Errorf("%q of %v: %q, want %q", c.format, c.args, got, want)
		}
	}
	if got := sprintf("%s %d %v", struct{}{}, 1); got != "! 1 !" {
		t.Errorf("what can't be formatted: %q", got)
	}
}

func TestErrorsWrapTheirCauses(t *testing.T) {
	for _, err := range []error{errorf("open %s: %w", "file", unix.ENOENT), errorf("100 %% %w; %d, %w", unix.EIO, 3, unix.ENOENT)} {
		if !errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EPERM) || errnoOf(err) == 0 {
			t.Errorf("%v wraps the wrong causes", err)
		}
	}
	if err := errorf("no cause %v", unix.EIO); errors.Is(err, unix.EIO) || err.Error() != "no cause input/output error" {
		t.Errorf("%v", err)
	}
}

// Every argument of the formatting functions must be of a type that they know, and
// there must be as many as the format has verbs.
func TestFormatArguments(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, im := range f.Imports {
			switch im.Path.Value {
			case `"fmt"`, `"log"`, `"reflect"`, `"net/netip"`, `"net"`, `"sort"`:
				t.Errorf("%s imports %s, which takes more bytes than it is worth", name, im.Path.Value)
			}
		}
		files = append(files, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	if _, err := (&types.Config{Importer: importer.ForCompiler(fset, "source", nil)}).Check("azprov", fset, files, info); err != nil {
		t.Fatal(err)
	}
	// The place of the format among the arguments.
	formats := map[string]int{"sprintf": 0, "errorf": 0, "fprintf": 1, "warn": 1}
	calls := 0
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			call, is := n.(*ast.CallExpr)
			if !is || call.Ellipsis.IsValid() {
				return true
			}
			var name *ast.Ident
			switch fun := call.Fun.(type) {
			case *ast.Ident:
				name = fun
			case *ast.SelectorExpr:
				name = fun.Sel
			default:
				return true
			}
			at, has := formats[name.Name]
			fn, isFunc := info.Uses[name].(*types.Func)
			if !has || !isFunc || !fn.Type().(*types.Signature).Variadic() {
				return true
			}
			calls++
			where := fset.Position(call.Pos())
			args := call.Args[at+1:]
			var verbs []string
			if text := info.Types[call.Args[at]].Value; text != nil {
				verbs = regexp.MustCompile(`%[-0-9]*[a-zA-Z]`).FindAllString(strings.ReplaceAll(text.ExactString(), "%%", ""), -1)
				if len(verbs) != len(args) {
					t.Errorf("%s: %d verbs and %d arguments", where, len(verbs), len(args))
					return true
				}
			}
			for i, arg := range args {
				typ := info.Types[arg].Type
				if !formattable(typ) {
					t.Errorf("%s: an argument of type %v", where, typ)
				}
				// Package fmt would print the number of a Stringer.
				if verbs != nil && strings.HasSuffix(verbs[i], "d") && !strings.Contains(typ.String(), "int") && typ.String() != "byte" {
					t.Errorf("%s: %s of type %v", where, verbs[i], typ)
				}
			}
			return true
		})
	}
	if calls < 100 {
		t.Errorf("only %d calls were found", calls)
	}
}

// formattable says whether appendFormat knows a type.
func formattable(typ types.Type) bool {
	for _, method := range []string{"Error", "String"} {
		if obj, _, _ := types.LookupFieldOrMethod(typ, false, nil, method); obj != nil {
			return true
		}
	}
	switch typ.String() {
	case "string", "[]byte", "bool", "int", "int32", "int64", "uint", "uint8", "byte", "uint16", "uint32", "uint64", "rune",
		"untyped string", "untyped int", "untyped bool", "untyped nil":
		return true
	}
	return false
}
